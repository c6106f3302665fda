"""One thread that calls what is due. No thread while nothing ever was asked for."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_WAIT_MAX_S = 86_400.0  # what the system can wait is not for ever
_END_S = 5.0
_STALE_MIN = 1024
_log = logging.getLogger(__name__)


class Timers:
    """Calls at a time. Thread-safe. What is called must be quick: all others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Condition(threading.Lock())
        self._times: list[tuple[float, int]] = []
        self._calls: dict[int, Callable[[], object]] = {}
        self._serial = itertools.count(1)
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, due_s: float, call: Callable[[], object]) -> int:
        """Have ``call`` called when ``time.monotonic()`` shows ``due_s``; a number to ``cancel`` it by."""
        with self._lock:
            number = next(self._serial)
            if self._closed:
                return number
            self._calls[number] = call
            heapq.heappush(self._times, (due_s, number))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sojourn-timers", daemon=True)
                self._thread.start()
            elif self._times[0][1] == number:
                self._lock.notify()
            return number

    def cancel(self, number: int) -> None:
        """Do not call it. It may be called at this very moment; one that was called is no error."""
        with self._lock:
            self._calls.pop(number, None)
            if len(self._times) > 2 * len(self._calls) + _STALE_MIN:
                self._times = [item for item in self._times if item[1] in self._calls]
                heapq.heapify(self._times)

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
            except Exception:  # noqa: BLE001 - the others are still to be called
                _log.exception("a bug in Sojourn: something that was due could not be done")

    def _next(self) -> Callable[[], object] | None:
        """Wait for the next that is due; None when closed."""
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
        """Call nothing any more. Doing it twice does nothing."""
        with self._lock:
            self._closed = True
            self._calls.clear()
            self._times.clear()
            self._lock.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_END_S)
