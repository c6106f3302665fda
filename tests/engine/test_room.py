"""What the system does not give is told by name, with what to do about it; nothing is left behind."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest

from sojourn.model.errors import HostFullError, ModuleError
from sojourn.store.home import Home
from sojourn.vm.process.monitor import ProcessMonitor
from sojourn.vm.process.permits import Permits
from sojourn.vm.process.room import room

from .test_sharing import Guest, module

__all__ = ["module"]
pytestmark = pytest.mark.engine


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_no_more_descriptors(module: object) -> None:
    Guest(module, Permits(1)).machine.close()  # type: ignore[arg-type] # whatever is opened once is open
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))  # the listing itself had one
    try:
        with pytest.raises(HostFullError, match="no more files can be open") as caught:
            for _ in range(10):
                Guest(module, Permits(1))  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "ulimit -n" in caught.value.hint


def test_no_more_threads(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(module, Permits(1))  # type: ignore[arg-type]

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(HostFullError, match="no more threads"):
            guest.begin()
    assert guest.machine._closed


def test_no_more_mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tmp_path / "max_map_count"
    few.write_text("10\n")
    refused = ModuleError(
        "the module cannot be instantiated: mmap failed: Cannot allocate memory (os error 12)"
    )
    with pytest.raises(HostFullError, match="no more memory"), room():
        raise refused
    monkeypatch.setattr("sojourn.vm.process.room._MAPPINGS_MAX", few)
    with pytest.raises(HostFullError, match="mappings of memory, of 10") as caught, room():
        raise refused
    assert "vm.max_map_count=40" in caught.value.hint


def test_other_errors_pass() -> None:
    for error in (ModuleError("no"), RuntimeError("no"), FileNotFoundError(2, "no")):
        with pytest.raises(type(error), match="no"), room():
            raise error


def test_a_monitor_uses_all_descriptors_that_it_may(home: Home) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        ProcessMonitor(home)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
