"""The parts of a split module: made when they are first called, or ahead of need, and kept on disk.

A part is compiled on a thread of its own, so that the guest that waits for it can be ended meanwhile, and
its time is not the guest's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol

from sojourn.model.errors import ModuleError
from sojourn.wasm.additions import Additions
from sojourn.wasm.base import Resumable
from sojourn.wasm.binary import MalformedModuleError, Module, UnsupportedFeatureError
from sojourn.wasm.parts import make_part
from sojourn.wasm.plan import Plan

from .engine import TwinModule, compile_twin
from .preparing import Facts

AHEAD_THREADS = 2  # one changes the code of a part while the engine compiles that of another
_WAIT_S = 0.02


class PartCache(Protocol):
    """Where compiled parts are kept on disk, by number."""

    def find(self, number: int) -> TwinModule | None: ...

    def save(self, number: int, part: TwinModule) -> None: ...

    def lock(self, number: int) -> AbstractContextManager[None]:
        """Held by whoever makes a part: one process at a time."""
        ...


class Parts:
    """The ``engine_modules.PartSource`` of one module. Safe to use from several threads.

    Args:
        marked: gives the module that was split, when it is needed.
        plan: gives the plan, when it is needed.
        numbers_for: the parts that imports of packages need.
        at_hand: what ``marked`` gives, until ``rest``.
    """

    def __init__(
        self,
        marked: Callable[[], bytes],
        facts: Facts,
        plan: Callable[[], Plan],
        numbers_for: Callable[[Iterable[str]], list[int]],
        cache: PartCache,
        at_hand: bytes | None = None,
    ) -> None:
        self._read = marked
        self._facts = facts
        self._read_plan = plan
        self._numbers_for = numbers_for
        self._cache = cache
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._made: dict[int, Future[TwinModule]] = {}
        self._queue: deque[int] = deque()
        self._busy = 0  # threads at work
        self._ahead = 0  # how many of them work off the queue
        self._plan: Plan | None = None
        self._marked = at_hand

    @property
    def plan(self) -> Plan:
        with self._reading:
            if self._plan is None:
                self._plan = self._read_plan()
            return self._plan

    def get(self, number: int, waiting: Callable[[], None]) -> TwinModule:
        """See ``PartSource``."""
        with self._lock:
            future = self._made.get(number)
            if future is None:
                future = self._made[number] = Future()
                self._begin(lambda: self._make(number, future))
        while True:
            try:
                return future.result(0 if future.done() else _WAIT_S)
            except TimeoutError:
                waiting()

    def ahead(self, packages: Iterable[str]) -> None:
        """Begin to make what imports of ``packages`` will call, in the order of its need."""
        numbers = self._numbers_for(packages)
        with self._lock:
            waiting = {*self._made, *self._queue}
            self._queue += [number for number in numbers if number not in waiting]
            while self._ahead < min(AHEAD_THREADS, len(self._queue)):
                self._ahead += 1
                self._begin(self._work_off)

    def rest(self) -> None:
        """Nothing will be made for the time being: keep no large module at hand."""
        with self._lock:
            if not self._busy:
                self._marked = None

    def _begin(self, work: Callable[[], None]) -> None:
        self._busy += 1
        threading.Thread(target=self._do, args=(work,), name="sojourn-parts", daemon=True).start()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._lock:
                self._busy -= 1
                if not self._busy:
                    self._marked = None  # a hundred megabytes; read again when it is needed again

    def _work_off(self) -> None:
        while True:
            with self._lock:
                while self._queue and self._queue[0] in self._made:
                    self._queue.popleft()
                if not self._queue:
                    self._ahead -= 1
                    return
                number = self._queue.popleft()
                future = self._made[number] = Future()
            self._make(number, future)

    def _make(self, number: int, future: Future[TwinModule]) -> None:
        """Find or compile a part. A failure is told to all who wait, and tried again by the next."""
        try:
            future.set_result(self._found(number))
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            with self._lock:
                del self._made[number]
            future.set_exception(error)

    def _found(self, number: int) -> TwinModule:
        found = self._cache.find(number)
        if found is None:
            with self._cache.lock(number):
                found = self._cache.find(number) or self._compile(number)
        return found

    def _compile(self, number: int) -> TwinModule:
        try:
            code = make_part(self._resumable(), number)
            part = compile_twin(code, [item.name for item in Module.parse(code).imports()], 0)
        except (MalformedModuleError, UnsupportedFeatureError) as error:
            raise ModuleError(f"a part of the module cannot run here: {error}") from None
        self._cache.save(number, part)
        return part

    def _resumable(self) -> Resumable:
        plan = self.plan
        with self._reading:
            if self._marked is None:
                self._marked = self._read()
            marked = self._marked
        additions = Additions.of(self._facts.additions)
        return Resumable(marked, b"", self._facts.where(), additions, (), plan)
