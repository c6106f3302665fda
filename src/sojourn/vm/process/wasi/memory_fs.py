"""The private file system of a guest: directories, files and links held in memory.

All state is one table of inodes, plain data, keyed by number; handles hold a number and a reference to
its inode. An inode lives while a name or a handle refers to it, so an unlinked open file works until it
is closed. Semantics are those of POSIX; errors are those Linux gives.

Invariants:

- What is held is charged to the quota *before* it is allocated: bytes of data, and fixed amounts per
  inode and per name, so that a million empty files are bounded like one large file.
- A directory numbers its names in the order of their making. That number is the name's cookie, so a
  listing goes on correctly whatever is made or removed in between.
- Nothing is changed when a call fails.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .abi import Errno, FileType
from .checking import damaged
from .sparse import SparseBytes
from .vfs import Directory, Entry, File, Node, Quota, Stat, WasiError

INODE_BYTES = 512  # what an inode costs, its data aside
ENTRY_BYTES = 192  # what a name costs, its bytes aside
FILE_BYTES_MAX = 1 << 40
ROOT_INO = 1
_ZEROS = bytes(1 << 20)
_COMPACT_AT = 32


@dataclass(slots=True)
class Inode:
    """What all kinds of object have. ``opens`` counts handles and is not part of a saved state."""

    ino: int
    atim: int
    mtim: int
    ctim: int
    nlink: int = 0
    opens: int = 0


@dataclass(slots=True)
class FileInode(Inode):
    data: SparseBytes = field(default_factory=SparseBytes)


@dataclass(slots=True)
class SymlinkInode(Inode):
    target: bytes = b""


@dataclass(slots=True)
class DirectoryInode(Inode):
    """``names`` maps a name to (inode number, cookie); ``order`` lists (cookie, name) by cookie and may
    hold names that are gone, which ``names`` tells."""

    parent: int = ROOT_INO
    names: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    order: list[tuple[int, bytes]] = field(default_factory=list)
    next_cookie: int = 1


_TYPES = {
    FileInode: FileType.REGULAR_FILE,
    DirectoryInode: FileType.DIRECTORY,
    SymlinkInode: FileType.SYMBOLIC_LINK,
}
_I = TypeVar("_I", bound=Inode)


def _filetype(inode: Inode) -> FileType:
    return _TYPES[type(inode)]


class MemoryFileSystem:
    """A writable file system in memory.

    Args:
        quota: is charged for all that is held.
        now: gives the time for new and changed objects, in nanoseconds since 1970.
        device: its ``filestat.dev``.
    """

    def __init__(self, quota: Quota, now: Callable[[], int], device: int = 1) -> None:
        self.inodes: dict[int, Inode] = {}
        self.next_ino = ROOT_INO
        self.quota = quota
        self.now = now
        self._device = device
        quota.charge(INODE_BYTES)
        root = self.add(DirectoryInode)
        root.nlink = 2

    @property
    def device(self) -> int:
        return self._device

    @property
    def writable(self) -> bool:
        return True

    def root(self) -> MemoryDirectory:
        root = self.inodes[ROOT_INO]
        assert isinstance(root, DirectoryInode)
        return MemoryDirectory(self, root)

    def close(self) -> None:
        """Give up everything. Handles that are still open keep their own inode."""
        self.inodes.clear()

    def add(self, kind: type[_I]) -> _I:
        """A new inode without a name; the caller has charged for it."""
        time = self.now()
        inode = kind(self.next_ino, time, time, time)
        self.next_ino += 1
        self.inodes[inode.ino] = inode
        return inode

    def drop_unused(self, inode: Inode) -> None:
        """Free ``inode`` when neither name nor handle refers to it any more."""
        if inode.nlink == 0 and inode.opens == 0 and self.inodes.pop(inode.ino, None) is not None:
            held = inode.data.held if isinstance(inode, FileInode) else 0
            held += len(inode.target) if isinstance(inode, SymlinkInode) else 0
            self.quota.charge(-INODE_BYTES - held)

    def path_of(self, node: Node) -> None:
        """What is open here is known by its inode number, with a name or without."""

    def handle(self, inode: Inode) -> Node:
        if isinstance(inode, DirectoryInode):
            return MemoryDirectory(self, inode)
        if isinstance(inode, SymlinkInode):
            return MemorySymlink(self, inode)
        assert isinstance(inode, FileInode)
        return MemoryFile(self, inode, read=False, write=False)


class MemoryNode:
    """A handle on one inode."""

    def __init__(self, filesystem: MemoryFileSystem, inode: Inode) -> None:
        self._fs = filesystem
        self._inode = inode
        self._open = True
        inode.opens += 1

    @property
    def filetype(self) -> FileType:
        return _filetype(self._inode)

    @property
    def filesystem(self) -> MemoryFileSystem:
        return self._fs

    @property
    def ino(self) -> int:
        return self._inode.ino

    def identity(self) -> int:
        return self._inode.ino

    def stat(self) -> Stat:
        inode = self._inode
        return Stat(self.filetype, inode.ino, self._size(), inode.nlink, inode.atim, inode.mtim, inode.ctim)

    def _size(self) -> int:
        return 0

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        inode = self._inode
        inode.atim = inode.atim if atim is None else atim
        inode.mtim = inode.mtim if mtim is None else mtim
        inode.ctim = self._fs.now()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._inode.opens -= 1
            self._fs.drop_unused(self._inode)


class MemorySymlink(MemoryNode):
    _inode: SymlinkInode

    def readlink(self) -> bytes:
        return self._inode.target

    def _size(self) -> int:
        return len(self._inode.target)


class MemoryFile(MemoryNode):
    """An open file. A handle from ``lookup`` can be neither read nor written."""

    _inode: FileInode

    def __init__(self, filesystem: MemoryFileSystem, inode: FileInode, *, read: bool, write: bool) -> None:
        super().__init__(filesystem, inode)
        self._read = read
        self._write = write

    def _size(self) -> int:
        return self._inode.data.size

    def pread(self, size: int, offset: int) -> bytes:
        if not self._read:
            raise WasiError(Errno.EBADF)
        return self._inode.data.read(offset, size)

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        self._need_write()
        length = len(data)
        if length:
            _check_end(offset + length)
            held = self._inode.data
            self._fs.quota.charge(held.growth(offset, length))
            held.write(offset, data)
            self._changed()
        return length

    def append(self, data: bytes | memoryview) -> int:
        self.pwrite(data, self._inode.data.size)
        return self._inode.data.size

    def truncate(self, size: int) -> None:
        """Cut, or lengthen with a hole, which costs nothing."""
        self._need_write()
        _check_end(size)
        before = self._inode.data.held
        self._inode.data.resize(size)
        self._fs.quota.charge(self._inode.data.held - before)
        self._changed()

    def allocate(self, offset: int, length: int) -> None:
        """Lengthen with zeros that are held, so that writing them later cannot hit the limit."""
        self._need_write()
        _check_end(offset + length)
        held = self._inode.data
        end = offset + length
        if end > held.size:
            self._fs.quota.charge(held.dense_growth(end))
            for at in range(held.size, end, len(_ZEROS)):
                held.write(at, memoryview(_ZEROS)[: end - at])
            self._changed()

    def sync(self, data_only: bool) -> None:
        """Nothing outlives the guest's memory: there is nothing to write back."""

    def _need_write(self) -> None:
        if not self._write:
            raise WasiError(Errno.EBADF)

    def _changed(self) -> None:
        self._inode.mtim = self._inode.ctim = self._fs.now()


def _check_end(end: int) -> None:
    if end > FILE_BYTES_MAX:
        raise WasiError(Errno.EFBIG)


class MemoryDirectory(MemoryNode):
    """An open directory. One that was removed stays open, empty, and takes nothing new."""

    _inode: DirectoryInode

    def child(self, name: bytes) -> int | None:
        """The number of the inode called ``name``; None when there is none."""
        found = self._inode.names.get(name)
        return None if found is None else found[0]

    def lookup(self, name: bytes) -> Node:
        return self._fs.handle(self._get(name))

    def open(
        self, name: bytes, *, read: bool, write: bool, create: bool, exclusive: bool, truncate: bool
    ) -> File:
        if name not in self._inode.names and create:
            return MemoryFile(self._fs, self._make(FileInode, name), read=read, write=write)
        inode = self._get(name)
        if create and exclusive:
            raise WasiError(Errno.EEXIST)
        if isinstance(inode, SymlinkInode):
            raise WasiError(Errno.ELOOP)
        if not isinstance(inode, FileInode):
            raise WasiError(Errno.EISDIR)
        if truncate:
            self._empty(inode)
        return MemoryFile(self._fs, inode, read=read, write=write)

    def _empty(self, inode: FileInode) -> None:
        self._fs.quota.charge(-inode.data.held)
        inode.data.resize(0)
        inode.mtim = inode.ctim = self._fs.now()

    def mkdir(self, name: bytes) -> None:
        made = self._make(DirectoryInode, name)
        made.nlink = 2
        made.parent = self._inode.ino
        self._inode.nlink += 1

    def symlink(self, name: bytes, target: bytes) -> None:
        self._fs.quota.charge(len(target))
        try:
            self._make(SymlinkInode, name).target = target
        except BaseException:
            self._fs.quota.charge(-len(target))
            raise

    def link(self, name: bytes, target: Node) -> None:
        if not isinstance(target, MemoryNode) or target.filesystem is not self._fs:
            raise WasiError(Errno.EXDEV)
        inode = target._inode
        if isinstance(inode, DirectoryInode):
            raise WasiError(Errno.EPERM)
        self._need_free(name)
        if inode.nlink == 0:
            raise WasiError(Errno.ENOENT)
        self._fs.quota.charge(ENTRY_BYTES + len(name))
        self._bind(name, inode.ino)
        inode.nlink += 1
        inode.ctim = self._fs.now()

    def unlink(self, name: bytes) -> None:
        inode = self._get(name)
        if isinstance(inode, DirectoryInode):
            raise WasiError(Errno.EISDIR)
        self._unbind(name)
        self._fs.quota.charge(-ENTRY_BYTES - len(name))
        self._forget(inode)

    def rmdir(self, name: bytes) -> None:
        inode = self._get(name)
        if not isinstance(inode, DirectoryInode):
            raise WasiError(Errno.ENOTDIR)
        if inode.names:
            raise WasiError(Errno.ENOTEMPTY)
        self._unbind(name)
        self._fs.quota.charge(-ENTRY_BYTES - len(name))
        self._forget(inode)

    def rename(self, name: bytes, to: Directory, to_name: bytes) -> None:
        if not isinstance(to, MemoryDirectory) or to.filesystem is not self._fs:
            raise WasiError(Errno.EXDEV)
        inode = self._get(name)
        if to._inode.nlink == 0:
            raise WasiError(Errno.ENOENT)
        if isinstance(inode, DirectoryInode) and to._is_inside(inode):
            raise WasiError(Errno.EINVAL)
        replaced = self._replaceable(inode, to, to_name)
        if replaced is inode:
            return
        self._fs.quota.charge(len(to_name) - len(name))
        if replaced is not None:
            to._unbind(to_name)
            self._fs.quota.charge(-ENTRY_BYTES - len(to_name))
            to._forget(replaced)
        self._unbind(name)
        to._bind(to_name, inode.ino)
        if isinstance(inode, DirectoryInode):
            self._inode.nlink -= 1
            to._inode.nlink += 1
            inode.parent = to._inode.ino
        inode.ctim = self._fs.now()

    def _replaceable(self, inode: Inode, to: MemoryDirectory, to_name: bytes) -> Inode | None:
        """What ``to_name`` is now, if ``inode`` may take its place."""
        ino = to.child(to_name)
        if ino is None or ino == inode.ino:
            return None if ino is None else inode
        old = self._fs.inodes[ino]
        if isinstance(old, DirectoryInode):
            if self._is_inside(old):
                raise WasiError(Errno.ENOTEMPTY)
            if not isinstance(inode, DirectoryInode):
                raise WasiError(Errno.EISDIR)
            if old.names:
                raise WasiError(Errno.ENOTEMPTY)
        elif isinstance(inode, DirectoryInode):
            raise WasiError(Errno.ENOTDIR)
        return old

    def _is_inside(self, directory: DirectoryInode) -> bool:
        at = self._inode
        while at is not directory:
            if at.ino == ROOT_INO:
                return False
            up = self._fs.inodes[at.parent]
            assert isinstance(up, DirectoryInode)
            at = up
        return True

    def entries(self, cookie: int) -> Iterator[Entry]:
        order, names = self._inode.order, self._inode.names
        index = bisect_right(order, cookie, key=lambda item: item[0])
        while index < len(order):
            at, name = order[index]
            index += 1
            found = names.get(name)
            if found is not None and found[1] == at:
                yield Entry(at, found[0], _filetype(self._fs.inodes[found[0]]), name)

    def sync(self, data_only: bool) -> None:
        """Nothing outlives the guest's memory: there is nothing to write back."""

    def save_listing(self) -> None:
        """A cookie says all: a name keeps its own."""

    def restore_listing(self, state: Any) -> None:
        raise damaged("a listing of a directory that needs none")

    def _size(self) -> int:
        return len(self._inode.names)

    def _get(self, name: bytes) -> Inode:
        found = self._inode.names.get(name)
        if found is None:
            raise WasiError(Errno.ENOENT)
        return self._fs.inodes[found[0]]

    def _make(self, kind: type[_I], name: bytes) -> _I:
        self._need_free(name)
        self._fs.quota.charge(INODE_BYTES + ENTRY_BYTES + len(name))
        inode = self._fs.add(kind)
        inode.nlink = 1
        self._bind(name, inode.ino)
        return inode

    def _need_free(self, name: bytes) -> None:
        if name in self._inode.names:
            raise WasiError(Errno.EEXIST)
        if self._inode.nlink == 0:
            raise WasiError(Errno.ENOENT)

    def _bind(self, name: bytes, ino: int) -> None:
        inode = self._inode
        cookie = inode.next_cookie
        inode.next_cookie += 1
        inode.names[name] = (ino, cookie)
        inode.order.append((cookie, name))
        inode.mtim = inode.ctim = self._fs.now()

    def _unbind(self, name: bytes) -> None:
        inode = self._inode
        names = inode.names
        del names[name]
        if len(inode.order) > 2 * len(names) + _COMPACT_AT:
            inode.order = [(at, kept) for at, kept in inode.order if names.get(kept, (0, 0))[1] == at]
        inode.mtim = inode.ctim = self._fs.now()

    def _forget(self, inode: Inode) -> None:
        """``inode`` lost its name here."""
        if isinstance(inode, DirectoryInode):
            inode.nlink = 0
            self._inode.nlink -= 1
        else:
            inode.nlink -= 1
        inode.ctim = self._fs.now()
        self._fs.drop_unused(inode)
