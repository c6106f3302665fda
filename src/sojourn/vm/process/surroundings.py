"""What a guest meets of the outside: the clocks, randomness and waiting of this machine.

The guest's monotonic clock starts where its image stopped or its process was left, so that it never runs
backwards. It stands still with the process, as do the processor time and the wall time that its limits count:
the time that a process lies somewhere is not its own. The real-time clock is the host's. Waiting ends early
when the process is to be stopped, whoever asks and from whatever thread.

Who waits long in one call can be evicted by its host, as it were behind its back: then only the clocks of the
limits stand still, and the guest's monotonic clock shows that it waited (``let_pass``).
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .wasi.checking import fields, number
from .wasi.outside import Leave, LimitReached, Sink, Source, Stopped

RESOLUTION_NS = 1
_FOREVER_S = 1 << 20
_SHORT_S = 0.001
_CLOCKS = ("monotonic_ns", "wall_ns", "cpu_ns")
_TIME_MAX_NS = 1 << 62


@dataclass(frozen=True)
class Waiting:
    """What a guest waits for.

    Attributes:
        until_ns: by its monotonic clock; None: for a stream only.
        sources, sinks: the streams.
    """

    until_ns: int | None
    sources: tuple[Source, ...]
    sinks: tuple[Sink, ...]


class Share(Protocol):
    """The guest's share of the processors, as far as waiting has to do with it; on the guest's thread."""

    def pause(self) -> bool:
        """It computes no more; whether it did by a permit."""
        ...

    def unpause(self, patience: Callable[[], float]) -> None:
        """Wait until it may compute again, as long as ``patience`` says (in seconds, or raises)."""
        ...

    def ring(self) -> None:
        """Have ``patience`` asked again; from any thread."""
        ...


class Alone:
    """The share of a guest that shares with nobody."""

    def pause(self) -> bool:
        return False

    def unpause(self, patience: Callable[[], float]) -> None:
        pass

    def ring(self) -> None:
        pass


class Surroundings:
    """The ``Outside`` of one process. Its methods are called on the guest's thread, ``wake`` and ``stop``
    on any.

    Args:
        wall_seconds: the process's limit; waiting past it raises.
        monotonic_base_ns: what the guest's monotonic clock shows at the start.
        state: what ``save`` gave, of a process that goes on; its clocks count.

    Raises:
        ContextError: the state is damaged.
    """

    def __init__(self, wall_seconds: float, monotonic_base_ns: int = 0, state: Any = None) -> None:
        used = {"monotonic_ns": monotonic_base_ns, "wall_ns": 0, "cpu_ns": 0}
        if state is not None:
            used = {
                name: number(value, name, _TIME_MAX_NS)
                for name, value in fields(state, _CLOCKS, "the clocks").items()
            }
        self._wall_ns_max = wall_seconds * 1e9
        self._cpu_base_ns = used["cpu_ns"]
        # One tuple, so that other threads see all of it or nothing: the two clocks when this began, and when
        # that was (None: they stand still).
        self._clock: tuple[int, int, int | None] = (
            used["monotonic_ns"],
            used["wall_ns"],
            time.monotonic_ns(),
        )
        self._reason: str | None = None
        self._wake_lock = threading.Lock()
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._cpu_clock: int | None = None
        self._cpu_begun_ns = 0
        self._leaving = False
        self.share: Share = Alone()
        self._idle: tuple[float, Callable[[], object]] | None = None
        self.waits: Waiting | None = None  # set while it waits, and when it was left in the middle of that

    def realtime_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        base, _, begun = self._clock
        return base if begun is None else base + time.monotonic_ns() - begun

    def wall_ns(self) -> int:
        """How long the process ran or waited so far; the time that it stood still does not count."""
        _, base, begun = self._clock
        return base if begun is None else base + time.monotonic_ns() - begun

    def cpu_ns(self) -> int:
        """Processor time of the guest's thread so far, asked from any thread while that one lives, or after
        ``stand_still``."""
        clock = self._cpu_clock
        if clock is None:
            return self._cpu_base_ns
        return self._cpu_base_ns + time.clock_gettime_ns(clock) - self._cpu_begun_ns

    def resolution_ns(self) -> int:
        return RESOLUTION_NS

    def random(self, size: int) -> bytes:
        return os.urandom(size)

    def enter_thread(self) -> None:
        """The calling thread is the guest's: its processor time counts from here."""
        clock = time.pthread_getcpuclockid(threading.get_ident())
        self._cpu_begun_ns = time.clock_gettime_ns(clock)
        self._cpu_clock = clock

    def stand_still(self) -> None:
        """Stop the clocks, on the guest's thread: the guest was left. ``stay`` and ``enter_thread`` start
        them again. Doing it twice does nothing."""
        base, wall, begun = self._clock
        if begun is not None:
            passed = time.monotonic_ns() - begun
            self._clock = base + passed, wall + passed, None
        used = self.cpu_ns()
        self._cpu_clock = None
        self._cpu_base_ns = used

    def save(self) -> dict[str, int]:
        """What the clocks show; take it while they stand still."""
        return {"monotonic_ns": self.monotonic_ns(), "wall_ns": self.wall_ns(), "cpu_ns": self.cpu_ns()}

    def check(self) -> None:
        """Raise when the process must not go on: stopped, or past its wall time."""
        if self._reason is not None:
            raise Stopped(self._reason)
        if self.wall_ns() >= self._wall_ns_max:
            raise LimitReached("wall_seconds")

    def wait(self, sources: Sequence[Source], timeout_ns: int | None, sinks: Sequence[Sink] = ()) -> None:
        """Return when a source may be readable, a sink may have room, something woke us, or the time is over.

        Raises:
            Stopped: the process is to end.
            LimitReached: its wall time is over.
            Leave: the process is to stand still.
        """
        until_ns = None if timeout_ns is None else self.monotonic_ns() + timeout_ns
        self.waits = Waiting(until_ns, tuple(sources), tuple(sinks))
        left_s = self._patience_s()
        timeout_s = left_s if timeout_ns is None else min(left_s, timeout_ns / 1e9)
        waited = [self._wake_in, *(fd for fd in map(_descriptor, sources) if fd is not None)]
        room = [fd for fd in map(_descriptor, sinks) if fd is not None]
        shared = self.share.pause()
        if timeout_s < _SHORT_S:  # finer than the poll below can wait
            time.sleep(timeout_s)
            timeout_s = 0.0
        idle = self._idle
        is_long = idle is not None and idle[0] < timeout_s
        found = ready(waited, idle[0] if idle is not None and is_long else timeout_s, writers=room)
        if self._wake_in in found:
            os.read(self._wake_in, 4096)
        elif idle is not None and is_long and not found:
            idle[1]()  # whoever waits calls again
        if shared:
            self.share.unpause(self._patience_s)
        self._patience_s()
        self.waits = None

    def _patience_s(self) -> float:
        """How long the guest may still wait; raises what ``wait`` does."""
        self.check()
        if self._leaving:
            raise Leave
        return self.left_s()

    def left_s(self) -> float:
        """What is left of its wall time, in seconds."""
        return max(0.0, (self._wall_ns_max - self.wall_ns()) / 1e9)

    def when_idle(self, after_s: float, call: Callable[[], object]) -> None:
        """Have ``call`` called, on the guest's thread, whenever it has waited ``after_s`` in one call."""
        self._idle = after_s, call
        self.wake()  # a wait that is going on knows nothing of it

    def let_pass(self, passed_ns: int) -> None:
        """So much time went by for the guest, but not for its limits, before it goes on here."""
        base, wall, begun = self._clock
        self._clock = base + min(max(0, passed_ns), _TIME_MAX_NS - base), wall, begun

    def wake(self) -> None:
        """End a wait that is going on, or the next one: a source of ours has something."""
        with self._wake_lock:
            if self._wake_out >= 0:
                try:
                    os.write(self._wake_out, b"\0")
                except BlockingIOError:
                    return  # thousands of wakes are waiting already

    def stop(self, reason: str) -> None:
        """Make the guest end, within one tick of the engine or at once when it waits."""
        if self._reason is None:
            self._reason = reason
        self.wake()
        self.share.ring()

    def leave(self) -> None:
        """End a wait that is going on, and every later one: the guest is to be left."""
        self._leaving = True
        self.wake()
        self.share.ring()

    def stay(self) -> None:
        """The guest goes on: waits are waits again, and the clocks run."""
        self._leaving = False
        self.waits = None
        base, wall, begun = self._clock
        if begun is None:
            self._clock = base, wall, time.monotonic_ns()

    def close(self) -> None:
        with self._wake_lock:
            os.close(self._wake_in)
            os.close(self._wake_out)
            self._wake_in = self._wake_out = -1


def ready(readers: Iterable[int], timeout_s: float | None, *, writers: Iterable[int] = ()) -> set[int]:
    """The descriptors of ``readers`` that can be read or are at their end, and those of ``writers`` that take
    something or are broken, within ``timeout_s`` (None: for ever), which is cut to whole milliseconds. They
    may be of any number, unlike with ``select``."""
    poller = select.poll()
    for descriptor in writers:
        poller.register(descriptor, select.POLLOUT)
    for descriptor in readers:
        poller.register(descriptor, select.POLLIN)
    milliseconds = None if timeout_s is None else int(min(timeout_s, _FOREVER_S) * 1000)
    return {descriptor for descriptor, _ in poller.poll(milliseconds)}


def _descriptor(stream: Source | Sink) -> int | None:
    fileno = getattr(stream, "fileno", None)
    return None if fileno is None else int(fileno())
