"""Grants as they are typed."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path

from sojourn.model.errors import GrantError, UsageError
from sojourn.model.grants import DirectoryGrant, EnvironmentGrant, parse_grant


def directory_grants(texts: tuple[str, ...]) -> tuple[DirectoryGrant, ...]:
    """Grants of ``dir:PATH[=GUESTPATH][:rw]``.

    Without GUESTPATH the guest is told PATH as it was typed; a relative one hangs below ``/``, the guest's
    working directory, so that a program finds it under the same relative name. One that leads up, or
    nowhere (``.``), is told by the directory's own name.

    Raises:
        GrantError: a path does not exist, or two grants have one guest path.
    """
    found: dict[str, DirectoryGrant] = {}
    for text in texts:
        path, guest, writable = parse_grant(text)
        real = Path(path).expanduser()
        if not real.exists():
            raise GrantError(
                f"cannot grant {path}: there is no such file or directory", "Try: an existing path"
            )
        guest = guest or _guest_path(path)
        grant = DirectoryGrant(os.path.abspath(real), guest, writable)  # noqa: PTH100 - links are kept
        if grant.place in found:
            raise GrantError(
                f"two grants have the guest path {grant.place}", "Try: dir:PATH=ANOTHERPATH for one of them"
            )
        found[grant.place] = grant
    return tuple(found.values())


def _guest_path(path: str) -> str:
    normal = posixpath.normpath(path)
    if normal == "." or normal.split("/")[0] == "..":
        return "/" + Path(path).resolve().name
    return normal


def environment_grants(texts: tuple[str, ...]) -> tuple[EnvironmentGrant, ...]:
    """Grants of ``NAME=VALUE``."""
    grants = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--env {text!r} gives no value", f"Try: --env {text}=VALUE")
        grants.append(EnvironmentGrant(name, value))
    return tuple(grants)
