"""``poll_oneoff`` under a virtual clock."""

from __future__ import annotations

import struct

import pytest

from sojourn.vm.process.wasi.abi import Errno, Rights
from sojourn.vm.process.wasi.outside import Stopped
from sojourn.vm.process.wasi.poll import SUBSCRIPTIONS_MAX

from .helpers import NOW_NS, FakeSource, Guest

REALTIME, MONOTONIC = 0, 1
CLOCK, READ, WRITE = 0, 1, 2
SUBS, EVENTS = 32768, 65536


def clock(userdata: int, timeout: int, clock_id: int = MONOTONIC, flags: int = 0) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", userdata, CLOCK, clock_id, timeout, 0, flags)


def stream(userdata: int, kind: int, fd: int) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", userdata, kind, fd, 0, 0, 0)


def poll(g: Guest, *subscriptions: bytes) -> list[tuple[int, int, int, int, int]]:
    """The events: userdata, error, type, bytes, flags."""
    g.put(SUBS, b"".join(subscriptions))
    g.ok("poll_oneoff", SUBS, EVENTS, len(subscriptions), g.OUT)
    return list(struct.iter_unpack("<QHB5xQH6x", g.get(EVENTS, 32 * g.u32())))


def test_layouts_are_those_of_the_specification() -> None:
    assert len(clock(1, 1)) == 48
    assert struct.calcsize("<QHB5xQH6x") == 32


def test_a_relative_time() -> None:
    g = Guest()
    assert poll(g, clock(7, 5_000)) == [(7, 0, CLOCK, 0, 0)]
    assert g.outside.now_ns == NOW_NS + 5_000


@pytest.mark.parametrize("clock_id", [REALTIME, MONOTONIC])
def test_an_absolute_time(clock_id: int) -> None:
    g = Guest()
    now = g.outside.realtime_ns() if clock_id == REALTIME else g.outside.monotonic_ns()
    assert poll(g, clock(7, now + 300, clock_id, 1)) == [(7, 0, CLOCK, 0, 0)]
    assert g.outside.waits == [300]
    assert poll(g, clock(8, 5, clock_id, 1)) == [(8, 0, CLOCK, 0, 0)]
    assert g.outside.waits == [300]


def test_the_earliest_clock_wins() -> None:
    g = Guest()
    assert [event[0] for event in poll(g, clock(1, 900), clock(2, 100), clock(3, 100))] == [2, 3]
    assert g.outside.now_ns == NOW_NS + 100


def test_a_relative_real_time_is_not_moved_by_setting_the_clock() -> None:
    g = Guest()
    steps = iter([0])

    def step() -> None:
        if next(steps, None) is not None:
            g.outside.now_ns -= 10**15
            g.outside.started_ns += 10**15

    g.outside.on_wait = step
    assert poll(g, clock(1, 100, REALTIME)) == [(1, 0, CLOCK, 0, 0)]
    assert g.outside.monotonic_ns() == 1_100


def test_waiting_that_returns_early_goes_on() -> None:
    g = Guest()
    real_wait = g.outside.wait

    def short(sources: object, timeout_ns: int | None) -> None:
        assert timeout_ns is not None
        real_wait((), min(timeout_ns, 40))

    g.outside.wait = short  # type: ignore[method-assign]
    poll(g, clock(1, 100))
    assert g.outside.now_ns == NOW_NS + 100


def test_a_stream_that_has_something() -> None:
    g = Guest(stdin=FakeSource(b"hello", None))
    assert poll(g, stream(5, READ, 0), clock(1, 100)) == [(5, 0, READ, 5, 0)]
    assert poll(g, stream(5, READ, 0)) == [(5, 0, READ, 5, 0)]
    assert g.read(0, 2) == b"he"
    assert poll(g, stream(5, READ, 0)) == [(5, 0, READ, 3, 0)]
    assert g.read(0) == b"llo"


def test_a_stream_that_gets_something_later() -> None:
    source = FakeSource(None, None)
    g = Guest(stdin=source)
    g.outside.on_wait = lambda: source.chunks.append(b"now")
    assert poll(g, stream(5, READ, 0)) == [(5, 0, READ, 3, 0)]
    assert g.outside.waits[0] is None


def test_a_stream_at_its_end_hangs_up() -> None:
    g = Guest(stdin=FakeSource())
    assert poll(g, stream(5, READ, 0)) == [(5, 0, READ, 0, 1)]
    assert g.read(0) == b""


def test_a_silent_stream_and_a_clock() -> None:
    g = Guest(stdin=FakeSource(*[None] * 10))
    assert poll(g, stream(5, READ, 0), clock(1, 100)) == [(1, 0, CLOCK, 0, 0)]


def test_a_silent_stream_alone_can_be_stopped() -> None:
    g = Guest(stdin=FakeSource(*[None] * 10))
    g.put(SUBS, stream(5, READ, 0))
    with pytest.raises(Stopped):
        g.call("poll_oneoff", SUBS, EVENTS, 1, g.OUT)


def test_files_and_sinks_are_always_ready() -> None:
    g = Guest()
    g.make_file("f", b"12345")
    fd = g.open("f", rights=Rights.FD_READ | Rights.POLL_FD_READWRITE | Rights.FD_SEEK)
    g.seek(fd, 2)
    events = poll(g, stream(1, READ, fd), stream(2, WRITE, 1), stream(3, WRITE, 2), clock(4, 100))
    assert [(event[0], event[1], event[3]) for event in events] == [(1, 0, 3), (2, 0, 0), (3, 0, 0)]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (stream(1, READ, 99), Errno.EBADF),
        (stream(1, READ, 1), Errno.EBADF),
        (stream(1, WRITE, 0), Errno.EBADF),
        (stream(1, READ, 3), Errno.EBADF),
        (clock(1, 5, 2), Errno.EINVAL),
        (clock(1, 5, 99), Errno.EINVAL),
        (clock(1, 5, MONOTONIC, 2), Errno.EINVAL),
    ],
)
def test_a_wish_that_cannot_be_is_an_event_at_once(wish: bytes, expected: Errno) -> None:
    g = Guest()
    events = poll(g, wish, clock(2, 100))
    assert [event[:2] for event in events] == [(1, expected)]
    assert g.outside.waits == []


def test_polling_needs_its_right() -> None:
    g = Guest()
    fd = g.open("f", oflags=1)
    assert poll(g, stream(1, READ, fd))[0][1] == Errno.ENOTCAPABLE


def test_malformed_requests() -> None:
    g = Guest()
    assert g.call("poll_oneoff", SUBS, EVENTS, 0, g.OUT) == Errno.EINVAL
    assert g.call("poll_oneoff", SUBS, EVENTS, SUBSCRIPTIONS_MAX + 1, g.OUT) == Errno.EINVAL
    assert g.call("poll_oneoff", SUBS, EVENTS, 0xFFFFFFFF, g.OUT) == Errno.EINVAL
    assert g.call("poll_oneoff", SUBS, 0xFFFFFFF0, 1, g.OUT) == Errno.EFAULT
    assert g.call("poll_oneoff", 0xFFFFFFF0, EVENTS, 1, g.OUT) == Errno.EFAULT
    g.put(SUBS, stream(1, 3, 0))
    assert g.call("poll_oneoff", SUBS, EVENTS, 1, g.OUT) == Errno.EINVAL


def test_events_may_overwrite_the_subscriptions() -> None:
    g = Guest()
    g.put(SUBS, clock(1, 50) + clock(2, 50))
    g.ok("poll_oneoff", SUBS, SUBS, 2, g.OUT)
    events = list(struct.iter_unpack("<QHB5xQH6x", g.get(SUBS, 64)))
    assert [event[0] for event in events] == [1, 2]


def test_the_longest_time_there_is() -> None:
    g = Guest(stdin=FakeSource(None, b"x"))
    assert poll(g, clock(1, (1 << 64) - 1), clock(2, (1 << 64) - 1, REALTIME, 1), stream(3, READ, 0)) != []


def test_yield_lets_the_outside_stop_us() -> None:
    g = Guest()
    g.ok("sched_yield")
    assert g.outside.waits == [0]
