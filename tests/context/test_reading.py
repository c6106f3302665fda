"""Looking into a stored memory: what is read is what a whole memory set up from it would hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.context import CHUNK_BYTES, Base, BaseKind, Memory, compare, reading
from sojourn.context.reading import MemoryReader, UnreadableError

from .samples import chunks_of, memory_bytes, patterns, view_of

BASE = Base(BaseKind.IMAGE, "1" * 64, 4 * CHUNK_BYTES)


class Chunks:
    """Gives stored chunks, and counts."""

    def __init__(self, view: memoryview, memory: Memory) -> None:
        self._chunks = chunks_of([view], (memory,))
        self.fetched = 0

    def __call__(self, digest: bytes) -> memoryview:
        self.fetched += 1
        return self._chunks[digest]


def reader_of(pattern: str, base: str = "") -> tuple[MemoryReader, Chunks]:
    """A reader of a memory of one chunk for each letter; those that ``base`` has too are not stored."""
    view, image = view_of(pattern), view_of(base)
    origin = Memory.fresh(len(view), Base(BaseKind.IMAGE, "1" * 64, len(image))) if base else None
    memory = compare(view, origin, None, image if base else None)
    chunks = Chunks(view, memory)
    read: Callable[[int, int], memoryview] | None = None
    if base:
        read = lambda offset, size: image[offset : offset + size]  # noqa: E731
    return MemoryReader(memory, chunks, read), chunks


@given(patterns, st.data())
def test_reading_gives_the_bytes_of_the_memory(pattern: str, data: st.DataObject) -> None:
    base = pattern[: data.draw(st.integers(0, len(pattern) // 4)) * 4]
    reader, _ = reader_of(pattern, base)
    whole = memory_bytes(pattern)
    for _ in range(5):
        address = data.draw(st.integers(0, len(whole)))
        size = data.draw(st.integers(0, min(len(whole) - address, 3 * CHUNK_BYTES)))
        assert reader.read(address, size) == whole[address : address + size]


@pytest.mark.parametrize(
    ("address", "size"), [(-1, 2), (4 * CHUNK_BYTES, 1), (4 * CHUNK_BYTES - 1, 2), (5, -6), (1 << 40, 0)]
)
def test_what_is_outside_is_said(address: int, size: int) -> None:
    reader, _ = reader_of("ab0c")
    assert reader.read(4 * CHUNK_BYTES, 0) == b""
    with pytest.raises(UnreadableError, match="outside"):
        reader.read(address, size)


def test_only_what_is_asked_for_is_fetched_and_once() -> None:
    reader, chunks = reader_of("abab")
    assert reader.read(5, 1) == b"a"
    assert reader.read(2 * CHUNK_BYTES, 9) == b"a" * 9
    assert chunks.fetched == 1


def test_finding_looks_at_each_content_once() -> None:
    view = view_of("a0bacaab")
    view[9:14] = view[5 * CHUNK_BYTES - 5 : 5 * CHUNK_BYTES] = view[6 * CHUNK_BYTES : 6 * CHUNK_BYTES + 5] = (
        b"xyzxy"
    )
    memory = compare(view, None)
    chunks = Chunks(view, memory)
    reader = MemoryReader(memory, chunks, None)
    assert list(reader.find(b"xy")) == [
        *(9, 12),
        *(5 * CHUNK_BYTES - 5, 5 * CHUNK_BYTES - 2),
        *(6 * CHUNK_BYTES, 6 * CHUNK_BYTES + 3),
    ]
    assert chunks.fetched == len({memory.digests[at : at + 32] for at in range(0, len(memory.digests), 32)})


def test_a_base_that_is_not_here_is_said_and_passed_over_when_finding() -> None:
    whole, chunks = reader_of("abxd", "abcd")
    assert next(iter(whole.find(b"b" * 100))) == CHUNK_BYTES
    memory = compare(view_of("abxd"), Memory.fresh(4 * CHUNK_BYTES, BASE), None, view_of("abcd"))
    reader = MemoryReader(memory, chunks, None)
    assert reader.read(2 * CHUNK_BYTES, 2) == b"xx"
    with pytest.raises(UnreadableError, match="not here"):
        reader.read(0, 1)
    assert list(reader.find(b"b")) == []
    assert next(reader.find(b"x")) == 2 * CHUNK_BYTES
    cut = MemoryReader(memory, chunks, lambda offset, size: bytes(10))
    with pytest.raises(UnreadableError, match="smaller"):
        cut.read(0, 1)


def test_a_reader_that_is_sent_to_and_fro_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "KEPT_MAX", 2)
    monkeypatch.setattr(reading, "FETCHES_MAX", 50)
    reader, chunks = reader_of("abcd")
    with pytest.raises(UnreadableError, match="would have to be read"):
        for at in range(1000):
            reader.read(at % 4 * CHUNK_BYTES, 4)
    assert chunks.fetched == 50
