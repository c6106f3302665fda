"""What the virtual system calls ask of a file system: single-component operations on open handles.

A path never reaches a file system. The resolver (``resolve.py``) walks it component by component, so
that ``..``, absolute paths and symbolic links mean the same in every mount and can leave none: a file
system only ever sees one plain name at a time, relative to a directory handle that it gave out itself.

Handles own what they hold (a host descriptor, a reference to an inode) until ``close``; closing twice
does nothing. Failures are ``WasiError`` with the errno the guest shall see.

Names are ``bytes``: one component, never empty, ``.``, ``..``, containing ``/`` or NUL, and at most
``NAME_BYTES_MAX`` long; the resolver checks that before any file system sees them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from .abi import Errno, FileType

NAME_BYTES_MAX = 255
PATH_BYTES_MAX = 4096
SYMLINKS_MAX = 32


class WasiError(Exception):
    """A system call fails with ``errno``."""

    def __init__(self, errno: Errno) -> None:
        super().__init__(errno.name)
        self.errno = errno


@dataclass(frozen=True)
class Stat:
    """What ``filestat`` reports. Times are nanoseconds since 1970; ``size`` is bytes."""

    filetype: FileType
    ino: int
    size: int
    nlink: int
    atim: int
    mtim: int
    ctim: int


@dataclass(frozen=True)
class Entry:
    """One directory entry. ``cookie`` resumes a listing after this entry (see ``Directory.entries``)."""

    cookie: int
    ino: int
    filetype: FileType
    name: bytes


class Node(Protocol):
    """A handle on one object of a file system."""

    @property
    def filetype(self) -> FileType: ...

    @property
    def filesystem(self) -> FileSystem: ...

    def identity(self) -> object:
        """Hashable; equal for two handles of one object in one file system."""
        ...

    def stat(self) -> Stat: ...

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        """Set access and modification time, in nanoseconds; None leaves one as it is."""
        ...

    def close(self) -> None: ...


class File(Node, Protocol):
    """A regular file, opened. Reading past the end gives ``b""``; writing past it fills with zeros."""

    def pread(self, size: int, offset: int) -> bytes | memoryview: ...

    def pwrite(self, data: bytes | memoryview, offset: int) -> int: ...

    def append(self, data: bytes | memoryview) -> int:
        """Write at the end, atomically; return the offset after the data (the new position)."""
        ...

    def truncate(self, size: int) -> None: ...

    def allocate(self, offset: int, length: int) -> None: ...

    def sync(self, data_only: bool) -> None: ...


class Symlink(Node, Protocol):
    def readlink(self) -> bytes: ...


class Directory(Node, Protocol):
    """A directory. ``lookup`` never follows a symbolic link; no operation takes more than one name."""

    def lookup(self, name: bytes) -> Node:
        """A handle on the object called ``name``; ``File`` handles from here are for stat and link
        only (neither read nor written): ``open`` gives one that can be used. ENOENT when absent."""
        ...

    def open(
        self, name: bytes, *, read: bool, write: bool, create: bool, exclusive: bool, truncate: bool
    ) -> File:
        """Open a regular file. ELOOP when ``name`` is a symbolic link (the resolver follows links),
        EISDIR when it is a directory, EEXIST with ``exclusive``, EROFS where nothing may be written."""
        ...

    def mkdir(self, name: bytes) -> None: ...

    def rmdir(self, name: bytes) -> None: ...

    def unlink(self, name: bytes) -> None: ...

    def symlink(self, name: bytes, target: bytes) -> None: ...

    def link(self, name: bytes, target: Node) -> None:
        """A hard link to ``target``, a handle of the same file system (else EXDEV)."""
        ...

    def rename(self, name: bytes, to: Directory, to_name: bytes) -> None:
        """``to`` is a directory of the same file system (else EXDEV)."""
        ...

    def entries(self, cookie: int) -> Iterator[Entry]:
        """The entries after ``cookie`` (0: from the start), without ``.`` and ``..``. A listing that goes
        on with the cookie of any entry it was given neither repeats nor skips one that stayed. One
        handle may serve several descriptors, so listings of it may interleave."""
        ...

    def sync(self, data_only: bool) -> None: ...

    def save_listing(self) -> Any:
        """What listings of this handle need besides their cookies, as plain data; None for nothing."""
        ...

    def restore_listing(self, state: Any) -> None:
        """Make this handle list what the one listed that ``state`` (not None) was saved of.

        Raises:
            ContextError: the state is none of a listing.
        """
        ...


class FileSystem(Protocol):
    """What can be mounted."""

    @property
    def device(self) -> int:
        """A number that differs between the mounts of one guest (``filestat.dev``)."""
        ...

    @property
    def writable(self) -> bool: ...

    def root(self) -> Directory:
        """A new handle on the root directory."""
        ...

    def path_of(self, node: Node) -> bytes | None:
        """Where the object of an open handle is now: the names from the root, without links; ``b""`` for the
        root itself. None when it has no name any more."""
        ...

    def close(self) -> None: ...


class Quota(Protocol):
    """Counts the bytes that file systems hold for one guest; ``used`` of at most ``most``."""

    used: int
    most: int

    def charge(self, amount: int) -> None:
        """Take ``amount`` bytes (negative gives back). Raises ``LimitReached`` when there are not so many."""
        ...
