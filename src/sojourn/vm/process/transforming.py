"""Makes large modules resumable on all processors: spans of functions go to worker processes.

A worker is this very file, run as a program (``python -m``). It reads the module from a file, then takes
orders from its standard input until that ends: messages of msgpack behind their length. It is pure
computing on bytes that the parent has already parsed; a worker that dies ends the whole attempt with an
error.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from queue import SimpleQueue
from typing import Any, BinaryIO

import msgpack

from sojourn.model.errors import RuntimeUnavailableError
from sojourn.wasm.additions import Additions
from sojourn.wasm.base import BodyTask, ScanTask, serially
from sojourn.wasm.binary import MalformedModuleError, Module, UnsupportedFeatureError
from sojourn.wasm.callgraph import Calls
from sojourn.wasm.events import Suspensions
from sojourn.wasm.index_spaces import IndexSpaces
from sojourn.wasm.parts import PartTask
from sojourn.wasm.plan import Names

PARALLEL_SPANS_MIN = 4  # of a megabyte each; below it a worker's start costs more than it saves
_LENGTH = struct.Struct("<Q")
Span = tuple[int, int]


class Workers:
    """Worker processes for one module. A context manager.

    Args:
        original: the module.
        count: how many.
    """

    def __init__(self, original: bytes, count: int) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="sojourn-", suffix=".module")  # noqa: SIM115
        self._file.write(original)
        self._file.flush()
        self._processes: list[subprocess.Popen[bytes]] = []
        command = [sys.executable, "-m", __spec__.name, self._file.name]
        try:
            for _ in range(count):
                self._processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        env=_environment(),
                        process_group=0,  # Ctrl-C is for us; a worker ends when its input does
                    )
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._file.close()

    def run(self, task: Callable[[Span], Any], spans: Sequence[Span]) -> Iterable[Any]:
        """The ``wasm.base.Runner``: each span to the next worker that is free."""
        order = _order(task)
        free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for process in self._processes:
            free.put(process)

        def do(span: Span) -> Any:
            process = free.get()
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                _send(process.stdin, [*order, span])
                return _result(task, _receive(process.stdout))
            except (OSError, EOFError) as error:
                raise RuntimeUnavailableError(
                    f"a worker that prepares modules ended: {error}", "Try: sojourn doctor"
                ) from None
            finally:
                free.put(process)

        pool = ThreadPoolExecutor(len(self._processes), "sojourn-transform")
        try:
            return list(pool.map(do, spans))
        except BaseException:  # nobody wants the rest
            for process in self._processes:
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


class Transformer:
    """The ``wasm.base.Runner`` for one module: worker processes, when there is enough to do for them to be
    worth their start. A context manager.

    Args:
        original: the module.
    """

    def __init__(self, original: bytes) -> None:
        self._original = original
        self._workers: Workers | None = None
        self._cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def __enter__(self) -> Transformer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._workers is not None:
            self._workers.close()

    def __call__(self, task: Callable[[Span], Any], spans: Sequence[Span]) -> Iterable[Any]:
        if self._workers is None:
            if len(spans) < PARALLEL_SPANS_MIN or self._cpus == 1 or not sys.executable:
                return serially(task, spans)
            self._workers = Workers(self._original, self._cpus)
        return self._workers.run(task, spans)


def _environment() -> dict[str, str]:
    """What a worker needs to find the modules that we found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _order(task: Callable[[Span], Any]) -> list[Any]:
    if isinstance(task, ScanTask):
        return ["scan"]
    assert isinstance(task, BodyTask | PartTask)
    where = task.suspensions
    flags = [bytes(part) for part in (where.functions, where.types, where.entries, where.loops)]
    if isinstance(task, PartTask):
        return ["part", flags, task.additions.plain(), list(task.functions), *astuple(task.names)]
    functions = task.functions
    some = functions if isinstance(functions, list) else [functions[0], functions[-1] + 1]
    listed = isinstance(functions, list)
    return ["bodies", flags, task.additions.plain(), listed, some, sorted(task.forced), task.split]


def _task(order: list[Any], code: bytes, starts: Sequence[int], spaces: IndexSpaces) -> Callable[[Span], Any]:
    """What ``_order`` wrote down, in a worker."""
    if order[0] == "scan":
        return ScanTask(code, starts, spaces.functions_imported)
    kind, flags, additions, *rest = order
    module = code, starts, spaces, Suspensions(*flags), Additions.of(additions)
    if kind == "part":
        functions, *names = rest
        return PartTask(*module, functions, Names(*map(tuple, names)))
    listed, functions, forced, split = rest
    return BodyTask(*module, functions if listed else range(*functions), frozenset(forced), split)


def _result(task: Callable[[Span], Any], reply: list[Any]) -> Any:
    kind, found = reply[:2]
    if kind == "unsupported":
        raise UnsupportedFeatureError(found, reply[2])
    if kind == "malformed":
        raise MalformedModuleError(found, 0)
    if isinstance(task, ScanTask):
        return [Calls.of(call) for call in found]
    return found


def _send(pipe: BinaryIO | Any, value: Any) -> None:
    data = msgpack.packb(value)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def _receive(pipe: BinaryIO | Any) -> Any:
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError("no more messages")
    (size,) = _LENGTH.unpack(header)
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("a message that is cut short")
    return msgpack.unpackb(data, use_list=True)


def main(path: str) -> None:
    """Be a worker for the module at ``path``."""
    with open(path, "rb") as file:  # noqa: PTH123 - a worker imports as little as it can
        module = Module.parse(file.read())
    spaces = IndexSpaces.of(module)
    code, starts = module.bodies()
    code = bytes(code)
    tasks: dict[bytes, Callable[[Span], Any]] = {}
    while True:
        try:
            *order, span = _receive(sys.stdin.buffer)
        except EOFError:
            return
        key = msgpack.packb(order)
        if key not in tasks:
            tasks[key] = _task(order, code, starts, spaces)
        _send(sys.stdout.buffer, _reply(tasks[key], (span[0], span[1])))


def _reply(task: Callable[[Span], Any], span: Span) -> list[Any]:
    try:
        found = task(span)
    except UnsupportedFeatureError as error:
        return ["unsupported", error.feature, error.function]
    except MalformedModuleError as error:
        return ["malformed", str(error)]
    if isinstance(task, ScanTask):
        found = [astuple(call) for call in found]
    return ["done", found]


if __name__ == "__main__":
    main(sys.argv[1])
