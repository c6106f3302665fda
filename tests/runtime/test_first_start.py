"""A start on a machine with an empty cache needs the base of the runtime and none of its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.model.progress import Silent
from sojourn.store.home import Home
from sojourn.vm.process import completing
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.engine import Instance
from sojourn.vm.process.runtime import PythonRuntime

from .conftest import execute

pytestmark = pytest.mark.runtime


def test_a_first_start_needs_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brought: list[int] = []
    bring = Instance._part

    def note(self: Instance, number: int) -> object:
        brought.append(number)
        return bring(self, number)

    monkeypatch.setattr(Instance, "_part", note)
    monkeypatch.setattr(completing, "begin", lambda _: None)
    home = Home.open(tmp_path / "home")
    runtime = PythonRuntime(home, CompiledModules(home, Silent()), Silent())
    assert runtime._module.parts is not None
    ending, text = execute(runtime, 'print("hello")\n')
    assert (ending.exit_code, text) == (0, "hello\n")
    assert not brought, "it waits for parts: run scripts/record_start.py and commit what it writes"
    _, text = execute(runtime, "import array; print(array.array('d', [1.5]) * 2)")
    assert text == "array('d', [1.5, 1.5])\n"
    assert brought
