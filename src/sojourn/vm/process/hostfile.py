"""An open regular file of the host.

The descriptor is on a file that was checked after it was opened: nothing here can be made to touch another.
Growth is charged before it happens, and what did not happen is given back.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from .hostcalls import OFFSET_MAX, OwnedFd, host_call, new_times, to_stat
from .wasi.abi import Errno, FileType
from .wasi.vfs import FileSystem, Stat, WasiError

_READ_FREELY_BYTES = 1 << 20  # above this a read is allocated for no more than the file holds


class HostFile:
    """Owns ``fd``. ``charge`` takes the bytes that the file grows by."""

    def __init__(
        self,
        filesystem: FileSystem,
        fd: OwnedFd,
        home_device: int,
        charge: Callable[[int], None],
        *,
        writable: bool,
        path: bytes | None = None,
    ) -> None:
        self._fs = filesystem
        self._fd = fd
        self._home_device = home_device
        self._charge = charge
        self._writable = writable
        self._appending = False
        self.path = path  # names from the root when it was opened; None when that is too long to keep

    @property
    def filetype(self) -> FileType:
        return FileType.REGULAR_FILE

    @property
    def filesystem(self) -> FileSystem:
        return self._fs

    @property
    def descriptor(self) -> int:
        return self._number

    @host_call
    def identity(self) -> tuple[int, int]:
        status = os.fstat(self._number)
        return (status.st_dev, status.st_ino)

    @host_call
    def stat(self) -> Stat:
        return to_stat(os.fstat(self._number), self._home_device)

    @host_call
    def set_times(self, atim: int | None, mtim: int | None) -> None:
        if not self._fs.writable:
            raise WasiError(Errno.EROFS)
        os.utime(self._number, ns=new_times(os.fstat(self._number), atim, mtim))

    @host_call
    def pread(self, size: int, offset: int) -> bytes:
        if offset > OFFSET_MAX:
            raise WasiError(Errno.EINVAL)
        size = min(size, OFFSET_MAX - offset)  # the host refuses to look past it
        if size > _READ_FREELY_BYTES:
            size = min(size, max(_READ_FREELY_BYTES, os.fstat(self._number).st_size - offset))
        return os.pread(self._number, size, offset)

    @host_call
    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        self._need_write(offset + len(data))
        if not data:
            return 0  # wherever that is, the file does not grow
        self._append_mode(False)
        return self._grow(offset + len(data), lambda: os.pwrite(self._number, data, offset))

    @host_call
    def append(self, data: bytes | memoryview) -> int:
        self._need_write(0)
        self._append_mode(True)
        end = os.fstat(self._number).st_size + len(data)
        if not data:
            return end
        self._grow(end, lambda: os.write(self._number, data))
        return os.lseek(self._number, 0, os.SEEK_CUR)

    @host_call
    def truncate(self, size: int) -> None:
        self._need_write(size)
        self._grow(size, lambda: os.ftruncate(self._number, size))

    @host_call
    def allocate(self, offset: int, length: int) -> None:
        end = offset + length
        self._need_write(end)
        if hasattr(os, "posix_fallocate"):
            self._grow(end, lambda: os.posix_fallocate(self._number, offset, length))
        elif end > os.fstat(self._number).st_size:
            self._grow(end, lambda: os.ftruncate(self._number, end))

    @host_call
    def sync(self, data_only: bool) -> None:
        if data_only and hasattr(os, "fdatasync"):
            os.fdatasync(self._number)
        else:
            os.fsync(self._number)

    def close(self) -> None:
        self._fd.release()

    @property
    def _number(self) -> int:
        return self._fd.number

    def _need_write(self, end: int) -> None:
        if not self._writable:
            raise WasiError(Errno.EBADF)
        if end > OFFSET_MAX:
            raise WasiError(Errno.EFBIG)

    def _grow(self, end: int, change: Callable[[], int | None]) -> int:
        """Charge for growing to ``end``, then do it. Returns what ``change`` does, 0 for None."""
        before = os.fstat(self._number).st_size
        growth = max(0, end - before)
        if growth:
            self._charge(growth)
        done = False
        try:
            result = change()
            done = True
        finally:
            if growth and not done:
                self._charge(-growth)
        return result or 0

    def _append_mode(self, append: bool) -> None:
        """The host keeps appends of several writers apart only in this mode, and places no other write."""
        if append != self._appending:
            flags = fcntl.fcntl(self._number, fcntl.F_GETFL)
            flags = flags | os.O_APPEND if append else flags & ~os.O_APPEND
            fcntl.fcntl(self._number, fcntl.F_SETFL, flags)
            self._appending = append
