"""The home: one directory that holds all state of Sojourn for one user.

It belongs to one tenant. Compiled code in it is run as it is, so nobody else may be able to write there.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from sojourn.model.errors import StoreError

from .files import translated

VARIABLE = "SOJOURN_HOME"
FOLDERS = ("cache", "images", "bundles", "blobs", "processes", "hosts", "locks", "tmp")
LOCK_WAIT_S = 600.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Home:
    """The paths of a home. ``Home.open`` makes sure of them."""

    path: Path

    @classmethod
    def open(cls, path: Path | None = None) -> Home:
        """The home at ``path``, else ``$SOJOURN_HOME``, else the user's data directory; made when missing.

        Raises:
            StoreError: it cannot be made or written, is somebody else's, or others may write to it.
        """
        if path is None:
            named = os.environ.get(VARIABLE)
            path = Path(named) if named else platformdirs.user_data_path("sojourn")
        path = path.expanduser().absolute()
        with translated(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check(path)
            for folder in FOLDERS:
                (path / folder).mkdir(mode=0o700, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise StoreError(f"cannot write to {path}", "Try: set SOJOURN_HOME to a directory of yours")
        return cls(path)

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
    def processes(self) -> Path:
        return self.path / "processes"

    @property
    def hosts(self) -> Path:
        return self.path / "hosts"

    @property
    def temporary(self) -> Path:
        return self.path / "tmp"

    @contextmanager
    def lock(
        self, name: str, *, wait_s: float = LOCK_WAIT_S, waiting: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Hold the lock ``name`` against all other processes and threads of this home.

        ``waiting`` is called once if somebody else has it. The lock goes with the process that holds it.

        Raises:
            StoreError: it was not to be had within ``wait_s``.
        """
        path = self.path / "locks" / name
        with translated(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + wait_s
            while not _try_lock(descriptor):
                if waiting is not None:
                    waiting()
                    waiting = None
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"another process has held {name} for {wait_s:.0f} s", "Try: sojourn ps, then again"
                    )
                time.sleep(_POLL_S)
            yield
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check(path: Path) -> None:
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{path} is not a directory", "Try: set SOJOURN_HOME to a directory")
    if found.st_uid != os.geteuid():
        raise StoreError(f"{path} belongs to another user", "Try: set SOJOURN_HOME to a directory of yours")
    if found.st_mode & 0o022:
        raise StoreError(f"others may write to {path}", f"Try: chmod go-w {path}")
