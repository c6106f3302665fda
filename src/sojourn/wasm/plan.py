"""Which functions of a module are made later: the plan of its *parts*.

A large program uses a small part of its code in its first second. So a module may be split: the *base* keeps
every index, memory, table and global of the original and the functions that are needed at once; each other
function lies in a *part*, a module that is compiled and instantiated when something in it is called for the
first time.

How a function of a part is reached. A private table has a *slot* for each function that is called from
outside of its part, or whose address is taken. Until the part is there the slot is null. In place of the
function's body there is a *stub*::

    i32.const <slot>
    global.set $pending
    local.get ...                      ;; all parameters
    return_call $dispatch              ;; the dispatcher of the function's type

and each type has one dispatcher in the base::

    global.get $pending
    table.get $parts
    ref.is_null
    if
      global.get $pending
      i32.const 0
      call_indirect $parts (param i32) ;; slot 0: the loader, put there by the host; it fills the slot
    end
    local.get ...
    global.get $pending
    return_call_indirect $parts

Both calls are tail calls, so neither has a frame, and nothing that can be left ever lies between a caller
and a function of a part. Stubs are what a split costs to compile, so there is one only where it is needed:
in the base for functions whose address is taken or which the base calls, in a part for functions of other
parts that it calls. What is behind an address is always the base's, so identity is kept.

Where a function may suspend, and how its sites are numbered, is decided for the module as a whole and does
not depend on the plan. Frames therefore mean the same with any plan, or none, and which parts are there is
no state: whoever goes on elsewhere loads them again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from .callgraph import Calls
from .events import Suspensions
from .index_spaces import IndexSpaces

LOADER_SLOT = 0
# An instruction on a passive segment, as it may be encoded. Only the base has the segments.
_SEGMENTS = re.compile(rb"\xfc(?:[\x08\x09\x0c\x0d]|[\x88\x89\x8c\x8d]\x80{0,3}\x00)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """One part. All functions are named as the original numbers them, and in that order.

    Attributes:
        functions: its own.
        borrowed: those of the base that it names; by wrappers and stubs where the base has these.
        elsewhere: those of other parts that it calls, through stubs of its own.
        first_slot: the slot of the first of ``slotted``; the others follow.
        slotted: its own functions that have slots.
        exported: its own functions that twins name and that the base does not have.
    """

    functions: tuple[int, ...]
    borrowed: tuple[int, ...]
    elsewhere: tuple[int, ...]
    first_slot: int
    slotted: tuple[int, ...]
    exported: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """How a module is split. Part ``n`` is ``parts[n - 1]``; part 0 is the base.

    Attributes:
        stubs: functions of parts that have a stub in the base.
        exported: functions that the base exports for parts and twins.
    """

    parts: tuple[Part, ...]
    stubs: tuple[int, ...]
    exported: tuple[int, ...]
    slots: dict[int, int] = field(init=False, repr=False, compare=False)
    owners: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        slots = {
            function: part.first_slot + place
            for part in self.parts
            for place, function in enumerate(part.slotted)
        }
        owners = {
            function: number for number, part in enumerate(self.parts, 1) for function in part.functions
        }
        object.__setattr__(self, "slots", slots)
        object.__setattr__(self, "owners", owners)

    @property
    def slots_count(self) -> int:
        """How many slots there are, that of the loader included."""
        return 1 + len(self.slots)

    def part_of_slot(self, slot: int) -> int:
        """The number of the part that fills a slot.

        Raises:
            IndexError: there is no such slot.
        """
        if not 0 < slot < self.slots_count:
            raise IndexError(f"there is no slot {slot}")
        return bisect_right(self.parts, slot, key=lambda part: part.first_slot)

    def part_of_function(self, function: int) -> int:
        """The number of the part in which a function lies."""
        return self.owners.get(function, 0)


def make_plan(
    spaces: IndexSpaces,
    code: bytes,
    starts: Sequence[int],
    calls: Sequence[Calls],
    where: Suspensions,
    taken: Collection[int],
    deferred: Iterable[Iterable[int]],
) -> Plan:
    """Split a module.

    Args:
        code, starts: its code section, and the boundaries of the bodies in it.
        calls: what each defined function calls.
        taken: functions whose address is taken outside of the code.
        deferred: the functions that each part is to have. Those that must be in the base stay there, and
            one that is named twice is in the first of its parts.
    """
    first = spaces.functions_imported
    owners = _owners(deferred, first, len(spaces.functions), _users_of_segments(code, starts, first))
    count = max(owners.values(), default=0)
    taken = {*taken, *(index for call in calls for index in call.taken)}
    called: list[set[int]] = [set() for _ in range(count + 1)]  # by functions of each part, from outside it
    named: set[int] = set()
    for function, call in enumerate(calls, first):
        owner = owners.get(function, 0)
        called[owner].update(index for index in call.functions if owners.get(index, 0) != owner)
        called[owner].update(call.taken)
        if where.functions[function]:
            named.update(call.functions, call.taken)
    stubs = {function for function in (taken | called[0]) if function in owners}
    members: list[list[int]] = [[] for _ in range(count + 1)]
    for function in sorted(owners):
        members[owners[function]].append(function)
    outside = set().union(*called) | taken
    parts: list[Part] = []
    slot = LOADER_SLOT + 1
    for number in range(1, count + 1):
        own = members[number]
        refs = {index for function in own for index in calls[function - first].taken}
        borrowed = {index for index in called[number] if index not in owners} | refs
        slotted = tuple(function for function in own if function in outside)
        parts.append(
            Part(
                tuple(own),
                tuple(sorted(borrowed)),
                tuple(sorted(called[number] - borrowed)),
                slot,
                slotted,
                tuple(function for function in own if function in named and function not in stubs),
            )
        )
        slot += len(slotted)
    wanted = named.union(*(part.borrowed for part in parts))
    exported = {index for index in wanted if index not in owners or index in stubs}
    return Plan(tuple(parts), tuple(sorted(stubs)), tuple(sorted(exported)))


def _owners(
    deferred: Iterable[Iterable[int]], first: int, end: int, resident: Collection[int]
) -> dict[int, int]:
    """The part of each function that is in one; parts without a function are left out."""
    owners: dict[int, int] = {}
    number = 0
    for functions in deferred:
        mine = {index for index in functions if first <= index < end and index not in resident}
        mine -= owners.keys()
        if mine:
            number += 1
            owners.update(dict.fromkeys(mine, number))
    return owners


def _users_of_segments(code: bytes, starts: Sequence[int], first: int) -> set[int]:
    """The functions whose bytes may hold an instruction on a segment."""
    return {first + bisect_right(starts, found.start()) - 1 for found in _SEGMENTS.finditer(code)}
