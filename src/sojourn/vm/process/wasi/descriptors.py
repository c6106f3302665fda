"""The descriptor table: small numbers to open files, directories and streams.

A descriptor is plain data (rights, flags, offset, where it came from) beside one live handle; with the data
a later host opens the same things again (``descriptors_state.py``). A directory handle may be shared by
descriptors (``path_open`` of ``.``), so it is counted.

New descriptors take the lowest free number.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from enum import StrEnum

from .abi import Errno
from .outside import LimitReached, Sink, Source
from .vfs import Directory, File, Node, WasiError

PATH_KEPT_BYTES_MAX = 1 << 16  # of one descriptor: opened name by name, a path grows without end


class Kind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SOURCE = "stream in"
    SINK = "stream out"


class SharedDirectory:
    """A directory handle with the number of its holders; the last one to let go closes it."""

    __slots__ = ("directory", "holders")

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.holders = 0

    def release(self) -> None:
        self.holders -= 1
        if self.holders == 0:
            self.directory.close()


class Descriptor:
    """One open descriptor. Exactly one of ``file``, ``shared``, ``source`` and ``sink`` is set.

    Attributes:
        path: where it was opened, from the root of the guest's view; empty for streams.
        preopen: the name that a preopened directory tells the guest; None for all others.
        role: which of the process's streams it is; empty for all others.
        counted: what is written here counts as output of the process.
        pending: bytes taken from the source that the guest has not read yet (``b""``: the end).
    """

    __slots__ = (
        "counted",
        "file",
        "flags",
        "inheriting",
        "offset",
        "path",
        "pending",
        "preopen",
        "rights",
        "role",
        "shared",
        "sink",
        "source",
    )

    def __init__(self, rights: int, inheriting: int, *, flags: int = 0, path: bytes = b"") -> None:
        self.rights = rights
        self.inheriting = inheriting
        self.flags = flags
        self.offset = 0
        self.path = path
        self.preopen: bytes | None = None
        self.role = ""
        self.counted = False
        self.pending: bytes | None = None
        self.file: File | None = None
        self.shared: SharedDirectory | None = None
        self.source: Source | None = None
        self.sink: Sink | None = None

    def hold(self, shared: SharedDirectory) -> None:
        shared.holders += 1
        self.shared = shared

    @property
    def kind(self) -> Kind:
        if self.file is not None:
            return Kind.FILE
        if self.shared is not None:
            return Kind.DIRECTORY
        return Kind.SINK if self.source is None else Kind.SOURCE

    @property
    def tty(self) -> bool:
        stream = self.sink if self.source is None else self.source
        return stream is not None and stream.tty

    @property
    def directory(self) -> Directory:
        if self.shared is None:
            raise WasiError(Errno.ENOTDIR)
        return self.shared.directory

    def node(self) -> Node | None:
        """The file or directory; None for a stream."""
        return self.file if self.shared is None else self.shared.directory

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        if self.shared is not None:
            self.shared.release()


class DescriptorTable:
    """At most ``most`` descriptors, by number."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.entries: dict[int, Descriptor] = {}
        self._free: list[int] = []
        self._next = 0

    def need_room(self) -> None:
        """
        Raises:
            LimitReached: ``descriptors``.
        """
        if len(self.entries) >= self.most:
            raise LimitReached("descriptors")

    def add(self, descriptor: Descriptor) -> int:
        """Its number. The caller has asked for room."""
        assert len(self.entries) < self.most
        if self._free:
            number = heapq.heappop(self._free)
        else:
            number = self._next
            self._next += 1
        self.entries[number] = descriptor
        return number

    def get(self, number: int) -> Descriptor:
        descriptor = self.entries.get(number)
        if descriptor is None:
            raise WasiError(Errno.EBADF)
        return descriptor

    def close(self, number: int) -> None:
        self.get(number)
        descriptor = self.entries.pop(number)
        heapq.heappush(self._free, number)
        descriptor.close()

    def renumber(self, number: int, to: int) -> None:
        """Move ``number`` to ``to``, which must be open and is closed."""
        moved, replaced = self.get(number), self.get(to)
        if number != to:
            self.entries[to] = moved
            del self.entries[number]
            heapq.heappush(self._free, number)
            replaced.close()

    def put(self, entries: Mapping[int, Descriptor]) -> None:
        """Take these descriptors, by number, into a table that has none.

        Raises:
            LimitReached: ``descriptors``; none was taken.
        """
        assert not self.entries
        if len(entries) > self.most:
            raise LimitReached("descriptors")
        self._next = max(entries, default=-1) + 1
        self._free = [number for number in range(self._next) if number not in entries]
        self.entries.update(entries)

    def close_all(self) -> None:
        for number in list(self.entries):
            self.close(number)
