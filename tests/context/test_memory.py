"""Memory by chunks: what is found different, and that it is all that is needed to set it up again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.context import CHUNK_BYTES, PAGE_BYTES, Base, BaseKind, Kind, Memory, compare
from sojourn.context.memory import MissingChunkError, clear_zeros, parts, without_base

from .samples import memory_bytes, patterns, view_of


def kinds(memory: Memory) -> str:
    """One letter for each chunk: zero, base, stored."""
    return "".join("zbs"[kind] * count for kind, count in memory.runs)


def base_of(pattern: str) -> Base:
    return Base(BaseKind.IMAGE, "1" * 64, len(pattern) * CHUNK_BYTES)


def set_up(memory: Memory, base: str, chunks: dict[bytes, bytes]) -> bytes:
    """A fresh memory with its base in place, made into ``memory``."""
    view = memoryview(bytearray(memory_bytes(base)[: memory.size_bytes].ljust(memory.size_bytes, b"\0")))
    order = list(chunks)
    for part in parts(memory, [(b"".join(order), {digest: at for at, digest in enumerate(order)})]):
        data = b"".join(chunks[order[part.first + at]] for at in range(len(part.digests)))
        view[part.offset : part.offset + part.length] = data
    clear_zeros(memory, view, len(base) * CHUNK_BYTES)
    return bytes(view)


def stored(view: memoryview, memory: Memory) -> dict[bytes, bytes]:
    return {d: bytes(view[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]) for i, d in memory.stored()}


def test_zero_base_and_stored() -> None:
    origin = Memory.fresh(8 * CHUNK_BYTES, base_of("ab0a"))
    found = compare(view_of("ac0a00b0"), origin, None, view_of("ab0a"))
    assert kinds(found) == "bsbbzzsz"
    assert len(found.digests) == 64
    assert found.base == origin.base


def test_what_was_not_written_is_not_read() -> None:
    origin = Memory.fresh(4 * CHUNK_BYTES, base_of("abcd"))
    # The letters do not fit the base: were they read, it would be seen.
    assert kinds(compare(view_of("xxxx"), origin, bytes((0, 1, 0, 0)), view_of("abcd"))) == "bsbb"


def test_what_came_from_a_checkpoint_keeps_its_digest() -> None:
    first = compare(view_of("abc0"), None)
    found = compare(view_of("abz0ab00"), first, bytes((0, 0, 1, 0, 1, 1, 0, 0)))
    assert kinds(found) == "ssszsszz"
    digests = [digest for _, digest in found.stored()]
    assert digests[:2] == [digest for _, digest in first.stored()][:2] == digests[3:5]


@given(patterns, patterns, st.randoms(use_true_random=False), st.booleans())
def test_a_memory_is_set_up_as_it_was(base: str, now: str, rng: random.Random, grown: bool) -> None:
    """Any memory over any base, whatever more than the truth is said to be written."""
    size = len(base) if not grown or len(now) < len(base) else len(now)
    now = now[:size].ljust(size, "0")
    origin = Memory.fresh(min(len(base), size) * CHUNK_BYTES, base_of(base))
    truth = base.ljust(size, "0")
    written = bytes(a != b or rng.random() < 0.3 for a, b in zip(now, truth, strict=True))
    view = view_of(now)
    for known in (None, view_of(base)):
        for mask in (written, None):
            memory = compare(view, origin, mask, known)
            assert set_up(memory, base, stored(view, memory)) == bytes(view)
            alone, added = without_base(memory, view_of(base))
            chunks = stored(view, memory)
            chunks |= {d: memory_bytes(base)[at : at + CHUNK_BYTES] for d, at in added.items()}
            assert set_up(alone, "", chunks) == bytes(view)
            assert Kind.BASE not in [kind for kind, _ in alone.runs]


@given(patterns, patterns, patterns)
def test_chains_of_checkpoints(first: str, second: str, third: str) -> None:
    """Each is compared with the one before, and only what changed since is said to be written."""
    size = max(map(len, (first, second, third)))
    states = [pattern.ljust(size, "0") for pattern in (first, second, third)]
    memory, chunks, before = None, {}, ""
    for state in states:
        view = view_of(state)
        mask = None if memory is None else bytes(a != b for a, b in zip(state, before, strict=True))
        memory = compare(view, memory, mask)
        chunks |= stored(view, memory)
        assert set_up(memory, "", chunks) == bytes(view)
        assert memory == compare(view, None)
        before = state


def test_chunks_that_lie_in_order_are_read_together() -> None:
    memory = compare(view_of("abcd0efa"), None)
    order = dict.fromkeys(digest for _, digest in memory.stored())
    pack = (b"".join(order), {digest: at for at, digest in enumerate(order)})
    found = parts(memory, [pack])
    assert [(part.first, part.offset // CHUNK_BYTES, len(part.digests)) for part in found] == [
        (0, 0, 4),
        (4, 5, 2),
        (0, 7, 1),
    ]
    with pytest.raises(MissingChunkError):
        parts(memory, [(pack[0][:32], {pack[0][:32]: 0})])
    with pytest.raises(MissingChunkError):
        parts(memory, [])


@pytest.mark.parametrize(
    ("size", "base", "runs", "digests"),
    [
        (1, Base(), (), b""),
        (-PAGE_BYTES, Base(), (), b""),
        (1 << 40, Base(), ((Kind.ZERO, (1 << 40) // CHUNK_BYTES),), b""),
        (PAGE_BYTES, Base(), ((Kind.ZERO, 3),), b""),
        (PAGE_BYTES, Base(), ((Kind.ZERO, 2), (Kind.ZERO, 2)), b""),
        (PAGE_BYTES, Base(), ((Kind.ZERO, 5), (Kind.ZERO, -1)), b""),
        (PAGE_BYTES, Base(), ((Kind.STORED, 4),), bytes(96)),
        (PAGE_BYTES, Base(), ((Kind.ZERO, 4),), bytes(32)),
        (PAGE_BYTES, Base(), ((Kind.BASE, 4),), b""),
        (2 * PAGE_BYTES, Base(BaseKind.IMAGE, "1" * 64, PAGE_BYTES), ((Kind.BASE, 8),), b""),
        (PAGE_BYTES, Base(BaseKind.IMAGE, "", PAGE_BYTES), ((Kind.ZERO, 4),), b""),
        (PAGE_BYTES, Base(BaseKind.NONE, "1" * 64), ((Kind.ZERO, 4),), b""),
        (PAGE_BYTES, Base(BaseKind.MODULE, "1" * 64, -PAGE_BYTES), ((Kind.ZERO, 4),), b""),
        (PAGE_BYTES, Base(BaseKind.MODULE, "1" * 64, 1 << 50), ((Kind.ZERO, 4),), b""),
    ],
)
def test_memories_that_cannot_be(size: int, base: Base, runs: tuple, digests: bytes) -> None:
    with pytest.raises(ValueError):
        Memory(size, base, runs, digests)


def test_sizes_must_fit() -> None:
    origin = Memory.fresh(2 * PAGE_BYTES, Base())
    with pytest.raises(ValueError, match="smaller"):
        compare(memoryview(bytearray(PAGE_BYTES)), origin)
    with pytest.raises(ValueError, match="fit"):
        compare(memoryview(bytearray(PAGE_BYTES)), None, b"\1")
