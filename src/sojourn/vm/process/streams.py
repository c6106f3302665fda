"""The streams of a process that are not descriptors of the host: collected, given, or passed in memory.

Streams over host descriptors (a terminal, a pipe) belong to the host that has them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .wasi.abi import Errno
from .wasi.outside import Sink, Source
from .wasi.vfs import WasiError


@dataclass(frozen=True)
class Streams:
    """The standard streams of a process, and further ones; those get the descriptors ``EXTRA_FIRST``,
    ``EXTRA_FIRST + 1``, … in a Python guest."""

    stdin: Source
    stdout: Sink
    stderr: Sink
    extra: Sequence[Source | Sink] = ()


class Given:
    """A source of bytes that are known from the start; ``b""`` is an empty one."""

    tty = False

    def __init__(self, data: bytes = b"") -> None:
        self._data = data
        self._at = 0

    def read_nowait(self, size: int) -> bytes | None:
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece


class Collected:
    """A sink that keeps the first ``bytes_max`` bytes and takes the rest without keeping it."""

    tty = False

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.data = bytearray()

    def write(self, data: memoryview) -> int:
        self.data += data[: max(0, self._bytes_max - len(self.data))]
        return len(data)

    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


class Feed:
    """A source that another thread fills with buffers, which are handed on without joining them.

    ``woken`` is called after each change; set it to what ends the guest's wait.
    """

    tty = False

    def __init__(self) -> None:
        self._buffers: deque[memoryview] = deque()
        self._closed = False
        self._lock = threading.Lock()
        self.woken: Callable[[], None] = lambda: None

    def put(self, *buffers: bytes | memoryview) -> None:
        """Append buffers, as one: no other thread's come between them."""
        with self._lock:
            if self._closed:
                raise BrokenPipeError("the stream is closed")
            self._buffers.extend(memoryview(b).cast("B") for b in buffers if len(memoryview(b).cast("B")))
        self.woken()

    def close(self) -> None:
        """The guest reads what is there, then the end."""
        with self._lock:
            self._closed = True
        self.woken()

    def read_nowait(self, size: int) -> bytes | memoryview | None:
        with self._lock:
            if not self._buffers:
                return b"" if self._closed else None
            first = self._buffers[0]
            if len(first) <= size:
                return self._buffers.popleft()
            self._buffers[0] = first[size:]
            return first[:size]


class Receiver:
    """A sink that hands each write to ``take``, on the guest's thread. ``take`` must copy what it keeps;
    what it raises breaks the stream for the guest."""

    tty = False

    def __init__(self, take: Callable[[memoryview], None]) -> None:
        self._take = take

    def write(self, data: memoryview) -> int:
        try:
            self._take(data)
        except (ValueError, BrokenPipeError):
            raise WasiError(Errno.EPIPE) from None
        return len(data)
