"""Listings of host directories that a guest reads in batches.

A listing is a snapshot, taken when it starts from the beginning, so that its cookies stay right whatever
happens to the directory meanwhile, and a large directory is read once, not once for each batch. Snapshots
are packed (some 30 bytes an entry), and all of one file system share a fixed amount of memory: when it is
used up the one taken longest ago is dropped, and taken again should its listing go on.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator
from typing import Any

from .hostcalls import LISTING_FLAGS, file_type, number_on
from .wasi.abi import Errno, FileType
from .wasi.checking import cut, damaged, fields, pieces
from .wasi.vfs import NAME_BYTES_MAX, Entry, WasiError

SNAPSHOT_BYTES_MAX = 256 << 20
_FILE_TYPES = {int(kind) for kind in FileType}
_FIXED_BYTES = 17  # of an entry, its name aside: offset, number, type


class Snapshot:
    """The entries of one directory, packed. The cookie of an entry is its place, counted from 1."""

    def __init__(self) -> None:
        self._numbers = array("Q")
        self._types = bytearray()
        self._ends = array("Q")
        self._names = bytearray()

    @property
    def held_bytes(self) -> int:
        return len(self._names) + _FIXED_BYTES * len(self._types)

    def add(self, name: bytes, number: int, filetype: FileType) -> None:
        self._numbers.append(number)
        self._types.append(filetype)
        self._names += name
        self._ends.append(len(self._names))

    def save(self) -> dict[str, Any]:
        """As plain data; it is long when the directory is."""
        return {
            "names": cut(b"\0".join(self._each_name())),
            "numbers": cut(_little_endian(self._numbers).tobytes()),
            "types": cut(self._types),
        }

    @classmethod
    def restored(cls, state: Any) -> Snapshot:
        """What ``save`` gave.

        Raises:
            ContextError: it is no listing.
        """
        saved = fields(state, ("names", "numbers", "types"), "a listing")
        names, numbers, types = (
            b"".join(pieces(saved[name], "a listing")) for name in ("names", "numbers", "types")
        )
        if len(numbers) != 8 * len(types) or len(names) > SNAPSHOT_BYTES_MAX:
            raise damaged("a listing has more of one thing than of another")
        parts = names.split(b"\0") if types else []
        if len(parts) != len(types) or (names and not types) or not set(types) <= _FILE_TYPES:
            raise damaged("a listing has more of one thing than of another")
        snapshot = cls()
        order = array("Q", numbers)
        for name, number, filetype in zip(parts, _little_endian(order), types, strict=True):
            if not 0 < len(name) <= NAME_BYTES_MAX or b"/" in name:
                raise damaged("a listing has a name that cannot be")
            snapshot.add(name, number, FileType(filetype))
        return snapshot

    def _each_name(self) -> Iterator[bytes]:
        start = 0
        for end in self._ends:
            yield bytes(self._names[start:end])
            start = end

    def after(self, cookie: int) -> Iterator[Entry]:
        for at in range(min(cookie, len(self._types)), len(self._types)):
            start = self._ends[at - 1] if at else 0
            name = bytes(self._names[start : self._ends[at]])
            yield Entry(at + 1, self._numbers[at], FileType(self._types[at]), name)


class Snapshots:
    """The snapshots of one file system, by the handle that each belongs to."""

    def __init__(self, bytes_max: int = SNAPSHOT_BYTES_MAX) -> None:
        self._max = bytes_max
        self._used = 0
        self._held: dict[object, Snapshot] = {}  # the longest held first

    def get(self, owner: object) -> Snapshot | None:
        return self._held.get(owner)

    def take(self, owner: object, directory: int, home_device: int) -> Snapshot:
        """Read the directory that the descriptor ``directory`` is on.

        Raises:
            WasiError: ``ENOMEM``, it alone is more than all snapshots may be.
        """
        self.drop(owner)
        snapshot = Snapshot()
        listing = os.open(".", LISTING_FLAGS, dir_fd=directory)
        try:
            device = os.fstat(listing).st_dev
            with os.scandir(listing) as found:
                for item in found:
                    snapshot.add(
                        os.fsencode(item.name),
                        number_on(item.inode(), device, home_device),
                        _type_of(item),
                    )
                    if snapshot.held_bytes > self._max:
                        raise WasiError(Errno.ENOMEM)
        finally:
            os.close(listing)
        self.keep(owner, snapshot)
        return snapshot

    def drop(self, owner: object) -> None:
        snapshot = self._held.pop(owner, None)
        if snapshot is not None:
            self._used -= snapshot.held_bytes

    def clear(self) -> None:
        self._held.clear()
        self._used = 0

    def keep(self, owner: object, snapshot: Snapshot) -> None:
        """Hold ``snapshot`` for ``owner``, who has none."""
        while self._held and self._used + snapshot.held_bytes > self._max:
            self.drop(next(iter(self._held)))
        self._held[owner] = snapshot
        self._used += snapshot.held_bytes


def _little_endian(numbers: array[int]) -> array[int]:
    """A copy with the byte order changed where it is the other one here."""
    if sys.byteorder == "little":
        return numbers
    swapped = numbers[:]
    swapped.byteswap()
    return swapped


def _type_of(item: os.DirEntry[str]) -> FileType:
    """Of the entry itself, mostly without another system call."""
    if item.is_file(follow_symlinks=False):
        return FileType.REGULAR_FILE
    if item.is_dir(follow_symlinks=False):
        return FileType.DIRECTORY
    if item.is_symlink():
        return FileType.SYMBOLIC_LINK
    try:
        return file_type(item.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return FileType.UNKNOWN
