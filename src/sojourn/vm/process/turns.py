"""Whose turn it is: a fair, weighted queue of runnable processes over a number of permits.

Theory of operation (start-time fair queueing; Goyal, Vin & Cheng 1996). Each member has a *tag*: its virtual
time, which is the processor time that it used while others had to wait, divided by its weight. A free permit
goes to the member with the smallest tag, among equals to the one that has waited longest. So members that
always want to run get shares in proportion to their weights, whatever they do with a turn.

The queue itself has a virtual time: the tag of the member that last got a permit. A newcomer begins there, so
it has its first turn in the round that is going on. One that comes back is moved up to ``CREDIT_NS`` before
that: what sleeps much and computes little goes before those that compute all the time, but nobody saves up
turns by sleeping. What was used while nobody waited costs nothing.

A member keeps its permit as long as it likes while nobody waits. Once somebody does, its turn is *over* when
it has used a quantum and more than the first of the queue. It is then asked to go, and it goes when it can;
nothing here takes a permit from a member that runs. ``revoke`` is for one that is stuck. All this is in
processor time, so that turns do not become short, and switches many, where the machine has others to serve.

Invariants: at most ``permits`` members hold one; nobody waits while one is free; no member waits twice. Knows
no clock: ``used`` says what a member has used so far.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

QUANTUM_MIN_NS = 5_000_000
QUANTUM_MAX_NS = 20_000_000
ROUND_NS = 500_000_000  # quanta are so short that every member has a turn in this time, as far as they may be
CREDIT_NS = QUANTUM_MIN_NS  # so much of a turn has who comes back
SWITCH_NS = 20_000  # a turn costs at least this: what it takes to have one
WEIGHT_MAX = 1 << 10
_SCALE = WEIGHT_MAX  # tags are whole numbers of nanoseconds of a member of this weight


@dataclass(eq=False)
class Member:
    """One that wants turns.

    Attributes:
        weight: its share in comparison to others', from 1 to ``WEIGHT_MAX``.
        tag: its virtual time.
    """

    weight: int
    tag: int = 0
    _new: bool = field(default=True, repr=False)  # whether it has no tag yet
    _ticket: int = field(default=-1, repr=False)  # its place in the queue; -1: it does not wait
    _basis_ns: int = field(default=0, repr=False)  # what it had used when it was last charged

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= WEIGHT_MAX:
            raise ValueError(f"a weight of {self.weight}; it is from 1 to {WEIGHT_MAX}")


M = TypeVar("M", bound=Member)


@dataclass
class _Turn:
    """A permit in somebody's hand.

    Attributes:
        begun_ns: what its holder had used when it got it, or when others began to wait.
        asked: whether its holder was asked to go.
    """

    begun_ns: int = 0
    asked: bool = False


class Turns(Generic[M]):
    """The queue. Not for several threads at a time.

    Args:
        permits: how many members may run at one time.
        used: the processor time that a member has used so far, in nanoseconds.
    """

    def __init__(self, permits: int, used: Callable[[M], int]) -> None:
        if permits < 1:
            raise ValueError(f"{permits} permits: nobody could ever run")
        self.permits = permits
        self._used = used
        self._virtual = 0
        self._tickets = 0
        self._queue: list[
            tuple[int, int, M]
        ] = []  # a heap; entries whose ticket is not the member's are void
        self._waiting = 0
        self._holders: dict[M, _Turn] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waiting

    @property
    def holders(self) -> int:
        """How many hold a permit."""
        return len(self._holders)

    def holds(self, member: M) -> bool:
        return member in self._holders

    def waits(self, member: M) -> bool:
        return member._ticket >= 0

    def quantum_ns(self) -> int:
        """How much may be used in a turn now when others wait."""
        fair = ROUND_NS * self.permits // max(1, self._waiting)
        return min(QUANTUM_MAX_NS, max(QUANTUM_MIN_NS, fair))

    def request(self, member: M) -> bool:
        """Ask for a permit; whether it has one now. Otherwise it waits, until another call returns it.

        Raises:
            ValueError: it holds one or waits already.
        """
        if member in self._holders or member._ticket >= 0:
            raise ValueError("it wants a turn that it has or waits for")
        credit_ns = 0 if member._new else CREDIT_NS
        member._new = False
        member.tag = max(member.tag, self._virtual - credit_ns * _SCALE // member.weight)
        if len(self._holders) < self.permits:
            self._grant(member)
            return True
        if not self._waiting:  # what they used before cost nobody anything
            for holder, turn in self._holders.items():
                holder._basis_ns = turn.begun_ns = self._used(holder)
        member._ticket = self._tickets
        self._tickets += 1
        self._waiting += 1
        heapq.heappush(self._queue, (member.tag, member._ticket, member))
        return False

    def release(self, member: M) -> M | None:
        """Give a permit back; who has it now, of those that waited. Nothing happens when it holds none."""
        if member not in self._holders:
            return None
        if self._waiting:
            self._charge(member, SWITCH_NS)
        del self._holders[member]
        return self._next()

    def withdraw(self, member: M) -> None:
        """Wait no longer. Nothing happens when it does not wait."""
        if member._ticket >= 0:
            self._unqueue(member)

    def left_ns(self, member: M) -> int | None:
        """How much a holder may still use in its turn; None while nobody waits for it."""
        turn = self._holders.get(member)
        if turn is None or not self._waiting:
            return None
        return max(0, turn.begun_ns + self.quantum_ns() - self._used(member))

    def revoke(self, member: M) -> M | None:
        """Give the permit of a member that does not use it to the next; who that is. The member finds out
        by ``holds``, and asks again when it goes on."""
        return self.release(member)

    def is_over(self, member: M) -> bool:
        """Whether the holder of a permit should go now, for one who waits. The answer is kept: it counts as
        asked, and no more are asked than wait."""
        turn = self._holders.get(member)
        if turn is None or not self._waiting:
            return False
        if turn.asked:
            return True
        turn.asked = self._has_had_enough(member, turn) and self._goes_first(member)
        return turn.asked

    def _has_had_enough(self, member: M, turn: _Turn) -> bool:
        """Whether it has used a quantum, and more than the first of the queue."""
        if self._used(member) - turn.begun_ns < self.quantum_ns():
            return False
        self._charge(member)
        return member.tag > self._first().tag

    def _goes_first(self, member: M) -> bool:
        """Whether it is one of those that have used most, as many as wait."""
        free = self._waiting - sum(turn.asked for turn in self._holders.values())
        others = [(other, turn) for other, turn in self._holders.items() if other is not member]
        left = [(other, turn) for other, turn in others if not turn.asked]
        if free > len(left):
            return True
        more = sum(self._has_had_enough(other, turn) and other.tag > member.tag for other, turn in left)
        return more < free

    def _first(self) -> M:
        while True:
            _, ticket, member = self._queue[0]
            if member._ticket == ticket:
                return member
            heapq.heappop(self._queue)

    def _next(self) -> M | None:
        if not self._waiting or len(self._holders) >= self.permits:
            return None
        member = self._first()
        self._unqueue(member)
        self._grant(member)
        return member

    def _unqueue(self, member: M) -> None:
        member._ticket = -1
        self._waiting -= 1
        if not self._waiting:
            self._queue.clear()
            for holder in self._holders:  # from here on nobody pays for it
                self._charge(holder)
        elif len(self._queue) > 2 * self._waiting + 64:
            self._queue = [entry for entry in self._queue if entry[2]._ticket == entry[1]]
            heapq.heapify(self._queue)

    def _grant(self, member: M) -> None:
        self._virtual = max(self._virtual, member.tag)
        self._holders[member] = turn = _Turn()
        if self._waiting:  # otherwise what it uses counts from when somebody begins to wait
            member._basis_ns = turn.begun_ns = self._used(member)

    def _charge(self, member: M, least_ns: int = 0) -> None:
        """Move a holder's tag on by what it has used since it was last charged."""
        used_ns = self._used(member)
        member.tag += max(used_ns - member._basis_ns, least_ns) * _SCALE // member.weight
        member._basis_ns = used_ns
