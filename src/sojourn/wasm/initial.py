"""What a module's own data make of a fresh memory, without an instance: the active segments, in order."""

from __future__ import annotations

from collections import defaultdict

from .binary import Module, Reader, SectionId
from .index_spaces import sleb

_PASSIVE, _NAMES_MEMORY = 1, 2  # flags of a segment
_I32_CONST, _I64_CONST, _END = 0x41, 0x42, 0x0B
_BUCKET_BYTES = 1 << 16


class InitialMemory:
    """A module's first memory as instantiation makes it. Reading costs what is read, whatever its size.

    Attributes:
        known: False when a segment goes to a place that only an instance can compute.
    """

    def __init__(self, module: Module) -> None:
        """Raises ``MalformedModuleError``: the data section cannot be read."""
        self.known = True
        self._segments: list[tuple[int, bytes | memoryview]] = []
        self._at: dict[int, list[int]] = defaultdict(list)  # the segments in each part of the memory
        reader = Reader(module.section(SectionId.DATA))
        for _ in range(reader.count()):
            flags = reader.uleb()
            memory = reader.uleb() if flags == _NAMES_MEMORY else 0
            offset = None if flags == _PASSIVE else self._offset(reader)
            length = reader.uleb()
            start = reader.pos
            reader.skip(length)
            if offset is not None and memory == 0 and length:
                self._add(offset, reader.data[start : reader.pos])
            if not self.known:
                return  # what follows the expression is not where it seems

    def _offset(self, reader: Reader) -> int | None:
        """The place that a segment's expression says, if it says a number."""
        kind = reader.byte()
        bits = {_I32_CONST: 32, _I64_CONST: 64}.get(kind)
        value = None if bits is None else sleb(reader, 64) % (1 << bits)
        if value is None or reader.byte() != _END:
            self.known = False
            return None
        return value

    def _add(self, offset: int, data: bytes | memoryview) -> None:
        for bucket in range(offset // _BUCKET_BYTES, (offset + len(data) - 1) // _BUCKET_BYTES + 1):
            self._at[bucket].append(len(self._segments))
        self._segments.append((offset, data))

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on; all is zero where no segment goes."""
        room = bytearray(size)
        buckets = range(offset // _BUCKET_BYTES, (offset + max(size, 1) - 1) // _BUCKET_BYTES + 1)
        for number in sorted({number for bucket in buckets for number in self._at.get(bucket, ())}):
            start, data = self._segments[number]
            first, end = max(start, offset), min(start + len(data), offset + size)
            if first < end:
                room[first - offset : end - offset] = data[first - start : end - start]
        return bytes(room)
