"""A directory of the host as a file system for a guest.

A guest is hostile, and so may be another process with the same grant that changes the tree at the same time.
What holds all of it inside:

- Every operation is one system call on one plain name, relative to a descriptor of the directory that
  holds it. There is no path, so nothing above the name can be exchanged while it is walked.
- No call follows a symbolic link. Links are handed to the resolver as text; it walks that text itself.
- ``..`` is never given to the host: going up is the resolver's, along handles that it holds.
- Only regular files are opened. What a name stands for is looked at before the open, so that a device is
  not even opened, and again on the open descriptor, which cannot be exchanged any more. Opens never wait.
- Nothing on a file system of the kernel's own (proc, sysfs, …) is entered or opened: there are doors there,
  to this very process among others.
- Nothing but names, content and times can be changed: no modes, owners or attributes; and a file that runs
  with another user's rights (set-id) is not written, since what is written would run with them.

A file grant (``only``) is a directory in which one name exists and no name can be made, moved or removed.

The quota counts what is written: the bytes by which files grow and a fixed cost for each name that is made.
Removing gives nothing back, since whether the host's disk gets it back is not ours to know.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .hostcalls import (
    DIRECTORY_FLAGS,
    LISTING_FLAGS,
    SAFE_FLAGS,
    OwnedFd,
    check_name,
    file_type,
    host_call,
    need_ordinary,
    new_times,
    to_stat,
)
from .hostfile import HostFile
from .hostlist import Snapshot, Snapshots
from .hostpaths import find_path, path_below
from .wasi.abi import Errno, FileType
from .wasi.vfs import Directory, Entry, Node, Quota, Stat, WasiError

NAME_COST_BYTES = 512  # what a new name is charged, so that a million empty files are bounded too
RACES_MAX = 16  # how often an operation starts again because somebody changed the name under it
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)  # of a name that was something else
_NOT_A_FILE = {
    stat.S_IFDIR: Errno.EISDIR,
    stat.S_IFLNK: Errno.ELOOP,
    stat.S_IFIFO: Errno.ENXIO,
    stat.S_IFSOCK: Errno.ENXIO,
}
_SET_ID = stat.S_ISUID | stat.S_ISGID

__all__ = ["NAME_COST_BYTES", "HostDirectory", "HostFile", "HostFileSystem", "HostName", "HostSymlink"]


class HostFileSystem:
    """The directory ``path`` of the host.

    Args:
        path: followed when it is a link, once, now; later changes of that path mean nothing.
        writable: False refuses every change with ``EROFS``.
        device: its ``filestat.dev``.
        quota: is charged for growth before it happens.
        only: the one name that exists; a granted file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(
        self, path: str, *, writable: bool, device: int, quota: Quota | None, only: bytes | None = None
    ) -> None:
        if only is not None:
            check_name(only)
        self._device = device
        self._writable = writable
        self._quota = quota
        self.only = only
        self.snapshots = Snapshots()
        self._root = OwnedFd(os.open(path, DIRECTORY_FLAGS & ~os.O_NOFOLLOW))
        need_ordinary(self._root.number)
        status = os.fstat(self._root.number)
        self.host_device = status.st_dev
        self._identity = (status.st_dev, status.st_ino)

    @property
    def device(self) -> int:
        return self._device

    @property
    def writable(self) -> bool:
        return self._writable

    @host_call
    def root(self) -> HostDirectory:
        return HostDirectory(self, self._root.share(), self._identity, self.only)

    @host_call
    def path_of(self, node: Node) -> bytes | None:
        assert isinstance(node, (HostDirectory, HostFile))
        return find_path(self.root, self._root.number, node.path, node.descriptor, node.identity())

    def close(self) -> None:
        """Let go of the granted directory. Handles that are still open keep working until they are closed."""
        root, self._root = self._root, OwnedFd(-1)
        root.release()
        self.snapshots.clear()

    def charge(self, amount: int) -> None:
        if self._quota is not None:
            self._quota.charge(amount)

    def check_device(self, descriptor: int, status: os.stat_result) -> None:
        """Raises ``OSError`` when something is mounted in the granted tree that is the kernel's own."""
        if status.st_dev != self.host_device:
            need_ordinary(descriptor)

    def need_writable(self) -> None:
        if not self._writable:
            raise WasiError(Errno.EROFS)


class HostName:
    """What a name stood for when it was looked up: anything but a directory. It is not opened, so that
    looking at a device or a FIFO has no effect; operations go by directory and name, checked again."""

    def __init__(
        self, filesystem: HostFileSystem, parent: OwnedFd, name: bytes, status: os.stat_result
    ) -> None:
        self._fs = filesystem
        self._parent: OwnedFd | None = parent.share()
        self.name = name
        self._status = status

    @property
    def filetype(self) -> FileType:
        return file_type(self._status.st_mode)

    @property
    def filesystem(self) -> HostFileSystem:
        return self._fs

    def identity(self) -> tuple[int, int]:
        return (self._status.st_dev, self._status.st_ino)

    def stat(self) -> Stat:
        """As it is now; as it was when it was looked up, should the name stand for something else by now."""
        try:
            self.refresh()
        except WasiError as error:
            if error.errno != Errno.ENOENT:
                raise
        return to_stat(self._status, self._fs.host_device)

    @host_call
    def set_times(self, atim: int | None, mtim: int | None) -> None:
        self._fs.need_writable()
        self.refresh()
        times = new_times(self._status, atim, mtim)
        os.utime(self.name, ns=times, dir_fd=self.directory, follow_symlinks=False)

    @property
    def directory(self) -> int:
        """The descriptor of the directory that holds the name."""
        if self._parent is None:
            raise WasiError(Errno.EBADF)
        return self._parent.number

    @host_call
    def refresh(self) -> None:
        """Raises ``WasiError`` with ``ENOENT`` when the name does not stand for this object any more."""
        now = os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        if not os.path.samestat(now, self._status):
            raise WasiError(Errno.ENOENT)
        self._status = now

    # A file that was looked up but not opened can be neither read nor written.
    def pread(self, size: int, offset: int) -> bytes:
        raise WasiError(Errno.EBADF)

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        raise WasiError(Errno.EBADF)

    def append(self, data: bytes | memoryview) -> int:
        raise WasiError(Errno.EBADF)

    def truncate(self, size: int) -> None:
        raise WasiError(Errno.EBADF)

    def allocate(self, offset: int, length: int) -> None:
        raise WasiError(Errno.EBADF)

    def sync(self, data_only: bool) -> None:
        raise WasiError(Errno.EBADF)

    def close(self) -> None:
        parent, self._parent = self._parent, None
        if parent is not None:
            parent.release()


class HostSymlink(HostName):
    @host_call
    def readlink(self) -> bytes:
        return os.readlink(self.name, dir_fd=self.directory)


class HostDirectory:
    """An open directory. ``only`` is the one name that exists in it, None when all do."""

    def __init__(
        self,
        filesystem: HostFileSystem,
        fd: OwnedFd,
        identity: tuple[int, int],
        only: bytes | None = None,
        path: bytes | None = b"",
    ) -> None:
        self._fs = filesystem
        self.path = path  # names from the root when it was opened; None when that is too long to keep
        self._fd: OwnedFd | None = fd
        self._identity = identity
        self._only = only

    @property
    def filetype(self) -> FileType:
        return FileType.DIRECTORY

    @property
    def filesystem(self) -> HostFileSystem:
        return self._fs

    @property
    def descriptor(self) -> int:
        if self._fd is None:
            raise WasiError(Errno.EBADF)
        return self._fd.number

    def identity(self) -> tuple[int, int]:
        return self._identity

    @host_call
    def stat(self) -> Stat:
        return to_stat(os.fstat(self.descriptor), self._fs.host_device)

    @host_call
    def set_times(self, atim: int | None, mtim: int | None) -> None:
        self._fs.need_writable()
        self._need_whole()
        times = new_times(os.fstat(self.descriptor), atim, mtim)
        os.utime(".", ns=times, dir_fd=self.descriptor, follow_symlinks=False)

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            self._fs.snapshots.drop(self)
            fd.release()

    @host_call
    def lookup(self, name: bytes) -> Node:
        self._need_visible(name)
        for _ in range(RACES_MAX):
            status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                assert self._fd is not None
                kind = HostSymlink if stat.S_ISLNK(status.st_mode) else HostName
                return kind(self._fs, self._fd, name, status)
            if self._only is not None:
                raise WasiError(Errno.ENOENT)  # a file was granted, and somebody put a directory there
            try:
                return self._enter(name)
            except OSError as error:
                if error.errno not in _CHANGED:
                    raise
        raise WasiError(Errno.EAGAIN)

    def _enter(self, name: bytes) -> HostDirectory:
        fd = OwnedFd(os.open(name, DIRECTORY_FLAGS, dir_fd=self.descriptor))
        status = os.fstat(fd.number)
        self._fs.check_device(fd.number, status)
        return HostDirectory(self._fs, fd, (status.st_dev, status.st_ino), path=path_below(self.path, name))

    @host_call
    def open(
        self, name: bytes, *, read: bool, write: bool, create: bool, exclusive: bool, truncate: bool
    ) -> HostFile:
        self._need_visible(name, made=create)
        for _ in range(RACES_MAX):
            status = self._status_or_none(name)
            if status is None:
                if not create:
                    raise WasiError(Errno.ENOENT)
                self._need_place()
            else:
                if create and exclusive:
                    raise WasiError(Errno.EEXIST)
                self._check_openable(status, change=write or truncate)
            fd = self._try_open(name, status, read=read, write=write or truncate)
            if fd is not None:
                return self._opened(fd, name, write=write, truncate=truncate)
        raise WasiError(Errno.EAGAIN)

    def _status_or_none(self, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _check_openable(self, status: os.stat_result, *, change: bool) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise WasiError(_NOT_A_FILE.get(stat.S_IFMT(status.st_mode), Errno.EACCES))
        if change:
            self._fs.need_writable()
            if status.st_mode & _SET_ID:
                raise WasiError(Errno.EACCES)

    def _try_open(
        self, name: bytes, seen: os.stat_result | None, *, read: bool, write: bool
    ) -> OwnedFd | None:
        """Open what was ``seen``, or make a new file when nothing was; None when that has changed since."""
        access = (os.O_RDWR if read else os.O_WRONLY) if write else os.O_RDONLY
        if seen is None:
            return self._try_create(name, access)
        try:
            fd = OwnedFd(os.open(name, access | SAFE_FLAGS, dir_fd=self.descriptor))
        except OSError as error:
            if error.errno in _CHANGED:
                return None
            raise
        try:
            status = os.fstat(fd.number)
            if os.path.samestat(status, seen):
                self._fs.check_device(fd.number, status)
                self._check_openable(status, change=write)
                return fd
        except BaseException:
            fd.release()
            raise
        fd.release()
        return None

    def _try_create(self, name: bytes, access: int) -> OwnedFd | None:
        flags = access | os.O_CREAT | os.O_EXCL | SAFE_FLAGS
        try:
            with self._charged():
                return OwnedFd(os.open(name, flags, 0o666, dir_fd=self.descriptor))
        except FileExistsError:
            return None

    @contextmanager
    def _charged(self) -> Iterator[None]:
        """The body makes a name; when it fails that costs nothing."""
        self._fs.charge(NAME_COST_BYTES)
        try:
            yield
        except BaseException:
            self._fs.charge(-NAME_COST_BYTES)
            raise

    def _opened(self, fd: OwnedFd, name: bytes, *, write: bool, truncate: bool) -> HostFile:
        if truncate:
            try:
                os.ftruncate(fd.number, 0)  # now that it is known to be a file, and which
            except OSError:
                fd.release()
                raise
        path = path_below(self.path, name)
        return HostFile(self._fs, fd, self._fs.host_device, self._fs.charge, writable=write, path=path)

    @host_call
    def mkdir(self, name: bytes) -> None:
        self._need_new(name)
        with self._charged():
            os.mkdir(name, 0o777, dir_fd=self.descriptor)

    @host_call
    def symlink(self, name: bytes, target: bytes) -> None:
        self._need_new(name)
        with self._charged():
            os.symlink(target, name, dir_fd=self.descriptor)

    @host_call
    def link(self, name: bytes, target: Node) -> None:
        if not isinstance(target, (HostName, HostDirectory)) or target.filesystem is not self._fs:
            raise WasiError(Errno.EXDEV)
        if isinstance(target, HostDirectory):
            raise WasiError(Errno.EPERM)
        if target.filetype not in (FileType.REGULAR_FILE, FileType.SYMBOLIC_LINK):
            raise WasiError(Errno.EPERM)
        target.refresh()
        self._need_new(name)
        source, here = target.directory, self.descriptor
        with self._charged():
            os.link(target.name, name, src_dir_fd=source, dst_dir_fd=here, follow_symlinks=False)

    def _need_new(self, name: bytes) -> None:
        self._need_visible(name, made=True)
        if self._status_or_none(name) is not None:
            raise WasiError(Errno.EEXIST)
        self._need_place()

    @host_call
    def rmdir(self, name: bytes) -> None:
        self._need_removable(name)
        os.rmdir(name, dir_fd=self.descriptor)

    @host_call
    def unlink(self, name: bytes) -> None:
        self._need_removable(name)
        status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            raise WasiError(Errno.EISDIR)
        os.unlink(name, dir_fd=self.descriptor)

    @host_call
    def rename(self, name: bytes, to: Directory, to_name: bytes) -> None:
        if not isinstance(to, HostDirectory) or to.filesystem is not self._fs:
            raise WasiError(Errno.EXDEV)
        self._need_removable(name)
        to._need_removable(to_name)
        try:
            os.rename(name, to_name, src_dir_fd=self.descriptor, dst_dir_fd=to.descriptor)
        except FileExistsError:
            raise WasiError(Errno.ENOTEMPTY) from None

    @host_call
    def entries(self, cookie: int) -> Iterator[Entry]:
        if self._only is not None:
            return iter([] if cookie else self._only_entry(self._only))
        held = self._fs.snapshots.get(self) if cookie else None
        snapshot = held or self._fs.snapshots.take(self, self.descriptor, self._fs.host_device)
        return snapshot.after(cookie)

    def _only_entry(self, name: bytes) -> list[Entry]:
        status = self._status_or_none(name)
        if status is None or stat.S_ISDIR(status.st_mode):
            return []
        seen = to_stat(status, self._fs.host_device)
        return [Entry(1, seen.ino, seen.filetype, name)]

    @host_call
    def sync(self, data_only: bool) -> None:
        fd = os.open(".", LISTING_FLAGS, dir_fd=self.descriptor)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def save_listing(self) -> Any:
        snapshot = self._fs.snapshots.get(self)
        return None if snapshot is None else snapshot.save()

    def restore_listing(self, state: Any) -> None:
        self._fs.snapshots.keep(self, Snapshot.restored(state))

    def _need_visible(self, name: bytes, *, made: bool = False) -> None:
        check_name(name)
        if self._only is not None and name != self._only:
            raise WasiError(Errno.EACCES if made else Errno.ENOENT)

    def _need_whole(self) -> None:
        """A granted file's directory was not granted itself."""
        if self._only is not None:
            raise WasiError(Errno.EACCES)

    def _need_place(self) -> None:
        self._fs.need_writable()
        self._need_whole()

    def _need_removable(self, name: bytes) -> None:
        check_name(name)
        self._need_place()
