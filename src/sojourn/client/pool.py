"""Which sandbox gets which call: a pool of sandboxes, which take their calls from it.

Theory of operation. Calls wait in one queue for each *kind*: a function, and what its image must hold. A
sandbox is of one kind. Whenever its guest reads the next request, it takes the oldest call of its kind;
when there is none it idles, and the next ``submit`` wakes it. So a guest has one call at a time, never
waits for us while there is work, and its end touches that one call only. A sandbox more is made while calls
of a kind wait that nobody is about to take. When there are ``sandboxes_max``, one of another kind makes room:
an idle one at once, a busy one between two calls after ``TURN_S``, so that no function keeps another from
running. A call that wants a fresh sandbox is a kind of its own.

A call that is cancelled or late ends its sandbox, because a guest cannot be interrupted in one call only.

One lock guards queues and slots; no guest code, no future's callback and nothing that waits runs under it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from sojourn.model.errors import ProcessFailedError, SojournError

from .calls import Call, Kind
from .deadlines import Deadlines
from .sandbox import Sandbox

TURN_S = 0.05
QUEUE_CALLS_MAX = 100_000
QUEUE_BYTES_MAX = 1 << 30
_END_S = 5.0


class Slot:
    """What the pool knows of one sandbox; the sandbox asks it for calls, on its guest's thread."""

    def __init__(self, pool: Pool, kind: Kind) -> None:
        self.kind = kind
        self.sandbox: Sandbox | None = None  # None while it is being made
        self.call: Call | None = None
        self.idle_since_s: float | None = None
        self.used = False
        self.leaving = False
        self.killed: str | None = None
        self._pool = pool

    def take(self) -> Call | None:
        """The next call; None when there is none now: ``Sandbox.wake`` says when to ask again.

        Raises:
            EOFError: there will be none any more.
        """
        return self._pool.take(self)

    def answered(self, worn: bool) -> None:
        """The call is done. ``worn``: the sandbox should not take another."""
        self._pool.answered(self, worn)

    def ended(self, error: SojournError) -> None:
        """The guest has ended; ``error`` is for the call that it had, if any."""
        self._pool.ended(self, error)


class Pool:
    """Keeps at most ``sandboxes_max`` sandboxes. ``make`` starts one for a slot."""

    def __init__(self, make: Callable[[Slot], Sandbox], sandboxes_max: int) -> None:
        self._make = make
        self._sandboxes_max = sandboxes_max
        self._lock = threading.Condition(threading.Lock())
        self._closed = False
        self._waiting: dict[Kind, deque[Call]] = {}  # in the order in which they began to wait
        self._calls = 0
        self._bytes = 0
        self._slots: list[Slot] = []
        self._gone: set[Slot] = set()  # without a place any more, and not ended yet
        self._makers: set[threading.Thread] = set()
        self._deadlines = Deadlines(self._expire)

    def submit(self, call: Call) -> None:
        """Queue a call, waiting while the queue is full.

        Raises:
            ProcessFailedError: the pool is closed.
        """
        with self._lock:
            while self._is_full(call) and not self._closed:
                self._lock.wait()
            if self._closed:
                raise ProcessFailedError("the client is closed: make a new one")
            call.submitted_s = time.monotonic()
            self._waiting.setdefault(call.kind, deque()).append(call)
            self._calls += 1
            self._bytes += call.size_bytes
            if not self._wake_one(call.kind):
                self._grow()
        if call.deadline is not None:
            self._deadlines.add(call)

    def _is_full(self, call: Call) -> bool:
        too_large = self._bytes > 0 and self._bytes + call.size_bytes > QUEUE_BYTES_MAX
        return self._calls >= QUEUE_CALLS_MAX or too_large

    def _wake_one(self, kind: Kind) -> bool:
        for slot in self._slots:
            if slot.idle_since_s is not None and slot.kind == kind:
                self._wake(slot)
                return True
        return False

    def _wake(self, slot: Slot) -> None:
        slot.idle_since_s = None
        if slot.sandbox is not None:  # otherwise it is woken as soon as it is made
            slot.sandbox.wake()

    def _unqueue(self, kind: Kind) -> Call | None:
        """The oldest call of a kind that is still wanted."""
        queue = self._waiting.get(kind)
        found = None
        while queue and found is None:
            call = queue.popleft()
            self._calls -= 1
            self._bytes -= call.size_bytes
            found = None if call.future.done() else call
        if queue is not None:
            self._lock.notify_all()
            if not queue:
                del self._waiting[kind]
        return found

    # what sandboxes ask and report

    def take(self, slot: Slot) -> Call | None:
        with self._lock:
            if not slot.leaving and slot.used and self._must_make_room(slot):
                self._drop(slot)
            call = None if slot.leaving else self._unqueue(slot.kind)
            if call is None and not slot.leaving:
                slot.idle_since_s = time.monotonic()
                self._grow()
            if slot.leaving:
                self._grow()
                raise EOFError
            slot.call = call
            slot.used = slot.used or call is not None
            return call

    def _must_make_room(self, slot: Slot) -> bool:
        """Whether a call of a kind that no sandbox serves has waited for long enough."""
        if len(self._slots) < self._sandboxes_max or len(self._waiting) == (slot.kind in self._waiting):
            return False
        kind = self._unserved()
        return kind is not None and time.monotonic() - self._waiting[kind][0].submitted_s > TURN_S

    def _unserved(self) -> Kind | None:
        served = {slot.kind for slot in self._slots}
        return next((kind for kind in self._waiting if kind not in served), None)

    def answered(self, slot: Slot, worn: bool) -> None:
        with self._lock:
            slot.call = None
            if worn or slot.kind.fresh:
                self._drop(slot)
                self._grow()
            self._lock.notify_all()

    def ended(self, slot: Slot, error: SojournError) -> None:
        with self._lock:
            failed, slot.call = slot.call, None
            # One that ends before its first call would do so again and again: somebody must hear of it.
            if not slot.used and not slot.leaving:
                failed = self._unqueue(slot.kind)
            self._drop(slot)
            self._gone.discard(slot)
            self._grow()
            self._lock.notify_all()
        if failed is not None:
            failed.future.settle(error=error)

    def _drop(self, slot: Slot) -> None:
        """Take a slot's place away. Its guest sees the end of its requests when it reads the next."""
        if slot in self._slots:
            self._slots.remove(slot)
            self._gone.add(slot)
        slot.leaving = True
        if slot.idle_since_s is not None:
            self._wake(slot)

    # making sandboxes

    def _grow(self) -> None:
        """Make sandboxes for calls that nobody is about to take, as far as there is room."""
        while not self._closed and (kind := self._short_of()) is not None:
            if len(self._slots) >= self._sandboxes_max and not self._let_one_go():
                return
            slot = Slot(self, kind)
            self._slots.append(slot)
            maker = threading.Thread(target=self._start, args=(slot,), name="sojourn-start", daemon=True)
            self._makers.add(maker)
            maker.start()

    def _short_of(self) -> Kind | None:
        free: dict[Kind, int] = {}
        for slot in self._slots:
            free[slot.kind] = free.get(slot.kind, 0) + (slot.call is None)
        return next((kind for kind, queue in self._waiting.items() if len(queue) > free.get(kind, 0)), None)

    def _let_one_go(self) -> bool:
        idle = [slot for slot in self._slots if slot.idle_since_s is not None]
        if idle:
            self._drop(min(idle, key=lambda slot: slot.idle_since_s or 0.0))
        return bool(idle)

    def _start(self, slot: Slot) -> None:
        try:
            sandbox = self._make(slot)
        except SojournError as error:
            self.ended(slot, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, a call waits for this sandbox
            self.ended(slot, ProcessFailedError(f"no sandbox could be made: {type(error).__name__}: {error}"))
        else:
            with self._lock:
                slot.sandbox = sandbox
                killed = slot.killed
            sandbox.wake()
            if killed is not None:
                sandbox.kill(killed)
        finally:
            with self._lock:
                self._makers.discard(threading.current_thread())

    # ending calls early

    def abandon(self, call: Call, reason: str) -> None:
        """The call's result is not wanted any more: end the sandbox it runs in, if it does."""
        with self._lock:
            slot = next((slot for slot in self._slots if slot.call is call), None)
            if slot is None:
                return  # when it still waits, it is passed over
            slot.call = None
            self._kill(slot, reason)
            self._grow()
            self._lock.notify_all()

    def _kill(self, slot: Slot, reason: str) -> None:
        self._drop(slot)
        slot.killed = reason
        if slot.sandbox is not None:
            slot.sandbox.kill(reason)

    def _expire(self, call: Call) -> None:
        call.future.settle(error=TimeoutError(f"no result within {call.options.deadline_s:g} s"))
        self.abandon(call, "its call took longer than its deadline")

    def close(self, *, cancel: bool) -> None:
        """Finish what is queued (or cancel it), then end every sandbox. Doing it twice does nothing."""
        with self._lock:
            if not cancel:
                self._lock.wait_for(self._is_done)
            self._closed = True
            queued = [call for queue in self._waiting.values() for call in queue]
            self._waiting.clear()
            self._lock.notify_all()
        for call in queued:
            call.future.cancel()
        with self._lock:
            for slot in list(self._slots):
                if cancel:
                    self._kill(slot, "the client was closed")
                else:
                    self._drop(slot)
            left, makers = list(self._gone), list(self._makers)
        self._join(left, makers)
        self._deadlines.close()

    def _is_done(self) -> bool:
        return not self._waiting and all(slot.call is None for slot in self._slots)

    def _join(self, slots: list[Slot], makers: list[threading.Thread]) -> None:
        for maker in makers:
            maker.join(_END_S)
        for slot in slots:
            if slot.sandbox is not None and not slot.sandbox.join(_END_S):
                slot.sandbox.kill("the client was closed")
                slot.sandbox.join(_END_S)
