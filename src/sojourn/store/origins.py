"""Which checkpoints this user has written to files on this machine: their digests, for all homes."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import platformdirs

from .files import translated

KEPT_MAX = 10_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Origins:
    """Remembers digests as the names of empty files; the oldest are forgotten beyond ``KEPT_MAX``."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or platformdirs.user_state_path("sojourn") / "written"

    def note(self, digest: str) -> None:
        """
        Raises:
            StoreError: the folder cannot be written.
        """
        with translated(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / digest).touch(mode=0o600)
            names = list(self._folder.iterdir())
            if len(names) > KEPT_MAX:
                names.sort(key=_age_s)
                for path in names[: KEPT_MAX // 10]:
                    path.unlink(missing_ok=True)

    def knows(self, digest: str) -> bool:
        return _DIGEST.fullmatch(digest) is not None and (self._folder / digest).exists()


def _age_s(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
