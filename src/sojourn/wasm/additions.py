"""What a base module has beyond its original: which items there are, how they are numbered and named.

``base.py`` says what they are for. Base modules and twins are made by the same rules, which are these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from .analysis import Analysis
from .binary import MalformedModuleError, Module, UnsupportedFeatureError, uleb
from .callgraph import Segment, address_taken
from .events import (
    ARRAY_NEW_DATA,
    ARRAY_NEW_ELEM,
    DATA_DROP,
    DROPS,
    MEMORY_INIT,
    TABLE_INIT,
    Event,
)
from .frames import Control, Groups, Helper, global_get, global_set, save_helpers
from .index_spaces import (
    ANYREF,
    EXNREF,
    EXTERNREF,
    FUNCREF,
    I32,
    I64,
    FuncType,
    IndexSpaces,
    encode_type,
    family,
    heap_type,
    is_defaultable,
    is_reference,
    reference_type,
    sleb_bytes,
)
from .plan import Plan

PREFIX = "resumable:"
CONTROL, UNWINDING, SAVE, RESUME, TWINS, PENDING, PARTS = (
    PREFIX + name for name in ("control", "unwinding", "save", "resume", "twins", "pending", "parts")
)
LOADER_TYPE = FuncType((I32,), ())  # of the function in the slot ``LOADER_SLOT``: it takes another slot
FUNCTIONS, REFERENCES, EXTERNALS, REFERENCES_COUNT, EXTERNALS_COUNT = (
    PREFIX + name for name in ("functions", "references", "externals", "references-count", "externals-count")
)
REQUEST = 0  # the address of the request flag in the control memory
FRAMES = 64  # the address of the first record
CONTROL_PAGES = 4096


@dataclass(frozen=True)
class Additions:
    """What a base module has that the original has not, as far as it depends on the original's code.

    Attributes:
        suspending_imports: the functions that have wrappers, in the order of these.
        exceptions: whether exception references may be saved.
        references: whether other references may be, or entries of tables are state.
        functions: all functions whose address is taken, if so: entry ``i`` of the private table
            ``FUNCTIONS`` is number ``i`` of these (its wrapper, if it has one).
        segments: what segment functions there are, as (kind of instruction, segment, what else it names).
        stand_ins: the types of functions that are never called.
        taken: the functions whose address twins may take.
    """

    suspending_imports: tuple[int, ...]
    exceptions: bool
    references: bool
    functions: tuple[int, ...]
    segments: tuple[Segment, ...]
    stand_ins: tuple[int, ...]
    taken: tuple[int, ...]

    def plain(self) -> list[Any]:
        """As plain data, for another process or a file."""
        return list(astuple(self))

    @classmethod
    def of(cls, plain: Sequence[Any]) -> Additions:
        """What ``plain`` gave.

        Raises:
            TypeError, ValueError: it was something else.
        """
        imports, exceptions, references, functions, segments, stand_ins, taken = plain
        return cls(
            *(tuple(imports), bool(exceptions), bool(references), tuple(functions)),
            segments=tuple([(kind, segment, name) for kind, segment, name in segments]),
            stand_ins=tuple(stand_ins),
            taken=tuple(taken),
        )

    @property
    def drops(self) -> tuple[Segment, ...]:
        """Those of ``segments`` that drop one; each has a global that says whether it was dropped."""
        return tuple(segment for segment in self.segments if segment[0] in DROPS)


def additions_of(
    module: Module, spaces: IndexSpaces, analysis: Analysis, imports: tuple[int, ...], split: bool
) -> Additions:
    where = analysis.suspensions.functions
    kinds = {kind for item in spaces.types if item is not None for kind in item.params + item.results}
    kinds |= {item.type for item in spaces.globals}
    references = bool(spaces.tables_imported or analysis.tables) or analysis.references
    references = references or any(is_reference(kind) and kind != EXNREF for kind in kinds)
    taken: set[int] = set()
    if references:
        taken = address_taken(module) | {index for _, some, _ in analysis.naming for index in some}
        if any(index >= len(spaces.functions) for index in taken):
            raise MalformedModuleError("a function that does not exist", 0)
    segments = {
        segment
        for function, _, some in analysis.naming
        for segment in some
        if split or where[function] or segment[0] in DROPS
    }
    addresses = {index for function, some, _ in analysis.naming if split or where[function] for index in some}
    exceptions = bool(spaces.tags) or references or analysis.tries or EXNREF in kinds
    return Additions(
        suspending_imports=imports,
        exceptions=exceptions,
        references=references,
        functions=tuple(sorted(taken)),
        segments=tuple(sorted(segments)),
        stand_ins=stand_ins(spaces),
        taken=tuple(sorted(addresses)),
    )


class TypeNumbers:
    """The types of a module that is being made: those of the original, and more behind them."""

    def __init__(self, count: int) -> None:
        self._first = count
        self._more: dict[FuncType, int] = {}

    def index(self, signature: FuncType) -> int:
        return self._more.setdefault(signature, self._first + len(self._more))

    def block(self, signature: FuncType) -> bytes:
        if not signature.params and not signature.results:
            return b"\x40"
        if not signature.params and len(signature.results) == 1:
            return encode_type(signature.results[0])
        return sleb_bytes(self.index(signature))

    def encode(self) -> list[bytes]:
        return [signature.encode() for signature in self._more]


def control_of(spaces: IndexSpaces, references: bool) -> Control:
    """Where what we add to a module with these index spaces lies."""
    first, tables = len(spaces.globals), len(spaces.tables)
    plain = (len(spaces.memories), first, first + 1, first + 2, tables)
    if not references:
        return Control(*plain, pending=first + 3, parts=tables + 1)
    kept = {FUNCREF: (tables + 2, first + 3), EXTERNREF: (tables + 3, first + 4)}
    return Control(*plain, first + 5, tables + 4, tables + 1, kept)


def shares_entries(spaces: IndexSpaces, additions: Additions) -> bool:
    """Whether functions of one type can share a stub in the table (``plan``): its entries never change, and
    no code can get hold of one."""
    plain = len(spaces.tables) == 1 and not spaces.tables_imported and spaces.tables[0].index == I32
    return plain and not additions.references


def before_indirect(spaces: IndexSpaces, additions: Additions) -> bytes:
    """What notes in a split module which entry of the table is called, if that is how stubs know it."""
    if not shares_entries(spaces, additions):
        return b""
    pending = control_of(spaces, additions.references).pending
    return global_set(pending) + global_get(pending)


def tags_of(spaces: IndexSpaces) -> tuple[FuncType, ...]:
    """The types of a module's exception tags."""
    return tuple(kind for kind in (spaces.types[index] for index in spaces.tags) if kind is not None)


class BaseTarget:
    """How the base module numbers what code names: as the original, but for imports that have wrappers.

    Attributes:
        wrappers, helpers, segments, stand_ins, taken: the numbers of what was added.
        dispatchers: for each type of function that has a slot, the number of the one that calls it.
        entries: for each type of function that lies in a part and is reached through the table only, the
            number of what is in its place there.
    """

    def __init__(
        self, spaces: IndexSpaces, additions: Additions, plan: Plan | None = None, *, split: bool = False
    ) -> None:
        self.split = self.moved = split or plan is not None
        self.spaces = spaces
        self.additions = additions
        self.control = control_of(spaces, additions.references)
        self.indirect = before_indirect(spaces, additions) if self.split else b""
        self.types = TypeNumbers(len(spaces.types))
        helpers = save_helpers(additions.exceptions, additions.references)
        first = len(spaces.functions)
        self.wrappers = {index: first + place for place, index in enumerate(additions.suspending_imports)}
        first += len(self.wrappers)
        self.helpers = {key: first + place for place, key in enumerate(helpers)}
        first += len(helpers)
        self.segments = {key: first + place for place, key in enumerate(additions.segments)}
        first += len(self.segments)
        self.stand_ins = {kind: first + place for place, kind in enumerate(additions.stand_ins)}
        first += len(self.stand_ins)
        self.taken = {index: first + place for place, index in enumerate(additions.taken)}
        first += len(self.taken)
        kinds = sorted({spaces.functions[function] for function in plan.slots}) if plan else []
        self.dispatchers = {kind: first + place for place, kind in enumerate(kinds)}
        first += len(kinds)
        kinds = sorted({spaces.functions[function] for _, function in plan.entries}) if plan else []
        self.entries = {kind: first + place for place, kind in enumerate(kinds)}
        self._encoded = {key: uleb(index) for key, index in self.helpers.items()}

    def function(self, index: int) -> bytes:
        return uleb(self.wrappers.get(index, index))

    def reference(self, index: int) -> bytes:
        return b"\xd2" + self.function(index)

    def results(self, kinds: tuple[int, ...]) -> tuple[int, ...]:
        return kinds

    def helper(self, key: Helper) -> bytes:
        return self._encoded[key]

    def block(self, signature: FuncType) -> bytes:
        return self.types.block(signature)

    def type_index(self, signature: FuncType) -> int:
        return self.types.index(signature)

    def segment(self, event: Event, code: bytes) -> bytes:
        return self.drop(event.kind, event.callee) if event.kind in DROPS else code

    def drop(self, kind: int, segment: int) -> bytes:
        return b"\x10" + uleb(self.segments[kind, segment, 0])

    def stand_in(self, kind: int, function: int) -> bytes:
        """
        Raises:
            UnsupportedFeatureError: it takes more than one instruction to make one.
        """
        heap = heap_type(kind)
        if heap in self.stand_ins:
            return b"\xd2" + uleb(self.stand_ins[heap])
        composite = self.spaces.composites.get(heap)
        if heap in _SMALL_INTEGERS:
            return b"\x41\0\xfb\x1c" + (b"\xfb\x1b" if heap == _EXTERN else b"")
        if composite is not None and composite.array:
            return b"\xfb\x08" + uleb(heap) + b"\0"  # array.new_fixed of no elements
        if composite is not None and all(map(is_defaultable, composite.fields)):
            return b"\xfb\x01" + uleb(heap)  # struct.new_default
        raise UnsupportedFeatureError("a result that can never be null", function)


_FUNC, _EXTERN, _ANY, _EQ, _I31 = -0x10, -0x11, -0x12, -0x13, -0x14
_SMALL_INTEGERS = (_EXTERN, _ANY, _EQ, _I31)


def stand_ins(spaces: IndexSpaces) -> tuple[int, ...]:
    """The function types of which the module has a function that is never called."""
    heaps = {
        heap_type(kind)
        for signature in spaces.types
        if signature is not None
        for kind in signature.results
        if is_reference(kind) and not is_defaultable(kind)
    }
    found = {heap for heap in heaps if 0 <= heap < len(spaces.types) and spaces.types[heap] is not None}
    return tuple(sorted(found | ({_FUNC} & heaps)))


def stand_in_kind(types: TypeNumbers, heap: int) -> int:
    """The type index of a function that is never called: of that heap type, or of any."""
    return heap if heap >= 0 else types.index(FuncType((), ()))


def taken_signature(spaces: IndexSpaces, index: int) -> FuncType:
    """The type of the function that leaves the address of another."""
    return FuncType((), (reference_type(spaces.functions[index], null=False),))


def segment_signature(spaces: IndexSpaces, key: Segment) -> FuncType:
    """The type of a segment function."""
    kind, _, name = key
    if kind in DROPS:
        return FuncType((), ())
    if kind == MEMORY_INIT:
        address = I64 if spaces.memories[name].is_64 else I32
        return FuncType((address, I32, I32), ())
    if kind == TABLE_INIT:
        return FuncType((spaces.tables[name].index, I32, I32), ())
    if kind in (ARRAY_NEW_DATA, ARRAY_NEW_ELEM):
        return FuncType((I32, I32), (reference_type(name, null=False),))
    return FuncType((reference_type(name, null=True), I32, I32, I32), ())


def dropped_global(target: BaseTarget, key: Segment) -> int:
    """The global that says whether a segment was dropped."""
    first = target.control.pending + target.split
    return first + target.additions.drops.index(key)


def argument_groups(spaces: IndexSpaces, index: int) -> Groups:
    """What the frame of the wrapper of an import holds: its parameters."""
    groups: Groups = {}
    for place, param in enumerate(spaces.signature(index).params):
        groups.setdefault(family(param, spaces.types) if is_reference(param) else param, []).append(place)
    if ANYREF in groups:
        raise UnsupportedFeatureError("a reference to a collected object that is given to an import", index)
    return groups


def dropped_name(key: Segment) -> str:
    """Under which name the host finds the global that says whether a segment was dropped."""
    return f"{PREFIX}dropped-{'data' if key[0] == DATA_DROP else 'element'}-{key[1]}"


def drop_name(key: Segment) -> str:
    """Under which name the host finds the function that drops a segment."""
    return f"{PREFIX}drop-{'data' if key[0] == DATA_DROP else 'element'}-{key[1]}"


def segment_name(key: Segment) -> str:
    """Under which name twins and parts find a segment function."""
    kind, segment, name = key
    return f"{PREFIX}s{kind:x}.{segment}.{name}"


_OF_FUNCTION = re.compile(PREFIX + r"(?:f(\d+)|c(\d+)\.\d+)")


def part_with(plan: Plan, name: str) -> int:
    """The number of the part that exports ``name``; 0 when none does."""
    found = _OF_FUNCTION.fullmatch(name)
    if found is None:
        return 0
    function = int(found[1] or found[2])
    number = plan.part_of_function(function)
    return number if number or found[1] else plan.part_of_continuations(function)


def taken_name(function: int) -> str:
    """Under which name they find the function that leaves the address of another."""
    return f"{PREFIX}a{function}"


def dispatcher_name(kind: int) -> str:
    """Under which name parts find the dispatcher for a type."""
    return f"{PREFIX}d{kind}"


def continuation_name(function: int, site: int) -> str:
    """Under which name twins find the continuation for a loop."""
    return f"{PREFIX}c{function}.{site}"


def export_name(kind: int, index: int) -> str:
    """Under which name twins find an item of the base module."""
    return f"{PREFIX}{'ftmge'[kind]}{index}"
