"""The home: the one directory under which all state of a user's Sojourn lies (``$SOJOURN_HOME``).

Knows where things lie and that nobody else can have put them there; not what they mean. A home is of one
user: code is run from its cache, so a home that others may write is refused.

    cache/      compiled modules            processes/   one directory for each process: output, control
    images/     warm images                 hosts/       one locked file for each OS process that runs guests
    bundles/    programs                    locks/       files to lock while something is being made
    blobs/      content-addressed bytes     tmp/         scratch, emptied of what is left there
    checkpoints/  stored process contexts, one directory for each process
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from sojourn.model.errors import StoreError

from .files import remove_stale, translated

VARIABLE = "SOJOURN_HOME"
LOCK_TIMEOUT_S = 3600.0
SUBDIRECTORIES = ("cache", "images", "bundles", "blobs", "checkpoints", "processes", "hosts", "locks", "tmp")
_PROBE_BYTES = 1 << 16
_POLL_FIRST_S, _POLL_LAST_S = 0.002, 0.1
_STALE_S = 86400.0
_LOCK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_HINT = f"Try: set {VARIABLE} to a directory that only you may write"


@dataclass(frozen=True)
class Home:
    """An opened home: it exists, is ours alone, and can be written. Make one with ``Home.open``."""

    path: Path

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def bundles(self) -> Path:
        return self.path / "bundles"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def checkpoints(self) -> Path:
        """Stored process contexts (``store.checkpoints``)."""
        return self.path / "checkpoints"

    @property
    def processes(self) -> Path:
        return self.path / "processes"

    @property
    def hosts(self) -> Path:
        return self.path / "hosts"

    @property
    def locks(self) -> Path:
        return self.path / "locks"

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def database(self) -> Path:
        """The process table (``store.table``)."""
        return self.path / "processes.db"

    @classmethod
    def open(cls, path: Path | None = None, *, need_space: bool = True) -> Home:
        """Open the home at ``path``, made when it is not there.

        Args:
            path: default ``$SOJOURN_HOME``, else the user's data directory.
            need_space: False for what only reads or removes, which must work on a full disk too.

        Raises:
            StoreError: it cannot be made or written, is full, or is not ours alone.
        """
        root = (path or default_path()).expanduser().absolute()
        home = cls(root)
        _make(root)
        for name in SUBDIRECTORIES:
            _make(root / name)
        if need_space:
            home._probe()
        home._sweep()
        return home

    @contextlib.contextmanager
    def lock(
        self,
        name: str,
        *,
        timeout_s: float = LOCK_TIMEOUT_S,
        waiting: Callable[[], object] | None = None,
    ) -> Iterator[None]:
        """Hold the lock ``name``: one holder at a time among all threads and OS processes of this home.

        A holder that dies gives it up. ``waiting`` is called once, when somebody else holds it.

        Raises:
            StoreError: it was not free within ``timeout_s`` seconds.
        """
        if not _LOCK_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a lock")
        path = self.locks / name
        with translated(path):
            descriptor = _wait_lock(path, time.monotonic() + timeout_s, waiting)
        try:
            yield
        finally:
            # Removed before it is unlocked: whoever waits on it finds that the name is gone and starts again.
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)

    def _probe(self) -> None:
        """Find out now, not in the middle of something, that nothing can be written."""
        path = self.tmp / f".{secrets.token_hex(6)}.partial"
        with translated(self.path):
            try:
                with path.open("xb", buffering=0) as file:
                    if file.write(bytes(_PROBE_BYTES)) < _PROBE_BYTES:
                        raise OSError(errno.ENOSPC, "a write came up short", str(path))
            finally:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Once a day, remove what writers left that died."""
        mark = self.tmp / "swept"
        with contextlib.suppress(OSError):
            if mark.exists() and time.time() - mark.stat().st_mtime < _STALE_S:
                return
            mark.touch()
            for folder in (self.path, self.cache, self.bundles, self.tmp, *self.images.iterdir()):
                remove_stale(folder, _STALE_S)


def default_path() -> Path:
    """``$SOJOURN_HOME``, else the place for data that this platform gives a user."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else platformdirs.user_data_path("sojourn")


def need_space(folder: Path, count: int, what: str) -> None:
    """Find out before long work that there is no room for its result.

    Args:
        count: bytes.
        what: the work, for the message.

    Raises:
        StoreError: less is free where ``folder`` lies.
    """
    free = shutil.disk_usage(folder).free
    if free < count:
        raise StoreError(
            f"{what} needs {count / 1e6:,.0f} MB of disk, and {free / 1e6:,.0f} MB are free at {folder}",
            f"Try: free some space, or set {VARIABLE} to a directory elsewhere",
        )


def _make(path: Path) -> None:
    """Make a directory of ours, or check that the one there is."""
    with translated(path):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = path.stat()
        except (FileExistsError, NotADirectoryError):
            raise StoreError(f"{path} is not a directory", _HINT) from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENOENT):
                raise StoreError(f"{path} cannot be a directory: {error.strerror}", _HINT) from None
            raise
    if status.st_uid != os.geteuid():
        raise StoreError(f"{path} is owned by another user (id {status.st_uid})", _HINT)
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise StoreError(f"{path} can be written by other users", f"Try: chmod go-w {path}")
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise StoreError(f"{path} is on a file system that is read-only", _HINT)
    if not os.access(path, os.W_OK | os.X_OK):
        raise StoreError(f"{path} is not writable", f"Try: chmod u+wx {path}, or set {VARIABLE} elsewhere")


def _wait_lock(path: Path, deadline_s: float, waiting: Callable[[], object] | None) -> int:
    pause_s = _POLL_FIRST_S
    while (descriptor := try_lock(path)) is None:
        if waiting is not None:
            waiting()
            waiting = None
        if time.monotonic() >= deadline_s:
            raise StoreError(
                f"{path.name} is still locked by another process",
                f"Try: end the other sojourn process that uses {path.parent.parent}, then start again",
            )
        time.sleep(min(pause_s, max(0.0, deadline_s - time.monotonic())))
        pause_s = min(2 * pause_s, _POLL_LAST_S)
    return descriptor


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock on the file ``path`` until it is closed, or None when another does.

    The lock is on the file that has this name *now*: one that was removed meanwhile is let go.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    return lock_opened(descriptor, path)


def lock_opened(descriptor: int, path: Path) -> int | None:
    """Lock what was opened as ``path``, a file or a directory, as ``try_lock`` does.

    ``descriptor`` is closed when it is not returned.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
