"""Where a secret's value comes from: the caller's environment, or a file that only its owner may read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from sojourn.model.errors import GrantError
from sojourn.model.grants import SecretGrant
from sojourn.store.home import Home

FOLDER = "secrets"
SECRET_BYTES_MAX = 64 << 10


def find_secret(grant: SecretGrant, environ: Mapping[str, str], home: Home) -> str:
    """The value of a granted secret. No message of ours holds it.

    Raises:
        GrantError: it is in neither place, or others may read the file.
    """
    if grant.name in environ:
        return environ[grant.name]
    path = home.path / FOLDER / grant.name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        raise GrantError(
            f"there is no secret {grant.name}",
            f"Try: set the environment variable {grant.name}, or put the value into {path} (mode 600)",
        ) from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise GrantError(f"others may read {path}", f"Try: chmod 600 {path}")
        data = file.read(SECRET_BYTES_MAX + 1)
    if len(data) > SECRET_BYTES_MAX or b"\0" in data:
        raise GrantError(f"the secret {grant.name} is too long, or not text")
    try:
        return data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise GrantError(f"the secret {grant.name} is not text") from None
