"""Streams of a process over descriptors of this machine, and into its log."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from sojourn.model.errors import StoreError
from sojourn.store.output import OutputWriter
from sojourn.vm.process.surroundings import readable
from sojourn.vm.process.wasi.abi import Errno
from sojourn.vm.process.wasi.outside import Sink
from sojourn.vm.process.wasi.vfs import WasiError

READ_BYTES_MAX = 1 << 20


class FdSource:
    """Reads a descriptor of ours (a terminal, a pipe, a file) without changing its mode, which others may
    share."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.tty = os.isatty(descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def read_nowait(self, size: int) -> bytes | None:
        if not readable([self._descriptor], 0):
            return None
        try:
            return os.read(self._descriptor, min(size, READ_BYTES_MAX))
        except BlockingIOError:
            return None
        except OSError:
            raise WasiError(Errno.EIO) from None


class FdSink:
    """Writes a descriptor of ours, waiting as long as its reader lets us wait.

    ``closed`` is called once, when nobody reads it any more.
    """

    def __init__(self, descriptor: int, closed: Callable[[], None] = lambda: None) -> None:
        self._descriptor = descriptor
        self.closed = closed
        self.tty = os.isatty(descriptor)

    def write(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                poller = select.poll()
                poller.register(self._descriptor, select.POLLOUT)
                poller.poll()
            except BrokenPipeError:
                self.closed()
                raise WasiError(Errno.EPIPE) from None
            except OSError:
                raise WasiError(Errno.EIO) from None


class LoggedSink:
    """Passes what a guest writes on to ``sink``, and into the process's log."""

    def __init__(self, sink: Sink, log: OutputWriter, stream: int) -> None:
        self._sink = sink
        self._log = log
        self._stream = stream
        self.tty = sink.tty

    def write(self, data: memoryview) -> int:
        taken = self._sink.write(data)
        try:
            self._log.write(self._stream, data[:taken])
        except StoreError:
            raise WasiError(Errno.ENOSPC) from None
        return taken
