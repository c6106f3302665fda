"""What was written to a process and not read yet: its standard input, when a program of ours writes it.

It outlives the lives of a process: one that is evicted goes on reading where it stopped. No byte is lost or
given twice, for what was taken is in the guest's memory, which its context holds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

ROOM_BYTES = 16 << 20


class Inbox:
    """A source that other threads write. Thread-safe.

    Attributes:
        woken: called after each change, outside of the lock.
    """

    tty = False

    def __init__(self, data: bytes | None = None) -> None:
        """
        Args:
            data: all there will ever be; None: what ``put`` gives.
        """
        self._buffers: deque[memoryview] = deque([memoryview(data)] if data else [])
        self._held = len(data or b"")
        self._closed = data is not None
        self._fresh = True  # whether there is something that the guest has not seen
        self._lock = threading.Condition(threading.Lock())
        self.woken: Callable[[], object] = lambda: None

    def put(self, data: bytes | memoryview, end_s: float | None = None) -> None:
        """Append bytes, which no other thread's come between. Waits while the guest has ``ROOM_BYTES`` to
        read.

        Args:
            end_s: until when it waits, by ``time.monotonic()``; None: for ever.

        Raises:
            BrokenPipeError: it was closed.
            TimeoutError: there was no room; nothing was appended.
        """
        view = memoryview(bytes(data))
        with self._lock:
            while self._held >= ROOM_BYTES and not self._closed:
                left_s = None if end_s is None else end_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise TimeoutError("the process does not read its input")
                self._lock.wait(left_s)
            if self._closed:
                raise BrokenPipeError("the standard input of the process is closed")
            if view:
                self._buffers.append(view)
                self._held += len(view)
            self._fresh = True
        self.woken()

    def close(self) -> None:
        """The guest reads what is there, then the end. Doing it twice does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = self._fresh = True
            self._lock.notify_all()
        self.woken()

    def break_off(self) -> None:
        """Nobody reads any more: drop what is there, and let no writer wait."""
        with self._lock:
            self._closed = True
            self._buffers.clear()
            self._held = 0
            self._lock.notify_all()

    @property
    def fresh(self) -> bool:
        """Whether something has come since the guest last found nothing."""
        with self._lock:
            return self._fresh

    def read_nowait(self, size: int) -> bytes | memoryview | None:
        with self._lock:
            if not self._buffers:
                self._fresh = False
                return b"" if self._closed else None
            first = self._buffers[0]
            if len(first) <= size:
                self._buffers.popleft()
            else:
                self._buffers[0] = first[size:]
            taken = first[:size]
            full, self._held = self._held >= ROOM_BYTES, self._held - len(taken)
            if full:
                self._lock.notify_all()
            return taken
