"""The command line in one home, as several people use it at once: commands that end, and those that run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sojourn.store.home import Home
from sojourn.store.hosts import Hosts
from sojourn.store.output import read_output
from sojourn.store.records import ProcessRecord
from sojourn.store.table import ProcessTable

DEADLINE_S = 20.0
_POLL_S = 0.01


def until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """What ``condition`` gives once that is true."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"in vain: {what}"
        time.sleep(_POLL_S)
    return value


@dataclass
class Commands:
    """Runs commands in ``folder``, with ``home`` as $SOJOURN_HOME."""

    home: Path
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def _options(self) -> dict[str, Any]:
        environment = {"PATH": "/usr/bin:/bin", "SOJOURN_HOME": str(self.home), "LANG": "C.UTF-8"}
        environment |= self.variables
        return {"cwd": self.folder, "env": environment}

    def __call__(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sojourn", *args]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=120, check=False, **self._options()
        )

    def json(self, *args: str) -> Any:
        done = self(*args, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def running(self, *args: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A command that goes on meanwhile; killed at the end if it still does."""
        streams: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "sojourn", *args], **{**streams, **self._options(), **options}
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def record(self, pid: str) -> ProcessRecord:
        home = Home.open(self.home)
        with ProcessTable.open(home) as table:
            Hosts(home).reap(table)
            return table.get(pid)

    def named(self, name: str) -> str:
        """The pid of the process with that name, once it runs."""

        with ProcessTable.open(Home.open(self.home)) as table:

            def find() -> str | None:
                found = (r.pid for r in table.list(live=True) if r.name == name and r.state == "running")
                return next(found, None)

            return str(until(find, f"{name} runs"))

    def output(self, pid: str) -> bytes:
        """What the process has written, as its log has it."""
        return b"".join(piece.data for piece in read_output(self.home / "processes" / pid / "output"))

    def until_output(self, pid: str, size: int) -> None:
        """Wait until a process has written so many bytes, or has ended."""
        until(
            lambda: len(self.output(pid)) >= size or self.record(pid).state != "running",
            f"{pid} writes {size} bytes",
        )

    def folder_of(self, pid: str) -> Path:
        return self.home / "checkpoints" / pid

    def evict(self, pid: str) -> None:
        done = self("evict", pid)
        assert done.returncode == 0, done.stderr
        assert self.record(pid).state == "suspended"
