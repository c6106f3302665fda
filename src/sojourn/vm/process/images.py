"""Images: a started interpreter with imports done, kept ready to start from.

At a point where nothing is on the guest's call stack, its whole state is linear memory and mutable
globals. An image is those two, in files: memory as it is (mapped copy-on-write into each process that
starts from it), the rest in a small description. Its digest covers what it was made from: the runtime, how
we change it, our half inside the guest, and the imports.

An image holds the interpreter's string-hash seed, so images are shared within one home, that is one
tenant, and never beyond (docs/limitations.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sojourn.store.files import translated, verified, write_atomic, write_verified
from sojourn.store.home import Home
from sojourn.wasm import INSTRUMENT_VERSION

FORMAT = 2
_DESCRIPTION, _MEMORY = "image.json", "memory"
_DAY_S = 86400


@dataclass(frozen=True)
class ImageInfo:
    """What an image is.

    Attributes:
        failed: the imports that could not be done, with the reason.
        globals: the instance's mutable globals, by name.
        enter: where in memory the object lies that a start calls.
        twisters: where states of random generators lie, which every start fills anew.
        monotonic_ns: what the guest's monotonic clock showed.
    """

    digest: str
    runtime: str
    imports: tuple[str, ...]
    failed: dict[str, str]
    bytes: int
    globals: dict[str, int]
    enter: int
    twisters: tuple[int, ...]
    monotonic_ns: int
    created_s: float
    last_used_s: float = 0.0


@dataclass(frozen=True)
class Image:
    """An image opened: ``descriptor`` stays open and is mapped by every process that starts from it."""

    info: ImageInfo
    descriptor: int


def image_digest(runtime: str, guest: str, imports: Sequence[str]) -> str:
    """The name of the image of ``imports`` on a runtime with our half ``guest`` (both digests)."""
    parts = [FORMAT, INSTRUMENT_VERSION, runtime, guest, sorted(set(imports))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class ImageStore:
    """The images of one home. Safe to use from several threads and processes."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._open: dict[str, Image] = {}

    def find(self, digest: str) -> Image | None:
        """The image, opened, or None when there is none or it is damaged."""
        with self._lock:
            image = self._open.get(digest)
            if image is None:
                image = self._load(digest)
                if image is not None:
                    self._open[digest] = image
        return image

    def _load(self, digest: str) -> Image | None:
        folder = self._home.images / digest
        info = self._describe(folder)
        if info is None or not verified(folder / _MEMORY):
            return None
        try:
            descriptor = os.open(folder / _MEMORY, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            os.utime(folder / _DESCRIPTION)
        except OSError:
            return None
        return Image(info, descriptor)

    def save(self, info: ImageInfo, memory: memoryview) -> Image:
        """Store an image; an equal one that appeared meanwhile is used instead."""
        folder = self._home.images / info.digest
        with translated(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            write_verified(folder / _MEMORY, memory)
            write_atomic(folder / _DESCRIPTION, json.dumps(asdict(info)).encode())
        image = self.find(info.digest)
        if image is None:
            raise RuntimeError(f"the image {info.digest} cannot be read back")
        return image

    def _describe(self, folder: Path) -> ImageInfo | None:
        path = folder / _DESCRIPTION
        try:
            value: dict[str, Any] = json.loads(path.read_bytes())
            value |= {name: tuple(value[name]) for name in ("imports", "twisters")}
            value |= {"last_used_s": path.stat().st_mtime}
            return ImageInfo(**value)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def all(self) -> list[ImageInfo]:
        """All images, the most recently used first."""
        found = [self._describe(folder) for folder in self._home.images.iterdir() if folder.is_dir()]
        return sorted((info for info in found if info), key=lambda info: -info.last_used_s)

    def prune(self, unused_days: float) -> list[ImageInfo]:
        """Remove the images not used for so many days (0: all), and what is left of broken ones."""
        oldest = time.time() - unused_days * _DAY_S
        removed = []
        for folder in self._home.images.iterdir():
            info = self._describe(folder)
            if info is None or info.last_used_s <= oldest:
                with self._lock:
                    image = self._open.pop(folder.name, None)
                    if image is not None:
                        os.close(image.descriptor)
                with translated(folder):
                    shutil.rmtree(folder)
                if info is not None:
                    removed.append(info)
        return removed
