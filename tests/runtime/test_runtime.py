"""The Python runtime below the command line: images, caches, starts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from sojourn.model.errors import LimitError, ModuleError
from sojourn.model.limits import Limits
from sojourn.model.progress import Silent
from sojourn.model.states import Ending, State
from sojourn.store.home import Home
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.engine import THREAD_STACK_BYTES
from sojourn.vm.process.monitor import RunningProcess
from sojourn.vm.process.partition import recorded
from sojourn.vm.process.runtime import PythonRuntime, PythonStart
from sojourn.vm.process.streams import Collected, Feed, Streams

from ..wat import wat
from .conftest import execute

pytestmark = pytest.mark.runtime
TINY = wat('(module (func (export "_start")))')


def test_an_image_holds_its_imports(runtime: PythonRuntime) -> None:
    code = "import sys; print('pandas' in sys.modules, 'scipy' in sys.modules)"
    assert execute(runtime, code, ("pandas",)) == (Ending(State.EXITED, 0), "True False\n")
    assert execute(runtime, code)[1] == "False False\n"


def test_an_import_that_fails_does_not_spoil_the_image(runtime: PythonRuntime) -> None:
    image = runtime.image(("json", "no_such_module_xyz"))
    assert set(image.info.failed) == {"no_such_module_xyz"}
    assert execute(runtime, "print(1)", ("json", "no_such_module_xyz"))[1] == "1\n"


def test_processes_of_one_image_do_not_see_each_other(runtime: PythonRuntime) -> None:
    code = "import json; print(getattr(json, 'mark', None)); json.mark = 1"
    assert [execute(runtime, code)[1] for _ in range(2)] == ["None\n", "None\n"]


def test_generators_that_the_program_seeds_itself_are_left_alone(runtime: PythonRuntime) -> None:
    code = (
        "import random, numpy as np; random.seed(1); np.random.seed(1)\n"
        "print(random.random(), np.random.rand())"
    )
    assert execute(runtime, code, ("numpy",)) == execute(runtime, code, ("numpy",))


def test_the_monotonic_clock_never_runs_backwards(runtime: PythonRuntime) -> None:
    code = "import time; a = time.monotonic(); b = time.monotonic(); print(b >= a >= 0)"
    assert execute(runtime, code, ("pandas",))[1] == "True\n"


def test_too_little_memory_is_said_before_anything_starts(runtime: PythonRuntime) -> None:
    with pytest.raises(LimitError, match="interpreter itself") as caught:
        execute(runtime, "1", memory_bytes=1 << 20)
    assert "--memory" in caught.value.hint


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(1000)", "input()"])
def test_a_kill_reaches_what_computes_sleeps_or_reads(runtime: PythonRuntime, code: str) -> None:
    image = runtime.image(())
    feed = Feed()
    machine = runtime.start(image, Limits(), Streams(feed, Collected(1), Collected(1)))
    feed.woken = machine.surroundings.wake
    process = RunningProcess(machine, None)
    process.begin(runtime.entry(PythonStart("code", code, ("-c",)), image))
    assert process.wait(0.2) is None
    process.kill("enough")
    assert process.wait(10) == Ending(State.KILLED, reason="enough")


def test_nothing_is_left_open(runtime: PythonRuntime) -> None:
    execute(runtime, "pass")
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(5):
        execute(runtime, "open('/tmp/x', 'w'); import os; os.open('/tmp', os.O_RDONLY)")
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_guests_run_side_by_side(runtime: PythonRuntime) -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(execute(runtime, f"print({n} ** 2)")[1]))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, results)) == [n * n for n in range(8)]
    assert THREAD_STACK_BYTES > 1 << 20


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        lambda data: os.urandom(len(data)),
    ],
    ids=["cut", "empty", "flipped", "other"],
)
def test_a_damaged_cache_entry_is_made_anew(home: Home, damage: Callable[[bytes], bytes]) -> None:
    CompiledModules(home, Silent()).get("sha256:tiny", lambda: TINY, "tiny")
    path = CompiledModules(home, Silent()).path("sha256:tiny")
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(damage(whole))
    made: list[int] = []
    CompiledModules(home, Silent()).get("sha256:tiny", lambda: made.append(1) or TINY, "tiny")
    assert made == [1]
    assert len(path.read_bytes()) == len(whole)


def test_an_intact_cache_entry_is_used(home: Home) -> None:
    CompiledModules(home, Silent()).get("sha256:tiny", lambda: TINY, "tiny")

    def never() -> bytes:
        raise AssertionError

    CompiledModules(home, Silent()).get("sha256:tiny", never, "tiny")


def test_a_module_that_is_none_leaves_nothing_behind(home: Home) -> None:
    with pytest.raises(ModuleError):
        CompiledModules(home, Silent()).get("sha256:bad", lambda: b"no module", "bad")
    assert list(home.cache.iterdir()) == []


def test_what_runs_at_the_start_is_recorded_for_this_runtime(runtime: PythonRuntime) -> None:
    """Without a record for it the whole runtime would be compiled before the first line runs."""
    record = recorded(runtime.artifacts.module_digest)
    assert record is not None
    assert [layer.name for layer in record.layers[:3]] == ["start", "plain", "numpy"]
    assert record.parts_for(["pandas"]) == [1, 2, 3]
