"""A process context as bytes, and back.

::

    prelude (32 bytes)   magic, format version, flags, length of the header, length of the file, CRC-32
    header               plain data: identity, grants, globals, tables, …; length and digest of each section
    checksum (32 bytes)  BLAKE3 of prelude and header
    sections             "frames", "memory", "system"; in a self-contained file also "chunks", a pack

The checksum covers everything: the header has the digest of each section. It is also the name of the
checkpoint. The chunks' digest is that of their list of digests (``pack.name_of``), so that a large file need
not be read to find out what it is; the chunks themselves are verified when they are used.

The prelude is the same in all versions, and has a checksum of its own, so that *made by another version* and
*damaged* can be told apart. Nothing is allocated on the word of the input: all lengths are checked against
each other and against the bytes that are there, and numbers of values are bounded before values are made
(``plain``).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sojourn.model.errors import (
    ContextError,
    DamagedContextError,
    NotAContextError,
    OtherVersionError,
)

from .memory import CHUNK_BYTES, MEMORY_BYTES_MAX, Base, BaseKind, Kind, Memory, digest_of
from .pack import TRAILER_BYTES, Index, index_bytes, read_index
from .plain import PlainError, pack, unpack
from .values import (
    CHANGES_MAX,
    FRAMES_MAX,
    MEMORIES_MAX,
    SEGMENTS_MAX,
    SYSTEM_BYTES_MAX,
    VALUE_BYTES,
    Context,
    Global,
    Table,
)

FORMAT = 1
MAGIC = b"\x89SJCTX\r\n"  # not text, and changed by whatever changes line ends
PRELUDE = struct.Struct("<8sHHIQI4s")
_SUMMED_BYTES = 24  # of the prelude: all before its own checksum
HEADER_BYTES_MAX = 64 << 20
FILE_BYTES_MAX = 1 << 40
CHECKSUM_BYTES = 32
SELF_CONTAINED = 1
CHUNKS = "chunks"
_NULL = 0xFFFFFFFF
_SECTIONS = ("frames", "memory", "system")
_HINT_DAMAGED = "Try: copy the file again, or use an older checkpoint"


@dataclass(frozen=True)
class Decoded:
    """A context and where its parts lie.

    Attributes:
        digest: the name of the checkpoint.
        index: of the chunks that the file holds itself; None when it refers to packs.
        chunks_offset: where in the file the pack begins.
        section_bytes: how long each part is, for people.
    """

    context: Context
    digest: str
    index: Index | None
    chunks_offset: int
    section_bytes: dict[str, int]


# -- writing -------------------------------------------------------------------------------------------


def encode(context: Context, chunks: Index | None = None) -> tuple[str, list[bytes]]:
    """The digest of a checkpoint and its bytes, to be written one after the other.

    Args:
        chunks: the index of a pack with all stored chunks. Its bytes follow those that are returned, and make
            the file self-contained.

    Raises:
        ContextError: what a component saved is too large, or is not plain data.
    """
    if chunks is not None:
        context = replace(context, packs=(chunks.name,))
        _check_alone(context)
    sections = [context.records, _pack("memory", _memories(context)), _pack("system", context.system)]
    if len(sections[2]) > SYSTEM_BYTES_MAX:
        raise ContextError(
            f"the files and system state of the process are {len(sections[2]):,} bytes, more than the "
            f"{SYSTEM_BYTES_MAX:,} that a checkpoint holds",
            "Try: remove files in the process's private file system, or keep them in a granted directory",
        )
    table: list[list[Any]] = [
        [name, len(data), digest_of(data)] for name, data in zip(_SECTIONS, sections, strict=True)
    ]
    if chunks is not None:
        table.append([CHUNKS, chunks.size_bytes, bytes.fromhex(chunks.name)])
    header = _pack("header", _header(context, table))
    if len(header) > HEADER_BYTES_MAX:
        raise ContextError(
            f"grants, globals and tables of {len(header):,} bytes are too large for a checkpoint"
        )
    total = PRELUDE.size + len(header) + CHECKSUM_BYTES + sum(entry[1] for entry in table)
    flags = SELF_CONTAINED if chunks is not None else 0
    begin = PRELUDE.pack(MAGIC, FORMAT, flags, len(header), total, 0, bytes(4))[:_SUMMED_BYTES]
    prelude = begin + struct.pack("<I4x", zlib.crc32(begin))
    checksum = digest_of(prelude + header)
    return checksum.hex(), [prelude, header, checksum, *sections]


def _pack(part: str, value: Any) -> bytes:
    try:
        return pack(value)
    except PlainError as error:
        raise ContextError(f"the {part} of the process cannot be stored: {error}") from None


def _header(context: Context, table: list[list[Any]]) -> dict[str, Any]:
    return {
        **{name: getattr(context, name) for name in _PLAIN},
        "secrets": list(context.secrets),
        "packs": list(context.packs),
        "globals": [
            [value.type, value.bits.to_bytes(VALUE_BYTES[value.type], "little")] for value in context.globals
        ],
        "tables": [[table.index, table.size, _changes(table)] for table in context.tables],
        "dropped_elements": _words(context.dropped_elements),
        "dropped_data": _words(context.dropped_data),
        "frames": _words([number for frame in context.frames for number in frame]),
        "sections": table,
    }


_PLAIN: dict[str, tuple[type, ...]] = {
    "program": (str,),
    "runtime": (str,),
    "transform": (int,),
    "pid": (str,),
    "created_ns": (int,),
    "epoch": (int,),
    "sequence": (int,),
    "parent": (str, type(None)),
    "level": (str,),
    "grants": (list,),
    "limits": (dict,),
    "output_bytes": (int,),
    "monotonic_ns": (int,),
    "realtime_ns": (int,),
}
_FIELDS: dict[str, tuple[type, ...]] = {
    **_PLAIN,
    **dict.fromkeys(("secrets", "packs", "globals", "tables", "sections"), (list,)),
    **dict.fromkeys(("dropped_elements", "dropped_data", "frames"), (bytes,)),
}


def _changes(table: Table) -> bytes:
    return _words(
        [n for at, function in table.changes for n in (at, _NULL if function is None else function)]
    )


def _memories(context: Context) -> list[list[Any]]:
    return [
        [
            memory.size_bytes,
            [str(memory.base.kind), memory.base.digest, memory.base.size_bytes],
            bytes(kind for kind, _ in memory.runs),
            _words([count for _, count in memory.runs]),
            memory.digests,
        ]
        for memory in context.memories
    ]


def _words(numbers: list[int] | tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def _numbers(data: bytes, most: int) -> tuple[int, ...]:
    if len(data) % 4 or len(data) > 4 * most:
        raise ValueError("a list of numbers that is none, or too long")
    return struct.unpack(f"<{len(data) // 4}I", data)


Read = Callable[[int, int], bytes]


# -- reading -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """What the prelude says: enough to know how much to read."""

    self_contained: bool
    header_bytes: int
    file_bytes: int

    @property
    def head_bytes(self) -> int:
        """Prelude, header and checksum together."""
        return PRELUDE.size + self.header_bytes + CHECKSUM_BYTES


def read_prelude(data: bytes, file_bytes: int) -> Head:
    """Read the first ``PRELUDE.size`` bytes of a file of ``file_bytes``.

    Raises:
        NotAContextError: it begins as something else.
        OtherVersionError: another format.
        DamagedContextError: it is cut off or changed.
    """
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise NotAContextError(
            "this is not a process context", "Try: a file that sojourn checkpoint -o FILE has written"
        )
    if len(data) < PRELUDE.size:
        raise _damaged("it is cut off")
    _, version, flags, header, total, crc, zeros = PRELUDE.unpack(data)
    if crc != zlib.crc32(data[:_SUMMED_BYTES]):
        raise _damaged("its first bytes are not what they were")
    if version != FORMAT:
        raise OtherVersionError(
            f"a process context of format {version}; this Sojourn reads format {FORMAT}",
            "Try: the version of Sojourn that wrote it",
        )
    if flags & ~SELF_CONTAINED or any(zeros) or header > HEADER_BYTES_MAX or total > FILE_BYTES_MAX:
        raise _damaged("its first bytes cannot be")
    head = Head(bool(flags & SELF_CONTAINED), header, total)
    if file_bytes != total or total < head.head_bytes:
        state = "cut off" if file_bytes < total else "longer than it says"
        raise _damaged(f"it is {state}: {file_bytes:,} bytes, {total:,} announced")
    return head


def decode(data: bytes | memoryview) -> Decoded:
    """Read a context from the bytes of a whole file.

    Raises:
        NotAContextError, OtherVersionError, DamagedContextError: exactly one of them, whatever ``data`` is.
    """
    view = memoryview(data).cast("B")
    return decode_parts(lambda offset, length: bytes(view[offset : offset + length]), len(view))


def decode_parts(read: Read, file_bytes: int) -> Decoded:
    """Read a context piece by piece, without the chunks in it.

    Args:
        read: ``read(offset, length)`` gives these bytes of the file, fewer at its end.

    Raises:
        NotAContextError, OtherVersionError, DamagedContextError: exactly one of them.
    """
    head = read_prelude(read(0, PRELUDE.size), file_bytes)
    begin = read(0, head.head_bytes)
    if len(begin) != head.head_bytes:
        raise _damaged("it is cut off")
    checksum = begin[-CHECKSUM_BYTES:]
    if digest_of(begin[:-CHECKSUM_BYTES]) != checksum:
        raise _damaged("its header is not what it was")
    try:
        return _decode(read, head, begin, checksum.hex())
    except (PlainError, ValueError, TypeError) as error:
        raise _damaged(str(error)) from None


def check_transform(context: Context, version: int) -> None:
    """Check that the frames of a context are of this version of the transform. Without frames any will do.

    Raises:
        OtherVersionError: they are not.
    """
    if context.records and context.transform != version:
        raise OtherVersionError(
            f"the frames are of version {context.transform} of the transform; this Sojourn has {version}",
            "Try: the version of Sojourn that wrote it",
        )


def _decode(read: Read, head: Head, begin: bytes, digest: str) -> Decoded:
    header = unpack(begin[PRELUDE.size : -CHECKSUM_BYTES])
    if type(header) is not dict or header.keys() != _FIELDS.keys():
        raise ValueError("the header has other fields")
    for name, types in _FIELDS.items():
        if type(header[name]) not in types:
            raise ValueError(f"{name} is of another type")
    sections = _sections(header["sections"], head)
    found: dict[str, bytes] = {}
    for name, offset, length, expected in sections:
        if name != CHUNKS:
            found[name] = read(offset, length)
            if len(found[name]) != length or digest_of(found[name]) != expected:
                raise ValueError(f"the section {name} is not what it was")
    context = _context(header, found)
    index, at = None, 0
    if head.self_contained:
        _, at, length, expected = sections[-1]
        _check_alone(context)
        index = _embedded(read, at, length)
        if [index.name] != list(context.packs) or bytes.fromhex(index.name) != expected:
            raise ValueError("the chunks are others than the header says")
        held = set(index.positions())
        if any(wanted not in held for memory in context.memories for _, wanted in memory.stored()):
            raise ValueError("a chunk is missing")
    lengths = {"header": head.head_bytes, **{name: length for name, _, length, _ in sections}}
    return Decoded(context, digest, index, at, lengths)


def _sections(table: list[Any], head: Head) -> list[tuple[str, int, int, bytes]]:
    """(name, offset, length, digest) of each section; they fill the file exactly, in their one order."""
    names = [*_SECTIONS, *([CHUNKS] if head.self_contained else [])]
    if len(table) != len(names):
        raise ValueError("other sections than there must be")
    found = []
    offset = head.head_bytes
    for name, entry in zip(names, table, strict=True):
        if (
            type(entry) is not list
            or [type(value) for value in entry] != [str, int, bytes]
            or entry[0] != name
        ):
            raise ValueError(f"the section {name} is missing")
        if not 0 <= entry[1] <= head.file_bytes - offset or len(entry[2]) != CHECKSUM_BYTES:
            raise ValueError(f"the section {name} is not in the file")
        found.append((name, offset, entry[1], entry[2]))
        offset += entry[1]
    if offset != head.file_bytes:
        raise ValueError("the sections do not make up the file")
    if found[2][2] > SYSTEM_BYTES_MAX or found[1][2] > HEADER_BYTES_MAX:
        raise ValueError("a section is too large")
    return found


def _check_alone(context: Context) -> None:
    if any(memory.base.kind is BaseKind.IMAGE for memory in context.memories):
        raise ValueError("a self-contained context that needs an image")


def _embedded(read: Read, offset: int, length: int) -> Index:
    end = offset + length
    if length < TRAILER_BYTES:
        raise ValueError("the chunks are cut off")
    size = index_bytes(read(end - TRAILER_BYTES, TRAILER_BYTES))
    if size > length:
        raise ValueError("the chunks are cut off")
    return read_index(read(end - size, size), length)


def _context(header: dict[str, Any], sections: dict[str, bytes]) -> Context:
    frames = _numbers(header["frames"], 2 * FRAMES_MAX)
    if len(frames) % 2:
        raise ValueError("a frame without a site")
    return Context(
        **{name: header[name] for name in _PLAIN},
        secrets=tuple(header["secrets"]),
        packs=tuple(header["packs"]),
        globals=tuple(_globals(header["globals"])),
        tables=tuple(_tables(header["tables"])),
        dropped_elements=_numbers(header["dropped_elements"], SEGMENTS_MAX),
        dropped_data=_numbers(header["dropped_data"], SEGMENTS_MAX),
        frames=tuple(zip(frames[::2], frames[1::2], strict=True)),
        memories=tuple(_read_memories(unpack(sections["memory"]))),
        records=sections["frames"],
        system=unpack(sections["system"]),
    )


def _globals(values: list[Any]) -> Iterator[Global]:
    for value in values:
        kind, bits = _typed(value, str, bytes)
        if len(bits) != VALUE_BYTES.get(kind):
            raise ValueError("a global of another size than its type")
        yield Global(kind, int.from_bytes(bits, "little"))


def _tables(values: list[Any]) -> Iterator[Table]:
    left = CHANGES_MAX
    for value in values:
        index, size, changes = _typed(value, int, int, bytes)
        numbers = _numbers(changes, 2 * left)
        left -= len(numbers) // 2
        if len(numbers) % 2:
            raise ValueError("a change of a table without a function")
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        yield Table(
            index, size, tuple((at, None if function == _NULL else function) for at, function in pairs)
        )


def _read_memories(values: Any) -> Iterator[Memory]:
    if type(values) is not list or len(values) > MEMORIES_MAX:
        raise ValueError("memories that are no list, or too many")
    for value in values:
        size, base, kinds, counts, digests = _typed(value, int, list, bytes, bytes, bytes)
        kind, digest, covered = _typed(base, str, str, int)
        if not 0 <= size <= MEMORY_BYTES_MAX:
            raise ValueError("a memory that is too large")
        numbers = _numbers(counts, size // CHUNK_BYTES)
        runs = zip(map(Kind, kinds), numbers, strict=True)
        yield Memory(size, Base(BaseKind(kind), digest, covered), tuple(runs), digests)


def _typed(value: Any, *types: type) -> list[Any]:
    if type(value) is not list or [type(item) for item in value] != list(types):
        raise ValueError("a value of another form")
    return value


def _damaged(message: str) -> DamagedContextError:
    return DamagedContextError(f"the process context is damaged: {message}", _HINT_DAMAGED)
