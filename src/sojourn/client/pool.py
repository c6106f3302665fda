"""Which sandbox gets which call: a pool that keeps sandboxes and hands calls to them.

Theory of operation. Calls wait in one queue. A call goes to an idle sandbox that has its function; else to a
new one while there are fewer than ``sandboxes_max``; else an idle one of another function is let go for it;
else it waits. A sandbox whose calls are short gets the next ones before it has answered, so that
it never waits for us. A call that is cancelled or late ends its sandbox, for a guest cannot be
interrupted in one call only; calls sent after it go back to the queue and are made elsewhere.

One lock guards queue and sandboxes; no guest code, and nothing that waits, runs under it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable

from sojourn.model.errors import ProcessFailedError, SojournError

from .calls import Call
from .sandbox import Sandbox

AHEAD_MAX = 16  # so many calls are sent to a sandbox before it has answered, when they are short
SHORT_S = 0.005
QUEUE_MAX = 100_000
_END_S = 5.0

Make = Callable[[Call, Callable[[Sandbox], None], Callable[[Sandbox, list[Call]], None]], Sandbox]


class _Slot:
    """What the pool knows of one sandbox."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.sandbox: Sandbox | None = None  # None while it is being made
        self.open: deque[Call] = deque()
        self.once = False
        self.call_s = 1.0  # a guess at what its next call takes, from those before
        self.since = time.monotonic()

    def room(self) -> bool:
        if self.sandbox is None or not self.sandbox.alive or self.once:
            return False
        return not self.open or (self.call_s < SHORT_S and len(self.open) < AHEAD_MAX)


class Pool:
    """Keeps at most ``sandboxes_max`` sandboxes. ``make`` starts one for a call's function."""

    def __init__(self, make: Make, sandboxes_max: int) -> None:
        self._make = make
        self._sandboxes_max = sandboxes_max
        self._lock = threading.Condition()
        self._queue: deque[Call] = deque()
        self._slots: dict[int, _Slot] = {}
        self._serial = itertools.count()
        self._deadlines: list[tuple[float, int, Call]] = []
        self._closed = False
        self._watcher: threading.Thread | None = None
        self._makers: set[threading.Thread] = set()

    def submit(self, call: Call) -> None:
        """Queue a call, waiting while the queue is full.

        Raises:
            ProcessFailedError: the pool is closed.
        """
        with self._lock:
            while len(self._queue) >= QUEUE_MAX and not self._closed:
                self._lock.wait()
            if self._closed:
                raise ProcessFailedError("the client is closed")
            if call.deadline is not None:
                heapq.heappush(self._deadlines, (call.deadline, next(self._serial), call))
                self._watch()
            self._queue.append(call)
        self._dispatch()

    def abandon(self, call: Call, reason: str) -> None:
        """The call's result is not wanted any more: end the sandbox it runs in, if it does."""
        with self._lock:
            call.abandoned = True
            slot = next((s for s in self._slots.values() if call in s.open), None)
            if slot is None or slot.sandbox is None:
                return
            if slot.open[0] is call:
                behind = [other for other in slot.open if not other.abandoned]
                slot.open.clear()
                self._drop(slot)
                self._queue.extendleft(reversed(behind))
                slot.sandbox.forget()
                slot.sandbox.kill(reason)
        self._dispatch()

    def _drop(self, slot: _Slot) -> None:
        self._slots = {key: other for key, other in self._slots.items() if other is not slot}

    # dispatching

    def _dispatch(self) -> None:
        """Send what can be sent, make what can be made."""
        while True:
            with self._lock:
                picked = self._pick()
            if picked is None:
                return
            slot, call = picked
            if slot.sandbox is None:
                maker = threading.Thread(
                    target=self._start, args=(slot, call), name="sojourn-start", daemon=True
                )
                with self._lock:
                    self._makers.add(maker)
                maker.start()
            elif not slot.sandbox.send(call):
                self._again(slot, [call])

    def _pick(self) -> tuple[_Slot, Call] | None:
        """The next call and its slot, or None when all must wait. Takes the call out of the queue."""
        while self._queue and self._queue[0].abandoned:
            self._queue.popleft()
        if not self._queue:
            return None
        call = self._queue[0]
        slot = self._slot_for(call)
        if slot is None:
            return None
        self._queue.popleft()
        self._lock.notify_all()
        if not slot.open:
            slot.since = time.monotonic()
        slot.open.append(call)
        return slot, call

    def _slot_for(self, call: Call) -> _Slot | None:
        fits = [s for s in self._slots.values() if s.program == call.program.digest and s.room()]
        if fits and not call.options.fresh:
            return min(fits, key=lambda slot: len(slot.open))
        if len(self._slots) >= self._sandboxes_max and not self._let_one_go():
            return None
        slot = _Slot(call.program.digest)
        slot.once = call.options.fresh
        self._slots[next(self._serial)] = slot
        return slot

    def _let_one_go(self) -> bool:
        idle = [k for k, s in self._slots.items() if s.sandbox is not None and not s.open]
        if not idle:
            return False
        slot = self._slots.pop(min(idle, key=lambda key: self._slots[key].since))
        assert slot.sandbox is not None
        slot.sandbox.close()
        return True

    def _start(self, slot: _Slot, call: Call) -> None:
        try:
            slot.sandbox = self._make(call, self._answered, self._ended)
            if not slot.sandbox.send(call):
                self._failed_at_once(slot, call)
        except SojournError as error:
            with self._lock:
                self._drop(slot)
            call.future.settle(error=error)
        finally:
            with self._lock:
                self._makers.discard(threading.current_thread())
        if slot.sandbox is not None and call.abandoned:
            self.abandon(call, "its call was cancelled")
        self._dispatch()

    # what sandboxes report

    def _answered(self, sandbox: Sandbox) -> None:
        now = time.monotonic()
        with self._lock:
            slot = next((s for s in self._slots.values() if s.sandbox is sandbox), None)
            if slot is not None and slot.open:
                slot.open.popleft()
                slot.call_s = (
                    0.7 * slot.call_s + 0.3 * (now - slot.since) if slot.call_s < 1 else now - slot.since
                )
                slot.since = now
                if slot.once or sandbox.worn():
                    self._drop(slot)
                    self._queue.extendleft(reversed(slot.open))
                    sandbox.forget()
                    sandbox.close()
        self._dispatch()

    def _ended(self, sandbox: Sandbox, waiting: list[Call]) -> None:
        with self._lock:
            self._slots = {k: s for k, s in self._slots.items() if s.sandbox is not sandbox}
            self._queue.extendleft(reversed([call for call in waiting if not call.abandoned]))
            self._lock.notify_all()
        self._dispatch()

    def _again(self, slot: _Slot, calls: list[Call]) -> None:
        """Calls that a sandbox did not take any more go back to the head of the queue."""
        with self._lock:
            self._drop(slot)
            self._queue.extendleft(reversed([call for call in calls if not call.abandoned]))
        self._dispatch()

    def _failed_at_once(self, slot: _Slot, call: Call) -> None:
        """A sandbox that ends before its first call would do so again: the call fails."""
        with self._lock:
            self._drop(slot)
        call.future.settle(error=ProcessFailedError("the function's process ended before the call began"))

    # deadlines

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._expire, name="sojourn-deadlines", daemon=True)
            self._watcher.start()
        self._lock.notify_all()

    def _expire(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                now = time.monotonic()
                if not self._deadlines or self._deadlines[0][0] > now:
                    self._lock.wait(self._deadlines[0][0] - now if self._deadlines else None)
                    continue
                call = heapq.heappop(self._deadlines)[2]
            if not call.future.done():
                call.future.settle(error=TimeoutError(f"no result within {call.options.deadline_s:g} s"))
                self.abandon(call, "its call took longer than its deadline")

    def close(self, *, cancel: bool) -> None:
        """Finish what is queued (or cancel it), then end every sandbox."""
        if not cancel:
            with self._lock:
                while self._queue or any(slot.open for slot in self._slots.values()):
                    self._lock.wait(0.1)
        with self._lock:
            self._closed = True
            queued, self._queue = list(self._queue), deque()
            slots = list(self._slots.values())
            makers = list(self._makers)
            self._lock.notify_all()
        for call in queued:
            call.future.cancel()
        for maker in makers:
            maker.join(_END_S)
        for slot in slots:
            if slot.sandbox is not None and cancel:
                slot.sandbox.kill("the client was closed")
            elif slot.sandbox is not None:
                slot.sandbox.close()
        for slot in slots:
            if slot.sandbox is not None and not slot.sandbox.join(_END_S):
                slot.sandbox.kill("the client was closed")
                slot.sandbox.join(_END_S)
        if self._watcher is not None:
            self._watcher.join(_END_S)
