"""Streams over descriptors: nothing waits, no mode of a shared descriptor changes, a broken end is told."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sojourn.host import streams
from sojourn.host.streams import FdSink, FdSource, LoggedSink
from sojourn.store.output import STDOUT, OutputWriter, read_output
from sojourn.vm.process.surroundings import ready
from sojourn.vm.process.wasi.vfs import WasiError

WAIT_S = 30.0
Pair = Callable[[], tuple[int, int]]


def sockets() -> tuple[int, int]:
    one, two = socket.socketpair()
    return one.detach(), two.detach()


def terminal() -> tuple[int, int]:
    controller, user = os.openpty()
    return controller, user


@contextmanager
def pair(make: Pair) -> Iterator[tuple[int, int]]:
    reading, writing = make()
    try:
        yield reading, writing
    finally:
        for descriptor in (reading, writing):
            with suppress(OSError):
                os.close(descriptor)


def fill(sink: FdSink) -> int:
    """Write until it takes no more; how much that was."""
    total = 0
    for block in (memoryview(b"x" * 100_000), memoryview(b"x")):  # a terminal has room for single bytes yet
        while taken := sink.write(block):
            total += taken
            assert total < 64 << 20
    return total


# Not for a terminal that cannot be opened again: it does not say how much it takes.
@pytest.mark.parametrize(
    ("make", "again"), [(os.pipe, True), (os.pipe, False), (sockets, True), (terminal, True)]
)
def test_a_full_stream_takes_nothing_and_does_not_wait(
    make: Pair, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not again:
        monkeypatch.setattr(streams, "_open_again", lambda *_: None)
    with pair(make) as (reading, writing), FdSink(writing) as sink:
        mode = fcntl.fcntl(writing, fcntl.F_GETFL)
        assert fill(sink) > 0  # and it came to an end, so a full one takes nothing
        assert fcntl.fcntl(writing, fcntl.F_GETFL) == mode
        # One more byte goes in once there is room. The kernel moves what a terminal holds at its own pace, so
        # there may be room before anything is read, and none yet at the moment when all has been.
        while not sink.write(memoryview(b"y")):
            if ready([reading], WAIT_S):
                os.read(reading, 1 << 16)


@pytest.mark.parametrize("make", [os.pipe, sockets])
def test_a_stream_that_nobody_reads_is_told(make: Pair) -> None:
    told = []
    with pair(make) as (reading, writing), FdSink(writing, lambda: told.append(1)) as sink:
        os.close(reading)
        with pytest.raises(WasiError, match="EPIPE"):
            sink.write(memoryview(b"y"))
    assert told == [1]


def test_another_reader_may_be_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ready", lambda *_: {1})  # as if there had been something
    with pair(os.pipe) as (reading, _), FdSource(reading) as source:
        assert source.read_nowait(10) is None


def test_what_is_read(tmp_path: Path) -> None:
    with pair(os.pipe) as (reading, writing), FdSource(reading) as source:
        assert source.read_nowait(10) is None
        os.write(writing, b"hello")
        assert source.read_nowait(3) == b"hel"
        os.close(writing)
        assert (source.read_nowait(3), source.read_nowait(3)) == (b"lo", b"")
    (tmp_path / "file").write_bytes(b"12")
    file = os.open(tmp_path / "file", os.O_RDONLY)
    with FdSource(file) as source:
        assert (source.read_nowait(9), source.read_nowait(9)) == (b"12", b"")
    os.close(file)


def test_closing_leaves_the_descriptor_that_was_given() -> None:
    with pair(os.pipe) as (reading, writing):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with FdSource(reading), FdSink(writing):
                pass
        assert len(os.listdir("/proc/self/fd")) == before
        os.fstat(writing)


def test_the_log_gets_what_the_sink_took(tmp_path: Path) -> None:
    with pair(os.pipe) as (_, writing), FdSink(writing) as sink, OutputWriter(tmp_path / "output") as log:
        logged = LoggedSink(sink, log, STDOUT)
        total = 0
        while taken := logged.write(memoryview(b"z" * 5000)):
            total += taken
        assert logged.fileno() == sink.fileno()
        log.flush()
        assert sum(len(piece.data) for piece in read_output(tmp_path / "output")) == total
