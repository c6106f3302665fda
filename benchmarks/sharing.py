"""1,000 runnable processes in one operating-system process: are shares fair, and what do they cost?

Every process counts and writes one byte for each step, so its progress is the length of its output. Progress
counts from when all have begun, for ten seconds of all processors. *Jain's index* of the progress of n
processes, each divided by its weight, is 1 when all had their share, and 1/n when one had all. The peer is
the same processes without permits: 1,000 threads, which the kernel shares the processors among. Programs
that take steps of different sizes are compared by their processor time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import wasmtime

from sojourn.model.limits import Limits
from sojourn.store.home import Home
from sojourn.vm.process.command import Command
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.engine import Instance
from sojourn.vm.process.monitor import RunningProcess
from sojourn.vm.process.permits import NORMAL_WEIGHT, Permits, usable_processors
from sojourn.vm.process.runtime import PythonRuntime, PythonStart
from sojourn.vm.process.streams import Given, Receiver, Streams
from sojourn.vm.process.virtual_machine import VirtualMachine

from .measure import Table

COUNT = 1000
WINDOW_S = 10.0
DEADLINE_S = 300.0
_LOOK_S = 0.25
_FULL = 0.9  # of the processors' time; the rest is ours and the system's
_WINDOWS_MAX = 10.0
OURS, KERNEL = "Sojourn", "kernel threads, no permits"
UNLIMITED = 1 << 20
_LIMITS = Limits(cpu_seconds=3600, wall_seconds=3600, output_bytes=1 << 40, host_calls=1 << 40)
_COUNTING = """
import os
x = 0
while True:
    for i in range(1000):
        x = (x * 3 + i) % 1000003
    os.write(1, b".")
"""
_NUMPY = """
import os
import numpy as np
a = np.arange(20000) * 7919 % 20011
while True:
    a = np.sort(a * 31 % 20011) + 1
    os.write(1, b".")
"""
_WAT = r"""(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\01\00\00\00") (data (i32.const 16) ".")
  (func (export "_start") (local $i i64)
    (loop $l
      (local.set $i (i64.add (local.get $i) (i64.const 1)))
      (i64.store (i32.const 64) (i64.mul (i64.load (i32.const 64)) (i64.const 6364136223846793005)))
      (if (i64.eqz (i64.and (local.get $i) (i64.const 0xfffff)))
        (then (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
      (br $l))))"""

Enter = Callable[[Instance], int | None]
Start = Callable[[Streams], tuple[VirtualMachine, Enter]]


@dataclass
class Shares:
    """What came of a window.

    Attributes:
        steps: the progress of each process.
        cpu_s: the processor time of each.
        unshared_bytes: memory, for each process.
        late_s: how long it took until all had begun.
    """

    steps: list[float]
    cpu_s: list[float]
    wall_s: float
    unshared_bytes: float
    late_s: float

    @property
    def rate(self) -> float:
        """Steps a second of all together."""
        return sum(self.steps) / self.wall_s

    @property
    def cpu_rate(self) -> float:
        """Processors that guests used, on average."""
        return sum(self.cpu_s) / self.wall_s


class _Counted:
    """A process and its progress."""

    def __init__(self, start: Start, permits: Permits, weight: int) -> None:
        self.steps = 0
        self.weight = weight
        sink = Receiver(self._take)
        machine, enter = start(Streams(Given(), sink, sink))
        machine.share_by(weight, permits)
        self.process = RunningProcess(machine, None)
        self._enter = enter

    def _take(self, data: memoryview) -> None:
        if self.steps == 0 and bytes(data[:1]) != b".":
            sys.stderr.write(bytes(data).decode("utf-8", "replace"))
        self.steps += len(data)

    def begin(self) -> None:
        self.process.begin(self._enter)


def python(runtime: PythonRuntime, code: str) -> Start:
    image = runtime.image(("numpy", "pandas"))
    enter = runtime.entry(PythonStart("code", code, ("-c",)), image)
    return lambda streams: (runtime.start(image, _LIMITS, streams), enter)


def wat(modules: CompiledModules) -> Start:
    code = bytes(wasmtime.wat2wasm(_WAT))
    command = Command(modules, "counts.wasm", "c0" * 32, code)
    return lambda streams: (command.start([], {}, _LIMITS, streams, {}, ()), command.enter)


def share(starts: Sequence[tuple[Start, int]], permits: Permits, window_s: float) -> Shares:
    """Run processes, each with its weight, and see what each has done in ``window_s``."""
    system = psutil.Process()
    before = system.memory_full_info().uss
    begun_s = time.monotonic()
    processes = [_Counted(start, permits, weight) for start, weight in starts]
    try:
        for process in processes:
            process.begin()
        _until(lambda: all(process.steps for process in processes))
        late_s = time.monotonic() - begun_s
        first = [(process.steps, process.process.usage().cpu_seconds) for process in processes]
        since_s = time.monotonic()
        _wait_for_window(processes, sum(cpu for _, cpu in first), window_s)
        last = [(process.steps, process.process.usage().cpu_seconds) for process in processes]
        wall_s = time.monotonic() - since_s
        memory = system.memory_full_info().uss - before
    finally:
        for process in processes:
            process.process.kill("measured")
        for process in processes:
            process.process.wait(DEADLINE_S)
    return Shares(
        [end[0] - start[0] for start, end in zip(first, last, strict=True)],
        [end[1] - start[1] for start, end in zip(first, last, strict=True)],
        wall_s,
        memory / len(processes),
        late_s,
    )


def _wait_for_window(processes: list[_Counted], before_s: float, window_s: float) -> None:
    """Until the guests have had what all processors give in ``window_s``, which takes longer where the
    machine has others to serve."""
    begun_s = time.monotonic()
    enough_s = window_s * min(usable_processors(), len(processes)) * _FULL
    while time.monotonic() - begun_s < _WINDOWS_MAX * window_s:
        time.sleep(_LOOK_S)
        used_s = sum(process.process.usage().cpu_seconds for process in processes) - before_s
        if used_s >= enough_s and time.monotonic() - begun_s >= window_s:
            return


def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise RuntimeError("some never began")
        time.sleep(0.05)


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


def measure(home: Home, runtime: PythonRuntime, rounds: int, count: int = COUNT) -> list[Table]:
    processors = usable_processors()
    counting, sorting = python(runtime, _COUNTING), python(runtime, _NUMPY)
    native = wat(CompiledModules(home, runtime._progress))
    mixed = [(counting, NORMAL_WEIGHT), (counting, NORMAL_WEIGHT), (sorting, NORMAL_WEIGHT)]
    mixed.append((native, NORMAL_WEIGHT))
    sets = {
        "counting": [(counting, NORMAL_WEIGHT)] * count,
        "half of them four times the weight": [(counting, 4), (counting, 16)] * (count // 2),
        "mixed (by processor time)": mixed * (count // 4),
    }
    what = f"{count:,} runnable processes, {processors} processors, {WINDOW_S:g} s"
    fair = Table(f"Sharing: Jain's index, {what}", "index", "more", OURS)
    rate = Table(f"Sharing: throughput of {count:,} in that of {processors} alone", "ratio", "more", OURS)
    memory = Table(f"Sharing: unshared memory of each of {count:,}", "MB", "less", OURS)
    late = Table(f"Sharing: until all of {count:,} have begun", "s", "less", OURS)
    for _ in range(max(1, rounds // 2)):
        for row, starts in sets.items():
            alone = share(starts[:processors], Permits(processors), WINDOW_S / 4)
            for subject, permits in ((OURS, Permits(processors)), (KERNEL, Permits(UNLIMITED))):
                found = share(starts, permits, WINDOW_S)
                by_time = "processor time" in row
                amounts = found.cpu_s if by_time else found.steps
                shares = [amount / weight for amount, (_, weight) in zip(amounts, starts, strict=True)]
                ratio = found.cpu_rate / alone.cpu_rate if by_time else found.rate / alone.rate
                _note(fair, row, subject, jain(shares))
                _note(rate, row, subject, ratio)
                _note(memory, row, subject, found.unshared_bytes / 1e6)
                _note(late, row, subject, found.late_s)
    return [fair, rate, memory, late]


def _note(table: Table, row: str, subject: str, value: float) -> None:
    table.values.setdefault(row, {}).setdefault(subject, []).append(value)
