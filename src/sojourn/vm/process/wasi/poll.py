"""``poll_oneoff``: wait until a clock shows a time or a descriptor is ready.

A subscription that cannot be (an unknown clock, a closed descriptor) is an event with that error, at
once; only a malformed request fails as a whole. Whether a stream is readable is found by reading ahead
into the descriptor's ``pending``; files are always ready, and so are streams out.

A guest that is left while it waits makes its call again when it goes on. A duration must not begin again
then, so the call that was left is kept with the time when it began (``LeftCall``), for the next such call
only, and only if that is the same to the last byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .abi import Errno, Rights
from .descriptors import Descriptor
from .kernel import U32, Kernel, LeftCall, syscall
from .outside import Leave, Source
from .vfs import WasiError

SUBSCRIPTIONS_MAX = 4096
_SUBSCRIPTION = struct.Struct("<QB7xI4xQQH6x")
_EVENT = struct.Struct("<QHB5xQH6x")
SUBSCRIPTION_BYTES = _SUBSCRIPTION.size
_CLOCK, _FD_READ, _FD_WRITE = 0, 1, 2
_REALTIME, _MONOTONIC = 0, 1
_ABSOLUTE = 1
_HANGUP = 1
_PEEK_BYTES = 1 << 16


@dataclass(slots=True)
class _Clock:
    """A wish to be woken when ``clock`` shows ``deadline`` (nanoseconds)."""

    userdata: int
    clock: int
    deadline: int


@dataclass(slots=True)
class _Stream:
    """A wish to know when the source behind ``descriptor`` has something."""

    userdata: int
    descriptor: Descriptor
    source: Source


class PollCalls(Kernel):
    @syscall
    def poll_oneoff(self, subscriptions: int, events: int, count: int, result: int) -> None:
        if not 0 < count <= SUBSCRIPTIONS_MAX:
            raise WasiError(Errno.EINVAL)
        wishes = bytes(self.span(subscriptions, _SUBSCRIPTION.size * count))
        out, number = self.span(events, _EVENT.size * count), self.span(result, 4)
        arguments = (subscriptions, events, count, result)
        poll = _Poll(self, self._begun_ns(arguments, wishes))
        for wish in _SUBSCRIPTION.iter_unpack(wishes):
            poll.subscribe(*wish)
        try:
            happened = poll.wait()
        except Leave:
            self.left_call = LeftCall("poll_oneoff", arguments, wishes, poll.begun_ns)
            raise
        for index, event in enumerate(happened):
            out[index * _EVENT.size : (index + 1) * _EVENT.size] = event
        U32.pack_into(number, 0, len(happened))

    def _begun_ns(self, arguments: tuple[int, ...], wishes: bytes) -> int:
        """When this call began, by the monotonic clock: before now, if the guest was left in it."""
        left, self.left_call = self.left_call, None
        if left is not None and (left.arguments, left.asked) == (arguments, wishes):
            return left.begun_ns
        return self._outside.monotonic_ns()

    @syscall
    def sched_yield(self) -> None:
        self._outside.wait((), 0)


class _Poll:
    """One call's subscriptions and the events that came of them."""

    def __init__(self, kernel: Kernel, begun_ns: int) -> None:
        self.begun_ns = begun_ns
        self._kernel = kernel
        self._outside = kernel._outside
        self._clocks: list[_Clock] = []
        self._streams: list[_Stream] = []
        self._events: list[bytes] = []

    def subscribe(
        self, userdata: int, kind: int, number: int, timeout: int, _precision: int, flags: int
    ) -> None:
        if kind == _CLOCK:
            error = self._subscribe_clock(userdata, number, timeout, flags)
        elif kind in (_FD_READ, _FD_WRITE):
            error = self._subscribe_descriptor(userdata, kind, number)
        else:
            raise WasiError(Errno.EINVAL)
        if error is not None:
            self._add(userdata, kind, error=error)

    def _subscribe_clock(self, userdata: int, clock: int, timeout: int, flags: int) -> Errno | None:
        if flags & ~_ABSOLUTE or clock not in (_REALTIME, _MONOTONIC):
            return Errno.EINVAL
        if not flags & _ABSOLUTE:  # a duration: stepping the real-time clock must not change it
            clock, timeout = _MONOTONIC, self.begun_ns + timeout
        self._clocks.append(_Clock(userdata, clock, timeout))
        return None

    def _subscribe_descriptor(self, userdata: int, kind: int, fd: int) -> Errno | None:
        right = Rights.FD_READ if kind == _FD_READ else Rights.FD_WRITE
        try:
            descriptor = self._kernel.descriptor(fd, right | Rights.POLL_FD_READWRITE)
        except WasiError as error:
            return error.errno
        if kind == _FD_READ and descriptor.source is not None:
            self._streams.append(_Stream(userdata, descriptor, descriptor.source))
            return None
        size = 0
        if kind == _FD_READ and descriptor.file is not None:
            size = max(0, descriptor.file.stat().size - descriptor.offset)
        self._add(userdata, kind, size=size)
        return None

    def wait(self) -> list[bytes]:
        """The events, at least one."""
        while True:
            self._look()
            if self._events:
                return self._events
            self._outside.wait([stream.source for stream in self._streams], self._remaining_ns())

    def _look(self) -> None:
        for stream in self._streams:
            self._look_at(stream)
        for clock in self._clocks:
            if self._left_ns(clock) <= 0:
                self._add(clock.userdata, _CLOCK)

    def _look_at(self, stream: _Stream) -> None:
        descriptor = stream.descriptor
        try:
            if descriptor.pending is None:
                data = stream.source.read_nowait(_PEEK_BYTES)
                descriptor.pending = None if data is None else bytes(data)
        except WasiError as error:
            self._add(stream.userdata, _FD_READ, error=error.errno)
            return
        if descriptor.pending is not None:
            size = len(descriptor.pending)
            self._add(stream.userdata, _FD_READ, size=size, flags=0 if size else _HANGUP)

    def _left_ns(self, clock: _Clock) -> int:
        outside = self._outside
        now = outside.realtime_ns() if clock.clock == _REALTIME else outside.monotonic_ns()
        return clock.deadline - now

    def _remaining_ns(self) -> int | None:
        return min((max(0, self._left_ns(clock)) for clock in self._clocks), default=None)

    def _add(
        self, userdata: int, kind: int, *, error: Errno = Errno.SUCCESS, size: int = 0, flags: int = 0
    ) -> None:
        self._events.append(_EVENT.pack(userdata, error, kind, size, flags))
