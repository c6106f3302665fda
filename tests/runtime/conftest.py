"""One runtime for all tests here: its images lie in the user's own home, as its compiled code does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sojourn.model.limits import Limits
from sojourn.model.progress import Silent
from sojourn.model.states import Ending
from sojourn.store.home import Home
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.filesystems import GUEST_DEVICE, bundle
from sojourn.vm.process.monitor import RunningProcess
from sojourn.vm.process.runtime import PythonRuntime, PythonStart
from sojourn.vm.process.streams import Collected, Given, Streams

MakeRuntime = Callable[[Home, dict[str, bytes]], PythonRuntime]


@pytest.fixture(scope="module")
def runtime(runtime_home: Path) -> PythonRuntime:
    home = Home.open(runtime_home)
    return PythonRuntime(home, CompiledModules(home, Silent()), Silent())


@pytest.fixture
def make_runtime(runtime_home: Path) -> MakeRuntime:
    """A runtime whose images lie in another home, with further modules that imports find."""
    modules = CompiledModules(Home.open(runtime_home), Silent())

    def make(home: Home, files: dict[str, bytes]) -> PythonRuntime:
        made = PythonRuntime(home, modules, Silent())
        made._guest = bundle({**made._guest_files, **files}, GUEST_DEVICE)
        return made

    return make


def execute(
    runtime: PythonRuntime, code: str, imports: tuple[str, ...] = (), *, identity: int = 1, **limits: float
) -> tuple[Ending, str]:
    """Run ``code`` from the image of ``imports``; how it ended, and its output."""
    output = Collected(1 << 20)
    image = runtime.image(imports)
    machine = runtime.start(image, Limits(**limits), Streams(Given(), output, output))  # type: ignore[arg-type]
    process = RunningProcess(machine, None)
    process.begin(runtime.entry(PythonStart("code", code, ("-c",), identity=identity), image))
    ending = process.wait(60)
    assert ending is not None
    return ending, output.text()
