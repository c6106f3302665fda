"""What is left behind is removed when a host starts, and nothing that anybody needs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from sojourn.host import tidying
from sojourn.host.embedded import EmbeddedHost
from sojourn.host.keeping import Keeper
from sojourn.host.tidying import ORPHAN_S, tidy
from sojourn.model.errors import StoreError
from sojourn.model.states import Ending, State
from sojourn.store.home import Home
from sojourn.store.table import ProcessTable

from .living import record, request, store, waiting

ENDED = Ending(State.KILLED, reason="a test")


def make_old(*paths: Path) -> None:
    """Let files and folders have been there for long."""
    then = time.time() - 2 * ORPHAN_S
    for path in paths:
        for inner in sorted(path.rglob("*"), reverse=True):
            os.utime(inner, (then, then))
        os.utime(path, (then, then))


def tidied(home: Home) -> list[str]:
    """What is removed now, whenever it was done last."""
    (home.tmp / "tidied").unlink(missing_ok=True)
    with ProcessTable.open(home) as table:
        return tidy(home, table, Keeper(home))


@pytest.fixture
def asked(tmp_path: Path) -> Any:
    return request(tmp_path / "programs")


def test_checkpoints_without_a_process_that_can_go_on_are_removed(home: Home, asked: Any) -> None:
    with ProcessTable.open(home) as table:
        record(table, asked, "suspendd")
        record(table, asked, "endedaaa", State.KILLED, ending=ENDED)
        for pid in ("suspendd", "endedaaa", "orphanaa", "freshaaa"):
            store(home, asked, pid)
    make_old(*(home.checkpoints / pid for pid in ("suspendd", "orphanaa")))
    assert tidied(home) == ["endedaaa", "orphanaa"]
    assert Keeper(home).store.pids() == ["freshaaa", "suspendd"]
    make_old(home.checkpoints / "freshaaa")
    assert tidied(home) == ["freshaaa"]


def test_a_checkpoint_that_was_written_to_a_moment_ago_is_not_old(home: Home, asked: Any) -> None:
    """Whatever its folder's own time is: a fork is there before its record."""
    store(home, asked, "orphanaa")
    (path,) = (home.checkpoints / "orphanaa").glob("*.context")
    make_old(home.checkpoints / "orphanaa")
    os.utime(path)
    assert tidied(home) == []
    assert path.exists()


def test_programs_are_kept_for_every_process_that_has_not_ended(home: Home, tmp_path: Path) -> None:
    folder, names = tmp_path / "programs", {}
    with ProcessTable.open(home) as table:
        for number, (state, ending) in enumerate(
            [(State.SUSPENDED, None), (State.RUNNING, None), (State.QUEUED, None), (State.KILLED, ENDED)]
        ):
            text = f'(module (func (export "_start") (drop (i32.const {number}))))'
            one = request(folder, text, f"p{number}")
            record(table, one, f"aaaaaaa{'abcd'[number]}", state, ending=ending)
            Keeper(home).keep_program(one)
            names[state] = f"{one.program.digest.replace(':', '-')}.sojourn"
    (home.bundles / "something else").write_bytes(b"")
    assert {path.name for path in home.bundles.iterdir()} == {*names.values(), "something else"}
    assert tidied(home) == []  # a day has not gone by
    make_old(home.bundles)
    assert tidied(home) == [names[State.KILLED]]
    assert {path.name for path in home.bundles.iterdir()} == {
        *(name for state, name in names.items() if state is not State.KILLED),
        "something else",
    }


def test_who_keeps_a_program_waits_for_who_removes_programs(home: Home, asked: Any) -> None:
    """Between the question who needs it and the removal nobody can come to need it."""
    keeper = Keeper(home)
    keeper.keep_program(asked)
    make_old(home.bundles)

    def needed() -> set[str]:
        with pytest.raises(StoreError, match="locked"), home.lock("programs", timeout_s=0.0):
            pass
        return set()

    assert len(keeper.remove_programs(needed, ORPHAN_S)) == 1
    keeper.keep_program(asked)
    assert len(list(home.bundles.iterdir())) == 1


def test_it_is_done_once_in_a_while(home: Home, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with ProcessTable.open(home) as table:
        assert tidy(home, table, Keeper(home)) == []
        store(home, asked, "orphanaa")
        make_old(home.checkpoints / "orphanaa")
        assert tidy(home, table, Keeper(home)) == []
        monkeypatch.setattr(tidying, "EVERY_S", 0.0)
        assert tidy(home, table, Keeper(home)) == ["orphanaa"]


def test_a_home_that_cannot_be_tidied_is_no_error(
    home: Home, asked: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store(home, asked, "orphanaa")

    def refuse(*_: Any, **__: Any) -> bool:
        raise StoreError("the disk reports an error")

    monkeypatch.setattr("sojourn.store.checkpoints.Checkpoints.remove_unless", refuse)
    assert tidied(home) == []
    assert "the disk reports an error" in caplog.text


@pytest.mark.engine
def test_a_host_tidies_when_it_starts_and_leaves_what_another_uses(home: Home, asked: Any) -> None:
    store(home, asked, "orphanaa")
    make_old(home.checkpoints / "orphanaa")
    with EmbeddedHost(home) as host, waiting(host, asked) as process:
        assert not (home.checkpoints / "orphanaa").exists()
        saved = host.checkpoint(process).result(30)
        make_old(home.checkpoints, home.bundles)
        assert tidied(home) == []
        with EmbeddedHost(home) as other:
            (forked,) = other.fork(process.pid)
        again = host.checkpoint(process).result(30)
        assert again.context.parent == saved.digest
    make_old(home.checkpoints, home.bundles)
    assert tidied(home) == []  # the fork needs its checkpoint and the program
    with EmbeddedHost(home) as host:
        assert host.keeper.store.latest(forked) is not None
