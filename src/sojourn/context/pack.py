"""Packs: the chunks of one checkpoint, in one run of bytes.

A pack holds each chunk once, in *groups*::

    group | group | … | digests of all chunks | table of groups | trailer

The table has for each group its encoding, its stored length and how many chunks it holds; all but the last of
a compressed pack hold ``GROUP_CHUNKS``. An uncompressed pack is one group, so that it can be mapped into
memory as it is. The *name* of a pack is the digest of its chunks' digests: packs with the same name hold the
same chunks, however they are encoded.

The trailer stands at the end, so a pack is written without knowing beforehand how well it compresses. Nothing
that the trailer or the table claims is believed: a chunk that was read is a chunk whose digest was computed.
A group never becomes more than its chunks, however it was compressed.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from blake3 import blake3

from sojourn.model.errors import DamagedContextError, OtherVersionError

from .memory import CHUNK_BYTES, DIGEST_BYTES, MEMORY_BYTES_MAX, digest_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORMAT = 1
GROUP_CHUNKS = 16
CHUNKS_MAX = MEMORY_BYTES_MAX // CHUNK_BYTES
_MAGIC = b"SJPK"
_TRAILER = struct.Struct("<4sHHII")
TRAILER_BYTES = _TRAILER.size
_GROUP = struct.Struct("<BII")
_RAW_CHUNKS = 512  # written at once when nothing is compressed: long writes are cheaper
_LEVEL = 1
_WORTH = 0.9  # a group that compresses to more than this is stored as it is
_WINDOW_LOG_MAX = 20  # what a reader spends on the window of a hostile group, at most
_HINT = "Try: copy the file again, or use an older checkpoint"


class Encoding(IntEnum):
    """How a group is stored. The numbers are part of the stored format."""

    RAW = 0
    ZSTD = 1


@dataclass(frozen=True)
class Group:
    """Chunks that are stored together, at ``offset`` bytes from the beginning of the pack."""

    encoding: Encoding
    offset: int
    length: int
    first: int
    count: int


@dataclass(frozen=True)
class Index:
    """What is in a pack, and where."""

    digests: bytes
    groups: tuple[Group, ...]

    @property
    def name(self) -> str:
        return name_of(self.digests)

    @property
    def count(self) -> int:
        return len(self.digests) // DIGEST_BYTES

    @property
    def size_bytes(self) -> int:
        """The length of the whole pack."""
        return sum(group.length for group in self.groups) + _index_bytes(self.count, len(self.groups))

    def positions(self) -> dict[bytes, int]:
        """The position of each digest."""
        return {digest: at for at, digest in enumerate(split(self.digests))}

    def raw_offset(self, position: int, count: int) -> int | None:
        """Where ``count`` chunks from ``position`` on lie as they are, in bytes; None if compressed."""
        if (
            len(self.groups) == 1
            and self.groups[0].encoding is Encoding.RAW
            and position + count <= self.count
        ):
            return position * CHUNK_BYTES
        return None

    def group_of(self, position: int) -> Group:
        """The group that holds the chunk at ``position``."""
        if len(self.groups) == 1:
            return self.groups[0]
        return self.groups[position // GROUP_CHUNKS]


def name_of(digests: bytes) -> str:
    """The name of the pack with these chunks."""
    return digest_of(digests).hex()


def split(digests: bytes) -> Iterator[bytes]:
    return (digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES))


# -- writing -------------------------------------------------------------------------------------------


def write_pack(
    digests: Sequence[bytes], chunks: Iterable[bytes | memoryview], compress: bool
) -> Iterator[list[bytes | memoryview]]:
    """The bytes of a pack, piece by piece, as lists to write one after the other.

    Args:
        digests: of each chunk, all different.
        chunks: the bytes of each, in the same order; read once, a group at a time.
        compress: else the chunks lie in the pack as they are.
    """
    if len(set(digests)) != len(digests):
        raise ValueError("a chunk is twice in one pack")
    groups: list[tuple[Encoding, int, int]] = []
    part: list[bytes | memoryview] = []
    done = 0
    for chunk in chunks:
        if len(chunk) != CHUNK_BYTES:
            raise ValueError(f"a chunk of {len(chunk)} bytes")
        part.append(chunk)
        if len(part) == (GROUP_CHUNKS if compress else _RAW_CHUNKS):
            yield _store(part, compress, groups)
            done, part = done + len(part), []
    if part:
        yield _store(part, compress, groups)
    if done + len(part) != len(digests):
        raise ValueError("a pack must have a digest for each chunk")
    if not compress and groups:
        groups = [(Encoding.RAW, len(digests) * CHUNK_BYTES, len(digests))]
    table = b"".join(_GROUP.pack(*group) for group in groups)
    yield [b"".join(digests), table, _TRAILER.pack(_MAGIC, FORMAT, 0, len(digests), len(groups))]


def _store(
    part: list[bytes | memoryview], compress: bool, groups: list[tuple[Encoding, int, int]]
) -> list[bytes | memoryview]:
    size = len(part) * CHUNK_BYTES
    if compress:
        small = zstd.compress(b"".join(part), _LEVEL)
        if len(small) < size * _WORTH:
            groups.append((Encoding.ZSTD, len(small), len(part)))
            return [small]
    groups.append((Encoding.RAW, size, len(part)))
    return part


# -- reading -------------------------------------------------------------------------------------------


def index_bytes(trailer: bytes) -> int:
    """How many bytes at the end of a pack are its index, by its last ``TRAILER_BYTES``.

    Raises:
        DamagedContextError, OtherVersionError: it is not the end of a pack that can be read.
    """
    count, groups = _read_trailer(trailer)
    return _index_bytes(count, groups)


def read_index(data: bytes, size_bytes: int) -> Index:
    """The index of a pack of ``size_bytes``, from its last bytes, ``index_bytes`` of them.

    Raises:
        DamagedContextError, OtherVersionError: it is not the index of such a pack.
    """
    count, number = _read_trailer(data[-TRAILER_BYTES:])
    if len(data) != _index_bytes(count, number) or size_bytes < len(data):
        raise _damaged("the index of a pack is cut off")
    digests, table = data[: count * DIGEST_BYTES], data[count * DIGEST_BYTES : -TRAILER_BYTES]
    groups: list[Group] = []
    offset = first = 0
    for code, length, chunks in _GROUP.iter_unpack(table):
        if code not in (Encoding.RAW, Encoding.ZSTD) or not chunks or length > chunks * CHUNK_BYTES:
            raise _damaged("a pack has a group that cannot be")
        if code == Encoding.RAW and length != chunks * CHUNK_BYTES:
            raise _damaged("a pack has a group that is cut off")
        if number > 1 and chunks != GROUP_CHUNKS and len(groups) < number - 1:
            raise _damaged("a pack has a group that is too small")
        if chunks > GROUP_CHUNKS and (number > 1 or code != Encoding.RAW):
            raise _damaged("a pack has a group that is too large")
        groups.append(Group(Encoding(code), offset, length, first, chunks))
        offset, first = offset + length, first + chunks
    if first != count or offset != size_bytes - len(data):
        raise _damaged("the groups of a pack do not make up the pack")
    return Index(digests, tuple(groups))


def open_group(group: Group, stored: bytes | memoryview) -> memoryview:
    """The chunks of a group, one after the other, none of them verified yet.

    Raises:
        DamagedContextError: what is stored does not become so many chunks.
    """
    if len(stored) != group.length:
        raise _damaged("a pack is cut off")
    if group.encoding is Encoding.RAW:
        return memoryview(stored)
    size = group.count * CHUNK_BYTES
    reader = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX})
    try:
        data = reader.decompress(stored, size + 1)
    except zstd.ZstdError as error:
        raise _damaged(f"a group of chunks cannot be read: {error}") from None
    if len(data) != size or not reader.eof or reader.unused_data:
        raise _damaged("a group of chunks has another size than it says")
    return memoryview(data)


def verify(digests: Iterable[bytes], data: memoryview, first: int = 0) -> None:
    """Check chunks that lie one after the other, from the chunk ``first`` of ``data`` on.

    Raises:
        DamagedContextError: one is not what its digest says.
    """
    start = first * CHUNK_BYTES
    for digest in digests:
        end = start + CHUNK_BYTES
        if blake3(data[start:end]).digest() != digest:
            raise _damaged(f"the chunk {digest.hex()[:16]} is not what it was")
        start = end


def _read_trailer(trailer: bytes) -> tuple[int, int]:
    if len(trailer) != TRAILER_BYTES:
        raise _damaged("a pack is cut off")
    magic, version, zero, count, groups = _TRAILER.unpack(trailer)
    if magic != _MAGIC or zero:
        raise _damaged("the end of a pack is missing")
    if version != FORMAT:
        raise OtherVersionError(
            f"a pack of format {version}; this Sojourn reads format {FORMAT}",
            "Try: the version of Sojourn that wrote it",
        )
    if count > CHUNKS_MAX or groups > count or (count and not groups):
        raise _damaged(f"a pack claims {count:,} chunks in {groups:,} groups")
    return count, groups


def raw_bytes(count: int) -> int:
    """The length of a pack of so many chunks that is not compressed."""
    return count * CHUNK_BYTES + _index_bytes(count, min(count, 1))


def _index_bytes(count: int, groups: int) -> int:
    return count * DIGEST_BYTES + groups * _GROUP.size + TRAILER_BYTES


def _damaged(message: str) -> DamagedContextError:
    return DamagedContextError(message, _HINT)
