"""The queue for permits: shares by weight, nobody starves, never more than there are; in simulated time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.vm.process.turns import QUANTUM_MAX_NS, QUANTUM_MIN_NS, WEIGHT_MAX, Member, Turns

MS = 1_000_000


class World:
    """Members on processors, in simulated time: each tick of a millisecond every holder uses one."""

    def __init__(self, permits: int, weights: Sequence[int]) -> None:
        self.now = 0
        self.used: dict[Member, int] = {}
        self.turns = Turns(permits, lambda member: self.used.get(member, 0))
        self.members = [Member(weight) for weight in weights]
        self.running: set[Member] = set()

    def request(self, member: Member) -> None:
        if self.turns.request(member):
            self.running.add(member)
        self.check()

    def release(self, member: Member) -> None:
        self.running.discard(member)
        self._begin(self.turns.release(member))

    def revoke(self, member: Member) -> None:
        self._begin(self.turns.revoke(member))

    def _begin(self, granted: Member | None) -> None:
        if granted is not None:
            assert granted not in self.running
            self.running.add(granted)
        self.check()

    def check(self) -> None:
        turns = self.turns
        assert turns.holders <= turns.permits
        assert turns.waiting == 0 or turns.holders == turns.permits  # no permit lies about
        assert turns.waiting == sum(turns.waits(member) for member in self.members)
        assert turns.holders == sum(turns.holds(member) for member in self.members)
        assert not any(turns.holds(member) and turns.waits(member) for member in self.members)

    def tick(self, *, speed: dict[Member, int] | None = None) -> None:
        """A millisecond goes by; whose turn is over then goes, and comes again at once."""
        self.now += MS
        for member in self.running:
            self.used[member] = self.used.get(member, 0) + (speed or {}).get(member, MS)
        for member in [member for member in self.members if member in self.running]:
            if self.turns.is_over(member):
                self.release(member)
                self.request(member)


weights = st.lists(st.sampled_from([1, 2, 4, 16]), min_size=1, max_size=12)


@given(weights, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_shares_are_as_weights(weights: list[int], permits: int) -> None:
    world = World(permits, weights)
    for member in world.members:
        world.request(member)
    rounds = 40 * sum(weights) * (QUANTUM_MAX_NS // MS) // permits
    for _ in range(min(rounds, 20_000)):
        world.tick()
    assert sum(world.used.values()) == world.now * min(permits, len(weights))  # no processor idles
    # A member can run on one processor at most; the others share what is left by weight.
    expected: dict[Member, float] = {}
    left, shares = float(permits), sorted(world.members, key=lambda member: -member.weight)
    total = sum(weights)
    for member in shares:
        expected[member] = min(1.0, left * member.weight / total)
        left -= expected[member]
        total -= member.weight
    slack = 4 * QUANTUM_MAX_NS * max(weights)
    for member in world.members:
        assert abs(world.used[member] - expected[member] * world.now) <= slack


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4)), max_size=300), st.integers(1, 3), st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_happens_permits_are_kept_count_of(
    steps: list[tuple[int, int]], permits: int, data: st.DataObject
) -> None:
    world = World(permits, data.draw(st.lists(st.integers(1, 16), min_size=8, max_size=8)))
    for number, what in steps:
        member = world.members[number]
        if what == 0 and not world.turns.holds(member) and not world.turns.waits(member):
            world.running.discard(member)  # it was stuck, and its permit taken
            world.request(member)
        elif what == 1:
            world.release(member)
        elif what == 2:
            world.turns.withdraw(member)
            world.check()
        elif what == 3 and world.turns.holds(member):
            world.revoke(member)
        else:
            world.tick()
    for member in world.members:  # and all get out again
        world.turns.withdraw(member)
        world.release(member)
    assert (world.turns.holders, world.turns.waiting) == (0, 0)


@given(st.integers(0, 1 << 32), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_nobody_starves_among_those_who_come_and_go(seed: int, permits: int) -> None:
    """Some compute, some sleep and wake; whoever computes has its turn again and again."""
    rng = random.Random(seed)
    world = World(permits, [1, *(rng.choice([1, 4, 16]) for _ in range(9))])
    patient, restless = world.members[0], world.members[5:]
    for member in world.members[:5]:
        world.request(member)
    waited = 0
    for _ in range(6000):
        for member in restless:
            if member in world.running and rng.random() < 0.3:
                world.release(member)
            elif member not in world.running and not world.turns.waits(member) and rng.random() < 0.3:
                world.request(member)
        before = world.used.get(patient, 0)
        world.tick()
        waited = 0 if world.used.get(patient, 0) > before else waited + 1
        # Nine others of at most sixteen times its weight, a quantum each, and one that had just begun.
        assert waited * MS <= (9 * 16 + 9) * (QUANTUM_MAX_NS + MS)


def test_who_slept_has_saved_nothing_up_and_is_not_held_back() -> None:
    world = World(1, [1, 1, 1])
    busy, other, sleeper = world.members
    world.request(busy)
    for _ in range(10_000):  # alone: that cost nobody anything
        world.tick()
    world.request(other)
    for _ in range(1000):
        world.tick()
    assert abs((world.used[busy] - 10_000 * MS) - world.used[other]) <= 2 * QUANTUM_MAX_NS
    world.request(sleeper)  # it slept for eleven seconds, and gets a third from here on
    begun = dict(world.used)
    for _ in range(3000):
        world.tick()
    for member in (busy, other, sleeper):
        assert abs(world.used[member] - begun.get(member, 0) - 1000 * MS) <= 3 * QUANTUM_MAX_NS


def busy_world() -> World:
    """One processor, a hundred that compute, in the middle of it."""
    world = World(1, [4] * 101)
    for member in world.members[:100]:
        world.request(member)
    for _ in range(2000):
        world.tick()
    return world


def ticks_until(world: World, member: Member) -> int:
    ticks = 0
    while not world.turns.holds(member):
        world.tick()
        ticks += 1
    return ticks


def test_a_newcomer_has_its_turn_in_this_round() -> None:
    world = busy_world()
    world.request(world.members[100])
    assert ticks_until(world, world.members[100]) * MS <= 101 * (QUANTUM_MIN_NS + MS)


def test_who_comes_back_waits_for_one_turn() -> None:
    world = busy_world()
    sleeper = world.members[100]
    world.request(sleeper)
    ticks_until(world, sleeper)
    for _ in range(20):
        world.release(sleeper)  # it used little, and sleeps for a round
        for _ in range(600):
            world.tick()
        world.request(sleeper)
        assert ticks_until(world, sleeper) * MS <= QUANTUM_MIN_NS + MS
        world.used[sleeper] = world.used.get(sleeper, 0) + MS // 10


def test_sleeping_for_short_makes_nobody_rich() -> None:
    """Who goes to sleep before the end of each turn has no more than the others."""
    world = World(1, [4] * 10)
    clever = world.members[0]
    asleep = 0
    for member in world.members:
        world.request(member)
    for _ in range(20_000):
        world.tick()
        if world.turns.holds(clever) and world.used[clever] % (4 * MS) == 0:
            world.release(clever)
            asleep = 2
        elif not world.turns.waits(clever) and not world.turns.holds(clever):
            asleep -= 1
            if asleep == 0:
                world.request(clever)
    assert world.used[clever] <= 2000 * MS + 4 * QUANTUM_MAX_NS


def test_who_has_used_most_goes_first() -> None:
    """Four of five hold a permit all the time: it must not always be the same one's turn that ends."""
    world = World(4, [1] * 5)
    for member in world.members:
        world.request(member)
    for _ in range(5000):
        world.tick()
    assert max(world.used.values()) - min(world.used.values()) <= 2 * QUANTUM_MAX_NS


def test_no_turn_ends_while_nobody_waits() -> None:
    world = World(2, [1, 1])
    for member in world.members:
        world.request(member)
    world.now += 1000 * QUANTUM_MAX_NS
    assert not any(world.turns.is_over(member) for member in world.members)


def test_no_more_are_asked_to_go_than_wait() -> None:
    world = World(4, [1] * 5)
    for member in world.members:
        world.request(member)
    world.now += QUANTUM_MAX_NS
    for member in world.running:
        world.used[member] = QUANTUM_MAX_NS
    asked = [member for member in world.members if world.turns.is_over(member)]
    assert len(asked) == 1
    assert world.turns.is_over(asked[0])  # it was asked, and is asked still
    world.release(asked[0])
    assert world.turns.waiting == 0


def test_the_heavier_goes_on_while_it_has_used_less_than_its_share() -> None:
    world = World(1, [16, 1])
    for member in world.members:
        world.request(member)
    turns = [0, 0]
    for _ in range(8500):
        before = set(world.running)
        world.tick()
        for place, member in enumerate(world.members):
            turns[place] += member in world.running - before
    heavy, light = (world.used[member] for member in world.members)
    assert 14 < heavy / light < 18
    assert turns[0] <= turns[1] + 1  # its share in one long turn, not in sixteen


def test_a_turn_lasts_a_quantum_each_time() -> None:
    world = World(2, [4] * 12)
    for member in world.members:
        world.request(member)
    turns = 0
    for _ in range(5000):
        before = set(world.running)
        world.tick()
        turns += len(world.running - before)
    assert turns <= 2 * 5000 * MS // QUANTUM_MAX_NS


def test_quanta_are_short_when_many_wait() -> None:
    world = World(2, [1] * 1002)
    world.request(world.members[0])
    assert world.turns.quantum_ns() == QUANTUM_MAX_NS
    for member in world.members[1:]:
        world.request(member)
    assert world.turns.quantum_ns() == QUANTUM_MIN_NS


def test_a_queue_that_many_leave_does_not_grow() -> None:
    world = World(1, [1] * 3)
    world.request(world.members[0])
    world.request(world.members[1])
    for _ in range(10_000):
        world.turns.request(world.members[2])
        world.turns.withdraw(world.members[2])
    assert len(world.turns._queue) < 200


def test_the_same_happens_again() -> None:
    def story(seed: int) -> list[int]:
        rng = random.Random(seed)
        world = World(2, [rng.choice([1, 4, 16]) for _ in range(10)])
        for member in world.members:
            world.request(member)
        for _ in range(2000):
            world.tick(speed={member: rng.randrange(MS) for member in world.members})
        return [world.used[member] for member in world.members]

    assert story(7) == story(7)


def test_what_cannot_be_is_refused() -> None:
    turns = Turns(1, lambda member: 0)
    one, two = Member(1), Member(1)
    turns.request(one)
    turns.request(two)
    for member in (one, two):
        with pytest.raises(ValueError, match="has or waits for"):
            turns.request(member)
    with pytest.raises(ValueError, match="0 permits"):
        Turns(0, lambda member: 0)
    for weight in (0, WEIGHT_MAX + 1):
        with pytest.raises(ValueError, match="weight"):
            Member(weight)
