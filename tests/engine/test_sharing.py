"""Guests that share one permit: all make progress, and all can be ended and stored while they wait for it."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sojourn.model.limits import Limits
from sojourn.model.progress import Silent
from sojourn.model.states import Ending, State
from sojourn.store.home import Home
from sojourn.vm.process.assembly import assemble
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.engine import CompiledModule, Instance
from sojourn.vm.process.monitor import RunningProcess
from sojourn.vm.process.permits import Permits
from sojourn.vm.process.streams import Collected, Feed, Given, Streams
from sojourn.vm.process.virtual_machine import VirtualMachine
from sojourn.vm.process.wasi.mounts import MountTree
from sojourn.vm.process.wasi.outside import Sink, Source

from ..wat import wat

pytestmark = pytest.mark.engine

# Counts at address 1024 until the number at 1032 is not 0, in a function that another one calls with
# something live; then writes what it counted, reads a byte and ends with what was live. The second entry
# traps.
COUNTS = r"""(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\00\04\00\00\08\00\00\00") (data (i32.const 8) "\00\08\00\00\01\00\00\00")
  (func $count (result i32)
    (loop $l
      (i64.store (i32.const 1024) (i64.add (i64.load (i32.const 1024)) (i64.const 1)))
      (br_if $l (i64.eqz (i64.load (i32.const 1032)))))
    (i32.const 2))
  (func (export "_start") (local $kept i32)
    (local.set $kept (i32.load8_u (i32.const 0x0)))
    (local.set $kept (i32.add (local.get $kept) (call $count)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
    (drop (call $read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 16)))
    (call $exit (i32.add (local.get $kept) (i32.load (i32.const 16)))))
  (func (export "trap") (drop (call $count)) (unreachable)))"""
COUNTER, STOP = 1024, 1032
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> CompiledModule:
    home = Home.open(tmp_path_factory.mktemp("home"))
    return CompiledModules(home, Silent()).get("0" * 64, lambda: wat(COUNTS), "program")


def until(condition: Callable[[], Any], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"in vain: {what}"
        time.sleep(0.001)


class Guest:
    """One counting guest."""

    def __init__(
        self,
        module: CompiledModule,
        permits: Permits,
        *,
        weight: int = 4,
        stdin: Source | None = None,
        limits: Limits | None = None,
        sink: Sink | None = None,
    ) -> None:
        self.output = Collected(1 << 10)
        sink = sink or self.output
        self.machine: VirtualMachine = assemble(
            module,
            limits or Limits(),
            Streams(stdin or Given(b"x"), sink, sink),
            lambda tree, quota: [(b"/", tree)] if isinstance(tree, MountTree) else [],
        )
        self.machine.share_by(weight, permits)
        self.process = RunningProcess(self.machine, None)
        self._view = self.machine.instance.view

    def begin(self, name: str = "_start") -> Guest:
        def enter(instance: Instance) -> int | None:
            instance.leavable = True
            return instance.call(name)

        self.process.begin(enter)
        return self

    @property
    def count(self) -> int:
        return int(struct.unpack_from("<q", self._view, COUNTER)[0])

    def finish(self) -> None:
        """Have it stop counting."""
        struct.pack_into("<q", self._view, STOP, 1)

    def ended(self) -> Ending:
        ending = self.process.wait(DEADLINE_S)
        assert ending is not None
        return ending

    def written(self) -> int:
        return int(struct.unpack("<q", bytes(self.output.data))[0])


@contextmanager
def ending(guests: list[Guest]) -> Iterator[None]:
    try:
        yield
    finally:
        for guest in guests:
            guest.process.kill("the test is over")
        for guest in guests:
            assert guest.process.wait(DEADLINE_S) is not None


def settled(permits: Permits) -> None:
    """All that were given are back."""
    assert (permits._turns.holders, permits._turns.waiting) == (0, 0)


def test_all_make_progress_by_one_permit(module: CompiledModule) -> None:
    permits = Permits(1)
    guests = [Guest(module, permits) for _ in range(6)]
    with ending(guests):
        for guest in guests:
            guest.begin()
        for _ in range(3):
            until(lambda: all(guest.count > 0 for guest in guests), "all have begun")
            first = max(guest.count for guest in guests)
            target = first + min(guest.count for guest in guests)
            until(lambda: min(g.count for g in guests) > target, "each has counted as far as the first had")  # noqa: B023
            counts = [guest.count for guest in guests]
            assert max(counts) <= 4 * min(counts), counts
        for guest in guests:
            guest.finish()
        for guest in guests:
            assert guest.ended() == Ending(State.EXITED, 3)
            assert guest.written() > target
    settled(permits)


def test_shares_are_as_weights(module: CompiledModule) -> None:
    permits = Permits(1)
    light, heavy = guests = [Guest(module, permits, weight=weight) for weight in (4, 16)]
    with ending(guests):
        for guest in guests:
            guest.begin()
        until(lambda: light.count > 0 and heavy.count > 0, "both have begun")
        begun = light.count, heavy.count
        until(lambda: light.count > 10 * begun[0], "ten turns of the light one")
        ratio = (heavy.count - begun[1]) / (light.count - begun[0])
        assert 2 <= ratio <= 8, ratio
    settled(permits)


def test_a_guest_that_waits_in_a_call_has_no_permit(module: CompiledModule) -> None:
    permits = Permits(1)
    feeds = [Feed() for _ in range(3)]
    guests = [Guest(module, permits, stdin=feed) for feed in feeds]
    for guest, feed in zip(guests, feeds, strict=True):
        feed.woken = guest.machine.surroundings.wake
    other = Guest(module, permits)
    with ending([*guests, other]):
        for guest in guests:
            guest.finish()  # so that it counts to one, and reads
            guest.begin()
        until(lambda: all(guest.output.data for guest in guests), "all read")
        other.begin()
        until(lambda: other.count > 0, "the other runs")
        until(lambda: permits._turns.waiting == 0, "nobody waits for a turn")
        for feed in feeds:
            feed.put(b"y")
        for guest in guests:
            assert guest.ended() == Ending(State.EXITED, 3)
        other.finish()
        assert other.ended().state is State.EXITED
    settled(permits)


@contextmanager
def crowd(module: CompiledModule, permits: Permits, count: int = 3) -> Iterator[list[Guest]]:
    """Guests of which one at most runs; all have begun."""
    guests = [Guest(module, permits) for _ in range(count)]
    with ending(guests):
        for guest in guests:
            guest.begin()
        until(lambda: all(guest.count > 0 for guest in guests), "all have begun")
        yield guests


class Hog:
    """Holds the permit, as a guest would that cannot be left."""

    def __init__(self, permits: Permits) -> None:
        self.permits = permits
        self._go, self._has = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        turn = self.permits.turn(1 << 10)
        turn.enter_thread()
        turn.take(lambda: DEADLINE_S)
        self._has.set()
        self._go.wait(DEADLINE_S)
        turn.give()

    def __enter__(self) -> Hog:
        self._thread.start()
        assert self._has.wait(DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._thread.join()


def test_kill_while_it_waits_for_its_turn(module: CompiledModule) -> None:
    permits = Permits(1)
    with crowd(module, permits) as guests, Hog(permits):
        until(lambda: permits._turns.waiting == 3, "all wait")
        counts = [guest.count for guest in guests]
        for place, guest in enumerate(guests):
            assert guest.count == counts[place]  # none of those that wait has run
            guest.process.kill("enough")
            assert guest.ended() == Ending(State.KILLED, reason="enough")
    settled(permits)


def test_kill_before_its_first_turn(module: CompiledModule) -> None:
    permits = Permits(1)
    with Hog(permits):
        guest = Guest(module, permits).begin()
        until(lambda: permits._turns.waiting == 1, "it waits")
        guest.process.kill("enough")
        assert guest.ended() == Ending(State.KILLED, reason="enough")
        assert not guest.output.data
    settled(permits)


def test_the_wall_limit_holds_while_it_waits_for_its_turn(module: CompiledModule) -> None:
    permits = Permits(1)
    with Hog(permits):
        guest = Guest(module, permits, limits=Limits(wall_seconds=0.2, cpu_seconds=100)).begin()
        assert guest.ended().limit == "wall_seconds"
    settled(permits)


def test_waiting_for_a_turn_costs_no_processor_time(module: CompiledModule) -> None:
    permits = Permits(1)
    with Hog(permits):
        guest = Guest(module, permits, limits=Limits(cpu_seconds=0.1, wall_seconds=1)).begin()
        assert guest.ended().limit == "wall_seconds"
    settled(permits)


def test_at_rest_while_it_waits_for_its_turn(module: CompiledModule) -> None:
    """It stands still already, so nobody's permit is needed to look at it, or to take it away."""
    permits = Permits(1)
    with crowd(module, permits) as guests, Hog(permits):
        until(lambda: permits._turns.waiting == 3, "all wait")
        for guest in guests:
            look = guest.process.at_rest(
                lambda machine: (machine.records(), machine.save_system()), stop=False
            )
            records, state = look.result(DEADLINE_S)
            assert len(guest.machine.instance.stack(records).frames) == 2
            assert state["clocks"]["cpu_ns"] > 0
        until(lambda: permits._turns.waiting == 3, "all wait again")
        guests[0].process.at_rest(lambda machine: None, stop=True).result(DEADLINE_S)
        assert guests[0].ended().state is State.SUSPENDED
        assert permits._turns.waiting == 2
    settled(permits)


def test_it_goes_on_after_a_look_while_it_waited(module: CompiledModule) -> None:
    permits = Permits(1)
    with crowd(module, permits) as guests:
        with Hog(permits):
            until(lambda: permits._turns.waiting == 3, "all wait")
            guests[0].process.at_rest(lambda machine: None, stop=False).result(DEADLINE_S)
            before = guests[0].count
        until(lambda: guests[0].count > before, "it goes on")
        for guest in guests:
            guest.finish()
        assert [guest.ended() for guest in guests] == [Ending(State.EXITED, 3)] * 3
    settled(permits)


def test_a_trap_while_others_wait(module: CompiledModule) -> None:
    permits = Permits(1)
    with crowd(module, permits) as guests:
        trapping = Guest(module, permits)
        trapping.finish()
        trapping.begin("trap")
        assert trapping.ended().reason.startswith("trap: unreachable")
        counts = [guest.count for guest in guests]
        until(lambda: all(g.count > c for g, c in zip(guests, counts, strict=True)), "the others go on")
    settled(permits)


def test_a_guest_that_cannot_be_left_keeps_its_permit(module: CompiledModule) -> None:
    permits = Permits(1)
    rigid = Guest(module, permits)
    rigid.process.begin(lambda instance: instance.call("_start"))  # ``leavable`` stays False
    until(lambda: rigid.count > 0, "it runs")
    guest = Guest(module, permits).begin()
    with ending([rigid, guest]):
        seen = rigid.count
        until(lambda: rigid.count > 3 * seen + (1 << 27), "it goes on for more than a quantum")
        assert guest.count == 0
        rigid.finish()
        until(lambda: guest.count > 0, "the other has its turn at last")
    settled(permits)


def test_a_permit_that_nobody_uses_is_taken_away(module: CompiledModule) -> None:
    """A guest in a call of the host's that waits for something we do not know of, as for another guest."""
    permits = Permits(1)
    stuck, other_ran = threading.Event(), threading.Event()

    class Waits:
        tty = False

        def write(self, data: memoryview) -> int:
            stuck.set()
            assert other_ran.wait(DEADLINE_S)
            return len(data)

    waiting = Guest(module, permits, sink=Waits())
    waiting.finish()
    other = Guest(module, permits)
    with ending([waiting, other]):
        waiting.begin()
        assert stuck.wait(DEADLINE_S)
        other.begin()
        until(lambda: other.count > 0, "the other runs")
        other_ran.set()
        assert waiting.ended() == Ending(State.EXITED, 3)
    settled(permits)


def test_kills_at_random_leave_no_permit_behind(module: CompiledModule) -> None:
    rng = random.Random()
    permits = Permits(2)
    guests = [Guest(module, permits, weight=rng.choice([1, 4, 16])) for _ in range(40)]
    with ending(guests):
        for guest in guests:
            guest.begin()
        left = list(guests)
        while left:
            guest = left.pop(rng.randrange(len(left)))
            what = rng.randrange(3)
            if what == 0:
                guest.process.kill("enough")
                assert guest.ended().state is State.KILLED
            elif what == 1:
                guest.process.at_rest(lambda machine: machine.records(), stop=False).result(DEADLINE_S)
                guest.finish()
                assert guest.ended() == Ending(State.EXITED, 3)
            else:
                guest.process.at_rest(lambda machine: None, stop=True).result(DEADLINE_S)
                assert guest.ended().state is State.SUSPENDED
    settled(permits)
