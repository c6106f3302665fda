"""Files that are whole or not there, and files that are known to be unchanged.

A *verified* file has a sidecar with its SHA-256 and a *stamp*: device, inode, size, modification and change
time. While the stamp is what it was when the bytes were last hashed, the bytes are too: nobody but the
superuser can change a file without changing its change time. So a file of hundreds of megabytes is hashed once,
not at each start, and a changed byte is still noticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sojourn.model.errors import StoreError

SIDECAR = ".verified"
_STEP_BYTES = 1 << 20
_HINTS = {
    errno.ENOSPC: "Try: free some space, or set SOJOURN_HOME to another disk",
    errno.EDQUOT: "Try: free some space, or set SOJOURN_HOME to another disk",
    errno.EROFS: "Try: set SOJOURN_HOME to a directory that can be written",
    errno.EACCES: "Try: set SOJOURN_HOME to a directory of yours",
    errno.EPERM: "Try: set SOJOURN_HOME to a directory of yours",
}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the body into a ``StoreError`` that names ``path`` and the fix."""
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise StoreError(f"cannot use {path}: {error.strerror or error}", hint) from error


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Make ``path`` hold ``data``, durably, or leave it as it was.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with translated(path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_directory(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_verified(path: Path, data: bytes | memoryview) -> None:
    """``write_atomic``, with the sidecar that ``verified`` reads."""
    digest = hashlib.sha256(data).hexdigest()
    write_atomic(path, data)
    _write_sidecar(path, digest, _stamp(path.lstat()))


def verified(path: Path) -> bool:
    """Whether ``path`` holds, byte for byte, what ``write_verified`` wrote there.

    A missing file, a link, another owner's, one that others may write, a cut or changed one: False.
    """
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return False
        known = json.loads(path.with_name(path.name + SIDECAR).read_bytes())
        if known["stamp"] == _stamp(found):
            return True
        digest = _hash(path)
        if digest != known["sha256"] or _stamp(path.lstat()) != _stamp(found):
            return False
        _write_sidecar(path, digest, _stamp(found))
        return True
    except (OSError, ValueError, KeyError, TypeError, StoreError):
        return False


def remove_verified(path: Path) -> None:
    for item in (path.with_name(path.name + SIDECAR), path):
        item.unlink(missing_ok=True)


def _write_sidecar(path: Path, digest: str, stamp: list[int]) -> None:
    text = json.dumps({"sha256": digest, "stamp": stamp})
    write_atomic(path.with_name(path.name + SIDECAR), text.encode())


def _stamp(found: os.stat_result) -> list[int]:
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while step := file.read(_STEP_BYTES):
            digest.update(step)
    return digest.hexdigest()
