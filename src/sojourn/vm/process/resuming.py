"""How a guest that was left goes on: makes the twins of its frames, and keeps them compiled.

A twin depends only on its module, function and site, so it is compiled once on a machine; all processes
share it.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from sojourn.model.errors import ContextError, StoreError
from sojourn.wasm.additions import Additions
from sojourn.wasm.base import Resumable
from sojourn.wasm.binary import Module
from sojourn.wasm.frames import TRAILER_BYTES
from sojourn.wasm.twins import Frame, SiteError, Twins, frames_in

from .engine import Instance, TwinModule, compile_twin
from .preparing import Facts

FRAMES_MAX = 1 << 20
_TRAILER, _PLACE = struct.Struct("<Q"), struct.Struct("<I")
_WAIT_S = 0.02
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


class _Chores:
    """Things to do, one after the other, on a thread that there is only while there are some."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._left: deque[Callable[[], None]] = deque()
        self._busy = False

    def add(self, chore: Callable[[], None]) -> None:
        """Have something done that raises nothing."""
        with self._lock:
            self._left.append(chore)
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work_off, name=self._name, daemon=True).start()

    def _work_off(self) -> None:
        while True:
            with self._lock:
                if not self._left:
                    self._busy = False
                    return
                chore = self._left.popleft()
            chore()


class ModuleResumer:
    """The ``engine.Resumer`` of one module. Safe to use from several threads.

    Args:
        marked: gives the module that was made resumable, when it is needed.
        key: names that module and how it was changed; the names of its twins begin with it.
        split: whether it is split.
    """

    def __init__(
        self, marked: Callable[[], bytes], facts: Facts, key: str, cache: TwinCache, *, split: bool = False
    ) -> None:
        self._split = split
        self._marked = marked
        self._facts = facts
        self._key = key
        self._cache = cache
        self._reading = threading.Lock()
        self._twins: Twins | None = None
        self._compiled: dict[int, TwinModule] = {}  # by function << 32 | site, as in the trailer of a record
        self._making, self._keeping = _Chores("sojourn-twins"), _Chores("sojourn-keep")

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
        found = self._compiled.get(function << 32 | site) or self._find(function, site)
        return found.record_bytes if found is not None else self._maker().record_bytes(function, site)

    def _find(self, function: int, site: int) -> TwinModule | None:
        found = self._cache.find(self._name(function, site))
        if found is not None:
            found = self._compiled.setdefault(function << 32 | site, found)
        return found

    def _name(self, function: int, site: int) -> str:
        return f"{self._key} twin-{_TWIN_VERSION} {function} {site}"

    def fetch(self, records: memoryview, waiting: Callable[[], object]) -> None:
        """See ``engine.Resumer``. What is missing is made on a thread of its own: a guest that waits for it
        can be ended meanwhile, and its time is not the guest's.

        Raises:
            ContextError: they are not frames of this module.
        """
        if not self._are_at_hand(records):
            wanted, done = bytes(records), Future[None]()
            self._making.add(lambda: self._make(wanted, done))
            while not done.done():
                with suppress(TimeoutError):
                    done.exception(_WAIT_S)
                waiting()
            done.result()

    def _are_at_hand(self, records: memoryview) -> bool:
        end = len(records)
        while end >= TRAILER_BYTES:
            found = self._compiled.get(_TRAILER.unpack_from(records, end - TRAILER_BYTES)[0])
            if found is None:
                return False
            end -= found.record_bytes
        return True  # if there is something wrong with them, ``place`` says so

    def _make(self, records: bytes, done: Future[None]) -> None:
        try:
            for frame in self.stack(records).frames:
                self.twin(frame.function, frame.site)
            done.set_result(None)
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            done.set_exception(error)

    def place(self, instance: Instance, records: memoryview) -> int:
        """See ``engine.Resumer``. This is done whenever a turn begins, so it is as short as can be.

        Raises:
            ContextError: they are not frames of this module.
        """
        known, end, outermost = instance.sites, len(records), -1
        while end >= TRAILER_BYTES:
            trailer = _TRAILER.unpack_from(records, end - TRAILER_BYTES)[0]
            found = known.get(trailer)
            if found is None:
                function = trailer >> 32
                twin = self.twin(function, trailer & 0xFFFFFFFF)
                found = known[trailer] = twin.record_bytes, instance.place_twin(twin, function)
            size, place = found
            _PLACE.pack_into(records, end - _PLACE.size, place)
            if outermost < 0:
                outermost = place
            end -= size
        if end or outermost < 0:
            raise ContextError("its frames are not of this program: a frame that is cut short")
        return outermost

    def twin(self, function: int, site: int) -> TwinModule:
        """The compiled twin, from memory, disk or the compiler.

        Raises:
            ContextError: there is no such site.
        """
        found = self._compiled.get(function << 32 | site) or self._find(function, site)
        if found is None:
            maker = self._maker()
            try:
                code, size = maker.make(function, site), maker.record_bytes(function, site)
            except SiteError as error:
                raise ContextError(f"its frames are not of this program: {error}") from None
            made = compile_twin(code, [item.name for item in Module.parse(code).imports()], size)
            found = self._compiled.setdefault(function << 32 | site, made)
            if found is made:
                # Soon, for that takes ten times as long as making it.
                self._keeping.add(lambda: self._keep(self._name(function, site), made))
        return found

    def _keep(self, name: str, twin: TwinModule) -> None:
        with suppress(StoreError):  # it is made anew the next time
            self._cache.save(name, twin)

    def _maker(self) -> Twins:
        with self._reading:
            if self._twins is None:
                additions = Additions.of(self._facts.additions)
                resumable = Resumable(self._marked(), b"", self._facts.where(), additions, ())
                self._twins = Twins(resumable, split=self._split)
            return self._twins
