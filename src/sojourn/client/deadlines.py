"""Calls that must be done by a time."""

from __future__ import annotations

from collections.abc import Callable

from sojourn.host.timers import Timers

from .calls import Call


class Deadlines:
    """Calls ``expired`` with each call that is not done at its deadline. Thread-safe.

    A call is forgotten as soon as it is done, and its result with it, however far its deadline.
    """

    def __init__(self, expired: Callable[[Call], None]) -> None:
        self._expired = expired
        self._timers = Timers()

    def add(self, call: Call) -> None:
        assert call.deadline is not None
        number = self._timers.add(call.deadline, lambda: self._expired(call))
        call.future.add_done_callback(lambda _: self._timers.cancel(number))

    def close(self) -> None:
        self._timers.close()
