"""Waiting and the clocks of a process."""

from __future__ import annotations

import fcntl
import os
import threading

import pytest

from sojourn.vm.process.surroundings import Surroundings, readable
from sojourn.vm.process.wasi.outside import LimitReached, Stopped


def test_descriptors_beyond_those_of_select_can_be_waited_for() -> None:
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD, 1500)
    try:
        assert readable([high], 0) == set()
        os.write(writing, b"x")
        assert readable([high], 10) == {high}
    finally:
        for descriptor in (reading, writing, high):
            os.close(descriptor)


def test_a_stop_ends_a_wait_from_another_thread() -> None:
    surroundings = Surroundings(wall_seconds=60)
    thread = threading.Thread(target=surroundings.stop, args=("enough",))
    thread.start()
    with pytest.raises(Stopped, match="enough"):
        while True:
            surroundings.wait([], None)
    thread.join()
    surroundings.close()


def test_the_wall_limit_ends_a_wait() -> None:
    surroundings = Surroundings(wall_seconds=0.01)
    with pytest.raises(LimitReached) as caught:
        while True:
            surroundings.wait([], None)
    assert caught.value.name == "wall_seconds"
    surroundings.close()


def test_the_monotonic_clock_goes_on_from_its_image() -> None:
    surroundings = Surroundings(60, monotonic_base_ns=10**15)
    first = surroundings.monotonic_ns()
    assert 10**15 <= first <= surroundings.monotonic_ns()
    surroundings.close()


def test_a_wake_after_the_end_is_harmless() -> None:
    surroundings = Surroundings(60)
    surroundings.close()
    surroundings.wake()
    surroundings.stop("late")
