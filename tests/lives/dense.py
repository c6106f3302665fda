"""A WebAssembly command that is left as often as can be: at each poll, each resume in a fresh instance.

Nothing of the host but the virtual machine takes part, so that thousands of lives take seconds. State goes
through the store, as checkpoints do.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sojourn.context import Context
from sojourn.model.grants import DirectoryGrant
from sojourn.model.limits import Limits
from sojourn.model.progress import Silent
from sojourn.model.states import Ending
from sojourn.store.checkpoints import Checkpoints
from sojourn.store.home import Home
from sojourn.vm.process.command import Command
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.engine import THREAD_STACK_BYTES
from sojourn.vm.process.snapshots import Snapshot, context_of, put, take
from sojourn.vm.process.streams import Collected, Given, Streams
from sojourn.vm.process.virtual_machine import VirtualMachine

T = TypeVar("T")
OUTPUT_MAX = 1 << 20
PID, DIGEST = "dense", "0" * 64


def on_guest_thread(work: Callable[[], T]) -> T:
    """What runs guests needs the stack that the engine may use."""
    found: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            found.append(work())
        except BaseException as error:
            errors.append(error)

    before = threading.stack_size(THREAD_STACK_BYTES)
    try:
        thread = threading.Thread(target=body)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return found[0]


@dataclass
class Dense:
    """One command over and over, in ``home``.

    Attributes:
        lives: of the last run.
    """

    home: Home
    code: bytes
    args: Sequence[str] = ()
    stdin: bytes = b""
    grants: Sequence[DirectoryGrant] = ()
    limits: Limits = field(default_factory=Limits)
    lives: int = 0

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256(self.code).hexdigest()
        self._command = Command(CompiledModules(self.home, Silent()), "program.wasm", self._digest, self.code)
        self._store = Checkpoints(self.home.checkpoints)

    def run(self, leave: Callable[[int], float | None]) -> tuple[bytes, bytes, Ending]:
        """What it wrote to both streams, and how it ended.

        Args:
            leave: in how many seconds (0: at the next poll) the life of that number is left; None: never.
        """
        return on_guest_thread(lambda: self._run(leave))

    def _run(self, leave: Callable[[int], float | None]) -> tuple[bytes, bytes, Ending]:
        streams = Streams(Given(self.stdin), Collected(OUTPUT_MAX), Collected(OUTPUT_MAX))
        machine = self._machine(streams, None)
        self.lives = 0
        while True:
            ending = self._live(machine, leave(self.lives), first=self.lives == 0)
            self.lives += 1
            if ending is not None:
                machine.close()
                return bytes(streams.stdout.data), bytes(streams.stderr.data), ending  # type: ignore[attr-defined]
            machine = self._moved(machine, streams)

    def _machine(self, streams: Streams, context: Context | None) -> VirtualMachine:
        return self._command.start(self.args, {}, self.limits, streams, {}, self.grants, context)

    def _live(self, machine: VirtualMachine, after_s: float | None, *, first: bool) -> Ending | None:
        timer = None
        machine.instance.leavable = True
        if after_s == 0:
            machine.suspend()
        elif after_s is not None:
            timer = threading.Timer(after_s, machine.suspend)
            timer.start()
        try:
            return machine.run(self._command.enter) if first else machine.go_on()
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()

    def _moved(self, machine: VirtualMachine, streams: Streams) -> VirtualMachine:
        """A fresh machine that goes on where the other was left; that one is gone."""
        snapshot = take(machine)
        context = self._context(snapshot)
        saved = self._store.save(context, snapshot.views)
        machine.close()
        with self._store.load(PID, saved.digest) as stored:
            fresh = self._machine(streams, stored.context)
            put(fresh, stored, None, 1)
        self._store.remove(PID)
        return fresh

    def _context(self, snapshot: Snapshot) -> Context:
        return context_of(
            snapshot,
            program="sha256:" + DIGEST,
            runtime="sha256:" + DIGEST,
            pid=PID,
            created_ns=0,
            epoch=1,
            sequence=0,
            parent=None,
            grants=[],
            limits={},
        )


def each_poll(lives_max: int) -> Callable[[int], float | None]:
    return lambda number: 0.0 if number < lives_max else None


def now_and_then(seed: int, mean_s: float, lives_max: int) -> Callable[[int], float | None]:
    rng = random.Random(seed)
    return lambda number: rng.choice((0.0, rng.expovariate(1 / mean_s))) if number < lives_max else None
