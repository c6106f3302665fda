"""Waiting and the clocks of a process."""

from __future__ import annotations

import fcntl
import os
import threading

import pytest

from sojourn.vm.process.surroundings import Surroundings, ready
from sojourn.vm.process.wasi.outside import Leave, LimitReached, Stopped


def test_descriptors_beyond_those_of_select_can_be_waited_for() -> None:
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD, 1500)
    try:
        assert ready([high], 0) == set()
        os.write(writing, b"x")
        assert ready([high], 10) == {high}
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


class Pipe:
    tty = False

    def __init__(self, descriptor: int) -> None:
        self.fileno = lambda: descriptor

    def write(self, data: memoryview) -> int:
        raise AssertionError("waiting writes nothing")


def test_waiting_for_room_ends_when_there_is_some_and_when_nobody_reads() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    written = 0
    try:
        while True:
            written += os.write(writing, bytes(4096))
    except BlockingIOError:
        pass
    surroundings = Surroundings(60)
    thread = threading.Thread(target=os.read, args=(reading, written))
    thread.start()
    while not ready([], 0, writers=[writing]):
        surroundings.wait([], None, [Pipe(writing)])
    thread.join()
    os.close(reading)
    surroundings.wait([], None, [Pipe(writing)])
    os.close(writing)
    surroundings.close()


def test_a_stop_ends_a_wait_for_room() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(4096))
    except BlockingIOError:
        pass
    surroundings = Surroundings(60)
    thread = threading.Thread(target=surroundings.stop, args=("enough",))
    thread.start()
    with pytest.raises(Stopped, match="enough"):
        while True:
            surroundings.wait([], None, [Pipe(writing)])
    thread.join()
    surroundings.close()
    os.close(reading)
    os.close(writing)


def test_clocks_stand_still_and_go_on_elsewhere() -> None:
    surroundings = Surroundings(60, monotonic_base_ns=10**15)
    surroundings.enter_thread()
    sum(range(200_000))
    surroundings.stand_still()
    state = surroundings.save()
    surroundings.stand_still()
    assert surroundings.save() == state  # whatever time has passed
    assert state["cpu_ns"] > 0
    assert state["monotonic_ns"] == 10**15 + state["wall_ns"]
    surroundings.stay()
    surroundings.enter_thread()
    assert surroundings.cpu_ns() >= state["cpu_ns"]
    surroundings.close()
    elsewhere = Surroundings(60, state=state)
    assert elsewhere.cpu_ns() == state["cpu_ns"]  # nobody runs it yet
    elsewhere.enter_thread()
    assert elsewhere.cpu_ns() >= state["cpu_ns"]
    assert elsewhere.monotonic_ns() >= state["monotonic_ns"]
    elsewhere.close()


def test_the_wall_limit_counts_all_lives() -> None:
    clocks = {"monotonic_ns": 5, "wall_ns": 59 * 10**9, "cpu_ns": 0}
    surroundings = Surroundings(60, state=clocks)
    surroundings.check()
    surroundings.close()
    surroundings = Surroundings(60, state=clocks | {"wall_ns": 60 * 10**9})
    with pytest.raises(LimitReached, match="wall_seconds"):
        surroundings.check()
    surroundings.close()


def test_a_guest_that_is_to_be_left_waits_no_more_until_it_stays() -> None:
    surroundings = Surroundings(60)
    surroundings.leave()
    for _ in range(2):
        with pytest.raises(Leave):
            surroundings.wait([], None)
    surroundings.stay()
    surroundings.wait([], 1)
    surroundings.close()
