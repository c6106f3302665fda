"""What all tests share: a home that has nothing of the user's in it but the compiled runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sojourn.store.home import Home, default_path

Sojourn = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def runtime_home() -> Path:
    """The user's own home: compiling the runtime into a fresh one would take a minute."""
    return Home.open(default_path()).path


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
