"""Calls that must be done by a time: one thread that waits for the next of them."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from .calls import Call

_STALE_MIN = 1_024
_WAIT_MAX_S = 86_400.0  # a deadline may be for ever; what the system can wait is not
_END_S = 5.0


class Deadlines:
    """Calls ``expired`` with each call that is not done at its deadline. Thread-safe.

    A call is forgotten as soon as it is done, and its result with it, however far its deadline.
    """

    def __init__(self, expired: Callable[[Call], None]) -> None:
        self._expired = expired
        self._lock = threading.Condition(threading.Lock())
        self._times: list[tuple[float, int]] = []
        self._calls: dict[int, Call] = {}
        self._serial = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, call: Call) -> None:
        assert call.deadline is not None
        with self._lock:
            number = next(self._serial)
            self._calls[number] = call
            heapq.heappush(self._times, (call.deadline, number))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sojourn-deadlines", daemon=True)
                self._thread.start()
            elif self._times[0][1] == number:
                self._lock.notify_all()
        call.future.add_done_callback(lambda _: self._forget(number))

    def _forget(self, number: int) -> None:
        with self._lock:
            self._calls.pop(number, None)
            if len(self._times) > 2 * len(self._calls) + _STALE_MIN:
                self._times = [item for item in self._times if item[1] in self._calls]
                heapq.heapify(self._times)

    def _run(self) -> None:
        while (call := self._next()) is not None:
            self._expired(call)

    def _next(self) -> Call | None:
        """Wait for the next call that is late; None when closed."""
        with self._lock:
            while not self._closed:
                left_s = self._times[0][0] - time.monotonic() if self._times else None
                if left_s is not None and left_s <= 0:
                    call = self._calls.pop(heapq.heappop(self._times)[1], None)
                    if call is not None:
                        return call
                else:
                    self._lock.wait(None if left_s is None else min(left_s, _WAIT_MAX_S))
            return None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_END_S)
