"""Which functions may suspend, and where they must poll: a whole-module analysis.

A function may suspend when it has a loop, when it lies on a cycle of calls that is cut at it, when it is an
import that suspends, or when it calls one that may suspend. Everything else runs for a bounded time and is
left as it is.

Indirect calls go through one node for each signature: whoever calls indirectly by a signature calls its
node, and the node calls every function of that signature whose address is taken. Edges from each caller to
each possible callee would be a hundred times as many.

Cycles are cut at the targets of the back edges of a depth-first search. Such a function polls at its entry,
so any endless recursion comes to a poll. When the target is a signature's node, the caller polls instead.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .binary import FUNCTION, TABLE, MalformedModuleError, Module, Reader, SectionId, uleb
from .events import REF_FUNC, TRY_TABLE, Suspensions
from .index_spaces import EXNREF, FUNCREF, FuncType, IndexSpaces, is_reference, read_type
from .instructions import instructions, skip_instruction

# One match passes over a run of instructions that name no function and open no loop, and ends behind the one
# that does (a group says which), or before one that is too irregular for an expression.
_LEB = rb"[\x80-\xff]{0,9}+[\x00-\x7f]"
_BORING = b"|".join(
    (
        rb"[\x20-\x24\x41\x42\x0c\x0d\x3f\x40]" + _LEB,
        rb"[\x28-\x3e][\x00-\x3f]" + _LEB,
        rb"[\x45-\xc4\x1a\x1b\x01\x00\x0f\x0b\x05\x0a\xd1]",
        rb"[\x02\x04](?![\x63\x64])" + _LEB,
        rb"\x43[\x00-\xff]{4}",
        rb"\x44[\x00-\xff]{8}",
    )
)
_SCAN = re.compile(
    rb"(?:"
    + _BORING
    + rb")*+(?:(\x10)("
    + _LEB
    + rb")|(\x11)("
    + _LEB
    + rb")"
    + _LEB
    + rb"|(\x03)(?![\x63\x64])"
    + _LEB
    + rb")?",
    re.DOTALL,
)
_GIVE_REFERENCES = frozenset((0x25, 0xD0, 0xFB))  # table.get, ref.null, all of garbage collection
_GC_SEGMENTS = frozenset((9, 10, 18, 19))  # array.new_data, new_elem, init_data, init_elem
_CALLS, _REFERENCES = (0x10, 0x12), (0x11, 0x13, 0x14, 0x15)


Segment = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Calls:
    """What one body names that matters beyond it.

    Attributes:
        functions: the functions that it calls.
        types: the types that it calls indirectly.
        taken: the functions whose address it takes.
        loops: whether it has a loop.
        references: whether it can get hold of a reference other than an exception's.
        tries: whether it has a ``try_table``.
        tables: the tables whose entries it may change.
        segments: the uses of data and element segments, as (kind of instruction, segment, what else it
            names).
    """

    functions: tuple[int, ...]
    types: tuple[int, ...]
    taken: tuple[int, ...]
    loops: bool
    references: bool = False
    tries: bool = False
    tables: tuple[int, ...] = ()
    segments: tuple[Segment, ...] = ()

    @classmethod
    def of(cls, plain: Sequence[Any]) -> Calls:
        """From the plain data that ``dataclasses.astuple`` makes of one."""
        functions, types, taken, loops, references, tries, tables, segments = plain
        found = tuple([(kind, segment, name) for kind, segment, name in segments])
        return cls(
            *(tuple(functions), tuple(types), tuple(taken), loops),
            *(references, tries),
            tables=tuple(tables),
            segments=found,
        )


def calls_of(code: bytes, start: int) -> Calls:
    """Scan the body that begins, with its size, at ``start``."""
    reader = Reader(code, start)
    size = reader.uleb()
    reader.end = reader.pos + size
    other = _Others()
    for _ in range(reader.count()):
        reader.uleb()
        other.local(read_type(reader))
    functions: set[int] = set()
    types: set[int] = set()
    taken: set[int] = set()
    loops = False
    match, position, end = _SCAN.match, reader.pos, reader.end
    while position < end:
        found = match(code, position, end)
        assert found is not None
        group = found.lastindex
        position = found.end()
        if group == 2:
            functions.add(_number(found[2]))
        elif group == 4:
            types.add(_number(found[4]))
        elif group == 5:
            loops = True
        elif position < end:
            reader.pos = position
            opcode = code[position]
            skip_instruction(reader)
            if opcode == 0x03:
                loops = True
            elif opcode in _CALLS:
                functions.add(Reader(code, position + 1).uleb())
            elif opcode in _REFERENCES:
                types.add(Reader(code, position + 1).uleb())
            elif opcode == REF_FUNC:
                taken.add(Reader(code, position + 1).uleb())
                other.references = True
            else:
                other.see(opcode, Reader(code, position + 1))
            position = reader.pos
    return Calls(
        *(tuple(sorted(functions)), tuple(sorted(types)), tuple(sorted(taken)), loops),
        *(other.references, other.tries, tuple(sorted(other.tables)), tuple(sorted(other.segments))),
    )


class _Others:
    """The rarer instructions of a body."""

    def __init__(self) -> None:
        self.references = False
        self.tries = False
        self.tables: set[int] = set()
        self.segments: set[Segment] = set()

    def local(self, kind: int) -> None:
        """Take note of a local's type."""
        if is_reference(kind):
            self.references |= kind != EXNREF
            self.tries |= kind == EXNREF

    def see(self, opcode: int, reader: Reader) -> None:
        """Take note of the instruction whose immediates begin at ``reader``."""
        if opcode in _GIVE_REFERENCES:
            self.references = True
        elif opcode == TRY_TABLE:
            self.tries = True
        elif opcode == 0x26:  # table.set
            self.tables.add(reader.uleb())
        elif opcode == 0xFC:
            self._bulk(reader.uleb(), reader)
        if opcode == 0xFB:
            sub = reader.uleb()
            if sub in _GC_SEGMENTS:
                kind, segment = reader.uleb(), reader.uleb()
                self.segments.add((0xFB00 | sub, segment, kind))

    def _bulk(self, sub: int, reader: Reader) -> None:
        if sub in (8, 12):  # memory.init, table.init
            segment, where = reader.uleb(), reader.uleb()
            self.segments.add((0xFC00 | sub, segment, where))
            if sub == 12:
                self.tables.add(where)
        elif sub in (9, 13):  # data.drop, elem.drop
            self.segments.add((0xFC00 | sub, reader.uleb(), 0))
        elif sub in (14, 15, 17):  # table.copy, table.grow, table.fill
            self.tables.add(reader.uleb())


def _number(encoded: bytes) -> int:
    if len(encoded) == 1:
        return encoded[0]
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded))


def address_taken(module: Module, *, elements: bool = True) -> set[int]:
    """Functions that can be called indirectly because of what the sections outside of the code say.

    Args:
        elements: also those in element segments.
    """
    found = {index for _, kind, index in module.exports() if kind == FUNCTION}
    for number in (SectionId.GLOBAL, SectionId.TABLE):
        found |= _named_in_expressions(module, number)
    if elements:
        for functions in element_functions(module):
            found |= set(functions)
    return found


def table_entries(module: Module) -> dict[int, int] | None:
    """What element segments put into the entries of the only table, function by entry; None when there may be
    other segments, or the table is not the module's own alone."""
    if any(kind == TABLE for _, kind, _ in module.exports()):
        return None
    reader = Reader(module.section(SectionId.ELEMENT))
    found: dict[int, int] = {}
    for _ in range(reader.count()):
        if reader.byte() != 0 or reader.byte() != 0x41:  # active, in table 0, at an i32.const
            return None
        at = reader.pos
        reader.skip_leb(5)
        entry = _signed(bytes(reader.data[at : reader.pos]))
        if reader.byte() != 0x0B or entry < 0:
            return None
        found.update(enumerate([reader.uleb() for _ in range(reader.count())], entry))
    return found


def _signed(encoded: bytes) -> int:
    value = _number(encoded)
    return value - (1 << 7 * len(encoded)) if encoded[-1] & 0x40 else value


def _named_in_expressions(module: Module, number: int) -> set[int]:
    payload = module.section(number)
    if b"\xd2" not in bytes(payload):
        return set()
    reader = Reader(payload)
    found: set[int] = set()
    for _ in range(reader.count()):
        if number == SectionId.GLOBAL:
            read_type(reader)
            reader.byte()
        elif bytes(reader.data[reader.pos : reader.pos + 2]) == b"\x40\0":
            reader.skip(2)
            _table_type(reader)
        else:
            _table_type(reader)
            continue
        found |= set(expression_functions(reader))
    return found


def _table_type(reader: Reader) -> None:
    read_type(reader)
    flags = reader.byte()
    for _ in range(1 + (flags & 1)):
        reader.uleb(64)


def expression_functions(reader: Reader) -> list[int]:
    """The functions that a constant expression names; passes over it."""
    return [
        Reader(reader.data, offset + 1).uleb()
        for opcode, offset in instructions(reader)
        if opcode == REF_FUNC
    ]


def element_functions(module: Module) -> Iterator[list[int]]:
    """The functions that each element segment names."""
    reader = Reader(module.section(SectionId.ELEMENT))
    for _ in range(reader.count()):
        yield element_segment(reader)


def element_segment(reader: Reader) -> list[int]:
    """Pass over one element segment; the functions that it names."""
    if _segment_header(reader):
        return [index for _ in range(reader.count()) for index in expression_functions(reader)]
    return [reader.uleb() for _ in range(reader.count())]


def with_other_functions(module: Module, number: int, others: Mapping[int, int]) -> bytes | None:
    """A section of elements, globals or tables with other functions in the place of some; None if it names
    none of these.

    A function's number may be longer than the one that it replaces: none of these sections holds sizes.
    """
    payload = module.section(number)
    places = [
        (start, end, others[index])
        for start, end, index in _function_places(payload, number)
        if index in others
    ]
    parts: list[bytes | memoryview] = []
    position = 0
    for start, end, index in places:
        parts += (payload[position:start], uleb(index))
        position = end
    return b"".join([*parts, payload[position:]]) if places else None


def _function_places(payload: bytes | memoryview, number: int) -> Iterator[tuple[int, int, int]]:
    """Where a section of elements, globals or tables names functions: (start, end, index)."""
    reader = Reader(payload)
    for _ in range(reader.count()):
        if number == SectionId.GLOBAL:
            read_type(reader)
            reader.byte()
        elif number == SectionId.TABLE:
            initialised = bytes(reader.data[reader.pos : reader.pos + 2]) == b"\x40\0"
            if initialised:
                reader.skip(2)
            _table_type(reader)
            if not initialised:
                continue
        elif not _segment_header(reader):
            for _ in range(reader.count()):
                start = reader.pos
                index = reader.uleb()
                yield start, reader.pos, index
            continue
        for _ in range(reader.count() if number == SectionId.ELEMENT else 1):
            for opcode, offset in instructions(reader):
                if opcode == REF_FUNC:
                    named = Reader(payload, offset + 1)
                    index = named.uleb()
                    yield offset + 1, named.pos, index


def _segment_header(reader: Reader) -> bool:
    """Pass over what comes before an element segment's entries; whether they are expressions."""
    flags = reader.uleb()
    if flags > 7:
        raise MalformedModuleError(f"an element segment with unknown flags {flags}", reader.pos)
    if not flags & 1:
        if flags & 2:
            reader.uleb()
        for _ in instructions(reader):
            pass
    if flags & 3:
        if flags & 4:
            read_type(reader)
        else:
            reader.byte()
    return bool(flags & 4)


def signatures(types: Sequence[FuncType | None]) -> list[int]:
    """For each type, a number: equal for types that an indirect call cannot tell apart.

    All references count as one, so that a type has the number of its subtypes, and of the same type written
    with other indices.
    """
    numbers: dict[FuncType | None, int] = {}
    return [numbers.setdefault(kind and _without_references(kind), len(numbers)) for kind in types]


def _without_references(kind: FuncType) -> FuncType:
    if not any(map(is_reference, kind.params + kind.results)):
        return kind
    params, results = (
        tuple([FUNCREF if is_reference(value) else value for value in values])
        for values in (kind.params, kind.results)
    )
    return FuncType(params, results)


class _Graph:
    """Calls as arrays: the callees of node ``n`` are ``targets[starts[n]:starts[n + 1]]``. Nodes are the
    functions and,
    after them, the signatures."""

    def __init__(self, spaces: IndexSpaces, calls: Sequence[Calls], taken: Collection[int]) -> None:
        self.functions = len(spaces.functions)
        numbers = signatures(spaces.types)
        members: list[list[int]] = [[] for _ in range(len(numbers) + 1)]
        for function in sorted({*taken, *(index for call in calls for index in call.taken)}):
            if function >= self.functions:
                raise MalformedModuleError(f"function {function} does not exist", 0)
            members[numbers[spaces.functions[function]]].append(function)
        if any(kind >= len(numbers) for call in calls for kind in call.types):
            raise MalformedModuleError("a call of a type that does not exist", 0)
        self.starts = array("q", [0])
        self.targets = array("q")
        for _ in range(spaces.functions_imported):
            self.starts.append(0)
        for call in calls:
            self.targets.extend(sorted(call.functions))
            self.targets.extend(sorted({self.functions + numbers[kind] for kind in call.types}))
            self.starts.append(len(self.targets))
        for member in members:
            self.targets.extend(member)
            self.starts.append(len(self.targets))
        self.nodes = len(self.starts) - 1
        if any(not 0 <= target < self.nodes for target in self.targets):
            raise MalformedModuleError("a call of a function that does not exist", 0)
        self.signature_of = numbers

    def cuts(self) -> set[int]:
        """The nodes that poll at their entry: depth-first, without recursion."""
        starts, targets = self.starts, self.targets
        state = bytearray(self.nodes)  # 0 not seen, 1 on the path, 2 done
        cut: set[int] = set()
        for root in range(self.nodes):
            if state[root]:
                continue
            state[root] = 1
            path, edges = [root], [starts[root]]
            while path:
                node, edge = path[-1], edges[-1]
                if edge == starts[node + 1]:
                    state[node] = 2
                    path.pop()
                    edges.pop()
                    continue
                edges[-1] = edge + 1
                target = targets[edge]
                if state[target] == 0:
                    state[target] = 1
                    path.append(target)
                    edges.append(starts[target])
                elif state[target] == 1:
                    cut.add(node if target >= self.functions else target)
        return cut

    def callers(self, of: Collection[int]) -> bytearray:
        """For each node, 1 if it is one of ``of`` or can reach one by calls."""
        heads = array("q", bytes(8 * (self.nodes + 1)))
        for target in self.targets:
            heads[target + 1] += 1
        for node in range(self.nodes):
            heads[node + 1] += heads[node]
        sources, place = array("q", bytes(8 * len(self.targets))), array("q", heads)
        for node in range(self.nodes):
            for edge in range(self.starts[node], self.starts[node + 1]):
                target = self.targets[edge]
                sources[place[target]] = node
                place[target] += 1
        found = bytearray(self.nodes)
        waiting = list(of)
        for node in waiting:
            found[node] = 1
        while waiting:
            node = waiting.pop()
            for edge in range(heads[node], heads[node + 1]):
                source = sources[edge]
                if not found[source]:
                    found[source] = 1
                    waiting.append(source)
        return found


def suspensions(
    module: Module,
    spaces: IndexSpaces,
    calls: Sequence[Calls],
    suspending_imports: Collection[int],
    *,
    everywhere: bool = False,
) -> Suspensions:
    """Where a module may suspend. ``calls`` are those of its defined functions, in order; ``everywhere``:
    every function polls at its entry."""
    graph = _Graph(spaces, calls, address_taken(module))
    functions = graph.functions
    cut = set(range(spaces.functions_imported, functions)) if everywhere else graph.cuts()
    loops = bytearray(spaces.functions_imported) + bytes(call.loops for call in calls)
    own = {index for index, yes in enumerate(loops) if yes} | set(suspending_imports) | cut
    suspending = graph.callers(own)
    entries = bytearray(functions)
    for node in cut:
        if node < functions:
            entries[node] = 1
    kinds = bytes(suspending[functions + number] for number in graph.signature_of)
    return Suspensions(bytes(suspending[:functions]), kinds, bytes(entries), bytes(loops))
