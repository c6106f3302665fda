"""Streams of a process over descriptors of this machine, and into its log.

Nothing here ever waits: a guest that waits for a terminal or a pipe must stay one that can be killed, so all
waiting is ``Surroundings.wait``. The descriptors are ours only together with others (the shell, the programs
at the other ends), so their mode is not ours to change. Where the system can, a pipe or a terminal is
therefore opened once more, for us alone and in a mode that never waits. Where it cannot, we ask first whether
it is ready, and then move no more than it surely takes.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sojourn.model.errors import StoreError
from sojourn.store.output import OutputWriter
from sojourn.vm.process.surroundings import ready
from sojourn.vm.process.wasi.abi import Errno
from sojourn.vm.process.wasi.outside import Sink, Stopped
from sojourn.vm.process.wasi.vfs import WasiError

READ_BYTES_MAX = 1 << 20
_OWN_FLAGS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TERMINAL_MAKER = (5, 2)  # Linux: opening /dev/ptmx again makes another terminal


class _Stream:
    """A descriptor of ours. A context manager: leaving it closes what was opened beside it."""

    def __init__(self, descriptor: int, access: int) -> None:
        self._descriptor = descriptor
        self._mode = os.fstat(descriptor).st_mode
        self._own = _open_again(descriptor, access)
        self.tty = os.isatty(descriptor)

    def fileno(self) -> int:
        return self._descriptor if self._own is None else self._own

    def close(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            os.close(own)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_again(descriptor: int, access: int) -> int | None:
    """A descriptor of our own, that never waits, on the pipe or terminal behind ``descriptor``; None for
    anything else, and where it cannot be had."""
    status = os.fstat(descriptor)
    maker = (
        stat.S_ISCHR(status.st_mode)
        and (
            os.major(status.st_rdev),
            os.minor(status.st_rdev),
        )
        == _TERMINAL_MAKER
    )
    if maker or not (stat.S_ISFIFO(status.st_mode) or os.isatty(descriptor)):
        return None
    try:
        return os.open(f"/proc/self/fd/{descriptor}", access | _OWN_FLAGS)
    except OSError:
        return None  # another user's terminal, a pipe without a reader, no /proc


class FdSource(_Stream):
    """Reads a descriptor of ours (a terminal, a pipe, a file)."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, os.O_RDONLY)

    def read_nowait(self, size: int) -> bytes | None:
        if not ready([self.fileno()], 0):
            return None
        try:
            return os.read(self.fileno(), min(size, READ_BYTES_MAX))
        except BlockingIOError:  # another reader was quicker
            return None
        except OSError:
            raise WasiError(Errno.EIO) from None


class FdSink(_Stream):
    """Writes a descriptor of ours. ``closed`` is called when nobody reads it any more."""

    def __init__(self, descriptor: int, closed: Callable[[], None] = lambda: None) -> None:
        super().__init__(descriptor, os.O_WRONLY)
        self.closed = closed

    def write(self, data: memoryview) -> int:
        try:
            return self._write_nowait(data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            self.closed()
            raise WasiError(Errno.EPIPE) from None
        except OSError:
            raise WasiError(Errno.EIO) from None

    def _write_nowait(self, data: memoryview) -> int:
        if self._own is not None:
            return os.write(self._own, data)
        if stat.S_ISSOCK(self._mode):
            with socket.socket(fileno=os.dup(self._descriptor)) as peer:
                return peer.send(data, socket.MSG_DONTWAIT)
        if stat.S_ISREG(self._mode):
            return os.write(self._descriptor, data)  # waits for a disk at most
        if not ready([], 0, writers=[self._descriptor]):
            return 0
        return os.write(self._descriptor, data[: select.PIPE_BUF])


class LoggedSink:
    """Passes what a guest writes on to ``sink``, and into the process's log."""

    def __init__(self, sink: Sink, log: OutputWriter, stream: int) -> None:
        self._sink = sink
        self._log = log
        self._stream = stream
        self.tty = sink.tty
        if hasattr(sink, "fileno"):
            self.fileno = sink.fileno

    def write(self, data: memoryview) -> int:
        taken = self._sink.write(data)
        try:
            self._log.write(self._stream, data[:taken])
        except StoreError as error:
            # What was written has gone out: an error number would make the guest write it again.
            raise Stopped(f"its output cannot be kept: {error.message}. {error.hint}") from None
        return taken
