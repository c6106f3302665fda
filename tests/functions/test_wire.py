"""Framing: messages survive any way of cutting the stream; hostile lengths cost nothing."""

from __future__ import annotations

import io
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.functions.wire import BUFFERS_MAX, HEADER_BYTES_MAX, MAGIC, Message, read_message
from sojourn.model.errors import CodecError


def on_the_wire(message: Message) -> bytes:
    return b"".join(message.parts())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100), st.lists(st.binary(max_size=100), max_size=5), st.integers(1, 50))
def test_messages_come_back_however_the_stream_is_cut(header: bytes, buffers: list[bytes], step: int) -> None:
    message = Message(header, [memoryview(buffer) for buffer in buffers])
    data = on_the_wire(message)
    assert len(data) == message.size_bytes
    stream = io.BytesIO(data * 2)

    def readinto(view: memoryview) -> int:
        return stream.readinto(view[:step])

    for _ in range(2):
        back = read_message(readinto)
        assert back is not None
        assert (back.header, [bytes(buffer) for buffer in back.buffers]) == (header, buffers)
    assert read_message(readinto) is None


def test_large_buffers_are_writable_and_whole() -> None:
    data = bytes(range(256)) * 16_384
    back = read_message(io.BytesIO(on_the_wire(Message(b"h", [memoryview(data)]))).readinto)
    assert back is not None
    assert back.buffers[0] == data
    back.buffers[0][0] = 7


@given(st.integers(1, 60))
def test_a_stream_that_ends_early_is_an_error(cut: int) -> None:
    data = on_the_wire(Message(b"header", [memoryview(b"x" * 30)]))
    with pytest.raises(CodecError):
        read_message(io.BytesIO(data[: max(len(data) - cut, 1)]).readinto)


PRELUDES = {
    "another protocol": b"HTTP" + bytes(12),
    "another version": struct.pack("<4sIII", MAGIC, 0, 0, 1),
    "a huge header": struct.pack("<4sIII", MAGIC, HEADER_BYTES_MAX + 1, 0, 0),
    "many buffers": struct.pack("<4sIII", MAGIC, 0, BUFFERS_MAX + 1, 0),
    "a huge buffer": struct.pack("<4sIIIQ", MAGIC, 0, 1, 0, 1 << 63),
    "a huge sum": struct.pack("<4sIIIQQ", MAGIC, 0, 2, 0, (1 << 64) - 1, 2),
}


@pytest.mark.parametrize("data", PRELUDES.values(), ids=PRELUDES)
def test_hostile_preludes_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        read_message(io.BytesIO(data + bytes(1000)).readinto)


def test_a_claimed_length_costs_nothing_until_it_arrives() -> None:
    data = struct.pack("<4sIIIQ", MAGIC, 0, 1, 0, 1 << 30) + b"only this"
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="ended"):
            read_message(io.BytesIO(data).readinto)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_readers_bound_holds() -> None:
    data = on_the_wire(Message(b"", [memoryview(b"x" * 101)]))
    with pytest.raises(CodecError, match="too large"):
        read_message(io.BytesIO(data).readinto, bytes_max=100)
