"""Grants: the resource segment of a process. What is not granted does not exist for the guest.

Each grant has a *binding*, after Fuggetta, Picco and Vigna: **by identifier** (opened again, under
the same name, wherever the process goes), **by value** (travels along), **by type** (any local
equivalent will do).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .errors import GrantError

GUEST_PATH_BYTES_MAX = 4096
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Binding(StrEnum):
    IDENTIFIER = "identifier"
    VALUE = "value"
    TYPE = "type"


@dataclass(frozen=True)
class DirectoryGrant:
    """A directory (or one file) of the host, seen by the guest at ``guest_path``.

    Attributes:
        path: absolute path on the host.
        guest_path: where the guest sees it, exactly as the guest is told.
        writable: False makes every change fail with ``EROFS``.
    """

    path: str
    guest_path: str
    writable: bool = False
    binding: Binding = Binding.IDENTIFIER

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise GrantError(f"grant of {self.path!r}: the host path must be absolute")
        check_guest_path(self.guest_path)

    @property
    def place(self) -> str:
        """Where ``guest_path`` is in the guest's tree."""
        return place_of(self.guest_path)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "dir",
            "path": self.path,
            "guest_path": self.guest_path,
            "writable": self.writable,
            "binding": str(self.binding),
        }


@dataclass(frozen=True)
class EnvironmentGrant:
    """One environment variable, given by value."""

    name: str
    value: str
    binding: Binding = Binding.VALUE

    def __post_init__(self) -> None:
        check_variable(self.name)
        if "\0" in self.value:
            raise GrantError(f"--env {self.name}: a value cannot contain a NUL byte")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "env", "name": self.name, "value": self.value, "binding": str(self.binding)}


@dataclass(frozen=True)
class SecretGrant:
    """A secret, by identifier: the guest gets the value in its environment; no record, log,
    checkpoint or error of ours ever holds it."""

    name: str
    binding: Binding = Binding.IDENTIFIER

    def __post_init__(self) -> None:
        check_variable(self.name)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "secret", "name": self.name, "binding": str(self.binding)}


Grant = DirectoryGrant | EnvironmentGrant | SecretGrant


def grant_from_dict(value: dict[str, Any]) -> Grant:
    """The way back from ``to_dict``. What comes in may come from anywhere.

    Raises:
        GrantError: it is no grant.
    """
    try:
        fields = {name: item for name, item in value.items() if name != "kind"}
        fields["binding"] = Binding(fields["binding"])
        kinds: dict[str, Any] = {"dir": DirectoryGrant, "env": EnvironmentGrant, "secret": SecretGrant}
        kind = kinds[value["kind"]]
        if not all(type(item) in (str, bool, Binding) for item in fields.values()):
            raise TypeError("a field of another type")
        made: Grant = kind(**fields)
        return made
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GrantError(f"a recorded grant that is none: {error}") from None


def check_variable(name: str) -> None:
    if not _ENV_NAME.fullmatch(name):
        raise GrantError(
            f"{name!r} is not a variable name", "Try: letters, digits and _, not starting with a digit"
        )


def place_of(guest_path: str) -> str:
    """The absolute form of ``guest_path``; a relative one begins at ``/``, the guest's working directory."""
    return "/" + "/".join(part for part in guest_path.split("/") if part not in ("", "."))


def check_guest_path(path: str) -> None:
    """Raise ``GrantError`` unless ``path`` can be the name of a mount."""
    parts = path.split("/")
    if not path or ".." in parts or "\0" in path or "\n" in path:
        raise GrantError(
            f"{path!r} cannot be a path in the guest",
            "Try: an absolute path without '..', such as /data",
        )
    if len(path.encode("utf-8", "surrogateescape")) > GUEST_PATH_BYTES_MAX:
        raise GrantError(f"a guest path of more than {GUEST_PATH_BYTES_MAX} bytes")


def parse_grant(text: str) -> tuple[str, str | None, bool]:
    """Split ``dir:PATH[=GUESTPATH][:rw|:ro]`` into (host path, guest path or None, writable).

    Raises:
        GrantError: the text has another form.
    """
    kind, colon, rest = text.partition(":")
    if kind != "dir" or not colon or not rest:
        raise GrantError(f"--grant {text!r} is not of a known kind", "Try: --grant dir:PATH[=GUESTPATH][:rw]")
    writable = rest.endswith(":rw")
    if rest.endswith((":rw", ":ro")):
        rest = rest[:-3]
    path, equals, guest = rest.partition("=")
    if not path or (equals and not guest):
        raise GrantError(f"--grant {text!r} names no path", "Try: --grant dir:PATH[=GUESTPATH][:rw]")
    return path, guest or None, writable
