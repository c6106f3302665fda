"""What a linear memory holds, chunk by chunk, and what is different in it from where it came from.

A chunk is ``CHUNK_BYTES`` of memory at a multiple of that. Each is one of three: all zero, the same as in the
*base* at the same place, or *stored* under the digest of its bytes. The base is what a fresh instance has
anyway: the image that it starts from, or the module's own data.

Sixteen KiB, because a program touches memory in many small places: with 64 KiB a plain interpreter that has
done nothing would store three times as many bytes, with 4 KiB hashing costs more than twice as much a byte.

``compare`` finds the chunks. Which pages were written to since the memory was set up is known to the
operating system; a chunk without such a page still has its *origin*, which is what the memory was set up
from. So only what was written is read, and only what differs is hashed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from blake3 import blake3

PAGE_BYTES = 65536
CHUNK_BYTES = 16384
DIGEST_BYTES = 32
MEMORY_BYTES_MAX = 4 << 30
ZERO_CHUNK = bytes(CHUNK_BYTES)
_WRITTEN, _EQUAL = re.compile(rb"[^\0]"), re.compile(rb"\x00+|\x01+|\x02+")


_ZERO_DIGEST = blake3(ZERO_CHUNK).digest()


class Kind(IntEnum):
    """What a chunk is. The numbers are part of the stored format."""

    ZERO = 0
    BASE = 1
    STORED = 2


class BaseKind(StrEnum):
    NONE = "none"
    IMAGE = "image"
    MODULE = "module"


@dataclass(frozen=True)
class Base:
    """What a fresh instance has in its memory.

    Attributes:
        kind: nothing known; an image; the data that the module itself brings.
        digest: of the image or the module; empty for ``NONE``.
        size_bytes: how much of a fresh memory it covers; all behind it is zero. 0 for ``NONE``.
    """

    kind: BaseKind = BaseKind.NONE
    digest: str = ""
    size_bytes: int = 0


@dataclass(frozen=True)
class Memory:
    """A linear memory.

    Attributes:
        size_bytes: a multiple of ``PAGE_BYTES``.
        base: what chunks of kind ``BASE`` are the same as.
        runs: (kind, number of chunks), in order; neighbours have different kinds.
        digests: of the stored chunks, in order, one after the other.
    """

    size_bytes: int
    base: Base = field(default_factory=Base)
    runs: tuple[tuple[Kind, int], ...] = ()
    digests: bytes = b""

    def __post_init__(self) -> None:
        if self.size_bytes % PAGE_BYTES or not 0 <= self.size_bytes <= MEMORY_BYTES_MAX:
            raise ValueError(f"a memory of {self.size_bytes} bytes")
        known = self.base.kind is not BaseKind.NONE
        if known != bool(self.base.digest) or not 0 <= self.base.size_bytes <= known * MEMORY_BYTES_MAX:
            raise ValueError(f"the base {self.base!r}")
        last, total, stored = None, 0, 0
        for kind, count in self.runs:
            if count < 1 or kind == last:
                raise ValueError("runs of chunks that are empty or not joined")
            last, total = kind, total + count
            if kind is Kind.STORED:
                stored += count
            elif kind is Kind.BASE and total * CHUNK_BYTES > self.base.size_bytes:
                raise ValueError("chunks of a base that are not in it")
        if total * CHUNK_BYTES != self.size_bytes or stored * DIGEST_BYTES != len(self.digests):
            raise ValueError("the chunks do not make up the memory")

    @classmethod
    def fresh(cls, size_bytes: int, base: Base) -> Memory:
        """A memory that nothing was written to since an instance was made (and grown) with this base."""
        chunks, covered = size_bytes // CHUNK_BYTES, min(size_bytes, base.size_bytes) // CHUNK_BYTES
        runs = ((Kind.BASE, covered), (Kind.ZERO, chunks - covered))
        return cls(size_bytes, base, tuple(run for run in runs if run[1]))

    def stored(self) -> Iterator[tuple[int, bytes]]:
        """(index, digest) of each stored chunk, in order."""
        index = at = 0
        for kind, count in self.runs:
            if kind is Kind.STORED:
                for stored in range(index, index + count):
                    yield stored, self.digests[at : at + DIGEST_BYTES]
                    at += DIGEST_BYTES
            index += count

    def spans(self, wanted: Kind) -> Iterator[tuple[int, int]]:
        """(offset, length) in bytes of each run of the kind ``wanted``."""
        offset = 0
        for kind, count in self.runs:
            length = count * CHUNK_BYTES
            if kind is wanted:
                yield offset, length
            offset += length

    def bytes_of(self, wanted: Kind) -> int:
        """How many bytes of the memory are chunks of this kind."""
        return sum(length for _, length in self.spans(wanted))


def digest_of(data: bytes | memoryview) -> bytes:
    """The digest that a chunk is stored and verified under."""
    return blake3(data).digest()


def digests_of(chunks: Sequence[memoryview]) -> list[bytes]:
    """The digest of each chunk."""
    return [blake3(chunk).digest() for chunk in chunks]


def compare(
    view: memoryview,
    origin: Memory | None,
    written: bytes | None = None,
    base: memoryview | None = None,
    digest_all: Callable[[Sequence[memoryview]], list[bytes]] = digests_of,
) -> Memory:
    """What ``view``, a whole linear memory at rest, holds now.

    Args:
        view: all of the memory, of format ``B``. It may have grown since, never shrunk.
        origin: what the memory was set up as: ``Memory.fresh`` for an instance that started from its base,
        the
            ``Memory`` of the context for one that was restored. None: nothing is known.
        written: one byte for each chunk, not 0 where it may have been written to since it was set up as
            ``origin`` says. None: anywhere.
        base: the bytes of the base, to find out what was written but is the same. None: not at hand.
        digest_all: does what ``digests_of`` does, perhaps faster.

    Raises:
        ValueError: the sizes do not fit each other.
    """
    count, rest = divmod(len(view), CHUNK_BYTES)
    if rest or (written is not None and len(written) != count):
        raise ValueError(f"a memory of {len(view)} bytes, and what was written of it, do not fit each other")
    if origin is not None and origin.size_bytes > len(view):
        raise ValueError("a memory that is smaller than it was")
    kept = Base() if origin is None else origin.base
    if origin is None or written is None:
        written = b"\1" * count
    same = memoryview(b"") if base is None or kept.kind is BaseKind.NONE else base[: kept.size_bytes]
    covered = len(same)
    kinds = bytearray(count)  # ZERO, also for what was added and never written
    digests: dict[int, bytes] = {}
    if origin is not None:
        _inherit(origin, written, kinds, digests)
    changed = []
    for index in (found.start() for found in _WRITTEN.finditer(written)):
        start = index * CHUNK_BYTES
        end = start + CHUNK_BYTES
        # To compare two views goes byte by byte, to compare copies does not: it costs a third of the hash.
        if start < covered and bytes(view[start:end]) == bytes(same[start:end]):
            kinds[index] = Kind.BASE
        else:
            changed.append(index)
    hashed = digest_all([view[at * CHUNK_BYTES : (at + 1) * CHUNK_BYTES] for at in changed])
    for index, digest in zip(changed, hashed, strict=True):
        if digest == _ZERO_DIGEST:
            kinds[index] = Kind.ZERO
        else:
            kinds[index] = Kind.STORED
            digests[index] = digest
    return Memory(len(view), kept, _runs(kinds), b"".join([digests[index] for index in sorted(digests)]))


def _inherit(origin: Memory, written: bytes, kinds: bytearray, digests: dict[int, bytes]) -> None:
    index = 0
    for kind, count in origin.runs:
        kinds[index : index + count] = bytes((kind,)) * count
        index += count
    digests.update({index: digest for index, digest in origin.stored() if not written[index]})


def _runs(kinds: bytes | bytearray) -> tuple[tuple[Kind, int], ...]:
    """Join equal neighbours."""
    return tuple((Kind(found[0][0]), len(found[0])) for found in _EQUAL.finditer(kinds))


def without_base(memory: Memory, base: memoryview) -> tuple[Memory, dict[bytes, int]]:
    """The same memory with the chunks of its base stored, so that the base is not needed to set it up.

    Returns:
        The memory, and for each digest that it has in addition where in ``base`` the bytes lie.
    """
    kinds, digests = bytearray(), dict(memory.stored())
    added: dict[bytes, int] = {}
    for kind, count in memory.runs:
        if kind is not Kind.BASE:
            kinds += bytes((kind,)) * count
            continue
        for index in range(len(kinds), len(kinds) + count):
            data = bytes(base[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
            kinds.append(Kind.ZERO if data == ZERO_CHUNK else Kind.STORED)
            if kinds[-1]:
                digests[index] = digest_of(data)
                added.setdefault(digests[index], index * CHUNK_BYTES)
    joined = b"".join(digests[index] for index in sorted(digests))
    return Memory(memory.size_bytes, Base(), _runs(kinds), joined), added


# -- setting a memory up -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Stored chunks that lie one after the other, in the memory and in a pack.

    Attributes:
        pack: which of the packs.
        first: the position of the first chunk in the pack.
        offset: where they go in the memory, in bytes.
        digests: of each.
    """

    pack: int
    first: int
    offset: int
    digests: tuple[bytes, ...]

    @property
    def length(self) -> int:
        return len(self.digests) * CHUNK_BYTES


class MissingChunkError(LookupError):
    """A stored chunk that no pack has."""


def parts(memory: Memory, packs: Sequence[tuple[bytes, dict[bytes, int]]]) -> list[Part]:
    """Where the stored chunks come from, joined as far as they lie in order.

    Args:
        packs: for each pack the digests of its chunks, and the position of each.

    Raises:
        MissingChunkError: a chunk is in none of them.
    """
    found: list[Part] = []
    offset = at = 0
    for kind, count in memory.runs:
        end = at + count * DIGEST_BYTES * (kind is Kind.STORED)
        begin = offset
        while at < end:
            part = _part(memory.digests[at:end], packs, begin)
            found.append(part)
            at, begin = at + len(part.digests) * DIGEST_BYTES, begin + part.length
        offset += count * CHUNK_BYTES
    return found


def _part(wanted: bytes, packs: Sequence[tuple[bytes, dict[bytes, int]]], offset: int) -> Part:
    """The first of the ``wanted`` chunks, and those after it that also come next in the pack."""
    first = wanted[:DIGEST_BYTES]
    for number, (digests, positions) in enumerate(packs):
        if first in positions:
            start = positions[first] * DIGEST_BYTES
            there = digests[start : start + len(wanted)]
            length = len(wanted) if there == wanted else _common(wanted, there)
            joined = tuple(wanted[at : at + DIGEST_BYTES] for at in range(0, length, DIGEST_BYTES))
            return Part(number, positions[first], offset, joined)
    raise MissingChunkError(first.hex())


def _common(one: bytes, two: bytes) -> int:
    """How many bytes of whole digests two lists have in common at their beginning: found by halving."""
    low, high = 1, min(len(one), len(two)) // DIGEST_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if one[: middle * DIGEST_BYTES] == two[: middle * DIGEST_BYTES]:
            low = middle
        else:
            high = middle - 1
    return low * DIGEST_BYTES


def clear_zeros(memory: Memory, view: memoryview, fresh_bytes: int) -> None:
    """Make the zero chunks zero that lie in the first ``fresh_bytes`` of a fresh memory; behind them all is.

    Reads before it writes: what is zero already is not touched.
    """
    for offset, length in memory.spans(Kind.ZERO):
        for start in range(offset, min(offset + length, fresh_bytes), CHUNK_BYTES):
            if bytes(view[start : start + CHUNK_BYTES]) != ZERO_CHUNK:
                view[start : start + CHUNK_BYTES] = ZERO_CHUNK
