"""One thread that looks at guests while they run.

It looks about every ``TICK_S``, sooner when a guest says so. There is no thread before the first guest runs,
and it sleeps while none does; not at once, for guests that wait for short and often would then wake it each
time.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

TICK_S = 0.01
_IDLE_TICKS = 10


class Watched(Protocol):
    def look(self) -> float | None:
        """See whether the guest must stop. Returns how soon to look again, in seconds; None: as usual."""
        ...


class Watch:
    """Looks at every guest that has begun and not ended."""

    def __init__(self) -> None:
        self._lock = threading.Condition(threading.Lock())
        self._guests: set[Watched] = set()
        self._thread: threading.Thread | None = None
        self._asleep = False

    def begin(self, guest: Watched) -> None:
        with self._lock:
            self._guests.add(guest)
            if self._asleep:
                self._lock.notify()
            elif self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sojourn-watch", daemon=True)
                self._thread.start()

    def end(self, guest: Watched) -> None:
        with self._lock:
            self._guests.discard(guest)

    def _run(self) -> None:
        idle, tick_s = 0, TICK_S
        while True:
            time.sleep(tick_s)
            tick_s = TICK_S
            with self._lock:
                idle = 0 if self._guests else idle + 1
                if idle > _IDLE_TICKS:
                    self._asleep = True
                    while not self._guests:
                        self._lock.wait()
                    self._asleep = False
                for guest in self._guests:
                    tick_s = min(tick_s, guest.look() or TICK_S)
