"""The process that compiles the whole takes no time from others, and ends with its home."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from sojourn.store.home import Home
from sojourn.vm.process import completing

pytestmark = pytest.mark.engine


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the kernel has no such priority")
def test_it_runs_when_nothing_else_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            # The same way in, and then a module that only waits.
            waits = ["-c", "import sys; sys.stdin.read()"]
            options["stdin"] = subprocess.PIPE
            super().__init__([*command[: command.index("-m")], *waits], **options)
            begun.append(self)

    monkeypatch.delenv(completing.VARIABLE, raising=False)
    monkeypatch.setattr(completing.subprocess, "Popen", Recorded)
    completing.begin(Home.open(tmp_path / "home"))
    (process,) = begun
    deadline = time.monotonic() + 60
    while os.sched_getscheduler(process.pid) != os.SCHED_IDLE:
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.communicate()
    assert process.returncode == 0


def test_it_is_not_begun_when_it_is_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nobody wanted it")

    monkeypatch.setattr(completing.subprocess, "Popen", refuse)
    home = Home.open(tmp_path / "home")
    monkeypatch.setenv(completing.VARIABLE, "0")
    completing.begin(home)
    monkeypatch.delenv(completing.VARIABLE)
    (home.cache / "completing.attempts").write_bytes(b"." * completing.ATTEMPTS_MAX)
    completing.begin(home)
