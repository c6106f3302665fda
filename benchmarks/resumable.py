"""What it costs that a program can be left in the middle: C programs and CPython, undisturbed and resumed.

Each number is the median of interleaved rounds. *Processor time* is that of the guest's thread, which other
load on the machine disturbs least; *wall time* of the same runs stands beside it. The forms of the C programs
are in ``variants``; all must print the same. The original of the Python runtime takes one or two minutes of
processor time to compile the first time, and is then kept in the home's cache (``variants.InertModules``).

``builds`` compiles the Python runtime twice, each once: minutes.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sojourn.context import Context
from sojourn.model.limits import Limits
from sojourn.model.progress import Silent
from sojourn.store.checkpoints import Checkpoints
from sojourn.store.home import Home
from sojourn.vm.process.engine import Instance, compile_module
from sojourn.vm.process.preparing import prepare
from sojourn.vm.process.runtime import PythonRuntime, PythonStart
from sojourn.vm.process.snapshots import context_of, put, take
from sojourn.vm.process.streams import Collected, Given, Streams
from sojourn.vm.process.virtual_machine import VirtualMachine

from .measure import Table
from .variants import ORIGINAL, RESUMABLE, VARIANTS, CProgram, InertModules, compile_c

HERE = Path(__file__).parent
PANDAS = ("numpy", "pandas")
OUTPUT_BYTES = 1 << 20
AFTER_S = {"C": 0.03, "CPython": 0.1}  # how early a program is stopped, in processor time
RESUMED = ("CPython", ("nbody", "objects", "numpy_mix"))
STRAIGHT, AFTER = "never stopped", "after a resume"
Enter = Callable[[Instance], int | None]


@dataclass(frozen=True)
class Guest:
    """A program that can be started: ``start`` gives a machine, from a context when there is one."""

    start: Callable[[Collected, Context | None], VirtualMachine]
    enter: Enter
    base: memoryview | None = None


@dataclass(frozen=True)
class Run:
    """One run to the end.

    Attributes:
        before_s: processor time before it was stopped; 0 when it was not.
    """

    output: str
    cpu_s: float
    wall_s: float
    before_s: float = 0.0


def of_c(program: CProgram) -> Guest:
    return Guest(program.start, program.command.enter)


def of_python(runtime: PythonRuntime, code: str) -> Guest:
    image = runtime.image(PANDAS)

    def start(output: Collected, context: Context | None) -> VirtualMachine:
        streams = Streams(Given(), output, output)
        return runtime.start(image, Limits(), streams, context=context)

    return Guest(start, runtime.entry(PythonStart("code", code, ("-c",)), image), image.view())


def run(guest: Guest) -> Run:
    """Run a program undisturbed on this thread."""
    output = Collected(OUTPUT_BYTES)
    machine = guest.start(output, None)
    try:
        begun = time.perf_counter()
        ending = machine.run(guest.enter)
        wall = time.perf_counter() - begun
        if ending is None or ending.exit_code != 0:
            raise RuntimeError(f"{ending} {output.text()[-300:]}")
        return Run(output.text(), machine.usage().cpu_seconds, wall)
    finally:
        machine.close()


def run_resumed(guest: Guest, after_s: float, folder: Path) -> Run:
    """Stop a program after ``after_s`` seconds of processor time, and run the rest in a fresh machine.

    The code for its frames is made before the rest is timed.
    """
    output = Collected(OUTPUT_BYTES)
    machine = guest.start(output, None)
    try:
        _stop_after(machine, after_s)
        if machine.run(guest.enter) is not None:
            raise RuntimeError("it ended before it was stopped")
        before = machine.usage().cpu_seconds
        snapshot = take(machine)
        context = context_of(snapshot, program="a" * 64, runtime="b" * 64, pid="benchmark", created_ns=0)
        stored = Checkpoints(folder).hold(context, snapshot.views)
    finally:
        machine.close()
    with stored:
        machine = guest.start(output, stored.context)
        try:
            put(machine, stored, guest.base, identity=1)
            machine.instance.fetch(lambda: None, stored.context.records)
            begun = time.perf_counter()
            ending = machine.go_on()
            wall = time.perf_counter() - begun
            if ending is None or ending.exit_code != 0:
                raise RuntimeError(f"{ending} {output.text()[-300:]}")
            return Run(output.text(), machine.usage().cpu_seconds - before, wall, before)
        finally:
            machine.close()


def _stop_after(machine: VirtualMachine, seconds: float) -> None:
    """Have the guest left at the first tick after that processor time."""
    check = machine.instance.check

    def checked() -> None:
        check()
        if machine.surroundings.cpu_ns() > seconds * 1e9:
            machine.suspend()

    machine.instance.check = checked


# -- undisturbed -------------------------------------------------------------------------------------


def side_by_side(tables: tuple[Table, Table], row: str, guests: dict[str, Guest], rounds: int) -> None:
    """Measure one program in all its forms: processor time into the first table, wall time into the second.

    Raises:
        RuntimeError: two of them print different things.
    """
    cpu, wall = tables
    outputs: dict[str, str] = {}
    walls: dict[str, list[float]] = {name: [] for name in guests}

    def measured(name: str) -> float:
        done = run(guests[name])
        outputs[name] = done.output
        walls[name].append(done.wall_s * 1e3)
        return done.cpu_s * 1e3

    cpu.measure(row, {name: partial(measured, name) for name in guests}, rounds)
    if len(set(outputs.values())) > 1:
        raise RuntimeError(f"{row} prints different things: {outputs}")
    wall.values[row] = {name: values[1:] for name, values in walls.items() if len(values) > 1}


def c_sources() -> list[Path]:
    return sorted((HERE / "native").glob("*.c"))


def forms(source: Path, folder: Path) -> dict[str, CProgram]:
    """One C program in all variants; those whose tools are missing are left out."""
    code = compile_c(source, folder)
    made = {}
    for variant in VARIANTS:
        with suppress(FileNotFoundError):  # no Binaryen
            made[variant] = CProgram(source.stem, code, variant)
    return made


def _pair(title: str) -> tuple[Table, Table]:
    cpu, wall = (Table(f"{title}: {what} time", "ms", "less", ORIGINAL) for what in ("processor", "wall"))
    return cpu, wall


def undisturbed(runtime: PythonRuntime, original: PythonRuntime, rounds: int) -> list[Table]:
    native, python = _pair("C programs"), _pair("Programs in CPython")
    sizes = Table("Code of the C programs, with what they use of the C library", "kB", "less", ORIGINAL)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        for source in c_sources():
            programs = forms(source, Path(folder))
            side_by_side(native, source.stem, {name: of_c(made) for name, made in programs.items()}, rounds)
            sizes.values[source.stem] = {name: [made.code_bytes / 1e3] for name, made in programs.items()}
    for path in sorted((HERE / "programs").glob("*.py")):
        code = path.read_text()
        guests = {ORIGINAL: of_python(original, code), RESUMABLE: of_python(runtime, code)}
        side_by_side(python, path.stem, guests, rounds)
    for table in native + python:
        table.title += f" (load average {load:.0f} before, {os.getloadavg()[0]:.0f} after)"
    return [*native, sizes, *python]


# -- resumed -----------------------------------------------------------------------------------------


def resumed(runtime: PythonRuntime, rounds: int) -> Table:
    """The rest of a program that was stopped early, against the same part of an undisturbed run."""
    table = Table("The rest of a program after a resume: processor time", "ms", "less", STRAIGHT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in c_sources():
            program = CProgram(source.stem, compile_c(source, folder), RESUMABLE)
            _compare(table, f"C, {source.stem}", of_c(program), AFTER_S["C"], folder, rounds)
        kind, programs = RESUMED
        for stem in programs:
            guest = of_python(runtime, (HERE / "programs" / f"{stem}.py").read_text())
            _compare(table, f"{kind}, {stem}", guest, AFTER_S[kind], folder, rounds)
    return table


def _compare(table: Table, row: str, guest: Guest, after_s: float, folder: Path, rounds: int) -> None:
    values: dict[str, list[float]] = {STRAIGHT: [], AFTER: []}
    for _ in range(rounds + 1):
        whole, rest = run(guest), run_resumed(guest, after_s, folder)
        if whole.output != rest.output:
            raise RuntimeError(f"{row} prints something else after a resume: {rest.output!r}")
        values[STRAIGHT].append((whole.cpu_s - rest.before_s) * 1e3)
        values[AFTER].append(rest.cpu_s * 1e3)
    table.values[row] = {name: measured[1:] for name, measured in values.items()}


# -- what making it costs ----------------------------------------------------------------------------


def builds(runtime: PythonRuntime) -> Table:
    """Transform and compile the Python runtime in both forms, once each."""
    table = Table("The Python runtime, made once in each form", "as the row says", "less", ORIGINAL)
    read = runtime.artifacts.read_module()
    for name in (ORIGINAL, RESUMABLE):
        begun = _cpu_s()
        prepared = prepare(read, inert=name == ORIGINAL)
        transformed = _cpu_s()
        module = compile_module(prepared)
        compiled = _cpu_s()
        found = {
            "code, MB": prepared.code_bytes / 1e6,
            "compiled file, MB": len(module.serialize()) / 1e6,
            "transform, processor seconds": transformed - begun,
            "compile, processor seconds": compiled - transformed,
        }
        for row, value in found.items():
            table.values.setdefault(row, {})[name] = [value]
    return table


def _cpu_s() -> float:
    """Of this process and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def original_runtime(home: Home, runtime: PythonRuntime) -> PythonRuntime:
    """The same runtime, its module never to be left."""
    artifacts = runtime.artifacts
    modules = InertModules(home, Silent())
    original = copy.copy(runtime)
    original._module = modules.get(artifacts.module_digest, artifacts.read_module, "the original of CPython")
    return original


def measure(home: Home, runtime: PythonRuntime, rounds: int) -> list[Table]:
    original = original_runtime(home, runtime)
    return [*undisturbed(runtime, original, rounds), resumed(runtime, rounds)]
