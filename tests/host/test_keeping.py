"""Checkpoints between a host and its store: what is kept of a process, and what a start gets back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sojourn.context import Base, BaseKind, Memory
from sojourn.host.embedded import EmbeddedHost
from sojourn.host.keeping import Keeper
from sojourn.model.errors import (
    BundleError,
    ContextError,
    GrantError,
    LimitError,
    ProcessStateError,
    StoreError,
)
from sojourn.model.grants import DirectoryGrant, EnvironmentGrant, SecretGrant
from sojourn.model.limits import Limits
from sojourn.store.checkpoints import Checkpoints
from sojourn.store.home import Home

from ..context.samples import IMAGE, context, view_of
from .living import HOST_PART, request, store, waiting

PID = "aaaabbbb"


@pytest.fixture
def asked(tmp_path: Path) -> Any:
    return request(
        tmp_path / "programs",
        args=("a", "b"),
        directories=(DirectoryGrant("/srv", "/data", True),),
        environment=(EnvironmentGrant("LEVEL", "3"),),
        limits=Limits(cpu_seconds=7),
    )


def stored_context(home: Home, asked: Any, **changes: Any) -> Any:
    return store(home, asked, PID, **changes).context


# -- what a start gets back ----------------------------------------------------------------------------


@pytest.mark.parametrize("use_image", [True, False])
def test_what_was_asked_for_comes_back_whole(home: Home, asked: Any, use_image: bool) -> None:
    asked = replace(asked, use_image=use_image)
    keeper = Keeper(home)
    keeper.keep_program(asked)
    saved = stored_context(home, asked, system={"host": {**HOST_PART, "use_image": use_image}})
    assert keeper.request_of(saved) == asked


def test_a_secret_comes_back_by_name_only(home: Home, asked: Any) -> None:
    asked = replace(asked, secrets=(SecretGrant("TOKEN"),))
    Keeper(home).keep_program(asked)
    assert Keeper(home).request_of(stored_context(home, asked)).secrets == (SecretGrant("TOKEN"),)


def test_a_program_that_is_not_here_is_an_error_that_says_so(home: Home, asked: Any) -> None:
    with pytest.raises(ContextError, match=r"its program sha256:.* is not here") as caught:
        Keeper(home).request_of(stored_context(home, asked))
    assert "-o" in caught.value.hint


def test_another_program_in_its_place_is_refused(home: Home, asked: Any, tmp_path: Path) -> None:
    keeper = Keeper(home)
    other = request(tmp_path / "programs", '(module (func (export "_start")))', "other")
    keeper.keep_program(other)
    keeper.keep_program(asked)
    mine, others = (
        home.bundles / f"{one.program.digest.replace(':', '-')}.sojourn" for one in (asked, other)
    )
    os.replace(others, mine)
    with pytest.raises(ContextError, match="another one"):
        keeper.request_of(stored_context(home, asked))
    carried = stored_context(home, asked, system={"host": HOST_PART, "program": mine.read_bytes()})
    with pytest.raises(ContextError, match="another one"):
        keeper.request_of(carried)
    mine.write_bytes(mine.read_bytes()[:-30])
    with pytest.raises(BundleError):
        keeper.request_of(stored_context(home, asked))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"system": {}}, ContextError),
        ({"system": {"host": 7}}, ContextError),
        ({"system": {"host": {"name": "x", "args": "ab"}}}, ContextError),
        ({"grants": [{"kind": "dir"}]}, GrantError),
        ({"limits": {"speed": 3}}, LimitError),
        ({"limits": {3: 3}}, LimitError),
    ],
)
def test_a_context_that_makes_no_sense_is_a_typed_error(
    home: Home, asked: Any, change: dict[str, Any], error: type[Exception]
) -> None:
    Keeper(home).keep_program(asked)
    with pytest.raises(error):
        Keeper(home).request_of(stored_context(home, asked, **change))


# -- forks and files -----------------------------------------------------------------------------------


def with_memory(home: Home, asked: Any, base: Base | None = None) -> None:
    """Store a checkpoint with a memory, the second half of which may be as in a base."""
    from sojourn.context import compare

    view = view_of("abcd")
    origin = Memory.fresh(len(view), base) if base else None
    written = b"\1\1\0\0" if base else None
    saved = context(
        pid=PID,
        program=asked.program.digest,
        memories=(compare(view, origin, written),),
        grants=asked.grants(),
        limits=asked.limits.to_dict(),
        secrets=(),
        system={"host": HOST_PART},
        epoch=4,
        sequence=9,
    )
    Keeper(home).store.save(saved, [view])


def test_a_fork_is_another_process_and_shares_the_chunks(home: Home, asked: Any) -> None:
    with_memory(home, asked)
    keeper = Keeper(home)
    with keeper.store.latest(PID) as stored:  # type: ignore[union-attr]
        other = replace(asked, directories=())
        forked = keeper.fork(stored, "ccccdddd", other)
    made = forked.context
    assert (made.pid, made.epoch, made.sequence, made.parent) == ("ccccdddd", 1, 0, stored.digest)
    assert made.grants == other.grants() != stored.context.grants
    assert (forked.new_chunks, forked.kept_chunks) == (0, 4)
    (name,) = made.packs
    packs = [home.checkpoints / pid / f"{name}.pack" for pid in (PID, "ccccdddd")]
    assert packs[0].samefile(packs[1])
    keeper.store.remove(PID)
    with keeper.store.latest("ccccdddd") as stored:  # type: ignore[union-attr]
        stored.verify()


def test_a_file_holds_the_program_and_needs_nothing_of_this_home(
    home: Home, asked: Any, tmp_path: Path
) -> None:
    with_memory(home, asked)
    keeper, path = Keeper(home), tmp_path / "f.context"
    with pytest.raises(ContextError, match="program"):
        keeper.export(PID, path)
    assert not path.exists()
    keeper.keep_program(asked)
    digest = keeper.export(PID, path)
    elsewhere = Keeper(Home.open(tmp_path / "elsewhere"))
    with elsewhere.store.open_file(path) as stored:
        stored.verify()
        assert stored.digest == digest
        assert elsewhere.request_of(stored.context) == asked


def test_what_cannot_be_written_to_a_file_says_why(home: Home, asked: Any, tmp_path: Path) -> None:
    keeper = Keeper(home)
    with pytest.raises(ProcessStateError, match="no checkpoint"):
        keeper.export(PID, tmp_path / "f")
    keeper.keep_program(asked)
    with_memory(home, asked, IMAGE)
    with pytest.raises(ContextError, match="image 111111111111 .* is not here"):
        keeper.export(PID, tmp_path / "f")
    assert not (tmp_path / "f").exists()
    assert IMAGE.kind is BaseKind.IMAGE


# -- machines that stand still -------------------------------------------------------------------------


@pytest.mark.engine
def test_checkpoints_of_a_life_follow_each_other_and_two_are_kept(home: Home, tmp_path: Path) -> None:
    asked = request(tmp_path / "programs")
    with EmbeddedHost(home) as host, waiting(host, asked) as process:
        saved = [host.checkpoint(process).result(30) for _ in range(4)]
        assert [one.context.sequence for one in saved] == [0, 1, 2, 3]
        assert [one.context.parent for one in saved] == [None, *(one.digest for one in saved[:3])]
        kept = {entry.digest for entry in host.keeper.store.all(process.pid)}
        assert kept == {saved[2].digest, saved[3].digest}
        assert host.keeper.request_of(saved[3].context) == asked
        assert saved[3].context.created_ns > saved[0].context.created_ns
    assert not host.keeper.store.all(process.pid)  # it has ended


@pytest.mark.engine
def test_memory_with_secrets_is_never_stored(home: Home, tmp_path: Path) -> None:
    asked = request(tmp_path / "programs", secrets=(SecretGrant("TOKEN"),))
    with (
        EmbeddedHost(home, environ={"TOKEN": "xyzzy"}) as host,
        waiting(host, asked) as process,
    ):
        future = host.checkpoint(process)
        with pytest.raises(ContextError, match=r"holds secrets \(TOKEN\)"):
            future.result(30)
        assert process.wait(0) is None
    assert not list(home.checkpoints.iterdir())
    assert not list(home.bundles.iterdir())


@pytest.mark.engine
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_the_process(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedHost(home) as host, waiting(host, request(tmp_path / "programs")) as process:
        first = host.checkpoint(process).result(30)

        def full(*_: Any, **__: Any) -> Any:
            raise StoreError("the disk is full")

        monkeypatch.setattr(Checkpoints, "save", full)
        with pytest.raises(StoreError, match="the disk is full"):
            host.checkpoint(process, stop=True).result(30)
        assert process.wait(0) is None
        monkeypatch.undo()
        stored = host.keeper.store.latest(process.pid)
        assert stored is not None
        with stored:
            assert stored.digest == first.digest
        assert host.checkpoint(process).result(30).context.parent == first.digest


@pytest.mark.engine
def test_a_process_can_be_stored_from_its_first_moment(home: Home, tmp_path: Path) -> None:
    """Also when that is asked for just before it begins to wait, in which nobody looks after it."""
    asked = request(tmp_path / "programs")
    with EmbeddedHost(home) as host:
        for _ in range(30):
            with waiting(host, asked) as process:
                assert host.checkpoint(process).result(30).context.sequence == 0
