"""What the virtual system calls ask of the outside world, and how a call can end a process.

Protocols only, and the counter of bytes that enforces two of the limits. An adapter provides the real
clock, randomness and streams; tests provide fakes. Nothing here waits, reads a clock or opens anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class ProcessExit(Exception):  # noqa: N818 - an ending, not an error
    """The guest called ``proc_exit``. ``code`` is what it gave, 0 to 2**32 - 1."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class LimitReached(Exception):  # noqa: N818 - an ending, not an error
    """The process used all of a limit. ``name`` is a field of ``model.limits.Limits``."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Stopped(Exception):  # noqa: N818 - an ending, not an error
    """``Outside.wait`` will not go on: the process is to end. The text says why."""


class Suspended(Exception):  # noqa: N818 - an ending of one life, not an error
    """The guest was left in the middle, its frames saved, and is to go on later, perhaps elsewhere."""


class TurnOver(Suspended):
    """The guest was left because others wait for the processor; it goes on when it is its turn again."""


class Leave(Exception):  # noqa: N818 - no error
    """``Outside.wait`` will not wait: the guest is to be left now, and to make its call again when it goes
    on."""


class Source(Protocol):
    """A stream that the guest reads."""

    @property
    def tty(self) -> bool: ...

    def read_nowait(self, size: int) -> bytes | memoryview | None:
        """At most ``size`` bytes; ``b""`` at the end; None when nothing has come yet.

        Raises:
            WasiError: the stream is broken.
        """
        ...


class Sink(Protocol):
    """A stream that the guest writes."""

    @property
    def tty(self) -> bool: ...

    def write(self, data: memoryview) -> int:
        """Take some of ``data`` (which is not empty); how many bytes were taken, 0 when it has no room now:
        the caller then waits with ``Outside.wait``. ``data`` is valid during the call only.

        Raises:
            WasiError: ``EPIPE`` when nobody reads any more, ``EIO`` when the stream is broken.
        """
        ...


class Outside(Protocol):
    """Clocks, randomness and waiting. All times are nanoseconds."""

    def realtime_ns(self) -> int: ...

    def monotonic_ns(self) -> int: ...

    def cpu_ns(self) -> int: ...

    def resolution_ns(self) -> int: ...

    def random(self, size: int) -> bytes: ...

    def wait(self, sources: Sequence[Source], timeout_ns: int | None, sinks: Sequence[Sink] = ()) -> None:
        """Return when a source may be readable, a sink may have room, or the time is over (None: never
        over). May return early.

        Raises:
            Stopped: the process is to end.
            LimitReached: waiting used up a limit.
            Leave: the guest is to be left. Its call will be made again, perhaps much later and elsewhere, so
                whoever waits has done nothing yet that must not be done twice.
        """
        ...


class ByteQuota:
    """Counts bytes against the limit ``name``; implements ``vfs.Quota``."""

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self.used = 0

    def charge(self, amount: int) -> None:
        """Take ``amount`` bytes, all or none; a negative amount gives back.

        Raises:
            LimitReached: there are not so many left.
        """
        if amount > 0 and self.used + amount > self.most:
            raise LimitReached(self.name)
        self.used += amount

    @property
    def left(self) -> int:
        """Never negative, though more may have been used by a process that went on under a lower limit."""
        return max(0, self.most - self.used)
