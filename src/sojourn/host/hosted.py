"""One life of a process in this operating-system process, and what others may ask of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from sojourn.model.states import Ending
from sojourn.store.checkpoints import Saved
from sojourn.store.output import Place
from sojourn.vm.process.monitor import RunningProcess
from sojourn.vm.process.surroundings import Waiting
from sojourn.vm.process.virtual_machine import Usage, VirtualMachine

from .keeping import Line
from .requests import LaunchRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Away:
    """What a host keeps in memory of a process that it evicted: as good as nothing.

    Attributes:
        epoch: the last one in which it ran.
        waiting: whether it was evicted because it waited; then it is to go on when that is over.
        reads: whether it is to go on when something is written to it.
        since_ns: when it was left, by ``time.monotonic_ns()``.
        due_s: when its wait is over, by ``time.monotonic()``; None: when its input has something.
        place: where its log ends.
        checkpoint: the digest of its context in the store.
    """

    epoch: int
    waiting: bool
    reads: bool
    since_ns: int
    due_s: float | None
    place: Place
    checkpoint: str


class NotWaiting(Exception):  # noqa: N818 - no error
    """The guest does not wait (any more), or for something that nobody could notice in its stead."""


class HostedProcess:
    """One life of a process of this host. All methods may be called from any thread.

    ``recorded`` is done once the table says how this life ended: ``suspended``, or for good.
    """

    def __init__(self, pid: str, request: LaunchRequest, epoch: int = 1) -> None:
        self.pid = pid
        self.request = request
        self.epoch = epoch
        self.line = Line(pid, request, epoch)
        self.recorded: Future[Ending] = Future()
        self.left: Waiting | None = None  # what it waited for when it was left because of that
        self.left_ns = 0  # what the guest's monotonic clock showed then
        self.away: Away | None = None  # of a life that ended suspended
        self._running: RunningProcess | None = None
        self._killed: str | None = None
        self._early: list[Callable[[RunningProcess], None]] = []  # asked for before it ran
        self._idle: tuple[float, Callable[[], object]] | None = None
        self._lock = threading.Lock()

    def started(self, running: RunningProcess) -> None:
        with self._lock:
            self._running = running
            if self._killed is not None:
                running.kill(self._killed)
            early, self._early = self._early, []
            if self._idle is not None:
                running.when_idle(*self._idle)
        for ask in early:
            ask(running)

    def wait(self, timeout_s: float | None = None) -> Ending | None:
        """How it ended, or None when it has not after ``timeout_s``."""
        assert self._running is not None  # launch returns it started
        return self._running.wait(timeout_s)

    def at_rest(self, work: Callable[[VirtualMachine], T], *, stop: bool) -> Future[T]:
        """Do something while the guest stands still (``RunningProcess.at_rest``), as soon as it runs."""
        with self._lock:
            running = self._running
            if running is None:
                later: Future[T] = Future()
                self._early.append(lambda now: pass_on(now.at_rest(work, stop=stop), later))
                return later
        return running.at_rest(work, stop=stop)

    def when_idle(self, after_s: float, call: Callable[[], object]) -> None:
        """Have ``call`` called, on the guest's thread, whenever it has waited ``after_s`` in one call."""
        with self._lock:
            self._idle = after_s, call
            if self._running is not None:
                self._running.when_idle(after_s, call)

    def wake(self) -> None:
        """Its input has something."""
        with self._lock:
            if self._running is not None:
                self._running.wake()

    def flush(self) -> None:
        """Put all that it has written into its log, where readers see it."""
        log = self.line.log
        if log is not None:
            with suppress(ValueError):  # closed, and therefore whole
                log.flush()

    def kill(self, reason: str) -> None:
        with self._lock:
            self._killed = self._killed or reason
            if self._running is not None:
                self._running.kill(reason)

    def usage(self) -> Usage:
        assert self._running is not None
        return self._running.usage()


def pass_on(inner: Future[T], outer: Future[T]) -> None:
    """Let ``outer`` become what ``inner`` becomes."""

    def done(inner: Future[T]) -> None:
        if inner.cancelled():
            outer.cancel()
        elif (error := inner.exception()) is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())

    inner.add_done_callback(done)


def once_recorded(process: HostedProcess, saved: Future[Saved]) -> Future[Saved]:
    """What ``saved`` becomes; if that is a checkpoint, not before the process is recorded as suspended."""
    outer: Future[Saved] = Future()

    def done(saved: Future[Saved]) -> None:
        if saved.cancelled() or saved.exception() is not None:
            pass_on(saved, outer)
        else:
            process.recorded.add_done_callback(lambda _: pass_on(saved, outer))

    saved.add_done_callback(done)
    return outer
