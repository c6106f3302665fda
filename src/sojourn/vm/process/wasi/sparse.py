"""The content of a file in memory, with holes: what was never written takes no room.

A file is cut into chunks of ``CHUNK_BYTES``; a chunk holds as many bytes as were ever written into its front,
and reads as zeros behind them. So a file of terabytes with one byte at its end costs a chunk. A chunk costs
``CHUNK_COST_BYTES`` besides its bytes, or files of single bytes far apart would hold a hundred times what is
counted.

Plain data: ``chunks`` by number, and ``size``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

CHUNK_BYTES = 1 << 16
CHUNK_COST_BYTES = 192  # of one chunk in Python's memory, its bytes aside


@dataclass(slots=True)
class SparseBytes:
    """Bytes of length ``size``, which take the room of ``held`` bytes. No chunk is longer than
    ``CHUNK_BYTES``; there is no empty one."""

    size: int = 0
    held: int = 0
    chunks: dict[int, bytearray] = field(default_factory=dict)

    def read(self, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset``; fewer at the end."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        number, at = divmod(offset, CHUNK_BYTES)
        if at + size <= CHUNK_BYTES:
            return self._piece(number, at, size)
        return b"".join(self._piece(*span) for span in _spans(offset, size))

    def _piece(self, number: int, at: int, size: int) -> bytes:
        chunk = self.chunks.get(number)
        if chunk is None:
            return bytes(size)
        data = bytes(memoryview(chunk)[at : at + size])
        return data if len(data) == size else data + bytes(size - len(data))

    def growth(self, offset: int, size: int) -> int:
        """How many more bytes a write of ``size`` bytes at ``offset`` will hold."""
        return sum(max(0, at + length - self._cost(n)) for n, at, length in _spans(offset, size))

    def _cost(self, number: int) -> int:
        """The bytes that a chunk has; less than none, by what it costs, when it is not there."""
        chunk = self.chunks.get(number)
        return -CHUNK_COST_BYTES if chunk is None else len(chunk)

    def dense_growth(self, end: int) -> int:
        """How many more bytes will be held when all from ``size`` to ``end``, behind it, is written."""
        first = min(end, (self.size // CHUNK_BYTES + 1) * CHUNK_BYTES)
        behind = end - first
        return (
            self.growth(self.size, first - self.size) + behind + -(-behind // CHUNK_BYTES) * CHUNK_COST_BYTES
        )

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write ``data`` (of bytes) at ``offset``, lengthening where need be."""
        done = 0
        for number, at, length in _spans(offset, len(data)):
            before = self._cost(number)
            chunk = self.chunks.setdefault(number, bytearray())
            if len(chunk) < at:
                chunk += bytes(at - len(chunk))
            chunk[at : at + length] = data[done : done + length]
            self.held += len(chunk) - before
            done += length
        self.size = max(self.size, offset + len(data))

    def resize(self, size: int) -> None:
        """Cut off what is behind ``size``, or lengthen with a hole."""
        if size < self.size:
            last, keep = divmod(size, CHUNK_BYTES)
            for number in [n for n in self.chunks if n >= last]:
                chunk = self.chunks[number]
                left = keep if number == last else 0
                self.held -= max(0, len(chunk) - left)
                del chunk[left:]
                if not chunk:
                    del self.chunks[number]
                    self.held -= CHUNK_COST_BYTES
        self.size = size


def _spans(offset: int, size: int) -> Iterator[tuple[int, int, int]]:
    """The range in pieces of one chunk each: (chunk number, start in it, length)."""
    end = offset + size
    while offset < end:
        number, at = divmod(offset, CHUNK_BYTES)
        length = min(CHUNK_BYTES - at, end - offset)
        yield number, at, length
        offset += length
