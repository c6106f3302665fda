"""The host's system calls as ``hostdir`` uses them: errors as a guest sees them, descriptors, metadata.

Knows nothing of directories, grants or quotas. Every flag that keeps an open inside the tree stands here
once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from .wasi.abi import Errno, FileType
from .wasi.vfs import NAME_BYTES_MAX, Stat, WasiError

# No open ever follows a link, waits for a peer or a lease, becomes a terminal, or is inherited.
SAFE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# A directory handle is a place to start from, nothing to read: where the host can say so, it does.
DIRECTORY_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LISTING_FLAGS = os.O_RDONLY | os.O_DIRECTORY | SAFE_FLAGS
OFFSET_MAX = (1 << 63) - 1
_TIME_MAX_NS = (1 << 63) - 1
_MASK_64 = (1 << 64) - 1

# Names that mean the same on both sides, then those that only a host knows.
ERRNO: dict[int, Errno] = {
    getattr(errno, member.name): member for member in Errno if hasattr(errno, member.name)
} | {
    getattr(errno, host): guest
    for host, guest in {
        "EWOULDBLOCK": Errno.EAGAIN,
        "EDEADLOCK": Errno.EDEADLK,
        "EOPNOTSUPP": Errno.ENOTSUP,
        "ENOTSUP": Errno.ENOTSUP,
        "ENOTBLK": Errno.ENOTSUP,
        "ENOMEDIUM": Errno.ENODEV,
        "EMEDIUMTYPE": Errno.ENODEV,
        "ENODATA": Errno.EIO,
        "EUCLEAN": Errno.EIO,
        "EREMOTEIO": Errno.EIO,
        "ECOMM": Errno.EIO,
        "EHOSTDOWN": Errno.EHOSTUNREACH,
        "ESHUTDOWN": Errno.EPIPE,
        "EKEYEXPIRED": Errno.EACCES,
        "EKEYREVOKED": Errno.EACCES,
        "ENOKEY": Errno.EACCES,
        "EUSERS": Errno.EDQUOT,
        "ETOOMANYREFS": Errno.EMLINK,
    }.items()
    if hasattr(errno, host)
}

_FILE_TYPES = {
    stat.S_IFREG: FileType.REGULAR_FILE,
    stat.S_IFDIR: FileType.DIRECTORY,
    stat.S_IFLNK: FileType.SYMBOLIC_LINK,
    stat.S_IFCHR: FileType.CHARACTER_DEVICE,
    stat.S_IFBLK: FileType.BLOCK_DEVICE,
    stat.S_IFSOCK: FileType.SOCKET_STREAM,
}

# File systems whose files are doors into the kernel and into other processes (linux/magic.h): the memory and
# the environment of this very process, for one. Some of their files wait for ever when they are read.
_KERNEL_FILE_SYSTEMS = {
    0x9FA0: "proc",
    0x62656572: "sysfs",
    0x0027E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0x73636673: "securityfs",
    0x62656570: "configfs",
    0xCAFE4A11: "bpf",
    0xDE5E81E4: "efivarfs",
    0x6165676C: "pstore",
    0x42494E4D: "binfmt_misc",
    0xF97CFF8C: "selinuxfs",
    0x6E736673: "nsfs",
}
_STATFS_BYTES = 256  # more than the structure has anywhere
_fstatfs = getattr(ctypes.CDLL(None, use_errno=True), "fstatfs", None) if sys.platform == "linux" else None

P = ParamSpec("P")
R = TypeVar("R")


def host_call(function: Callable[P, R]) -> Callable[P, R]:
    """Let the host's errors leave ``function`` as the guest's. What the host cannot express is ``EINVAL``."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            raise WasiError(ERRNO.get(error.errno or 0, Errno.EIO)) from None
        except UnicodeError:
            raise WasiError(Errno.EILSEQ) from None
        except (ValueError, OverflowError):
            raise WasiError(Errno.EINVAL) from None
        except MemoryError:
            raise WasiError(Errno.ENOMEM) from None

    return call


def check_name(name: bytes) -> None:
    """Refuse whatever is not one plain name, though the resolver has: the last gate before the host."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise WasiError(Errno.EINVAL)
    if len(name) > NAME_BYTES_MAX:
        raise WasiError(Errno.ENAMETOOLONG)


def need_ordinary(descriptor: int) -> None:
    """Refuse what lies on a file system of the kernel's own.

    Raises:
        OSError: ``EACCES``.
    """
    if _fstatfs is None:
        return
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _fstatfs(descriptor, buffer) != 0:
        raise OSError(ctypes.get_errno(), "the file system cannot be told")
    kind = ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
    if kind in _KERNEL_FILE_SYSTEMS:
        raise OSError(errno.EACCES, f"{_KERNEL_FILE_SYSTEMS[kind]} is the kernel's own, it cannot be granted")


def file_type(mode: int) -> FileType:
    return _FILE_TYPES.get(stat.S_IFMT(mode), FileType.UNKNOWN)


def number_of(status: os.stat_result, home_device: int) -> int:
    """An inode number that is unique in the tree, also where other file systems are mounted in it."""
    return number_on(status.st_ino, status.st_dev, home_device)


def number_on(ino: int, device: int, home_device: int) -> int:
    if device == home_device:
        return ino & _MASK_64
    return (ino ^ (device * 0x9E3779B97F4A7C15)) & _MASK_64


def to_stat(status: os.stat_result, home_device: int) -> Stat:
    return Stat(
        file_type(status.st_mode),
        number_of(status, home_device),
        status.st_size,
        status.st_nlink,
        max(0, status.st_atime_ns),
        max(0, status.st_mtime_ns),
        max(0, status.st_ctime_ns),
    )


def new_times(status: os.stat_result, atim: int | None, mtim: int | None) -> tuple[int, int]:
    """Both times for ``utime``: it sets both or none, so one that stays is set to what it is."""
    atim = status.st_atime_ns if atim is None else atim
    mtim = status.st_mtime_ns if mtim is None else mtim
    if max(atim, mtim) > _TIME_MAX_NS:
        raise WasiError(Errno.EINVAL)
    return atim, mtim


class OwnedFd:
    """A host descriptor with several users; the last one to go closes it."""

    __slots__ = ("_users", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._users = 1

    def share(self) -> OwnedFd:
        if self.number < 0:
            raise WasiError(Errno.EBADF)
        self._users += 1
        return self

    def release(self) -> None:
        self._users -= 1
        if self._users <= 0:
            self._close()

    def _close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        self._close()
