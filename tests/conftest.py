"""What all tests share: a home that has nothing of the user's in it but the compiled runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sojourn.host.asking import end_suspended, request_kill
from sojourn.model.states import State
from sojourn.store.home import Home, default_path
from sojourn.store.hosts import Hosts
from sojourn.store.records import ProcessRecord
from sojourn.store.table import ProcessTable

Sojourn = Callable[..., "subprocess.CompletedProcess[str]"]


SHARED = ("cache", "images", "blobs", "locks")  # of the user's own home: what takes minutes to make
_ENDING_S = 60.0
_POLL_S = 0.01


@pytest.fixture(scope="session")
def runtime_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with the user's own compiled runtime and images, and nothing else of it. What tests leave
    running or suspended in it ends with them."""
    user, path = Home.open(default_path()), tmp_path_factory.mktemp("session") / "home"
    path.mkdir(mode=0o700)
    for name in SHARED:
        (path / name).symlink_to(user.path / name)
    home = Home.open(path)
    yield home.path
    end_all(home)
    shutil.rmtree(path)


def end_all(home: Home) -> None:
    """End every process of a home, and wait until none runs."""
    deadline_s = time.monotonic() + _ENDING_S
    with ProcessTable.open(home) as table:
        while left := [record for record in table.list(live=True) if not _ended(home, table, record)]:
            Hosts(home).reap(table)
            assert time.monotonic() < deadline_s, f"these do not end: {left}"
            time.sleep(_POLL_S)


def _ended(home: Home, table: ProcessTable, record: ProcessRecord) -> bool:
    reason = "the tests are over"
    if record.state is State.SUSPENDED:
        return end_suspended(home, table, record.pid, reason)
    if record.state is State.RUNNING:
        request_kill(home, record.pid, reason)
    return False


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    yield Home.open(tmp_path / "home")


@pytest.fixture
def sojourn(runtime_home: Path, tmp_path: Path) -> Sojourn:
    """Run the command line as a person does, in a directory of its own."""

    def run(
        *args: str, stdin: str = "", timeout: float = 120, **env: str
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sojourn", *args]
        environment = {"PATH": "/usr/bin:/bin", "SOJOURN_HOME": str(runtime_home), "LANG": "C.UTF-8", **env}
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env=environment,
            check=False,
        )

    return run


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests with limits of time need a runtime that compiles nothing while it runs: the whole of it. That
    takes minutes on a fresh machine, so it is not done within the deadline of a test."""
    if any(item.get_closest_marker("runtime") for item in session.items):
        from sojourn.model.progress import Silent
        from sojourn.vm.process.artifacts import find_python
        from sojourn.vm.process.compiled import CompiledModules

        found = find_python()
        modules = CompiledModules(Home.open(default_path()), Silent())
        modules.complete(found.module_digest, found.read_module, "CPython")
