"""Checkpoint and restore of memory: programs in the real runtime, and memory that is new from end to end.

Beside ours, plain copies: all of memory written to a file and read back, nothing compared, hashed or shared.
Both write through the operating system's cache and do not wait for the disk. A restore ends with memory that
can be entered; making the instance is not part of it (see *Warm start*), nor the code for its frames.
"""

from __future__ import annotations

import mmap
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sojourn.context import Base, BaseKind, Context, Memory, compare
from sojourn.model.limits import Limits
from sojourn.store.checkpoints import Checkpoints
from sojourn.vm.process.dirty import written
from sojourn.vm.process.images import Image
from sojourn.vm.process.restore import map_file, restore_memory
from sojourn.vm.process.runtime import PythonRuntime, PythonStart
from sojourn.vm.process.streams import Collected, Given, Streams

from .measure import Table, timed

OURS, PLAIN = "Sojourn", "plain copies"
MIB = 1 << 20
PANDAS = ("numpy", "pandas")
PROGRAMS = {
    "json": "import json\n"
    "d = [{'a': i, 'b': str(i)} for i in range(2000)]; x = [json.loads(json.dumps(d)) for _ in range(5)]",
    "objects": "class N:\n def __init__(s, l, r): s.l = l; s.r = r\n"
    "def make(d): return N(make(d - 1), make(d - 1)) if d else None\nx = make(14)",
    "data frame": "import pandas as pd, numpy as np\n"
    "x = pd.DataFrame({'a': np.arange(10**5), 'b': np.random.rand(10**5)})\n"
    "y = x.groupby(x.a % 100).b.mean()",
}


@dataclass
class Subject:
    """A memory at rest, and what a fresh one begins as."""

    view: memoryview
    image: Image | None

    @property
    def origin(self) -> Memory | None:
        if self.image is None:
            return None
        base = Base(BaseKind.IMAGE, self.image.info.digest, self.image.info.bytes)
        return Memory.fresh(len(self.view), base)

    def fresh(self) -> memoryview:
        memory = memoryview(mmap.mmap(-1, len(self.view), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        if self.image is not None:
            map_file(memory[: self.image.info.bytes], self.image.descriptor, 0)
        return memory


@contextmanager
def mapped(image: Image | None) -> Iterator[memoryview | None]:
    if image is None:
        yield None
        return
    with mmap.mmap(image.descriptor, image.info.bytes, prot=mmap.PROT_READ) as base, memoryview(base) as view:
        yield view


def ours(subject: Subject, folder: Path, *, compress: bool = False, disk: bool = True) -> tuple[float, float]:
    """Milliseconds to save, and to restore."""
    store = Checkpoints(folder)
    fresh = subject.fresh()
    with mapped(subject.image) as base:
        kept = {}

        def save() -> None:
            memory = compare(subject.view, subject.origin, written(subject.view), base)
            context = Context("a" * 64, "b" * 64, 1, "benchmark", 0, memories=(memory,))
            if not disk:
                kept["stored"] = store.hold(context, [subject.view])
            else:
                kept["saved"] = store.save(context, [subject.view], compress=compress)

        def restore() -> None:
            stored = kept["stored"] if not disk else store.load("benchmark", kept["saved"].digest)
            with stored:
                restore_memory(stored, 0, fresh, 0 if base is None else len(base))

        times = timed(save), timed(restore)
    assert bytes(fresh) == bytes(subject.view), "not what it was"
    store.remove("benchmark")
    return times


def plain(subject: Subject, folder: Path) -> tuple[float, float]:
    folder.mkdir(exist_ok=True)
    path = folder / "plain"
    fresh = memoryview(mmap.mmap(-1, len(subject.view), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def save() -> None:
        with path.open("wb", buffering=0) as file:
            file.write(subject.view)

    def restore() -> None:
        with path.open("rb", buffering=0) as file:
            file.readinto(fresh)

    times = timed(save), timed(restore)
    path.unlink()
    return times


def in_the_guest(
    runtime: PythonRuntime, imports: tuple[str, ...], code: str, then: Callable[[Subject], None]
) -> None:
    """Run a program; when it has done its work but is still alive, in a host call, its memory is at rest."""
    image = runtime.image(imports)
    output = Collected(MIB)
    machine = runtime.start(image, Limits(), Streams(Given(), output, Collected(MIB)))
    reads = machine.surroundings.realtime_ns
    waiting = [then]

    def now() -> int:
        if waiting and output.data:  # the interpreter asks for the time too, before the program's first line
            machine.instance.refresh()
            waiting.pop()(Subject(machine.instance.view, image))
        return reads()

    machine.surroundings.realtime_ns = now  # type: ignore[method-assign]
    source = code + "\nimport time; print('done', flush=True); time.time()"
    ending = machine.run(runtime.entry(PythonStart("code", source, ("-c",)), image))
    machine.close()
    assert not waiting, ending


def measure(tables: list[Table], name: str, subject: Subject, folder: Path, rounds: int) -> None:
    ways: dict[str, Callable[[], tuple[float, float]]] = {
        OURS: partial(ours, subject, folder),
        "Sojourn, compressed": partial(ours, subject, folder, compress=True),
        "Sojourn, to fork from (in memory)": partial(ours, subject, folder, disk=False),
        PLAIN: partial(plain, subject, folder),
    }
    row = f"{name}, {len(subject.view) / 1e6:.0f} MB"
    both, first = tables
    saved: dict[str, list[float]] = {way: [] for way in ways}

    def run(way: str) -> float:
        save, restore = ways[way]()
        saved[way].append(save)
        return save + restore

    both.measure(row, {way: partial(run, way) for way in ways}, rounds)
    first.values[row] = {way: times[1:] for way, times in saved.items()}  # without the unmeasured round


def checkpoints(disk: Path, runtime: PythonRuntime, rounds: int) -> list[Table]:
    """Checkpoint and restore, one after the other, in a new directory on ``disk``."""
    tables = [
        Table("Checkpoint + restore of memory", "ms", "less", OURS),
        Table("Of which the checkpoint", "ms", "less", OURS),
    ]
    with tempfile.TemporaryDirectory(dir=disk) as name:
        folder = Path(name) / "checkpoints"
        for size in (10, 64):
            memory = memoryview(mmap.mmap(-1, size * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            memory[:] = random.Random(size).randbytes(len(memory))
            measure(tables, "all of it new, no image", Subject(memory, None), folder, rounds)
        for program, imports in (("json", ()), ("objects", ()), ("objects", PANDAS), ("data frame", PANDAS)):
            label = f"{program}{' with pandas loaded' if imports else ''}"
            in_the_guest(
                runtime,
                imports,
                PROGRAMS[program],
                lambda subject: measure(tables, label, subject, folder, rounds),  # noqa: B023
            )
    return tables
