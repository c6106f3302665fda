"""Evicting a process and going on with it, the way the commands go: through the host and the store.

*Evict*: from the wish until the guest was left in the middle, its context is stored, its instance dropped and
its record changed. *Resume*: from the wish until the guest makes its next system call. Beside the time on the
wall the processor time of this operating-system process, which other load on the machine disturbs less.

Twins are compiled in the first round, which is not counted: they are kept on disk.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import wasmtime

from sojourn.bundle.build import build_code, build_wasm
from sojourn.host.embedded import EmbeddedHost, HostedProcess
from sojourn.host.requests import LaunchRequest
from sojourn.store.home import Home
from sojourn.vm.process.runtime import PythonRuntime
from sojourn.vm.process.streams import Collected

from .measure import Table

SIZES_MIB = (10, 64)
DEADLINE_S = 120.0
OURS = "Sojourn"
# All of memory is written, no chunk is like another; then it reads, and waits.
_COMMAND = """
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") {pages})
  (func (export "_start") (local $at i32) (local $x i64)
    (local.set $x (i64.const 88172645463325252))
    (loop $fill
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
      (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
      (i64.store (local.get $at) (local.get $x))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $fill (i32.lt_u (local.get $at) (i32.const {bytes}))))
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 1))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))))
"""
_SCRIPT = "import os, sys\ndata = os.urandom({bytes})\nsys.stdin.buffer.raw.read(1)"


class _Silence:
    """A source in which nothing comes; it notes when the guest first asked."""

    tty = False

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.wall_s = self.cpu_s = 0.0

    def read_nowait(self, size: int) -> bytes | None:
        if not self.asked.is_set():
            self.wall_s, self.cpu_s = time.perf_counter(), time.process_time()
            self.asked.set()
        return None

    def wait(self) -> None:
        if not self.asked.wait(DEADLINE_S):
            raise RuntimeError("the guest does not run")


@dataclass(frozen=True)
class Life:
    """Milliseconds of one eviction and one resume, on the wall and of the processor."""

    evict_ms: float
    evict_cpu_ms: float
    resume_ms: float
    resume_cpu_ms: float


def _live(host: EmbeddedHost, request: LaunchRequest) -> Life:
    process, silence = _begin(partial(host.launch, request))
    silence.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    host.checkpoint(process, stop=True).result(DEADLINE_S)
    evicted = time.perf_counter() - wall, time.process_time() - cpu
    wall, cpu = time.perf_counter(), time.process_time()
    process, silence = _begin(partial(host.resume, process.pid))
    silence.wait()
    process.kill("measured")
    process.wait(DEADLINE_S)
    process.recorded.result(DEADLINE_S)
    host.keeper.store.remove(process.pid)
    return Life(
        *(1e3 * seconds for seconds in evicted), (silence.wall_s - wall) * 1e3, (silence.cpu_s - cpu) * 1e3
    )


def _begin(start: Callable[..., HostedProcess]) -> tuple[HostedProcess, _Silence]:
    silence = _Silence()
    return start(stdin=silence, stdout=Collected(0), stderr=Collected(0)), silence


def lives(home: Home, runtime: PythonRuntime, rounds: int) -> list[Table]:
    """Programs of ``SIZES_MIB`` that are all new, and of CPython with so much data of its own."""
    parts = ("evict + resume", "evict", "resume", "evict, processor", "resume, processor")
    table = Table("A process is evicted and goes on, through the host", "ms", "less", parts[0])
    with tempfile.TemporaryDirectory(dir=home.tmp) as name, EmbeddedHost(home) as host:
        for size in SIZES_MIB:
            path = Path(name) / f"benchmark-{size}.wasm"
            text = _COMMAND.format(pages=size * 16, bytes=size << 20)
            path.write_bytes(wasmtime.wat2wasm(text))
            command = build_wasm(path)
            script = build_code(_SCRIPT.format(bytes=size << 20), runtime=runtime.artifacts.runtime_info())
            for row, bundle in (
                (f"command, {size} MB, all of it new", command),
                (f"CPython with {size} MB of data", script),
            ):
                request = LaunchRequest(bundle.program, bundle.contents, "benchmark")
                for number in range(rounds + 1):
                    life = _live(host, request)
                    values = (life.evict_ms + life.resume_ms, life.evict_ms, life.resume_ms)
                    values = (*values, life.evict_cpu_ms, life.resume_cpu_ms)
                    for part, value in zip(parts, values, strict=True):
                        if number:
                            table.values.setdefault(row, {}).setdefault(part, []).append(value)
    return [table]
