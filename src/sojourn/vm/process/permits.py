"""Permits to use a processor: at most as many guests of this operating-system process run as it has of them.

``turns`` decides whose turn it is; here are threads that wait for it. A guest's thread has a permit while
guest code runs, and gives it up while it waits for anything. Each thread waits for a bell of its own, so
giving a permit on wakes one thread, however many wait.

A guest whose turn is over is asked to leave, by its poll, from the thread that looks at limits. One that does
not come back and uses no processor time is stuck in a call of the host's (a disk, a callback that waits for
another guest): its permit is taken from it, so that no wait that we do not know of can keep all others from
running. It asks for another one when it comes back.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue

from .turns import Member, Turns

NORMAL_WEIGHT = 4
STUCK_NS = 200_000_000
_NICE_STEP = 1.25  # Linux: how much a step of niceness is worth
_LOOK_MIN_S = 0.0005
_GROUPS = Path("/proc/self/cgroup")
_GROUP_FILES = Path("/sys/fs/cgroup")


class Permits:
    """The permits of one operating-system process. Thread-safe."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()
        self._turns: Turns[Turn] = Turns(count, lambda turn: turn.used_ns())

    def turn(self, weight: int = NORMAL_WEIGHT) -> Turn:
        """A place for one guest."""
        return Turn(self, weight)

    def waiting(self) -> int:
        """How many guests wait for a turn now."""
        return self._turns.waiting


class Turn(Member):
    """One guest's place among those that want to run. ``ring`` and ``is_over`` are called on any thread, the
    others on the guest's."""

    def __init__(self, permits: Permits, weight: int) -> None:
        super().__init__(weight)
        self._permits = permits
        self._clock: int | None = None
        self._thread = 0  # the system's number of it
        self._bell: SimpleQueue[bool] = SimpleQueue()  # True: it has a permit
        self._lost = False  # whether its permit was taken away, and it has not been back since
        self._seen = (0, 0)  # since when it has used how much, while others wait

    def enter_thread(self) -> None:
        """The calling thread is the guest's. The system is told of its weight as well: what runs in other
        processes of the system has no part in our turns."""
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._thread = threading.get_native_id()
        if self.weight != NORMAL_WEIGHT:
            nice = round(math.log(NORMAL_WEIGHT / self.weight, _NICE_STEP))
            with suppress(OSError, AttributeError):  # more than others needs a privilege
                os.setpriority(os.PRIO_PROCESS, self._thread, nice)

    def used_ns(self) -> int:
        """The processor time of its thread."""
        try:
            return 0 if self._clock is None else time.clock_gettime_ns(self._clock)
        except OSError:  # the thread is gone
            return 0

    def take(self, patience: Callable[[], float]) -> None:
        """Wait for a permit.

        Args:
            patience: called before this waits, and whenever ``ring`` was; says for how many seconds it may
                wait. What it raises ends the wait, and there is no permit then.
        """
        permits = self._permits
        with permits._lock:
            if permits._turns.request(self):
                return
        try:
            while not self._rung(patience()):
                pass
        except BaseException:
            with permits._lock:
                permits._turns.withdraw(self)
                self._hand_on()
                self._bell = SimpleQueue()
            raise

    def _rung(self, timeout_s: float) -> bool:
        try:
            return self._bell.get(timeout=timeout_s)
        except Empty:
            return False

    def give(self) -> bool:
        """Give the permit up; False when there was none."""
        with self._permits._lock:
            return self._hand_on()

    def _hand_on(self) -> bool:
        """Give up the permit, if any, under the lock."""
        turns = self._permits._turns
        held = turns.holds(self)
        self._lost = False
        if held:
            granted = turns.release(self)
            if granted is not None:
                granted._bell.put(True)
            self._seen = (0, 0)
        return held

    def ring(self) -> None:
        """Have a wait that is going on look whether it shall."""
        with self._permits._lock:
            if self._permits._turns.waits(self):
                self._bell.put(False)

    def is_over(self, leavable: Callable[[], bool]) -> bool:
        """Whether it should go now, because others wait. A permit that is not used is taken away.

        Args:
            leavable: says whether it could go.
        """
        turns = self._permits._turns
        if not turns.waiting:
            return False
        with self._permits._lock:
            if self._lost:
                return leavable()
            if not turns.holds(self):
                return False
            if self._is_stuck():
                self._hand_on()
                self._lost = True
                return leavable()
            return leavable() and turns.is_over(self)

    def _is_stuck(self) -> bool:
        now_ns, used_ns = time.monotonic_ns(), self.used_ns()
        since_ns, before_ns = self._seen
        if not since_ns or used_ns > before_ns:
            self._seen = now_ns, used_ns
            return False
        if now_ns - since_ns < STUCK_NS:
            return False
        if _sleeps(self._thread):
            return True
        self._seen = now_ns, used_ns  # the machine has others to serve, and it waits for a processor
        return False

    def left_s(self) -> float | None:
        """How soon its turn will be over; None: it is already, or nobody waits."""
        turns = self._permits._turns
        if not turns.waiting:
            return None
        with self._permits._lock:
            left_ns = turns.left_ns(self)
        return max(_LOOK_MIN_S, left_ns / 1e9) if left_ns else None


def _sleeps(thread: int) -> bool:
    """Whether a thread of this operating-system process waits for something else than a processor."""
    state = _text(Path(f"/proc/self/task/{thread}/stat")).rpartition(")")[2].split()
    return not state or state[0] != "R"


@cache
def permits() -> Permits:
    """The permits of this operating-system process: as many as processors that it may use."""
    return Permits(usable_processors())


def usable_processors() -> int:
    """How many processors this operating-system process may use: those it may run on, and no more than the
    quota of its control group pays for (rounded up)."""
    try:
        processors = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not every system has it
        processors = os.cpu_count() or 1
    quota = _quota(_GROUPS, _GROUP_FILES)
    return max(1, processors if quota is None else min(processors, -int(-quota // 1)))


def _quota(groups: Path, files: Path) -> float | None:
    """How many processors the control groups of this process pay for; None when that is not limited."""
    found = []
    for line in _text(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [_ratio(*_text(folder / "cpu.max").split()) for folder in _up(files, path)]
        elif "cpu" in controllers.split(","):
            for folder in _up(files / controllers, path):
                parts = (_text(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
                found.append(_ratio(*parts))
    return min((quota for quota in found if quota is not None), default=None)


def _up(root: Path, path: str) -> list[Path]:
    """The folder of a group and those of the groups that it is in; in a container the root is its own."""
    parts = [part for part in path.split("/") if part]
    return [root.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _ratio(*texts: str) -> float | None:
    try:
        quota, period = (int(text) for text in texts)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
