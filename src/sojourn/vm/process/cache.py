"""How much compiled code is kept: what was not used for longest goes when there is too much.

An *entry* is the files of one name: compiled code, what is known of it, how it is split, and a check beside
each (``store.files``). To load one changes none of its files, so whoever does says so: the time of its check
is set, at most once in ``TOUCH_S``. A module that processes are made of is also *held*, by a shared lock that
lasts as long as it is loaded, however its operating-system process ends. What is held is never removed, nor
what was used within ``KEPT_S``: so the cache may be larger than it should be for a while.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sojourn.model.limits import GIB, parse_size
from sojourn.store.files import CHECK_SUFFIX, check_path, translated
from sojourn.store.home import Home

VARIABLE = "SOJOURN_CACHE"  # how large the cache may become, such as 8G
BYTES_MAX = 6 * GIB
KEPT_S = 86400.0
TOUCH_S = 3600.0
CODE_SUFFIX = ".cwasm"
_NAME = re.compile(r"([0-9a-f]{64})\.[a-z.]+")


def bytes_max() -> int:
    """How large the cache may become.

    Raises:
        LimitError: ``$SOJOURN_CACHE`` is no size.
    """
    named = os.environ.get(VARIABLE)
    return BYTES_MAX if not named else parse_size(VARIABLE, named, "8G")


def touch(path: Path) -> None:
    """Say that the entry with the code ``path`` is in use. That it cannot be said is no error."""
    check = check_path(path)
    with suppress(OSError):
        if time.time() - check.stat().st_mtime > TOUCH_S:
            os.utime(check)


def hold(path: Path) -> int | None:
    """A descriptor that keeps the entry with the code ``path`` from being removed until it is closed; None
    when there is no such entry."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # whoever removes it has it for a moment only
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


@dataclass
class _Entry:
    """``used_s`` is when it was used last, in seconds since 1970."""

    bytes: int = 0
    used_s: float = 0.0
    files: list[Path] = field(default_factory=list)


def trim(home: Home, most: int, kept_s: float = KEPT_S) -> list[str]:
    """Remove entries until the cache has at most ``most`` bytes, those not used for longest first.

    Returns:
        The names of those that were removed.

    Raises:
        StoreError: they cannot be removed.
    """
    with translated(home.cache):
        entries = _entries(home.cache)
        total, removed = sum(entry.bytes for entry in entries.values()), []
        for name, entry in sorted(entries.items(), key=lambda item: item[1].used_s):
            if total <= most or time.time() - entry.used_s < kept_s:
                break
            if _remove(home.cache / (name + CODE_SUFFIX), entry):
                total -= entry.bytes
                removed.append(name)
    return removed


def _entries(folder: Path) -> dict[str, _Entry]:
    found: dict[str, _Entry] = {}
    for name, path, status in _files(folder):
        entry = found.setdefault(name, _Entry())
        entry.bytes += status.st_size
        entry.used_s = max(entry.used_s, status.st_mtime)
        entry.files.append(path)
    return found


def _files(folder: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """The files of entries, with the names of these."""
    for item in os.scandir(folder):
        match = _NAME.fullmatch(item.name)
        if match is not None:
            with suppress(FileNotFoundError):  # somebody else removes it
                yield match[1], Path(item.path), item.stat(follow_symlinks=False)


def _remove(code: Path, entry: _Entry) -> bool:
    """Remove an entry, unless it is held or was used meanwhile."""
    try:
        descriptor = os.open(code, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        descriptor = -1  # what is left of one
    try:
        if descriptor >= 0:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if any(path.stat().st_mtime > entry.used_s for path in entry.files):
            return False
        # Code without its check is never loaded, so that goes first.
        for path in sorted(entry.files, key=lambda path: not path.name.endswith(CHECK_SUFFIX)):
            path.unlink(missing_ok=True)
        return True
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
