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
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from .binary import FUNCTION, MalformedModuleError, Module, Reader, SectionId
from .body import REF_FUNC, Suspensions
from .index_spaces import FuncType, IndexSpaces, read_type
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
_CALLS, _REFERENCES = (0x10, 0x12), (0x11, 0x13, 0x14, 0x15)


@dataclass(frozen=True, slots=True)
class Calls:
    """What one body calls: functions, types of indirect calls, functions whose address it takes; has it a
    loop?"""

    functions: tuple[int, ...]
    types: tuple[int, ...]
    taken: tuple[int, ...]
    loops: bool


def calls_of(code: bytes, start: int) -> Calls:
    """Scan the body that begins, with its size, at ``start``."""
    reader = Reader(code, start)
    size = reader.uleb()
    reader.end = reader.pos + size
    for _ in range(reader.count()):
        reader.uleb()
        read_type(reader)
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
            position = reader.pos
    return Calls(tuple(functions), tuple(types), tuple(taken), loops)


def _number(encoded: bytes) -> int:
    if len(encoded) == 1:
        return encoded[0]
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded))


def address_taken(module: Module) -> set[int]:
    """Functions that can be called indirectly because of what the sections outside of the code say."""
    found = {index for _, kind, index in module.exports() if kind == FUNCTION}
    for number in (SectionId.GLOBAL, SectionId.TABLE):
        found |= _named_in_expressions(module, number)
    for functions in element_functions(module):
        found |= set(functions)
    return found


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
    flags = reader.uleb()
    if flags > 7:
        raise MalformedModuleError(f"an element segment with unknown flags {flags}", reader.pos)
    passive, explicit, expressions = flags & 1, flags & 2, flags & 4
    if not passive:
        if explicit:
            reader.uleb()
        for _ in instructions(reader):
            pass
    if flags & 3:
        if expressions:
            read_type(reader)
        else:
            reader.byte()
    if expressions:
        return [index for _ in range(reader.count()) for index in expression_functions(reader)]
    return [reader.uleb() for _ in range(reader.count())]


def signatures(types: Sequence[FuncType | None]) -> list[int]:
    """For each type, the number of its structure: equal for types that an indirect call cannot tell apart."""
    numbers: dict[FuncType | None, int] = {}
    return [numbers.setdefault(kind, len(numbers)) for kind in types]


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
    module: Module, spaces: IndexSpaces, calls: Sequence[Calls], suspending_imports: Collection[int]
) -> Suspensions:
    """Where a module may suspend. ``calls`` are those of its defined functions, in order."""
    graph = _Graph(spaces, calls, address_taken(module))
    functions = graph.functions
    cut = graph.cuts()
    loops = bytearray(spaces.functions_imported) + bytes(call.loops for call in calls)
    own = {index for index, yes in enumerate(loops) if yes} | set(suspending_imports) | cut
    suspending = graph.callers(own)
    entries = bytearray(functions)
    for node in cut:
        if node < functions:
            entries[node] = 1
    kinds = bytes(suspending[functions + number] for number in graph.signature_of)
    return Suspensions(bytes(suspending[:functions]), kinds, bytes(entries), bytes(loops))
