"""How a guest that was left goes on: makes the twins of its frames, and keeps them compiled.

A twin depends only on its module, function and site, so it is compiled once on a machine; all processes
share it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sojourn.model.errors import ContextError
from sojourn.wasm.additions import Additions
from sojourn.wasm.base import Resumable
from sojourn.wasm.binary import Module
from sojourn.wasm.twins import Frame, SiteError, Twins, frames_in

from .engine import Instance, TwinModule, compile_twin
from .preparing import Facts

FRAMES_MAX = 1 << 20
_TRAILER_FUNCTION_BYTES = 4
_TWIN_VERSION = 2  # goes up with every change of what a twin is, when its base stays


class TwinCache(Protocol):
    """Where compiled twins are kept on disk."""

    def find(self, key: str) -> TwinModule | None: ...

    def save(self, key: str, twin: TwinModule) -> None: ...


@dataclass(frozen=True)
class Stack:
    """The frames of a guest that was left, outermost first, and the size of each record."""

    frames: tuple[Frame, ...]
    sizes: tuple[int, ...]


class ModuleResumer:
    """The ``engine.Resumer`` of one module. Safe to use from several threads.

    Args:
        marked: gives the module that was made resumable, when it is needed.
        key: names that module and how it was changed; the names of its twins begin with it.
    """

    def __init__(self, marked: Callable[[], bytes], facts: Facts, key: str, cache: TwinCache) -> None:
        self._marked = marked
        self._facts = facts
        self._key = key
        self._cache = cache
        self._lock = threading.Lock()
        self._twins: Twins | None = None
        self._compiled: dict[tuple[int, int], TwinModule] = {}

    def stack(self, records: bytes) -> Stack:
        """Read the saved frames.

        Raises:
            ContextError: they are not frames of this module.
        """
        try:
            frames = frames_in(records, self._record_bytes)
            if not 0 < len(frames) <= FRAMES_MAX:
                raise SiteError(f"{len(frames)} frames")
            sizes = [self._record_bytes(frame.function, frame.site) for frame in frames]
        except SiteError as error:
            raise ContextError(f"its frames are not of this program: {error}") from None
        return Stack(tuple(frames), tuple(sizes))

    def _record_bytes(self, function: int, site: int) -> int:
        """The size of a record: a compiled twin knows it, and then the module itself need not be read."""
        found = self._compiled.get((function, site)) or self._find(function, site)
        return found.record_bytes if found is not None else self._maker().record_bytes(function, site)

    def _find(self, function: int, site: int) -> TwinModule | None:
        found = self._cache.find(self._name(function, site))
        if found is not None:
            found = self._compiled.setdefault((function, site), found)
        return found

    def _name(self, function: int, site: int) -> str:
        return f"{self._key} twin-{_TWIN_VERSION} {function} {site}"

    def prepare(self, instance: Instance, records: bytes) -> tuple[bytes, int]:
        """See ``engine.Resumer``.

        Raises:
            ContextError: they are not frames of this module.
        """
        stack = self.stack(records)
        places: dict[tuple[int, int], int] = {}
        changed = bytearray(records)
        for frame, size in zip(stack.frames, stack.sizes, strict=True):
            key = frame.function, frame.site
            if key not in places:
                places[key] = instance.place_twin(self.twin(*key), frame.function)
            end = frame.offset + size
            changed[end - _TRAILER_FUNCTION_BYTES : end] = places[key].to_bytes(4, "little")
        outermost = stack.frames[0]
        return bytes(changed), places[outermost.function, outermost.site]

    def twin(self, function: int, site: int) -> TwinModule:
        """The compiled twin, from memory, disk or the compiler."""
        found = self._compiled.get((function, site)) or self._find(function, site)
        if found is None:
            maker = self._maker()
            code = maker.make(function, site)
            names = [item.name for item in Module.parse(code).imports()]
            found = compile_twin(code, names, maker.record_bytes(function, site))
            self._cache.save(self._name(function, site), found)
            found = self._compiled.setdefault((function, site), found)
        return found

    def _maker(self) -> Twins:
        with self._lock:
            if self._twins is None:
                additions = Additions.of(self._facts.additions)
                resumable = Resumable(self._marked(), b"", self._facts.where(), additions, ())
                self._twins = Twins(resumable)
            return self._twins
