"""The largest size of the cache: what goes, in which order, and what never does."""

from __future__ import annotations

import fcntl
import gc
import os
import time
from pathlib import Path

import pytest

from sojourn.model.errors import LimitError
from sojourn.model.progress import Silent
from sojourn.store.files import verified, write_verified
from sojourn.store.home import Home
from sojourn.vm.process import cache
from sojourn.vm.process.cache import BYTES_MAX, KEPT_S, VARIABLE, bytes_max, hold, touch, trim
from sojourn.vm.process.compiled import CompiledModules

from ..wat import wat

DAY_S = 86400.0


def code_of(home: Home, letter: str) -> Path:
    return home.cache / (letter * 64 + ".cwasm")


def entry(home: Home, letter: str, days_ago: float, size: int = 1000) -> Path:
    """An entry of about ``size`` bytes that was used so long ago."""
    code = code_of(home, letter)
    for suffix, data in ((".cwasm", bytes(size)), (".facts", b"facts"), (".plan", b"plan")):
        write_verified(code.with_suffix(suffix), data)
    then = time.time() - days_ago * DAY_S
    for path in home.cache.glob(letter * 64 + ".*"):
        os.utime(path, (then, then))
    return code


def left(home: Home) -> str:
    return "".join(sorted({path.name[0] for path in home.cache.glob("*.*")}))


def test_what_was_not_used_for_longest_goes_until_there_is_room(home: Home) -> None:
    for letter, days in (("a", 5), ("b", 30), ("c", 10), ("d", 20)):
        entry(home, letter, days)
    assert trim(home, 1 << 20) == []
    assert trim(home, 3500) == ["b" * 64, "d" * 64]
    assert left(home) == "ac"
    assert all(verified(code_of(home, letter)) for letter in "ac")
    assert not list(home.cache.glob("[bd]*"))  # no check, no facts, no plan


def test_what_was_used_within_a_day_stays(home: Home) -> None:
    entry(home, "a", 0.5)
    entry(home, "b", 1.5)
    assert KEPT_S == DAY_S
    assert trim(home, 0) == ["b" * 64]
    assert left(home) == "a"


def test_to_load_it_is_to_use_it(home: Home) -> None:
    code = entry(home, "a", 9)
    entry(home, "b", 3)
    before = code.stat().st_mtime_ns
    touch(code)
    assert code.stat().st_mtime_ns == before  # the code itself would have to be hashed again
    assert trim(home, 0) == ["b" * 64]
    checked = (home.cache / (code.name + ".check")).stat().st_mtime_ns
    touch(code)  # once in a while is enough
    assert (home.cache / (code.name + ".check")).stat().st_mtime_ns == checked
    touch(code_of(home, "f"))  # there is none


def test_what_is_held_is_never_removed(home: Home) -> None:
    code = entry(home, "a", 9)
    held, again = hold(code), hold(code)
    assert held is not None and again is not None
    for descriptor in (held, again):
        assert trim(home, 0) == []
        os.close(descriptor)
    assert trim(home, 0) == ["a" * 64]
    assert hold(code) is None


def test_what_was_removed_while_one_waited_to_hold_it_is_not_held(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = entry(home, "a", 9)
    flock = fcntl.flock

    def removed_first(descriptor: int, how: int) -> None:
        if how == fcntl.LOCK_SH:
            monkeypatch.undo()
            assert trim(home, 0) == ["a" * 64]
        flock(descriptor, how)

    monkeypatch.setattr(cache.fcntl, "flock", removed_first)
    assert hold(code) is None


def test_what_was_used_since_it_was_looked_at_stays(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    code = entry(home, "a", 9)
    flock = fcntl.flock

    def used_first(descriptor: int, how: int) -> None:
        touch(code)
        flock(descriptor, how)

    monkeypatch.setattr(cache.fcntl, "flock", used_first)
    assert trim(home, 0) == []
    assert left(home) == "a"


def test_only_entries_are_looked_at(home: Home) -> None:
    for name in ("completing.attempts", "a" * 63 + ".cwasm", ".hidden.partial", "A" * 64 + ".cwasm"):
        (home.cache / name).write_bytes(bytes(100))
        os.utime(home.cache / name, (0, 0))
    facts = home.cache / ("c" * 64 + ".facts")  # what is left of one that was removed half
    facts.write_bytes(b"x")
    os.utime(facts, (0, 0))
    assert trim(home, 0) == ["c" * 64]
    assert len(list(home.cache.iterdir())) == 4


def test_its_size_is_set_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert bytes_max() == BYTES_MAX
    monkeypatch.setenv(VARIABLE, "8G")
    assert bytes_max() == 8 << 30
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(LimitError, match=VARIABLE):
        bytes_max()


@pytest.mark.engine
def test_a_module_in_use_is_held_whether_it_was_compiled_or_loaded(home: Home) -> None:
    code = wat('(module (func (export "_start")))')

    def long_ago() -> None:
        for path in home.cache.iterdir():
            os.utime(path, (0, 0))

    for _ in range(2):  # compiled, then loaded
        modules = CompiledModules(home, Silent())
        module = modules.get("sha256:x", lambda: code, "x")
        long_ago()
        assert trim(home, 0) == []
        long_ago()
        del modules, module
        gc.collect()
    assert trim(home, 0) == [modules_path(home)]
    assert not list(home.cache.glob("*.cwasm*"))


def modules_path(home: Home) -> str:
    return CompiledModules(home, Silent()).path("sha256:x").stem
