"""What a decoded body is made of: events, the points where control flow or a site is (``body.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .index_spaces import FuncType, IndexSpaces

# Kinds of events: the opcode, or one of these.
ENTRY, DEAD = -1, -2
UNREACHABLE, BLOCK, LOOP, IF, ELSE, THROW, THROW_REF, END = 0x00, 0x02, 0x03, 0x04, 0x05, 0x08, 0x0A, 0x0B
BR, BR_IF, BR_TABLE, RETURN = 0x0C, 0x0D, 0x0E, 0x0F
CALL, CALL_INDIRECT, RETURN_CALL, RETURN_CALL_INDIRECT, CALL_REF, RETURN_CALL_REF = range(0x10, 0x16)
TRY_TABLE, REF_FUNC, BR_ON_NULL, BR_ON_NON_NULL = 0x1F, 0xD2, 0xD5, 0xD6
MEMORY_INIT, DATA_DROP, TABLE_INIT, ELEM_DROP = 0xFC08, 0xFC09, 0xFC0C, 0xFC0D
ARRAY_NEW_DATA, ARRAY_NEW_ELEM, ARRAY_INIT_DATA, ARRAY_INIT_ELEM = 0xFB09, 0xFB0A, 0xFB12, 0xFB13
SEGMENT_KINDS = frozenset(
    (
        *(MEMORY_INIT, DATA_DROP, TABLE_INIT, ELEM_DROP),
        *(ARRAY_NEW_DATA, ARRAY_NEW_ELEM, ARRAY_INIT_DATA, ARRAY_INIT_ELEM),
    )
)
DROPS = frozenset((DATA_DROP, ELEM_DROP))
BR_ON_CAST, BR_ON_CAST_FAIL = 0xFB18, 0xFB19
FUNCTION_BYTES_MAX = 7_654_321  # the largest body that engines take
# What a site adds to the code at least: behind a call; where there is a poll; for each value that it saves.
CALL_BYTES_MIN, POLL_BYTES_MIN, VALUE_BYTES_MIN = 12, 20, 2


class Event:
    """One point of interest in a body.

    Attributes:
        kind: the opcode (that of a segment instruction with its prefix), ``ENTRY`` or ``DEAD``.
        start, end: where the instruction lies in the code; equal for ``ENTRY``.
        use, define: the locals read before written, and written, since the event before, as bit masks.
        live: for a site, the locals that are live when it is entered again (set by ``liveness``).
        copy: values to be copied into slots before the instruction: (height of the first, their types,
            types of the operands that lie above them), or None.
        held: for a site, the types of the operand stack that must be there again.
        site: its number, or -1.
        has_site: for an opener of a block, whether there is a site inside.
        opener: for ``END`` and ``ELSE``, the event that opened the block; None for the function's own end.
        close, other: for an opener, the positions of its ``END`` and its ``ELSE`` in the events; other is
            -1 without.
        outer: the opener of the block around it; the function's entry has none.
        loops: for an opener, how many loops it lies in, itself among them.
        base: for an opener, the height of the stack under its parameters.
        signature: of the block or the callee.
        labels: the depths that a branch names, or those of the catch clauses.
        callee: the function, type or segment index that an instruction names.
        detail: what else it names: the table of an indirect call, the catch clauses as (kind, tag).
    """

    __slots__ = (
        *("base", "callee", "close", "copy", "define", "detail", "end", "has_site", "held", "kind", "labels"),
        *("live", "loops", "opener", "other", "outer", "signature", "site", "start", "use"),
    )

    def __init__(self, kind: int, start: int, end: int, use: int, define: int) -> None:
        self.kind = kind
        self.start = start
        self.end = end
        self.use = use
        self.define = define
        self.live = 0
        self.copy: tuple[int, tuple[int, ...], tuple[int, ...]] | None = None
        self.held: tuple[int, ...] = ()
        self.site = -1
        self.has_site = False
        self.opener: Event | None = None
        self.close = self.other = -1
        self.outer: Event | None = None
        self.loops = 0
        self.base = 0
        self.signature = NO_VALUES
        self.labels: tuple[int, ...] = ()
        self.callee = -1
        self.detail: tuple[tuple[int, int], ...] | int = 0


NO_VALUES = FuncType((), ())


@dataclass(frozen=True, slots=True)
class Suspensions:
    """Which calls may suspend, and where polls are.

    Attributes:
        functions: for each function, not zero if a call of it may come back unwinding.
        types: for each type, not zero if an indirect call of that type may.
        entries: for each function, not zero if it polls at its entry.
        loops: for each function, not zero if it polls at the head of each of its loops.
    """

    functions: Sequence[int]
    types: Sequence[int]
    entries: Sequence[int]
    loops: Sequence[int]


@dataclass(frozen=True, slots=True)
class Body:
    """A decoded function body.

    Attributes:
        function: its index.
        code: the bytes that all positions refer to.
        locals: the types of all locals, parameters first.
        params: how many of them are parameters.
        declared: the encoded groups of declared locals, without their count, and that count.
        first, end: the extent of the instructions in ``code``; the last one is the function's ``end``.
        events: in the order of the code; the first is ``ENTRY``.
        sites: the events that are sites, by number.
        slots: the local index of each (height, type).
        spaces: what the module declares.
        calls: whether it calls any function.
        types: the types that its instructions name; None when it names any for a reference.
    """

    function: int
    code: bytes
    locals: tuple[int, ...]
    params: int
    declared: tuple[int, bytes]
    first: int
    end: int
    events: list[Event]
    sites: list[Event]
    slots: dict[tuple[int, int], int]
    spaces: IndexSpaces
    calls: bool
    types: frozenset[int] | None
