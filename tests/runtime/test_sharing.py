"""Python programs that share one permit write what they write undisturbed."""

from __future__ import annotations

import pytest

from sojourn.model.limits import Limits
from sojourn.model.states import Ending, State
from sojourn.vm.process import turns
from sojourn.vm.process.monitor import RunningProcess
from sojourn.vm.process.permits import Permits
from sojourn.vm.process.runtime import PythonRuntime, PythonStart
from sojourn.vm.process.streams import Collected, Given, Streams

from .conftest import execute

pytestmark = pytest.mark.runtime

# Generators, exceptions and numpy, with its own recursion: all in the middle of something when a turn ends.
PROGRAM = """
import numpy as np

def values(depth):
    if depth:
        yield from values(depth - 1)
    a = np.arange(500)
    for i in range(25):
        a = (a * 31 + i) % 1009
        try:
            if i % 3 == 1:
                raise KeyError(i)
            yield int(np.sort(a)[7])
        except KeyError as error:
            yield error.args[0]

total = 0
for number, value in enumerate(values(7)):
    for k in range(8000):
        total = (total * 33 + value + k) % 1000003
    print(number, total)
"""
DEADLINE_S = 100


def test_turns_change_nothing(runtime: PythonRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "QUANTUM_MAX_NS", 2_000_000)
    monkeypatch.setattr(turns, "QUANTUM_MIN_NS", 2_000_000)
    ending, expected = execute(runtime, PROGRAM, ("numpy",))
    assert (ending.state, expected.count("\n")) == (State.EXITED, 200)
    permits, image = Permits(1), runtime.image(("numpy",))
    over: list[int] = []
    is_over = permits._turns.is_over
    permits._turns.is_over = lambda turn: is_over(turn) and (over.append(1) or True)  # type: ignore[method-assign]
    started = []
    for _ in range(3):
        output = Collected(1 << 20)
        machine = runtime.start(image, Limits(), Streams(Given(), output, output))
        machine.share_by(4, permits)
        process = RunningProcess(machine, None)
        process.begin(runtime.entry(PythonStart("code", PROGRAM, ("-c",)), image))
        started.append((process, output))
    for process, output in started:
        assert process.wait(DEADLINE_S) == Ending(State.EXITED, 0)
        assert output.text() == expected
    assert len(over) > 10
    assert (permits._turns.holders, permits._turns.waiting) == (0, 0)
