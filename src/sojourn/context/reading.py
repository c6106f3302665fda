"""Looks into the memory of a stored context, without a machine: only what is asked for is fetched.

For whoever wants to know what a process is doing. The context may come from anybody, so what one reader
fetches is bounded, however often a hostile one sends it to and fro.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .memory import CHUNK_BYTES, DIGEST_BYTES, ZERO_CHUNK, Kind, Memory

FETCHES_MAX = 1 << 15  # chunks: half a GiB
KEPT_MAX = 1 << 12


class UnreadableError(ValueError):
    """What was asked for is not in the memory, is not at hand, or is too much. The message says which."""


class MemoryReader:
    """The bytes of a stored memory by address. For one thread at a time.

    Args:
        chunk: gives the bytes of a stored chunk by its digest.
        base: gives so many bytes of the base from an offset on; None when the base is not at hand.
    """

    def __init__(
        self,
        memory: Memory,
        chunk: Callable[[bytes], bytes | memoryview],
        base: Callable[[int, int], bytes | memoryview] | None,
    ) -> None:
        self.size_bytes = memory.size_bytes
        self._chunk = chunk
        self._base = base
        self._kinds = b"".join(bytes((kind,)) * count for kind, count in memory.runs)
        self._digests = memory.digests
        self._ranks = _ranks(memory)
        self._kept: dict[int | bytes, bytes] = {}
        self._fetches = 0

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes from ``address`` on.

        Raises:
            UnreadableError: they are not there.
            DamagedContextError: a chunk is not what it was.
        """
        end = address + size
        if not 0 <= address <= end <= self.size_bytes:
            raise UnreadableError(f"{size:,} bytes at {address:#x}, outside of the memory")
        first, last = address // CHUNK_BYTES, max(address, end - 1) // CHUNK_BYTES
        if first == last and size:
            start = address - first * CHUNK_BYTES
            return self._content(first)[start : start + size]
        pieces = b"".join(self._content(index) for index in range(first, last + 1)) if size else b""
        return pieces[address - first * CHUNK_BYTES :][:size]

    def find(self, wanted: bytes) -> Iterator[int]:
        """Where ``wanted`` lies inside one chunk, the lowest address first. Passed over are chunks that are
        zero, not at hand, or the same as one that was looked through.

        Raises:
            UnreadableError: it would take too much to look further.
        """
        seen: set[bytes] = set()
        for index, kind in enumerate(self._kinds):
            if kind == Kind.ZERO or (kind == Kind.BASE and self._base is None):
                continue
            if kind == Kind.STORED:
                digest = self._digest(index)
                if digest in seen:
                    continue
                seen.add(digest)
            content, at = self._content(index), -1
            while (at := content.find(wanted, at + 1)) >= 0:
                yield index * CHUNK_BYTES + at

    def _digest(self, index: int) -> bytes:
        at = self._ranks[index] * DIGEST_BYTES
        return self._digests[at : at + DIGEST_BYTES]

    def _content(self, index: int) -> bytes:
        kind = self._kinds[index]
        if kind == Kind.ZERO:
            return ZERO_CHUNK
        key = self._digest(index) if kind == Kind.STORED else index
        content = self._kept.get(key)
        if content is None:
            content = self._fetch(key)
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            self._kept[key] = content
        return content

    def _fetch(self, key: int | bytes) -> bytes:
        self._fetches += 1
        if self._fetches > FETCHES_MAX:
            raise UnreadableError(f"more than {FETCHES_MAX * CHUNK_BYTES:,} bytes would have to be read")
        if isinstance(key, bytes):
            return bytes(self._chunk(key))
        if self._base is None:
            raise UnreadableError("what it began with, an image or its module, is not here")
        content = bytes(self._base(key * CHUNK_BYTES, CHUNK_BYTES))
        if len(content) != CHUNK_BYTES:
            raise UnreadableError("what it began with is smaller than it says")
        return content


def _ranks(memory: Memory) -> list[int]:
    """For each chunk, how many stored ones are before it."""
    ranks: list[int] = []
    stored = 0
    for kind, count in memory.runs:
        step = kind is Kind.STORED
        ranks += range(stored, stored + count) if step else [stored] * count
        stored += count * step
    return ranks
