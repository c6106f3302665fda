"""What is written to a process: in order, none lost, and nobody waits for ever."""

from __future__ import annotations

import threading

import pytest

from sojourn.host import inbox
from sojourn.host.inbox import Inbox


def taken(source: Inbox, size: int = 3) -> bytes:
    found = b""
    while piece := source.read_nowait(size):
        assert len(piece) <= size
        found += piece
    return found


def test_what_was_put_is_read_in_order_and_then_the_end() -> None:
    source = Inbox()
    assert source.read_nowait(9) is None
    source.put(b"hello ")
    source.put(b"")
    source.put(b"world")
    source.close()
    assert taken(source) == b"hello world"
    assert source.read_nowait(9) == b""
    with pytest.raises(BrokenPipeError):
        source.put(b"more")


def test_given_data_are_all_there_is() -> None:
    source = Inbox(b"all")
    assert taken(source) == b"all"
    assert source.read_nowait(1) == b""
    with pytest.raises(BrokenPipeError):
        source.put(b"more")


def test_fresh_is_what_the_guest_has_not_looked_at() -> None:
    source = Inbox()
    assert source.fresh
    assert source.read_nowait(1) is None
    assert not source.fresh
    woken: list[bool] = []
    source.woken = lambda: woken.append(source.fresh)
    source.put(b"ab")
    assert source.read_nowait(9) == b"ab"
    assert source.fresh  # it may have read less than there was
    assert source.read_nowait(9) is None
    assert not source.fresh
    source.close()
    source.close()
    assert woken == [True, True]


def test_a_writer_waits_for_room_and_goes_on_when_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "ROOM_BYTES", 4)
    source = Inbox()
    source.put(b"12345")
    with pytest.raises(TimeoutError):
        source.put(b"6", 0.0)
    writer = threading.Thread(target=source.put, args=(b"6",))
    writer.start()
    assert taken(source, 2).startswith(b"12345")
    writer.join(10)
    assert not writer.is_alive()


def test_a_writer_does_not_wait_for_a_process_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "ROOM_BYTES", 1)
    source = Inbox()
    source.put(b"1")
    failed = threading.Event()

    def write() -> None:
        with pytest.raises(BrokenPipeError):
            source.put(b"2")
        failed.set()

    writer = threading.Thread(target=write)
    writer.start()
    source.break_off()
    writer.join(10)
    assert failed.is_set()
