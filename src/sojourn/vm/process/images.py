"""Images: a started interpreter with imports done, kept ready to start from.

At a point where nothing is on the guest's call stack, its whole state is linear memory and mutable
globals. An image is those two, in files: memory as it is (mapped copy-on-write into each process that
starts from it), the rest in a small description. Its digest covers what it was made from: the runtime, how
we change it, our half inside the guest, and the imports.

Nothing damaged is ever started from: memory is checked as every verified file is (``store.files``), the
description carries its own checksum. Whoever makes or removes an image
holds its lock; reading needs none, because an image is there only once its description is, which comes last.
An image that is removed while processes run from it stays with them until the last has ended.

An image holds the interpreter's string-hash seed, so images are shared within one home, that is one
tenant, and never beyond (docs/limitations.md).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sojourn.store.files import translated, verified, write_atomic, write_verified
from sojourn.store.home import Home, try_lock
from sojourn.wasm import INSTRUMENT_VERSION

FORMAT = 4
_DESCRIPTION, _MEMORY = "image.json", "memory"
_DAY_S = 86400


@dataclass(frozen=True)
class ImageInfo:
    """What an image is.

    Attributes:
        failed: the imports that could not be done, with the reason.
        globals: the instance's mutable globals, by name.
        enter: where in memory the object lies that a start calls.
        ledger: where its ledger lies, by which every start renews it (``renewal``).
        monotonic_ns: what the guest's monotonic clock showed.
    """

    digest: str
    runtime: str
    imports: tuple[str, ...]
    failed: dict[str, str]
    bytes: int
    globals: dict[str, int]
    enter: int
    ledger: int
    monotonic_ns: int
    created_s: float
    last_used_s: float = 0.0

    @property
    def content(self) -> str:
        """Names what is in it, unlike ``digest``: an image that is made again of the same things is another
        one, with other objects at other places, and what was stored over the first is nothing over it."""
        made = [self.digest, self.bytes, self.enter, self.monotonic_ns, self.created_s]
        return hashlib.sha256(json.dumps(made).encode()).hexdigest()


class Image:
    """An image opened, to be mapped by every process that starts from it.

    ``descriptor`` is open as long as this object lives: whoever holds it can start from it, whatever happens
    to the files.
    """

    def __init__(self, info: ImageInfo, descriptor: int) -> None:
        self.info = info
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._map: mmap.mmap | None = None

    def view(self) -> memoryview:
        """Its memory, to be read; mapped at the first use and as long as this object lives."""
        if self._map is None:
            self._map = mmap.mmap(self.descriptor, self.info.bytes, prot=mmap.PROT_READ)
        return memoryview(self._map)


def image_lock(digest: str) -> str:
    """The name of the lock that whoever makes or removes an image holds."""
    return f"image-{digest}"


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

    def find_content(self, content: str) -> Image | None:
        """The image with that ``ImageInfo.content``, opened, or None when it is not here any more."""
        with self._lock:
            here = [image for image in self._open.values() if image.info.content == content]
        if here:
            return here[0]
        for info in self.all():
            if info.content == content:
                found = self.find(info.digest)
                return found if found is not None and found.info.content == content else None
        return None

    def _load(self, digest: str) -> Image | None:
        folder = self._home.images / digest
        info = self._describe(folder)
        if info is None or not verified(folder / _MEMORY):
            return None
        try:
            descriptor = os.open(folder / _MEMORY, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        image = Image(info, descriptor)
        if os.fstat(descriptor).st_size != info.bytes:
            return None
        with suppress(OSError):  # a home that cannot be written any more can still be started from
            os.utime(folder / _DESCRIPTION)
        return image

    def save(self, info: ImageInfo, memory: memoryview) -> Image:
        """Store an image. The caller holds its lock.

        Raises:
            StoreError: it cannot be written; nothing of it is left then.
        """
        folder = self._home.images / info.digest
        with self._lock:
            self._open.pop(info.digest, None)
        try:
            with translated(folder):
                _discard(folder)
                folder.mkdir(mode=0o700)
                write_verified(folder / _MEMORY, memory)
                write_atomic(folder / _DESCRIPTION, _sealed(info))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        image = self.find(info.digest)
        if image is None:
            raise RuntimeError(f"the image {info.digest} cannot be read back")
        return image

    def _describe(self, folder: Path) -> ImageInfo | None:
        """What the description in ``folder`` says, or None when it is missing, damaged or another image's."""
        path = folder / _DESCRIPTION
        try:
            info = _unsealed(path.read_bytes(), path.stat().st_mtime)
        except OSError:
            return None
        return info if info is not None and info.digest == folder.name else None

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
            if info is not None and info.last_used_s > oldest:
                continue
            if self._remove(folder) and info is not None:
                removed.append(info)
        return removed

    def _remove(self, folder: Path) -> bool:
        """Whether it has been removed: an image that is being made is left alone."""
        lock = self._home.locks / image_lock(folder.name)
        with translated(lock):
            held = try_lock(lock)
        if held is None:
            return False
        try:
            with self._lock:
                self._open.pop(folder.name, None)
            with translated(folder):
                _discard(folder)
        finally:
            with suppress(OSError):
                lock.unlink()
            os.close(held)
        return True


def _discard(folder: Path) -> None:
    """Remove an image's folder, or whatever has its name. What is not there is no error."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def _sealed(info: ImageInfo) -> bytes:
    """A description as it is stored, with its own checksum."""
    text = json.dumps(asdict(info))
    return json.dumps({"info": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()


def _unsealed(data: bytes, last_used_s: float) -> ImageInfo | None:
    """What ``_sealed`` made, or None when it is anything else."""
    try:
        outer = json.loads(data)
        text = outer["info"]
        if hashlib.sha256(text.encode()).hexdigest() != outer["sha256"]:
            return None
        value: dict[str, Any] = json.loads(text)
        value["imports"] = tuple(value["imports"])
        return ImageInfo(**value | {"last_used_s": last_used_s})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
