"""Files that are whole or absent, and files whose content is known without reading them again.

Knows nothing of what the files mean. Two mechanisms:

* ``write_atomic``: readers see the old content or the new, never a part, also across a power cut.
* *verified files*: beside ``name`` lies ``name.check`` with the SHA-256 of the content and a *stamp* of the
  file (device, inode, size, modification and change time) taken when the content was last hashed. While the
  stamp holds, nobody has written to the file since; when it does not, the content is hashed again.

The change time cannot be set by a program, but it has the grain of the kernel's clock: a write in the same
tick as the stamp would go unseen. So a stamp is taken only when the change time lies a settling time in the
past. Against hardware that changes bytes by itself only a full hash helps.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sojourn.model.errors import StoreError

CHECK_SUFFIX = ".check"
TEMPORARY_SUFFIX = ".partial"
CHECK_BYTES_MAX = 4096
CHUNK_BYTES = 1 << 20
_SETTLING_NS = 20_000_000  # two ticks of the coarsest kernel clock, 100 Hz
_FORMAT = 1

_WHY: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", "Try: free some space, or set SOJOURN_HOME to a directory elsewhere"),
    errno.EDQUOT: (
        "the disk quota is used up",
        "Try: free some space, or set SOJOURN_HOME to a directory elsewhere",
    ),
    errno.EROFS: (
        "the file system is read-only",
        "Try: set SOJOURN_HOME to a directory that you may write",
    ),
    errno.EACCES: ("permission denied", "Try: set SOJOURN_HOME to a directory that you may write"),
    errno.EPERM: ("not permitted", "Try: set SOJOURN_HOME to a directory that you may write"),
    errno.EMFILE: ("too many files are open", "Try: fewer processes at one time, or ulimit -n 65536"),
    errno.ENFILE: ("too many files are open on this machine", "Try: again when less is running"),
    errno.EIO: ("the disk reports an error", "Try: check the disk, or set SOJOURN_HOME to another one"),
}


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals (full, read-only, forbidden, broken) into ``StoreError``.

    Other errors of the operating system pass: they mean a bug, not a disk that cannot be used.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _WHY:
            raise
        why, hint = _WHY[error.errno]
        raise StoreError(f"cannot use {path}: {why}", hint) from error


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o600, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the body succeeds, and vanishes when it does not.

    Args:
        durable: False saves the waiting for the disk: after a power cut the file may be missing or damaged.

    Raises:
        StoreError: the disk is full, read-only or not ours to write.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    with translated(path):
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode
        )
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                yield file
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        if durable:
            sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Make the names in ``folder`` durable, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_all(file: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    """Write to an unbuffered file, which may take less than all at once."""
    view = memoryview(data).cast("B")
    while view:
        view = view[file.write(view[: 64 * CHUNK_BYTES]) :]


def write_atomic(path: Path, data: bytes | bytearray | memoryview, mode: int = 0o600) -> None:
    """Make ``path`` a file with exactly ``data``, durably.

    Raises:
        StoreError: the disk is full, read-only or not ours to write.
    """
    with replacing(path, mode) as file:
        write_all(file, data)


@dataclass(frozen=True)
class _Check:
    """What is known of a file: ``stamp`` is None until a stamp could be trusted."""

    sha256: str
    size: int
    stamp: tuple[int, ...] | None

    def to_bytes(self) -> bytes:
        value = {"format": _FORMAT, "sha256": self.sha256, "size": self.size, "stamp": self.stamp}
        return json.dumps(value).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> _Check | None:
        try:
            value = json.loads(data)
            if value["format"] != _FORMAT:
                return None
            stamp = value["stamp"]
            return cls(str(value["sha256"]), int(value["size"]), None if stamp is None else tuple(stamp))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None


def write_verified(path: Path, data: bytes | bytearray | memoryview) -> str:
    """Store ``data`` so that ``verified(path)`` holds; return its SHA-256 in hexadecimal.

    Raises:
        StoreError: the disk is full, read-only or not ours to write.
    """
    digest = hashlib.sha256()
    view = memoryview(data).cast("B")
    with translated(path):
        check_path(path).unlink(missing_ok=True)  # of an older content
    with replacing(path) as file:
        for start in range(0, len(view), 16 * CHUNK_BYTES):
            chunk = view[start : start + 16 * CHUNK_BYTES]
            digest.update(chunk)
            write_all(file, chunk)
    with translated(path):
        stamp = _settled_stamp(path)
    write_atomic(check_path(path), _Check(digest.hexdigest(), len(view), stamp).to_bytes())
    return digest.hexdigest()


def verified(path: Path) -> bool:
    """Whether ``path`` is, byte for byte, what ``write_verified`` wrote.

    False for what is missing, damaged, truncated, a link, or could have been written by another user.
    Costs two ``stat`` calls and a small read while the stamp holds; else the file is hashed once.
    """
    try:
        check = _read_check(path)
        if check is None:
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not _ours(status) or status.st_size != check.size:
            return False
        if check.stamp == _stamp(status):
            return True
        return _verify_whole(path, file, check)


def remove_verified(path: Path) -> None:
    """Remove a verified file and what is known of it. What is not there is no error."""
    for victim in (check_path(path), path):
        with translated(victim):
            victim.unlink(missing_ok=True)


def check_path(path: Path) -> Path:
    """Where the checksum of ``path`` lies."""
    return path.with_name(path.name + CHECK_SUFFIX)


def file_sha256(file: BinaryIO) -> str:
    """The SHA-256 of the rest of ``file``, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def remove_stale(folder: Path, older_s: float) -> int:
    """Remove what interrupted writers left in ``folder`` ``older_s`` seconds ago or before; count them."""
    oldest = time.time() - older_s
    count = 0
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime <= oldest:
                path.unlink()
                count += 1
    return count


def _verify_whole(path: Path, file: BinaryIO, check: _Check) -> bool:
    before = os.fstat(file.fileno())
    settled = _settled(before)
    try:
        if file_sha256(file) != check.sha256:
            return False
        after = os.fstat(file.fileno())
    except OSError:
        return False
    if settled and _stamp(before) == _stamp(after):
        _keep(path, _Check(check.sha256, check.size, _stamp(after)))
    return True


def _keep(path: Path, check: _Check) -> None:
    """Store a newer stamp. Without it the file is merely hashed again next time, so failing is no failure."""
    with contextlib.suppress(StoreError, OSError):
        write_atomic(check_path(path), check.to_bytes())


def _read_check(path: Path) -> _Check | None:
    descriptor = os.open(check_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not _ours(os.fstat(descriptor)):
            return None
        data = file.read(CHECK_BYTES_MAX + 1)
    return _Check.from_bytes(data) if len(data) <= CHECK_BYTES_MAX else None


def _ours(status: os.stat_result) -> bool:
    """A regular file that no other user can have written."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _settled(status: os.stat_result) -> bool:
    """Whether a later write must give another change time. A change time in the future never is."""
    return time.time_ns() - status.st_ctime_ns > _SETTLING_NS


def _settled_stamp(path: Path) -> tuple[int, ...] | None:
    """The stamp of a file just written, once its change time is in the past; None when that takes long."""
    for _ in range(4):
        status = path.lstat()
        if _settled(status):
            return _stamp(status)
        time.sleep(_SETTLING_NS / 2e9)
    return None
