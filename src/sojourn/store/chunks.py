"""Packs of chunks in files: written whole or not at all, read with every chunk verified.

Knows what a pack is (``sojourn.context.pack``), not what its chunks are for. A pack is never changed once it
has its name, so one that was opened stays readable and may be mapped into memory, whatever becomes of its
name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from sojourn.context.memory import CHUNK_BYTES, DIGEST_BYTES, Part
from sojourn.context.pack import (
    GROUP_CHUNKS,
    TRAILER_BYTES,
    Group,
    Index,
    index_bytes,
    open_group,
    raw_bytes,
    read_index,
    split,
    write_pack,
)
from sojourn.model.errors import DamagedContextError

from .files import replacing, translated
from .parallel import verify_chunks

SUFFIX = ".pack"
_IOV_MAX = 512


def write_pack_file(
    path: Path,
    digests: Sequence[bytes],
    chunks: Iterable[bytes | memoryview],
    *,
    compress: bool,
    durable: bool,
) -> int:
    """Write a pack and return its size in bytes.

    Args:
        path: the pack's name (``name_of``) and ``SUFFIX``.
        digests: of each chunk, all different.
        chunks: their bytes, in the same order.
        durable: it must survive a power cut.

    Raises:
        StoreError: the disk is full, read-only or not ours to write; nothing is left behind.
    """
    with replacing(path, durable=durable) as file:
        if not compress:
            _reserve(file.fileno(), raw_bytes(len(digests)))
        for pieces in write_pack(digests, chunks, compress):
            write_pieces(file.fileno(), pieces)
        return file.tell()


def _reserve(descriptor: int, size: int) -> None:
    """Make room for a file that will be just so long. Writing it is a third cheaper then, and a disk that is
    too full says so at once."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # this file system cannot
            raise


def write_pack_to(
    descriptor: int, digests: Sequence[bytes], chunks: Iterable[bytes | memoryview], compress: bool
) -> Index:
    """Write a pack into an empty file that can be read too; return its index."""
    for pieces in write_pack(digests, chunks, compress):
        write_pieces(descriptor, pieces)
    return _read_index(descriptor, os.fstat(descriptor).st_size)


def copy_bytes(source: int, offset: int, target: int, length: int) -> None:
    """Copy so many bytes of a file to the end of another.

    Raises:
        DamagedContextError: the file ends earlier.
    """
    while length:
        done = os.sendfile(target, source, offset, length)
        if not done:
            raise DamagedContextError("a pack is cut off", "Try: an older checkpoint")
        offset, length = offset + done, length - done


def pack_in_memory(digests: Sequence[bytes], chunks: Iterable[bytes | memoryview]) -> PackFile:
    """A pack that is in no directory: it takes memory, and is gone when the last who has it open or mapped
    is.

    Raises:
        StoreError: there is no memory for it.
    """
    with translated(Path("memory")):
        descriptor = os.memfd_create("sojourn-pack", os.MFD_CLOEXEC)
        try:
            index = write_pack_to(descriptor, digests, chunks, compress=False)
            return PackFile(descriptor, 0, index, checked=True)
        except BaseException:
            os.close(descriptor)
            raise


def write_pieces(descriptor: int, pieces: Sequence[bytes | memoryview]) -> None:
    """Write all pieces one after the other, from where they lie."""
    for start in range(0, len(pieces), _IOV_MAX):
        rest = [memoryview(piece) for piece in pieces[start : start + _IOV_MAX] if len(piece)]
        while rest:
            done = os.writev(descriptor, rest)
            if not done:
                raise OSError(errno.ENOSPC, "a write came up short")
            while rest and done >= len(rest[0]):
                done -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][done:]


class PackFile:
    """A pack that is open. Close it; maps of it stay. For one thread at a time.

    Attributes:
        descriptor: the open file.
        offset: where in it the pack begins.
        index: what is in it.
        checked: the chunks need not be verified: we wrote them ourselves, to memory.
    """

    def __init__(self, descriptor: int, offset: int, index: Index, checked: bool = False) -> None:
        self.checked = checked
        self._opened: tuple[Group, memoryview] | None = None
        self.descriptor = descriptor
        self.offset = offset
        self.index = index

    @classmethod
    def open(cls, path: Path) -> PackFile:
        """Open a pack and read its index.

        Raises:
            DamagedContextError: it is not there, or is not the pack of that name.
            OtherVersionError: it is of another format.
            StoreError: it cannot be read.
        """
        with translated(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                raise DamagedContextError(f"{path} is missing", "Try: an older checkpoint") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DamagedContextError(f"{path} is no file")
            with translated(path):
                index = _read_index(descriptor, status.st_size)
            if index.name != path.name.removesuffix(SUFFIX):
                raise DamagedContextError(f"{path} is another pack than its name says")
            return cls(descriptor, 0, index)
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def again(self) -> PackFile:
        """The same pack, open a second time."""
        return PackFile(os.dup(self.descriptor), self.offset, self.index, self.checked)

    def chunk(self, position: int) -> memoryview:
        """The bytes of one chunk, verified."""
        room = memoryview(bytearray(CHUNK_BYTES))
        digest = self.index.digests[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]
        self.read_into(Part(0, position, 0, (digest,)), room)
        return room

    @cached_property
    def positions(self) -> dict[bytes, int]:
        return self.index.positions()

    def raw_offset(self, part: Part) -> int | None:
        """Where in the file the chunks of ``part`` lie as they are, in bytes; None if they are compressed."""
        at = self.index.raw_offset(part.first, len(part.digests))
        return None if at is None else self.offset + at

    def read_into(self, part: Part, view: memoryview) -> None:
        """Fill ``view``, of ``part.length`` bytes, with the chunks of ``part``, each verified.

        Raises:
            DamagedContextError: they are not what they were; what is in ``view`` is void.
        """
        at = self.raw_offset(part)
        if at is not None:
            _read_into(self.descriptor, at, view)
        else:
            self._read_groups(part, view)
        self.check(part, view)

    def check(self, part: Part, view: memoryview) -> None:
        """Verify chunks that were read or mapped.

        Raises:
            DamagedContextError: they are not what they were.
        """
        if not self.checked:
            verify_chunks(part.digests, view)

    def _read_groups(self, part: Part, view: memoryview) -> None:
        position, end, done = part.first, part.first + len(part.digests), 0
        while position < end:
            group = self.index.group_of(position)
            data = self._open(group)
            count = min(end, group.first + group.count) - position
            start = (position - group.first) * CHUNK_BYTES
            view[done : done + count * CHUNK_BYTES] = data[start : start + count * CHUNK_BYTES]
            position, done = position + count, done + count * CHUNK_BYTES

    def _open(self, group: Group) -> memoryview:
        """The chunks of a group. The last one is kept: small parts mostly lie one after the other."""
        if self._opened is None or self._opened[0] != group:
            stored = os.pread(self.descriptor, group.length, self.offset + group.offset)
            self._opened = group, open_group(group, stored)
        return self._opened[1]

    def verify_all(self) -> None:
        """Read everything and verify it.

        Raises:
            DamagedContextError: a chunk is not what it was.
        """
        room = memoryview(bytearray(GROUP_CHUNKS * CHUNK_BYTES))
        digests = list(split(self.index.digests))
        for at in range(0, len(digests), GROUP_CHUNKS):
            part = Part(0, at, 0, tuple(digests[at : at + GROUP_CHUNKS]))
            self.read_into(part, room[: part.length])


def _read_index(descriptor: int, size: int) -> Index:
    trailer = os.pread(descriptor, TRAILER_BYTES, max(0, size - TRAILER_BYTES))
    length = index_bytes(trailer)
    if length > size:
        raise DamagedContextError("a pack is cut off")
    return read_index(os.pread(descriptor, length, size - length), size)


def _read_into(descriptor: int, offset: int, view: memoryview) -> None:
    while view:
        done = os.preadv(descriptor, [view], offset)
        if not done:
            raise DamagedContextError("a pack is cut off", "Try: an older checkpoint")
        view, offset = view[done:], offset + done
