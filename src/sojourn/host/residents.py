"""Processes over all their lives in one host: run, evicted when they wait long, back when that is over.

Theory of operation. A resident is in one *phase*::

    here ──> out ──> coming ──> here         here, out, coming ──> over

*Here* its guest has a thread and memory. *Out* it is suspended in the table, its context in the store, and
nothing of it is in memory but the record of what it waits for. A worker brings it back (*coming*) when that
has come: something was written to it, or a time. Whatever happens in between is looked at once the next phase
has begun, so nothing is missed: what came while the guest was being left makes it come back at once. It is
*over* when it has ended, and for us also when another host has taken it: the table decides, by one
compare-and-set, who goes on with a suspended process.

What a process waits for of which it has to be told while it is out: its standard input (``Inbox.woken``), and
a time (``Timers``). One that waits for anything else is not evicted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from enum import Enum

from sojourn.model.errors import ProcessFailedError, SojournError
from sojourn.model.states import Ending, State
from sojourn.store.checkpoints import Saved
from sojourn.vm.process.streams import Collected

from .asking import end_suspended
from .embedded import EmbeddedHost
from .heap import give_back
from .hosted import Away, HostedProcess, NotWaiting
from .inbox import Inbox
from .requests import LaunchRequest

GIVE_BACK_S = 1.0  # so long after an eviction memory is given back, for all that are evicted until then
LOOK_S = 0.25  # how often somebody who waits looks whether another host has changed what is out here
_CLOSING = "its host is closing"
_log = logging.getLogger(__name__)


class Phase(Enum):
    HERE = "here"
    OUT = "out"
    COMING = "coming"
    OVER = "over"


class Resident:
    """One process. All methods may be called from any thread.

    Attributes:
        inbox: its standard input.
    """

    __slots__ = (
        *("pid", "inbox", "_residents", "_changed", "_phase", "_process", "_away", "_ending", "_failure"),
        *("_nudged", "_kill_reason", "_timer", "_idle_after_s", "_every_s", "_writes", "_leaving"),
    )

    def __init__(
        self, residents: Residents, pid: str, inbox: Inbox, idle_after_s: float | None, every_s: float | None
    ) -> None:
        self.pid = pid
        self.inbox = inbox
        self._residents = residents
        self._idle_after_s = idle_after_s
        self._every_s = every_s
        self._changed = threading.Condition(threading.Lock())
        self._phase = Phase.OUT
        self._process: HostedProcess | None = None
        self._away: Away | None = None
        self._ending: Ending | None = None
        self._failure: SojournError | None = None
        self._nudged = False  # something came while it was neither here nor out
        self._leaving = False  # somebody wants it out
        self._kill_reason: str | None = None
        self._timer: int | None = None
        self._writes = 0
        inbox.woken = self._nudge

    # what it does

    @property
    def over(self) -> bool:
        """Whether this host has nothing to do with it any more."""
        return self._phase is Phase.OVER

    @property
    def is_out(self) -> bool:
        return self._phase is Phase.OUT

    def wait(self, end_s: float | None) -> Ending | None:
        """How it ended; None when it has not by ``end_s``.

        Raises:
            SojournError: it could not come back, and stays suspended; the error says why.
        """
        while True:
            with self._changed:
                if self._ending is not None:
                    return self._ending
                self._raise_failure()
                away = self._phase in (Phase.OUT, Phase.OVER)
                if not _wait_until(self._changed, end_s, LOOK_S if away else None):
                    return None
            if away:
                self._look()

    def wait_output(self, seen: int, end_s: float | None) -> int:
        """Wait until it has written or ended since ``seen``, or until ``end_s``; a number for the next time.

        What it wrote is in its log then.
        """
        with self._changed:
            self._raise_failure()
            if self._writes == seen and self._ending is None:
                _wait_until(self._changed, end_s, LOOK_S if self._phase in (Phase.OUT, Phase.OVER) else None)
            seen, process, away = self._writes, self._process, self._phase in (Phase.OUT, Phase.OVER)
        if process is not None:
            process.flush()
        elif away:
            self._look()
        return seen

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def checkpoint(self) -> Future[Saved] | None:
        """Store it while it goes on; None when it is not here, and so has been stored as it is."""
        process = self._process
        return None if process is None else self._residents.host.checkpoint(process)

    def fork(self, count: int, timeout_s: float | None) -> list[str] | None:
        """New processes, suspended, that go on where it is now; as ``checkpoint``.

        Raises:
            CancelledError: it was evicted, or ended, at this very moment.
        """
        process = self._process
        return None if process is None else self._residents.host.fork_running(process, count, timeout_s)

    def evict(self) -> Future[Saved] | None:
        """Leave it suspended until it is resumed, or something is written to it; as ``checkpoint``."""
        with self._changed:
            process = self._process
            if process is None:
                self._cancel_timer()
                if self._away is not None:
                    self._away = replace(self._away, waiting=False, due_s=None)
                return None
            self._leaving, self._nudged = True, False
        return self._residents.host.checkpoint(process, stop=True)

    def flush(self) -> None:
        """Put all that it has written into its log."""
        process = self._process
        if process is not None:
            process.flush()

    def resume(self) -> None:
        """Bring it back, if it is out."""
        with self._changed:
            if self._phase is Phase.OUT:
                self._come()

    def settled(self, end_s: float | None) -> bool:
        """Wait until it is not coming any more; whether that was so by ``end_s``.

        Raises:
            SojournError: it could not come.
        """
        with self._changed:
            while self._phase is Phase.COMING:
                if not _wait_until(self._changed, end_s, None):
                    return False
            self._raise_failure()
            return True

    def kill(self, reason: str) -> None:
        with self._changed:
            self._kill_reason = self._kill_reason or reason
            process, phase = self._process, self._phase
        if process is not None:
            process.kill(reason)
        elif phase is Phase.OUT:
            self._end_out(reason)

    def _end_out(self, reason: str) -> None:
        """End it where it lies. When somebody was quicker, the table says what became of it."""
        host = self._residents.host
        end_suspended(host.home, host.table, self.pid, reason)
        self._look()

    # its lives

    def _nudge(self) -> None:
        """Something was written to it."""
        with self._changed:
            process = self._process
            if self._phase is Phase.OUT and (self._away is None or self._away.reads):
                self._come()
            elif self._phase is Phase.COMING or self._leaving:
                self._nudged = True
        if process is not None:
            process.wake()

    def _come(self) -> None:
        """Have a worker bring it back; the lock is held."""
        self._phase = Phase.COMING
        self._cancel_timer()
        if not self._residents.work(self._bring):
            self._phase = Phase.OUT

    def _bring(self) -> None:
        try:
            process = self._residents.host.resume(
                self.pid,
                stdin=self.inbox,
                stdout=Collected(0),
                stderr=Collected(0),
                written=self._on_write,
                away=self._away,
            )
        except SojournError as error:
            self._stay_out(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not leave somebody waiting for ever
            _log.exception("a bug in Sojourn: process %s could not be resumed", self.pid)
            self._stay_out(ProcessFailedError(f"internal error: {error!r}"))
        else:
            self.arrived(process)

    def _stay_out(self, error: SojournError) -> None:
        with self._changed:
            self._phase = Phase.OUT
            reason = self._kill_reason
        if reason is not None:
            self._end_out(reason)
        self._look()
        with self._changed:
            if not self.over:
                self._failure = error
            self._changed.notify_all()

    def arrived(self, process: HostedProcess) -> None:
        """A life has begun."""
        with self._changed:
            self._phase, self._process, self._away = Phase.HERE, process, None
            self._leaving = False
            nudged, self._nudged = self._nudged, False
            reason = self._kill_reason
            self._changed.notify_all()
        if self._idle_after_s is not None:
            process.when_idle(self._idle_after_s, lambda: self._on_idle(process))
        if self._every_s is not None:
            self._residents.host.store_every(process, self._every_s, self._not_stored)
        if nudged:
            process.wake()
        if reason is not None:
            process.kill(reason)
        process.recorded.add_done_callback(lambda done: self._on_end(process, done.result()))

    def _not_stored(self, error: SojournError) -> None:
        _log.warning("process %s could not be stored: %s", self.pid, error.message)

    def _on_write(self) -> None:
        with self._changed:
            self._writes += 1
            self._changed.notify_all()

    def _on_idle(self, process: HostedProcess) -> None:
        """It has waited long, and is on its own thread now."""

        def done(saved: Future[Saved]) -> None:
            try:
                saved.result()
            except (NotWaiting, CancelledError):
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, this process stays in memory
                self._idle_after_s = None
                process.when_idle(float("inf"), lambda: None)
                _log.info("process %s stays in memory: %s", self.pid, error)

        self._residents.host.evict_waiting(process).add_done_callback(done)

    def _on_end(self, process: HostedProcess, ending: Ending) -> None:
        """A life has ended; on its own thread."""
        with self._changed:
            self._process = None
            self._leaving = False
            if ending.state is not State.SUSPENDED:
                self._end(ending)
                return
            self._phase, self._away = Phase.OUT, process.away
            away = process.away
            waiting = away is not None and away.waiting
            reason = self._kill_reason or (_CLOSING if waiting and self._residents.closed else None)
            if self._nudged or (away is not None and away.waiting and away.reads and self.inbox.fresh):
                self._come()
            elif away is not None and away.due_s is not None:
                self._timer = self._residents.host.timers.add(away.due_s, self.resume)
            self._changed.notify_all()
        self._residents.give_back_soon()
        if reason is not None:
            self._end_out(reason)

    def _end(self, ending: Ending) -> None:
        """It is over; the lock is held."""
        self._phase, self._ending = Phase.OVER, ending
        self._away = None
        self._cancel_timer()
        self.inbox.break_off()
        self._residents.forget(self)
        self._changed.notify_all()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            self._residents.host.timers.cancel(timer)

    def _look(self) -> None:
        """What the table says of it, when it is not here: another host may have gone on with it, or ended
        it."""
        record = self._residents.host.record(self.pid)
        with self._changed:
            if self._phase is Phase.OUT or (self.over and self._ending is None):
                if record.ending is not None:
                    self._end(record.ending)
                elif self._phase is Phase.OUT and record.state is not State.SUSPENDED:
                    self._phase = Phase.OVER
                    self._cancel_timer()
                    self._residents.forget(self)
                    self._changed.notify_all()

    def close(self) -> None:
        """Its host closes. What waits for something that only this host would notice ends with it."""
        with self._changed:
            self._cancel_timer()
            ends = self._phase is Phase.OUT and self._away is not None and self._away.waiting
        if ends:
            self._end_out(_CLOSING)


def _wait_until(changed: threading.Condition, end_s: float | None, most_s: float | None) -> bool:
    """Wait for a change, at most ``most_s``; False when ``end_s`` has come."""
    left_s = None if end_s is None else end_s - time.monotonic()
    if left_s is not None and left_s <= 0:
        return False
    waits = [seconds for seconds in (left_s, most_s) if seconds is not None]
    changed.wait(min(waits) if waits else None)
    return True


class Residents:
    """The processes that a program has in one host. Thread-safe.

    Args:
        host: belongs to this from here on.
        workers: so many may come back at one time.
    """

    def __init__(self, host: EmbeddedHost, workers: int | None = None) -> None:
        self.host = host
        self._workers = ThreadPoolExecutor(workers or 2 * (os.cpu_count() or 1), "sojourn-resume")
        self._lock = threading.Lock()
        self._found: dict[str, Resident] = {}
        self.closed = False
        self._gives_back = False  # soon

    def start(
        self,
        request: LaunchRequest,
        inbox: Inbox,
        *,
        idle_after_s: float | None = None,
        every_s: float | None = None,
    ) -> Resident:
        """Begin a process; return when it runs.

        Args:
            idle_after_s: it is evicted when it has waited so long in one call; None: never.
            every_s: it is stored so often; None: never.

        Raises:
            SojournError: it cannot be started.
        """
        resident = Resident(self, "", inbox, idle_after_s, every_s)
        process = self.host.launch(
            request, stdin=inbox, stdout=Collected(0), stderr=Collected(0), written=resident._on_write
        )
        resident.pid = process.pid
        with self._lock:
            self._found[process.pid] = resident
        resident.arrived(process)
        return resident

    def find(self, pid: str) -> Resident | None:
        """The process, if it is one of these and not over."""
        with self._lock:
            return self._found.get(pid)

    def take(self, pid: str, *, idle_after_s: float | None = None) -> Resident:
        """A suspended process, to be resumed here; the same again when it is here already."""
        with self._lock:
            found = self._found.get(pid)
            if found is None:
                found = self._found[pid] = Resident(self, pid, Inbox(), idle_after_s, None)
            return found

    def forget(self, resident: Resident) -> None:
        with self._lock:
            if self._found.get(resident.pid) is resident:
                del self._found[resident.pid]

    def give_back_soon(self) -> None:
        """Give back to the system what an evicted process has left in the heap."""
        with self._lock:
            if self._gives_back:
                return
            self._gives_back = True
        self.host.timers.add(time.monotonic() + GIVE_BACK_S, self._give_back)

    def _give_back(self) -> None:
        with self._lock:
            self._gives_back = False
        self.work(give_back)

    def work(self, call: Callable[[], object]) -> bool:
        """Have a worker do something; False when this is closed."""
        try:
            self._workers.submit(call)
        except RuntimeError:
            return False
        return True

    def close(self) -> None:
        """End what runs, and what was evicted because it waits; what somebody suspended stays so."""
        with self._lock:
            self.closed = True
            left = list(self._found.values())
        self._workers.shutdown(wait=True)
        for resident in left:
            resident.close()
        self.host.close()
