"""A program is left wherever it happens to be, and renewed each time it goes on: what it seeded itself must
not notice, not even when it was left in the middle of seeding, copying, or drawing."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from sojourn.model.limits import Limits
from sojourn.model.states import Ending, State
from sojourn.store.checkpoints import Checkpoints, Stored
from sojourn.vm.process.images import Image
from sojourn.vm.process.monitor import RunningProcess
from sojourn.vm.process.runtime import PythonRuntime, PythonStart
from sojourn.vm.process.snapshots import context_of, put, take
from sojourn.vm.process.streams import Collected, Given, Streams
from sojourn.vm.process.virtual_machine import VirtualMachine

pytestmark = pytest.mark.runtime
IMPORTS = ("numpy",)
LIVES = 25
DEADLINE_S = 120.0
LIFE_CPU_S_MAX = 0.02

SEEDING = """
import copy, hashlib, pickle, random
import numpy as np
seen = hashlib.sha256()
kinds = (np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64, np.random.MT19937)
shared = np.random.RandomState(1)
for number in range(100):
    random.seed(number)
    np.random.seed(number)
    made = [random.Random(str(number)), np.random.RandomState(number), np.random.default_rng(number)]
    made += [copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))]
    made += np.random.default_rng(number).spawn(1)
    given = random.Random()
    given.setstate(random.getstate())
    for kind in kinds:
        unseeded = kind()
        unseeded.state = kind(number).state
        made.append(np.random.Generator(unseeded))
    np.random.default_rng(), random.Random(), np.random.RandomState()
    drawn = [random.gauss(), given.random(), float(np.random.randn()), shared.rand()]
    drawn += [each.random() if hasattr(each, "random") else each.rand() for each in made]
    seen.update(repr(drawn).encode())
    print(number, seen.hexdigest(), flush=True)
"""
# Each line holds numbers that nothing but the system seeded; in what it prints nothing may come twice.
DRAWING = """
import random
import numpy as np
modern = np.random.default_rng()
for number in range(400):
    drawn = [random.random(), float(np.random.rand()), modern.random(), random.Random().random()]
    print(*drawn, float(np.random.rand(20000)[-1]), modern.random(20000)[-1], flush=True)
"""


def launch(runtime: PythonRuntime, image: Image, code: str, output: Collected) -> RunningProcess:
    machine = runtime.start(image, Limits(), Streams(Given(), output, output))
    process = RunningProcess(machine, None)
    process.begin(runtime.entry(PythonStart("code", code, ("-c",)), image))
    return process


def resume(runtime: PythonRuntime, image: Image, stored: Stored, output: Collected) -> RunningProcess:
    machine = runtime.start(image, Limits(), Streams(Given(), output, output), context=stored.context)
    put(machine, stored, image.view(), identity=2)
    process = RunningProcess(machine, None)
    process.begin(None)
    return process


def leave(process: RunningProcess, store: Checkpoints, cpu_s: float) -> Stored | None:
    """Leave a process when it has used so much, and hold its context; None when it ended before."""

    def hold(machine: VirtualMachine) -> Stored:
        snapshot = take(machine)
        context = context_of(snapshot, program="a" * 64, runtime="b" * 64, pid="test", created_ns=0)
        return store.hold(context, snapshot.views)

    deadline_s = time.monotonic() + DEADLINE_S
    while process.usage().cpu_seconds < cpu_s and process.wait(0.001) is None:
        assert time.monotonic() < deadline_s
    order = process.at_rest(hold, stop=True)
    ending = process.wait(DEADLINE_S)
    assert ending is not None
    return None if ending.state is State.EXITED else order.result(0)


@pytest.fixture
def image(runtime: PythonRuntime) -> Image:
    return runtime.image(IMPORTS)


def test_what_is_seeded_in_a_hurry(runtime: PythonRuntime, image: Image, tmp_path: Path) -> None:
    rng, store = random.Random(), Checkpoints(tmp_path / "checkpoints")
    expected, output = Collected(1 << 20), Collected(1 << 20)
    assert launch(runtime, image, SEEDING, expected).wait(DEADLINE_S) == Ending(State.EXITED, 0)
    process, used_s, lives = launch(runtime, image, SEEDING, output), 0.0, 1
    while lives < LIVES:
        used_s += rng.uniform(0, LIFE_CPU_S_MAX)
        stored = leave(process, store, used_s)
        if stored is None:
            break
        with stored:
            used_s = process.usage().cpu_seconds
            process = resume(runtime, image, stored, output)
            lives += 1
    assert process.wait(DEADLINE_S) == Ending(State.EXITED, 0), output.text()[-500:]
    assert lives > 3
    assert output.text() == expected.text()


def test_what_is_drawn_in_the_middle(runtime: PythonRuntime, image: Image, tmp_path: Path) -> None:
    """Two go on from each place where one was left; what they draw after that has nothing in common."""
    rng, store = random.Random(), Checkpoints(tmp_path / "checkpoints")
    output = Collected(1 << 20)
    stored = leave(launch(runtime, image, DRAWING, output), store, rng.uniform(0.02, 0.06))
    assert stored is not None
    outputs = [Collected(1 << 20) for _ in range(3)]
    with stored:
        forks = [resume(runtime, image, stored, each) for each in outputs]
    assert [fork.wait(DEADLINE_S) for fork in forks] == [Ending(State.EXITED, 0)] * 3
    # What had been drawn already when they were left may stand in the first line, and in what is in none yet.
    drawn = [{word for line in each.text().splitlines()[1:] for word in line.split()} for each in outputs]
    assert all(drawn)
    assert not drawn[0] & drawn[1] | drawn[1] & drawn[2] | drawn[0] & drawn[2]
