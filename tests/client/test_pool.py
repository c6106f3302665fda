"""The pool over sandboxes that are threads of this process: who gets which call, what an end does."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest

from sojourn.client import pool as pool_module
from sojourn.client.calls import Call, CallFuture, CallOptions, Kind
from sojourn.client.pool import Pool, Slot
from sojourn.functions.codec import encode
from sojourn.functions.ship import Shipped
from sojourn.model.errors import ProcessFailedError

WAIT_S = 30
PROGRAM = Shipped({}, "m:f", (), "digest")


class ThreadSandbox:
    """Makes calls as a guest does: ``work`` of the pool's test says what comes out, or raises to end it."""

    def __init__(self, slot: Slot, work: Callable[[Call, ThreadSandbox], Any]) -> None:
        self.killed = threading.Event()
        self._slot = slot
        self._work = work
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self.killed.is_set():
                self._woken.clear()
                call = self._slot.take()
                if call is None:
                    assert self._woken.wait(WAIT_S)
                    continue
                value = self._work(call, self)
                self._slot.answered(False)
                call.future.settle(value)
        except EOFError:
            pass
        except ZeroDivisionError:
            pass
        self._slot.ended(ProcessFailedError("its guest ended"))

    def wake(self) -> None:
        self._woken.set()

    def kill(self, reason: str) -> None:
        self.killed.set()
        self._woken.set()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


class Fixture:
    def __init__(self, sandboxes: int) -> None:
        self.made: list[Kind] = []
        self.work: Callable[[Call, ThreadSandbox], Any] = lambda call, sandbox: call.kind.digest
        # Looked up for each call, so that a test can change what calls do while sandboxes are there.
        self.make: Callable[[Slot], Any] = lambda slot: ThreadSandbox(slot, lambda *call: self.work(*call))
        self.pool = Pool(self._make, sandboxes)

    def _make(self, slot: Slot) -> Any:
        self.made.append(slot.kind)
        return self.make(slot)

    def submit(
        self, digest: str = "f", fresh: int = 0, deadline: float | None = None, size: int = 1
    ) -> CallFuture:
        future = CallFuture(lambda: self.pool.abandon(call, "cancelled"))
        kind, options = Kind(digest, (), fresh), CallOptions(deadline_s=1.0)
        call = Call(PROGRAM, kind, encode(1), size, options, future, deadline)
        self.pool.submit(call)
        return future


@pytest.fixture
def one() -> Iterator[Fixture]:
    fixture = Fixture(1)
    yield fixture
    fixture.pool.close(cancel=True)


def held(fixture: Fixture) -> tuple[threading.Event, threading.Event]:
    """Make every call wait: events for "one has begun" and "go on"."""
    begun, go = threading.Event(), threading.Event()

    def work(call: Call, sandbox: ThreadSandbox) -> Any:
        begun.set()
        while not go.wait(0.01):
            if sandbox.killed.is_set():
                raise ZeroDivisionError
        return call.kind.digest

    fixture.work = work
    return begun, go


def test_one_sandbox_makes_all_calls_of_a_function(one: Fixture) -> None:
    assert [one.submit().result(WAIT_S) for _ in range(50)] == ["f"] * 50
    assert len(one.made) == 1


def test_a_fresh_call_shares_its_sandbox_with_none(one: Fixture) -> None:
    futures = [one.submit(fresh=number) for number in range(1, 6)]
    assert [future.result(WAIT_S) for future in futures] == ["f"] * 5
    assert len(one.made) == 5


def test_an_idle_sandbox_makes_room_at_once(one: Fixture) -> None:
    for digest in "fgfg":
        assert one.submit(digest).result(WAIT_S) == digest
    assert [kind.digest for kind in one.made] == list("fgfg")


def test_no_function_keeps_another_waiting_for_ever(one: Fixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(pool_module, "TURN_S", 0.0)
    begun, go = held(one)
    first = [one.submit("f") for _ in range(100)]
    assert begun.wait(WAIT_S)
    other = one.submit("g")
    go.set()
    assert other.result(WAIT_S) == "g"
    assert {future.result(WAIT_S) for future in first} == {"f"}


def test_an_end_takes_the_call_that_ran_and_no_other(one: Fixture) -> None:
    begun, _ = held(one)
    futures = [one.submit() for _ in range(20)]
    assert begun.wait(WAIT_S)
    one.work = lambda call, sandbox: "made elsewhere"
    assert futures[0].cancel()
    with pytest.raises(CancelledError):
        futures[0].result(WAIT_S)
    assert {future.result(WAIT_S) for future in futures[1:]} == {"made elsewhere"}
    assert len(one.made) == 2


def test_a_guest_that_dies_in_a_call_fails_it(one: Fixture) -> None:
    def die(call: Call, sandbox: ThreadSandbox) -> Any:
        raise ZeroDivisionError

    one.work = die
    for future in [one.submit() for _ in range(10)]:
        with pytest.raises(ProcessFailedError, match="its guest ended"):
            future.result(WAIT_S)


def test_a_sandbox_that_ends_before_its_first_call_fails_one_call_each(one: Fixture) -> None:
    class Stillborn:
        def __init__(self, slot: Slot) -> None:
            slot.ended(ProcessFailedError("stillborn"))

        def wake(self) -> None: ...
        def kill(self, reason: str) -> None: ...
        def join(self, timeout_s: float) -> bool:
            return True

    one.make = Stillborn
    futures = [one.submit() for _ in range(5)]
    for future in futures:
        with pytest.raises(ProcessFailedError, match="stillborn"):
            future.result(WAIT_S)
    assert len(one.made) == 5


def test_whatever_goes_wrong_in_the_making_reaches_the_call(one: Fixture) -> None:
    def broken(slot: Slot) -> Any:
        raise OSError("no more maps")

    one.make = broken
    with pytest.raises(ProcessFailedError, match="no more maps"):
        one.submit().result(WAIT_S)


def test_a_queued_call_can_be_cancelled_and_is_never_made(one: Fixture) -> None:
    begun, go = held(one)
    first = one.submit()
    assert begun.wait(WAIT_S)
    queued = one.submit()
    assert queued.cancel()
    assert queued.cancel(), "again, as futures allow"
    done, left = wait([queued], timeout=WAIT_S)
    assert (done, left) == ({queued}, set()), "those who wait for it are told"
    go.set()
    assert first.result(WAIT_S) == "f"
    assert not first.cancel()


def test_a_late_call_fails_and_ends_its_sandbox(one: Fixture) -> None:
    held(one)
    late = one.submit(deadline=0.0)
    with pytest.raises(TimeoutError, match="no result within 1 s"):
        late.result(WAIT_S)
    one.work = lambda call, sandbox: "next"
    assert one.submit().result(WAIT_S) == "next"


def test_a_result_is_not_held_until_its_deadline(one: Fixture) -> None:
    class Result: ...

    one.work = lambda call, sandbox: Result()
    gone = weakref.ref(one.submit(deadline=1e12).result(WAIT_S))
    one.work = lambda call, sandbox: None
    for _ in range(100):  # until the sandbox's own thread has let go of it too
        one.submit(deadline=1e12).result(WAIT_S)
        gc.collect()
        if gone() is None:
            break
    assert gone() is None


def test_submit_waits_while_too_much_waits(one: Fixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(pool_module, "QUEUE_BYTES_MAX", 100)
    begun, go = held(one)
    futures = [one.submit(size=80)]
    assert begun.wait(WAIT_S)
    futures.append(one.submit(size=80))  # waits in the queue
    more = threading.Thread(target=lambda: futures.append(one.submit(size=80)), daemon=True)
    more.start()
    more.join(0.1)
    assert more.is_alive()
    go.set()
    more.join(WAIT_S)
    assert [future.result(WAIT_S) for future in futures] == ["f"] * 3


def test_many_threads_submit(one: Fixture) -> None:
    results: list[Any] = []

    def client() -> None:
        results.extend(one.submit().result(WAIT_S) for _ in range(50))

    threads = [threading.Thread(target=client) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert results == ["f"] * 800


def test_closing_finishes_or_cancels() -> None:
    fixture = Fixture(2)
    futures = [fixture.submit() for _ in range(50)]
    fixture.pool.close(cancel=False)
    assert all(future.result(0) == "f" for future in futures)
    with pytest.raises(ProcessFailedError, match="closed"):
        fixture.submit()
    fixture = Fixture(2)
    begun, _ = held(fixture)
    futures = [fixture.submit() for _ in range(10)]
    assert begun.wait(WAIT_S)
    fixture.pool.close(cancel=True)
    assert all(future.done() for future in futures)
    fixture.pool.close(cancel=True)
