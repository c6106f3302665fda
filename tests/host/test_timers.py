"""What is due is called, in order, unless it was cancelled."""

from __future__ import annotations

import threading
import time

from sojourn.host.timers import Timers


def test_calls_in_order_of_their_times() -> None:
    timers, called, last = Timers(), [], threading.Event()
    now_s = time.monotonic()
    timers.add(now_s + 0.06, last.set)
    timers.add(now_s + 0.04, lambda: called.append(2))
    cancelled = timers.add(now_s + 0.03, lambda: called.append(0))
    timers.add(now_s - 1, lambda: called.append(1))
    timers.cancel(cancelled)
    timers.cancel(cancelled)
    assert last.wait(10)
    assert called == [1, 2]
    timers.close()
    timers.close()


def test_nothing_is_called_after_close() -> None:
    timers, called = Timers(), []
    timers.add(time.monotonic() + 0.05, lambda: called.append(1))
    timers.close()
    timers.add(time.monotonic() - 1, lambda: called.append(2))
    assert called == []


def test_one_that_fails_does_not_keep_the_others_from_being_called(caplog: object) -> None:
    timers, last = Timers(), threading.Event()
    timers.add(time.monotonic() - 2, lambda: 1 / 0)
    timers.add(time.monotonic() - 1, last.set)
    assert last.wait(10)
    timers.close()


def test_many_cancelled_ones_are_forgotten() -> None:
    timers = Timers()
    for _ in range(5000):
        timers.cancel(timers.add(time.monotonic() + 3600, lambda: None))
    assert len(timers._times) < 2500
    timers.close()
