"""Where an open file or directory of a granted directory is now, so that it can be opened again elsewhere.

The path by which it was opened is tried first, then the one that the kernel tells. Either counts only when it
leads, name by name inside the grant and along no link, to the very same object: a path is only a guess.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from .wasi.abi import FileType
from .wasi.vfs import Directory, WasiError

PATH_BYTES_KEPT_MAX = 1 << 16


def path_below(path: bytes | None, name: bytes) -> bytes | None:
    """The path of ``name`` in the directory at ``path``; None when it is too long to be kept."""
    if path is None or len(path) + len(name) > PATH_BYTES_KEPT_MAX:
        return None
    return path + b"/" + name if path else name


def find_path(
    root: Callable[[], Directory], top: int, known: bytes | None, descriptor: int, identity: object
) -> bytes | None:
    """The path from ``root()``, on which the descriptor ``top`` is, to what ``descriptor`` is on; None when
    no name leads there any more.

    Args:
        known: where it was once, if that is known.
    """
    for path in (known, _told_path(top, descriptor)):
        if path is not None and _identity_at(root(), path) == identity:
            return path
    return None


def _told_path(top: int, descriptor: int) -> bytes | None:
    """The kernel's word, where it has one: right after a rename, misleading for what was removed."""
    try:
        start = os.fsencode(Path(f"/proc/self/fd/{top}").readlink())
        path = os.fsencode(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return None
    if path == start:
        return b""
    start = start.rstrip(b"/") + b"/"
    return path[len(start) :] if path.startswith(start) and len(path) <= PATH_BYTES_KEPT_MAX else None


def _identity_at(at: Directory, path: bytes) -> object:
    """The identity of what is at ``path``; None when nothing is. Closes ``at``."""
    parts = path.split(b"/") if path else []
    try:
        for number, name in enumerate(parts, 1):
            node = at.lookup(name)
            if node.filetype != FileType.DIRECTORY:
                try:
                    return node.identity() if number == len(parts) else None
                finally:
                    node.close()
            at.close()
            at = cast(Directory, node)
        return at.identity()
    except WasiError:
        return None
    finally:
        at.close()
