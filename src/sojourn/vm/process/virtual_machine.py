"""One process VM: an instance of a module, its virtual system calls, its limits.

``run`` enters the guest on the calling thread and turns every way in which that can end into an ``Ending``;
it raises only for bugs of ours. ``kill`` may be called from any thread, at any time.

Which limits end a process: all but the memory's do so at once. Memory that is refused is refused as an
operating system refuses it (the guest sees -1, Python a ``MemoryError``), because programs rightly handle
that; a process that then fails is said to have failed by its memory limit (docs/decisions/0004).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sojourn.model.limits import LIMITS, Limits
from sojourn.model.states import Ending, State
from sojourn.wasm import DENIED, START

from .engine import CompiledModule, GuestTrapError, Instance
from .permits import Permits, permits
from .preparing import WASI_MODULE
from .surroundings import Surroundings
from .wasi.abi import SIGNATURES
from .wasi.mounts import MountTree
from .wasi.outside import LimitReached, ProcessExit, Stopped, Suspended, TurnOver
from .wasi.saving import save_system
from .wasi.system import System

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Usage:
    """What a process has used so far."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    memory_bytes: int = 0
    output_bytes: int = 0
    host_calls: int = 0


class VirtualMachine:
    """Instantiates ``module`` over ``system``. Owns all it is given: ``close`` frees everything.

    Raises:
        MemoryError: the module's initial memory is above the limit.
        ModuleError: the module cannot be instantiated.
    """

    def __init__(
        self,
        module: CompiledModule,
        system: System,
        surroundings: Surroundings,
        limits: Limits,
        tree: MountTree,
    ) -> None:
        self.system = system
        self.surroundings = surroundings
        self.limits = limits
        self._tree = tree
        self._usage = Usage()
        self._closed = False
        self._suspending = False
        self.origin: Any = None  # a snapshots.Origin: what memory was set up as
        self.restored: bytes | None = None  # the frames to go on with
        self.ledger: int | None = None  # where an interpreter keeps what is of one process (renewal)
        self.entered_cold = False  # whether what the outermost frame returns is the exit status
        self.turn = permits().turn()
        functions = {(WASI_MODULE, name): getattr(system, name) for name in SIGNATURES}
        self.instance = Instance(module, functions, self._check, limits.memory_bytes, limits.host_calls)
        system.attach_memory(self.instance)
        self.instance.aside = self._aside
        surroundings.share = self

    def _check(self) -> float | None:
        """Called every tick while the guest runs, on another thread; says how soon its turn is over."""
        self.surroundings.check()
        if self._suspending:
            self._leave()
        if self.surroundings.cpu_ns() > self.limits.cpu_seconds * 1e9:
            raise LimitReached("cpu_seconds")
        if self.turn.is_over(self._can_go_on):
            self.instance.ask(TurnOver())
        return self.turn.left_s()

    def suspend(self) -> None:
        """Have the guest left as soon as it can be, from any thread: ``run`` then gives None."""
        self._suspending = True
        self._leave()

    def _leave(self) -> None:
        if self.instance.leavable:
            self.instance.ask(Suspended())
            self.surroundings.leave()

    def _can_go_on(self) -> bool:
        """Whether the guest can be left now, and go on in this instance."""
        return self.instance.leavable and self.instance.module.resumer is not None

    def stay(self) -> None:
        """Nobody wants the guest to be left any more."""
        self._suspending = False
        self.instance.take_back(Suspended)
        self.surroundings.stay()

    # sharing the processors (``surroundings.Share``)

    def share_by(self, weight: int, share: Permits | None = None) -> None:
        """What share of the processors the guest has, before it runs; of this operating-system process's
        permits if no others are given."""
        self.turn = (share or permits()).turn(weight)

    def pause(self) -> bool:
        """The guest waits, on its thread: others may have its turn. Its wait looks at the limits itself."""
        if self._suspending:  # asked for before it could be left; nobody watches it while it waits
            self._leave()
        held = self.turn.give()
        if held:
            self.instance.watch(False)
            self.instance.take_back(TurnOver)
        return held

    def unpause(self, patience: Callable[[], float]) -> None:
        self.turn.take(patience)
        self.instance.watch(True)

    def ring(self) -> None:
        self.turn.ring()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Around a wait in which the guest can be ended, but not left."""
        held = self.turn.give()
        yield
        if held:
            self.turn.take(self._patience_s)

    def _patience_s(self) -> float:
        self.surroundings.check()
        return self.surroundings.left_s()

    def _standing_patience_s(self) -> float:
        """As ``_patience_s``, of a guest that was left: it is at rest already if it is to be."""
        if self._suspending:
            raise Suspended
        return self._patience_s()

    def _in_turns(self, enter: Callable[[Instance], int | None], patience: Callable[[], float]) -> int | None:
        """Run the guest whenever it is its turn, until it ends."""
        try:
            if enter == self._again:
                self.instance.fetch(patience, self.restored)
            self.turn.take(patience)
            while True:
                try:
                    return enter(self.instance)
                except TurnOver:
                    self.turn.give()
                self.instance.fetch(self._standing_patience_s)
                self.turn.take(self._standing_patience_s)
                enter = self._again
        finally:
            self.turn.give()

    def records(self) -> bytes:
        """The frames of the guest, which was left."""
        return self.instance.records() if self.restored is None else self.restored

    def _again(self, instance: Instance) -> int | None:
        """Go on with a guest that was left."""
        records, self.restored = self.restored, None
        return self._result(instance.resume(records))

    def go_on(self) -> Ending | None:
        """Run a guest that was left, here or in the machine that this one was made from (``snapshots``)."""
        self.instance.leavable = True  # also in a machine just made from a checkpoint
        return self._live(self._again, self._standing_patience_s)

    def run(self, enter: Callable[[Instance], int | None]) -> Ending | None:
        """Run the guest on this thread until it ends, or until it is left because of ``suspend`` (None).

        Args:
            enter: calls into the instance; what it returns is the exit status (None: 0).
        """

        def first(instance: Instance) -> int | None:
            if instance.has_function(START):  # once in the life of a process, so not when it goes on
                instance.call(START)
            return enter(instance)

        return self._live(first, self._patience_s)

    def _live(self, enter: Callable[[Instance], int | None], patience: Callable[[], float]) -> Ending | None:
        """Run the guest until it ends or is left."""
        self.surroundings.enter_thread()
        self.turn.enter_thread()
        try:
            self._check()
            ending = Ending(State.EXITED, (self._in_turns(enter, patience) or 0) & 0xFF)
        except ProcessExit as error:
            ending = Ending(State.EXITED, error.code & 0xFF)
        except Suspended:
            self.surroundings.stand_still()
            return None
        except Stopped as error:
            ending = Ending(State.KILLED, reason=str(error))
        except LimitReached as error:
            ending = Ending(State.FAILED, limit=error.name, reason=limit_reason(error.name, self.limits))
        except GuestTrapError as error:
            ending = Ending(State.FAILED, reason=f"trap: {error}")
        except Exception as error:  # noqa: BLE001 - a bug of ours must not leave a process without an end
            _log.exception("a bug in Sojourn stopped a process")
            ending = Ending(State.FAILED, reason=f"internal error: {type(error).__name__}: {error}")
        self._usage = self.usage()
        return self._blame_memory(ending)

    def _result(self, value: int | None) -> int | None:
        """The exit status that the outermost frame's result is."""
        return value if self.entered_cold else 0

    def _blame_memory(self, ending: Ending) -> Ending:
        trapped = ending.state is State.FAILED and ending.limit is None
        failed = trapped or (ending.state is State.EXITED and ending.exit_code != 0)
        if not failed or not self._memory_was_refused():
            return ending
        reason = limit_reason("memory_bytes", self.limits)
        return Ending(State.FAILED, ending.exit_code, "memory_bytes", reason)

    def _memory_was_refused(self) -> bool:
        try:
            return self.instance.read_global(DENIED) != 0
        except KeyError:  # a module without memory
            return False

    def save_system(self) -> dict[str, Any]:
        """What is not in the engine, as plain data for ``assemble``; the guest stands still.

        Raises:
            GrantError: a file of the host that is open could not be opened again: it has no name any more.
        """
        return {
            **save_system(self.system, self._tree),
            "clocks": self.surroundings.save(),
            "host_calls": self._host_calls(),
        }

    def _host_calls(self) -> int:
        return self.limits.host_calls - max(0, self.instance.host_calls_left)

    def usage(self) -> Usage:
        """What was used; the processor time only on the guest's own thread or after the end."""
        if self._closed:
            return self._usage
        return Usage(
            self.surroundings.cpu_ns() / 1e9,
            self.surroundings.wall_ns() / 1e9,
            len(self.instance.refresh()),
            self.system.output_bytes,
            self._host_calls(),
        )

    def kill(self, reason: str) -> None:
        self.surroundings.stop(reason)
        self.instance.ask(Stopped(reason))

    def close(self) -> None:
        """Free the instance, every handle and every buffer. Doing it twice does nothing."""
        if not self._closed:
            self._closed = True
            self.system.close()
            self._tree.close()
            self.instance.close()
            self.surroundings.close()


def limit_reason(name: str, limits: Limits) -> str:
    """Such as ``"the limit on cpu_seconds was reached: 2 s (--cpu)"``."""
    spec = LIMITS[name]
    amount = spec.amount(getattr(limits, name))
    return f"the limit on {name} was reached: {amount} (raise it with {spec.flag})"
