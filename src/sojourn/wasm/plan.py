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
parts that it calls. What is behind an address is always the base's, so identity is kept (nobody can see that
of entries of a table that never changes).

Where the entries of the table never change, functions that are reached through it only share one stub for
each type. Code of a split module then notes the entry before each indirect call::

    global.set $pending
    global.get $pending
    call_indirect (type $t)

and in the place of each such function the table has the stub of its type::

    global.get $pending
    i32.const <number of slots>
    i32.add
    i32.const 0
    call_indirect $parts (param i32)   ;; the loader: numbers from there on are entries
    local.get ...
    global.get $pending
    return_call_indirect (type $t)     ;; the part has put the function there

The *continuations* of the base's own loops (``peel``) are large and needed only when a program goes on, so
those of each function are a part of their own, behind all others in number.

Where a function may suspend, and how its sites are numbered, is decided for the module as a whole
(``analysis``) and does not depend on the plan. Frames therefore mean the same with any plan, or none, and
which parts are there is no state: whoever goes on elsewhere loads them again. What a part names beyond
itself is found when the part is made.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from .callgraph import Calls
from .index_spaces import IndexSpaces

LOADER_SLOT = 0
Scan = Callable[[Sequence[int]], Sequence[Calls]]  # what each of some functions calls


@dataclass(frozen=True)
class Plan:
    """How a module is split. Part ``n`` has the functions ``parts[n - 1]``; part 0 is the base. All functions
    are named as the original numbers them.

    Attributes:
        parts: the functions of each part, ascending; each has a slot, in this order.
        stubs: functions of parts that have a stub in the base, ascending.
        exported: functions that the base exports for parts and twins, ascending.
        entries: the entries of the table that parts fill, ascending, each with its function.
    """

    parts: tuple[tuple[int, ...], ...]
    stubs: tuple[int, ...]
    exported: tuple[int, ...]
    entries: tuple[tuple[int, int], ...] = ()
    first_slots: list[int] = field(init=False, repr=False, compare=False)
    slots: dict[int, int] = field(init=False, repr=False, compare=False)
    owners: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        first_slots = list(accumulate(map(len, self.parts), initial=LOADER_SLOT + 1))
        slots = {
            function: slot
            for functions, first in zip(self.parts, first_slots, strict=False)
            for slot, function in enumerate(functions, first)
        }
        owners = {function: number for number, part in enumerate(self.parts, 1) for function in part}
        object.__setattr__(self, "first_slots", first_slots)
        object.__setattr__(self, "slots", slots)
        object.__setattr__(self, "owners", owners)

    @property
    def slots_count(self) -> int:
        """How many slots there are, that of the loader included."""
        return self.first_slots[-1]

    def part_of_slot(self, slot: int) -> int:
        """The number of the part that fills a slot; behind the slots are the entries.

        Raises:
            IndexError: there is no such slot or entry.
        """
        if 0 < slot < self.slots_count:
            return bisect_right(self.first_slots, slot)
        entry = slot - self.slots_count
        place = bisect_left(self.entries, entry, key=lambda item: item[0])
        if entry < 0 or place == len(self.entries) or self.entries[place][0] != entry:
            raise IndexError(f"there is no slot {slot}")
        return self.owners[self.entries[place][1]]

    def entries_of(self, number: int) -> list[tuple[int, int]]:
        """The entries that part ``number`` fills, each with its function."""
        return [(entry, function) for entry, function in self.entries if self.owners[function] == number]

    def part_of_function(self, function: int) -> int:
        """The number of the part in which a function lies."""
        return self.owners.get(function, 0)

    def part_of_continuations(self, function: int) -> int:
        """The number of the part that has the continuations of a function of the base."""
        return len(self.parts) + 1 + function

    def continued(self, number: int) -> int:
        """The function of the base whose continuations part ``number`` has; -1 for any other part."""
        return max(-1, number - len(self.parts) - 1)


@dataclass(frozen=True, slots=True)
class Names:
    """What a part names beyond itself, each ascending.

    Attributes:
        borrowed: the functions of the base.
        elsewhere: those of other parts, which it calls through stubs of its own.
        taken: the functions whose address it takes.
    """

    borrowed: tuple[int, ...]
    elsewhere: tuple[int, ...]
    taken: tuple[int, ...]


def make_plan(
    spaces: IndexSpaces,
    scan: Scan,
    resident: Collection[int],
    taken: Collection[int],
    deferred: Iterable[Iterable[int]],
    entries: Mapping[int, int],
) -> Plan:
    """Split a module.

    Args:
        resident: functions that must be in the base.
        taken: functions whose address is taken, by more than ``entries``.
        deferred: the functions that each part is to have. Those that must be in the base stay there, and
            one that is named twice is in the first of its parts.
        entries: the entries of the table, each with its function, if stubs can be shared there.
    """
    first, end = spaces.functions_imported, len(spaces.functions)
    parts: list[tuple[int, ...]] = []
    left = set(range(first, end)).difference(resident)
    for functions in deferred:
        mine = left.intersection(functions)
        if mine:
            left -= mine
            parts.append(tuple(sorted(mine)))
    base = left.union(range(first), resident)
    called = {
        index for call in scan(sorted(index for index in base if index >= first)) for index in call.functions
    }
    stubs = called.union(taken).difference(base)
    direct = base | stubs
    filled = [(entry, index) for entry, index in sorted(entries.items()) if index not in direct]
    return Plan(
        *(tuple(parts), tuple(sorted(stubs)), tuple(sorted(base | (stubs & called)))), entries=tuple(filled)
    )


def names_of(plan: Plan, number: int, functions: Sequence[int], scan: Scan) -> Names:
    """What part ``number`` names, which has the code of ``functions``."""
    called: set[int] = set()
    taken: set[int] = set()
    for call in scan(functions):
        called.update(call.functions)
        taken.update(call.taken)
    borrowed = {index for index in called if not plan.part_of_function(index)}
    elsewhere = {index for index in called - borrowed if plan.part_of_function(index) != number}
    return Names(tuple(sorted(borrowed)), tuple(sorted(elsewhere)), tuple(sorted(taken)))
