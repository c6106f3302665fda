"""Where one instruction ends and the next begins: the immediates of every opcode.

Covers WebAssembly 3 (tail calls, exceptions old and new, typed function references, GC, SIMD, relaxed
SIMD, threads, multi-memory, memory64, wide arithmetic), which is what the engine accepts. The walk is
flat: it keeps one number for the nesting depth and never recurses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .binary import MalformedModuleError, Reader

Skip = Callable[[Reader], None]


def _none(_: Reader) -> None:
    return


def _index(reader: Reader) -> None:
    reader.skip_leb(5)


def _two(reader: Reader) -> None:
    reader.skip_leb(5)
    reader.skip_leb(5)


def _i32(reader: Reader) -> None:
    reader.skip_leb(5)


def _i64(reader: Reader) -> None:
    reader.skip_leb(10)


def _bytes(size: int) -> Skip:
    return lambda reader: reader.skip(size)


def _block_type(reader: Reader) -> None:
    if reader.data[reader.pos : reader.pos + 1] in (b"\x63", b"\x64"):
        reader.byte()
    reader.skip_leb(5)


def _memarg(reader: Reader) -> None:
    flags = reader.uleb()
    if flags & 0x40:
        reader.skip_leb(5)  # memory index
    reader.skip_leb(10)


def _memarg_lane(reader: Reader) -> None:
    _memarg(reader)
    reader.byte()


def _vector_of_indices(reader: Reader) -> None:
    for _ in range(reader.count()):
        reader.skip_leb(5)


def _br_table(reader: Reader) -> None:
    _vector_of_indices(reader)
    reader.skip_leb(5)


def _select_types(reader: Reader) -> None:
    for _ in range(reader.count()):
        if reader.byte() in (0x63, 0x64):
            reader.skip_leb(5)


def _try_table(reader: Reader) -> None:
    _block_type(reader)
    for _ in range(reader.count()):
        if reader.byte() in (0, 1):
            reader.skip_leb(5)  # tag
        reader.skip_leb(5)  # label


def _br_on_cast(reader: Reader) -> None:
    reader.byte()
    reader.skip_leb(5)
    reader.skip_leb(5)
    reader.skip_leb(5)


def _gc(sub: int) -> Skip | None:
    if sub in (2, 3, 4, 5, 8, 9, 10, 17, 18, 19):
        return _two
    if sub in (24, 25):
        return _br_on_cast
    if sub in (15, 26, 27, 28, 29, 30):
        return _none
    return _index if sub <= 30 else None


def _saturating_and_bulk(sub: int) -> Skip | None:
    if sub <= 7 or 19 <= sub <= 22:  # truncations; wide arithmetic
        return _none
    if sub in (8, 10, 12, 14):
        return _two
    return _index if sub in (9, 11, 13, 15, 16, 17) else None


def _vector(sub: int) -> Skip | None:
    if sub <= 11 or sub in (92, 93):
        return _memarg
    if sub in (12, 13):
        return _bytes(16)
    if 21 <= sub <= 34:
        return _bytes(1)
    if 84 <= sub <= 91:
        return _memarg_lane
    return _none if sub <= 0x1FF else None


def _atomic(sub: int) -> Skip | None:
    if sub == 3:
        return _bytes(1)
    return _memarg if sub <= 0x4E else None


_PREFIXED: dict[int, Callable[[int], Skip | None]] = {
    0xFB: _gc,
    0xFC: _saturating_and_bulk,
    0xFD: _vector,
    0xFE: _atomic,
}

_PLAIN: dict[int, Skip] = {
    **dict.fromkeys((0x00, 0x01, 0x05, 0x0A, 0x0B, 0x0F, 0x19, 0x1A, 0x1B), _none),
    **dict.fromkeys((0x02, 0x03, 0x04, 0x06), _block_type),
    **dict.fromkeys((0x07, 0x08, 0x09, 0x0C, 0x0D, 0x10, 0x12, 0x14, 0x15, 0x18), _index),
    0x0E: _br_table,
    0x11: _two,
    0x13: _two,
    0x1C: _select_types,
    0x1F: _try_table,
    **dict.fromkeys(range(0x20, 0x27), _index),
    **dict.fromkeys(range(0x28, 0x3F), _memarg),
    0x3F: _index,
    0x40: _index,
    0x41: _i32,
    0x42: _i64,
    0x43: _bytes(4),
    0x44: _bytes(8),
    **dict.fromkeys(range(0x45, 0xC5), _none),
    0xD0: _index,
    0xD1: _none,
    0xD2: _index,
    0xD3: _none,
    0xD4: _none,
    0xD5: _index,
    0xD6: _index,
}
_OPENS = frozenset((0x02, 0x03, 0x04, 0x06, 0x1F))
_END, _DELEGATE = 0x0B, 0x18


def skip_instruction(reader: Reader) -> int:
    """Pass over one instruction; return by how much it changes the nesting depth (1, 0 or -1).

    Raises:
        MalformedModuleError: an opcode that is not WebAssembly, or bytes that end too soon.
    """
    offset = reader.pos
    opcode = reader.byte()
    skip = _PLAIN.get(opcode)
    if skip is None:
        prefixed = _PREFIXED.get(opcode)
        skip = prefixed(reader.uleb()) if prefixed else None
        if skip is None:
            raise MalformedModuleError(f"unknown instruction {opcode:#04x}", offset)
    skip(reader)
    if opcode in _OPENS:
        return 1
    return -1 if opcode in (_END, _DELEGATE) else 0


def instructions(reader: Reader) -> Iterator[tuple[int, int]]:
    """Walk one expression: yield (opcode, offset of its first byte) up to and including its ``end``.

    Raises:
        MalformedModuleError: as for ``skip_instruction``.
    """
    depth = 1
    while depth:
        offset = reader.pos
        depth += skip_instruction(reader)
        yield reader.data[offset], offset


def skip_expression(reader: Reader) -> None:
    for _ in instructions(reader):
        pass
