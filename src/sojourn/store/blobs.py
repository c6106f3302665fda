"""Content-addressed bytes: what is stored is found again by its SHA-256, or not at all.

Knows nothing of what the bytes mean. Invariants: a blob under its name is whole (it is written aside and
renamed); what ``get`` returns was hashed on the way, so a damaged blob reads as absent and can be put again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from sojourn.model.errors import StoreError

from .files import remove_stale, translated, write_atomic

PREFIX = "sha256:"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_STALE_S = 86400.0


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """``sha256:`` and 64 hexadecimal digits."""
    return PREFIX + hashlib.sha256(data).hexdigest()


class Blobs:
    """The blobs under one directory. Safe to use from several threads and processes.

    All digests are ``sha256:<64 hexadecimal digits>``; anything else is a ``ValueError``, since a digest from
    outside is to be checked where it comes in.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, digest: str) -> Path:
        """Where the blob lies, if it is there."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is not a digest")
        name = digest.removeprefix(PREFIX)
        return self._root / name[:2] / name[2:]

    def put(self, data: bytes | bytearray | memoryview) -> str:
        """Store ``data`` and return its digest. What is there already, whole, is not written again.

        Raises:
            StoreError: the disk is full, read-only or not ours to write.
        """
        digest = digest_of(data)
        path = self.path(digest)
        if self._read(path, digest) is None:
            with translated(path):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(path, data)
        else:
            with contextlib.suppress(OSError):
                os.utime(path)  # it is in use: a prune by age shall leave it
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes with this digest.

        Raises:
            StoreError: they are not here, or what is here is damaged.
        """
        path = self.path(digest)
        data = self._read(path, digest)
        if data is None:
            state = "damaged" if path.exists() else "not in the store"
            raise StoreError(f"{digest} is {state}", "Try: run the command again that made it")
        return data

    def has(self, digest: str) -> bool:
        """Whether the blob is here, by name; ``get`` finds out whether it is whole."""
        return self.path(digest).is_file()

    def remove(self, digest: str) -> None:
        """Remove a blob. What is not there is no error."""
        path = self.path(digest)
        with translated(path):
            path.unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """All blobs here, in no order."""
        for folder in self._root.iterdir():
            if len(folder.name) == 2 and folder.is_dir():
                for path in folder.iterdir():
                    digest = PREFIX + folder.name + path.name
                    if _DIGEST.fullmatch(digest):
                        yield digest

    def prune(self, keep: Collection[str], *, older_s: float = 0.0) -> list[str]:
        """Remove all blobs but those in ``keep`` and those put within the last ``older_s`` seconds, which may
        be somebody's who has not said yet what refers to them.

        Returns:
            The digests of what was removed.
        """
        oldest = time.time() - older_s
        removed = []
        for digest in list(self.digests()):
            path = self.path(digest)
            with contextlib.suppress(FileNotFoundError):  # another process prunes too
                if digest not in keep and path.stat().st_mtime <= oldest:
                    self.remove(digest)
                    removed.append(digest)
        self._sweep()
        return removed

    def _sweep(self) -> None:
        for folder in self._root.iterdir():
            if folder.is_dir():
                remove_stale(folder, _STALE_S)

    def _read(self, path: Path, digest: str) -> bytes | None:
        """The bytes of ``path`` if they are those of ``digest``."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None  # nothing there, or a link or something unreadable in its place
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            try:
                data = file.readall()
            except OSError:
                return None
        return data if digest_of(data) == digest else None
