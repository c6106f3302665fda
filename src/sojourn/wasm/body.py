"""Decodes the body of one function into *events*: the points where control flow or a site is.

Theory of operation. A body is walked once, forwards, with the types of its operand stack in a list. What lies
between two events is a straight run of instructions, of which only two facts matter: the locals that it reads
before writing them (``use``) and those that it writes (``define``), as bit masks. Everything that comes
later (``liveness``, ``emit``, ``twins``) works on events and copies the runs between them byte for byte.

*Sites* are the points where a function can be left and entered again: after a call that may suspend, at the
head of a loop, at the function's entry. They are numbered in the order of the code. The values that lie on
the operand stack under the arguments of a site must be reachable when the function is left there, so they
are copied into *slots*: one local for each pair of stack height and type. The values stay on the stack as
well; to an engine whose registers are in static single assignment form the copy costs nothing. Code inside
of a block cannot reach what lies under the block's parameters, so that is copied before the block is
entered, if there is a site in it. A value in the list that has its copy carries the mark ``COPIED``; the
marked values are always the lowest ones.

Code that cannot be reached is left out (an event of kind ``DEAD``), so polymorphic stacks never arise.

The module must be valid. For one that is not the result is an error or a module that no engine accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .binary import MalformedModuleError, Reader, UnsupportedFeatureError
from .effects import (
    ACTION,
    BINARY,
    CONST_4,
    CONST_8,
    CONST_LEB,
    LOAD,
    LOCAL_GET,
    LOCAL_SET,
    LOCAL_TEE,
    PUSH,
    STORE,
    UNARY,
    atomic_effect,
    bulk_effect,
    gc_effect,
    vector_effect,
)
from .events import (
    BLOCK,
    BR,
    BR_IF,
    BR_ON_CAST,
    BR_ON_NON_NULL,
    BR_ON_NULL,
    BR_TABLE,
    CALL,
    CALL_BYTES_MIN,
    CALL_INDIRECT,
    CALL_REF,
    DEAD,
    DROPS,
    ELSE,
    END,
    ENTRY,
    FUNCTION_BYTES_MAX,
    IF,
    LOOP,
    MEMORY_INIT,
    NO_VALUES,
    POLL_BYTES_MIN,
    REF_FUNC,
    RETURN,
    RETURN_CALL,
    RETURN_CALL_INDIRECT,
    RETURN_CALL_REF,
    SEGMENT_KINDS,
    TABLE_INIT,
    THROW,
    THROW_REF,
    TRY_TABLE,
    UNREACHABLE,
    VALUE_BYTES_MIN,
    Body,
    Event,
    Suspensions,
)
from .index_spaces import (
    F32,
    F64,
    I32,
    I64,
    V128,
    FuncType,
    IndexSpaces,
    heap_type,
    is_defaultable,
    read_type,
    reference_type,
    sleb,
)
from .instructions import skip_instruction

COPIED = 0x100  # the mark in the type of a value that a slot holds as well
_PLAIN = ~COPIED

LOCALS_MAX = 50_000  # what engines allow
MASKS_BYTES_MAX = 256 << 20  # bits of liveness that one function may take
EVENTS_MAX = 1 << 20  # of one function; each takes some 300 bytes
HELD_MAX = 1 << 22  # values under sites, over all sites of one function
_FLOATS = (CONST_8, CONST_4)
_NUMBERS = frozenset((I32, I64, F32, F64, V128))


def decode(
    spaces: IndexSpaces, suspensions: Suspensions, function: int, code: bytes, start: int, *, relocate: bool
) -> Body:
    """Decode the body of ``function`` that begins, with its size, at ``start``.

    Args:
        relocate: whether instructions that name a function or segment, or call indirectly, become events too.

    Raises:
        MalformedModuleError: cut short, or plainly not valid.
        UnsupportedFeatureError: an instruction that cannot be made resumable.
    """
    reader = Reader(code, start)
    size = reader.uleb()
    reader.end = reader.pos + size
    if reader.end > len(code):
        raise MalformedModuleError("unexpected end", start)
    try:
        return _Decoder(spaces, suspensions, function, reader, relocate).run()
    except (IndexError, RecursionError):
        raise MalformedModuleError(f"function {function} is not valid", start) from None


class _Decoder:
    """The walk over one body. ``run`` treats the frequent instructions itself; all others have a method."""

    def __init__(
        self, spaces: IndexSpaces, suspensions: Suspensions, function: int, reader: Reader, relocate: bool
    ) -> None:
        self.spaces = spaces
        self.suspensions = suspensions
        self.function = function
        self.code = bytes(reader.data)
        self.relocate = relocate
        self.signature = spaces.signature(function)
        self.locals, self.declared = _read_locals(reader, self.signature.params)
        self.first, self.end = reader.pos, reader.end
        self.stack: list[int] = []
        self.events: list[Event] = []
        self.sites: list[Event] = []
        self.control: list[Event] = []
        self.slots: dict[tuple[int, int], int] = {}
        self.held = 0
        self.added = 0  # the least that the sites so far add to the code
        self.calls = False
        self.types: set[int] = set()
        self.concrete = any(kind >= COPIED for kind in self.locals)
        self.bits = [1 << index for index in range(len(self.locals))]

    def run(self) -> Body:
        entry = Event(ENTRY, self.first, self.first, 0, 0)
        entry.signature = FuncType((), self.signature.results)
        self.events.append(entry)
        self.control.append(entry)
        if self.suspensions.entries[self.function]:
            self._site(entry, ())
        position = self._walk(self.first)
        if position != self.end:
            raise MalformedModuleError(f"function {self.function}: bytes after its end", position)
        return Body(
            *(self.function, self.code, self.locals, len(self.signature.params)),
            *(self.declared, self.first, self.end),
            *(self.events, self.sites, self.slots),
            *(self.spaces, self.calls, None if self.concrete else frozenset(self.types)),
        )

    def _walk(self, p: int) -> int:  # noqa: C901 - one loop, thirty million turns for a large module
        code, stack, locals_, events, bits = self.code, self.stack, self.locals, self.events, self.bits
        actions, pushed, push, pop = ACTION, PUSH, stack.append, stack.pop
        handlers, control = _HANDLERS, self.control
        use = define = 0
        while True:
            opcode = code[p]
            action = actions[opcode]
            if action <= LOCAL_TEE:
                index = code[p + 1]
                p += 2
                if index > 127:
                    index, p = _leb(code, p - 1)
                if action == LOCAL_GET:
                    push(locals_[index])
                    if not define & bits[index]:
                        use |= bits[index]
                elif action == LOCAL_SET:
                    pop()
                    define |= bits[index]
                else:
                    define |= bits[index]
                    stack[-1] = locals_[index]
            elif action == BINARY:
                p += 1
                pop()
                stack[-1] = pushed[opcode]
            elif action == CONST_LEB:
                p += 1
                while code[p] > 127:
                    p += 1
                p += 1
                push(pushed[opcode])
            elif action <= STORE:
                if action == UNARY:
                    p += 1
                    stack[-1] = pushed[opcode]
                    continue
                flags = code[p + 1]
                p += 2
                if flags > 63:
                    _, p = _leb(code, p)  # the memory
                while code[p] > 127:
                    p += 1
                p += 1
                if action == LOAD:
                    stack[-1] = pushed[opcode]
                else:
                    pop()
                    pop()
            elif action in _FLOATS:
                p += 9 if action == CONST_8 else 5
                push(pushed[opcode])
            else:
                count = len(events)
                p = handlers[opcode](self, opcode, p, use, define)
                if len(events) != count:
                    use = define = 0
                    if not control:
                        return p

    # -- sites and slots ------------------------------------------------------------------------------

    def _site(self, event: Event, held: tuple[int, ...]) -> None:
        """Make an event a site that has ``held`` on the stack."""
        event.site = len(self.sites)
        event.held = held
        self.sites.append(event)
        self.held += len(held)
        if self.held > HELD_MAX or len(self.sites) * len(self.locals) > MASKS_BYTES_MAX * 8:
            raise UnsupportedFeatureError(
                "more values at suspension points than there is room for", self.function
            )
        self.added += POLL_BYTES_MIN if event.kind in (LOOP, ENTRY) else CALL_BYTES_MIN
        self.added += VALUE_BYTES_MIN * len(held)
        if event.end - self.first + self.added > FUNCTION_BYTES_MAX:
            raise UnsupportedFeatureError("more code than engines allow", self.function)
        for opener in reversed(self.control):
            if opener.has_site:
                break
            opener.has_site = True

    def _copy(
        self, under: int, above: tuple[int, ...]
    ) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
        """Mark all values below height ``under`` as copied; say which ones were not."""
        stack = self.stack
        first = under
        while first and not stack[first - 1] & COPIED:
            first -= 1
        if first == under:
            return None
        kinds = tuple(stack[first:under])
        self._slots(first, kinds + above)
        stack[first:under] = [kind | COPIED for kind in kinds]
        return first, kinds, above

    def _slots(self, height: int, kinds: Sequence[int]) -> None:
        for key in enumerate(kinds, height):
            if key not in self.slots:
                self.slots[key] = len(self.locals) + len(self.slots)

    # -- events ---------------------------------------------------------------------------------------

    def _event(self, kind: int, start: int, end: int, use: int, define: int) -> Event:
        event = Event(kind, start, end, use, define)
        self.events.append(event)
        event.outer = self.control[-1] if self.control else None
        count = len(self.events)
        if count > EVENTS_MAX or count * len(self.locals) > MASKS_BYTES_MAX * 8:
            raise UnsupportedFeatureError("more locals and blocks than there is room for", self.function)
        return event

    def _open(self, opcode: int, start: int, use: int, define: int) -> int:
        stack = self.stack
        above: tuple[int, ...] = ()
        if opcode == IF:
            stack.pop()
            above = (I32,)
        signature, p = self._block_type(start + 1)
        labels: tuple[int, ...] = ()
        detail: tuple[tuple[int, int], ...] = ()
        if opcode == TRY_TABLE:
            labels, detail, p = self._catches(p)
        event = self._event(opcode, start, p, use, define)
        event.signature, event.labels, event.detail = signature, labels, detail
        params = signature.params
        event.base = base = len(stack) - len(params)
        if base < 0:
            raise IndexError
        event.copy = self._copy(base, params + above)
        stack[base:] = params  # in a loop they change, and elsewhere nothing is lost
        event.loops = self.control[-1].loops + (opcode == LOOP)
        self.control.append(event)
        if opcode == LOOP and self.suspensions.loops[self.function]:
            self._slots(base, params)
            stack[base:] = [kind | COPIED for kind in params]
            self._site(event, tuple(kind & _PLAIN for kind in stack))
        return p

    def _block_type(self, p: int) -> tuple[FuncType, int]:
        code = self.code
        first = code[p]
        if first == 0x40:
            return NO_VALUES, p + 1
        if first & 0xC0 == 0x40:  # a value type: a negative number of one byte, or the start of a reference
            reader = Reader(code, p)
            kind = read_type(reader)
            self.concrete = self.concrete or kind >= COPIED
            return FuncType((), (kind,)), reader.pos
        index, p = _leb(code, p)
        return self._type(index), p

    def _type(self, index: int) -> FuncType:
        self.types.add(index)
        found = self.spaces.types[index]
        if found is None:
            raise MalformedModuleError(
                f"function {self.function}: type {index} is no function type", self.first
            )
        return found

    def _catches(self, p: int) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...], int]:
        count, p = _leb(self.code, p)
        labels, clauses = [], []
        for _ in range(count):
            kind = self.code[p]
            tag, p = _leb(self.code, p + 1) if kind < 2 else (-1, p + 1)
            label, p = _leb(self.code, p)
            clauses.append((kind, tag))
            labels.append(label)
        self._check(labels)
        return tuple(labels), tuple(clauses), p

    def _else(self, opcode: int, start: int, use: int, define: int) -> int:
        opener = self.control[-1]
        event = self._event(opcode, start, start + 1, use, define)
        event.opener = opener
        opener.other = len(self.events) - 1
        self.stack[opener.base :] = opener.signature.params
        return start + 1

    def _end(self, opcode: int, start: int, use: int, define: int) -> int:
        opener = self.control.pop()
        event = self._event(opcode, start, start + 1, use, define)
        event.opener = opener
        opener.close = len(self.events) - 1
        if opener.copy is not None and not opener.has_site:
            first, kinds, _ = opener.copy
            self.stack[first : first + len(kinds)] = kinds
            opener.copy = None
        self.stack[opener.base :] = opener.signature.results
        return start + 1

    def _branch(self, opcode: int, start: int, use: int, define: int) -> int:
        code = self.code
        p = start + 1
        if opcode == BR_TABLE:
            count, p = _leb(code, p)
            labels = []
            for _ in range(count + 1):
                label, p = _leb(code, p)
                labels.append(label)
            self._check(labels)
            self._event(opcode, start, p, use, define).labels = tuple(labels)
            return self._dead(p)
        label, p = _leb(code, p)
        self._check((label,))
        self._event(opcode, start, p, use, define).labels = (label,)
        if opcode == BR:
            return self._dead(p)
        kind = self.stack.pop()
        if opcode == BR_ON_NULL:
            self.stack.append(_not_null(kind))
        return p

    def _check(self, labels: Sequence[int]) -> None:
        if labels and max(labels) >= len(self.control):
            raise MalformedModuleError(f"function {self.function}: a label that does not exist", self.first)

    def _leave(self, opcode: int, start: int, use: int, define: int) -> int:
        """return, unreachable, throw, throw_ref."""
        p = start + 1
        if opcode == THROW:
            _, p = _leb(self.code, p)
        self._event(opcode, start, p, use, define)
        return self._dead(p)

    def _tail_call(self, opcode: int, start: int, use: int, define: int) -> int:
        self.calls = True
        callee, p = _leb(self.code, start + 1)
        table = 0
        if opcode != RETURN_CALL:
            self.types.add(callee)
        if opcode == RETURN_CALL_INDIRECT:
            table, p = _leb(self.code, p)
        event = self._event(opcode, start, p, use, define)
        event.callee, event.detail = callee, table
        return self._dead(p)

    def _dead(self, p: int) -> int:
        """Pass over what cannot be reached, up to the end of the block or its ``else``."""
        code = self.code
        if code[p] in (END, ELSE):
            return p
        reader = Reader(code, p, self.end)
        depth = 0
        while depth or code[reader.pos] not in (END, ELSE):
            depth += skip_instruction(reader)
        self._event(DEAD, p, reader.pos, 0, 0)
        return reader.pos

    def _call(self, opcode: int, start: int, use: int, define: int) -> int:
        callee, p = _leb(self.code, start + 1)
        above: tuple[int, ...] = ()
        table = 0
        if opcode == CALL:
            signature = self.spaces.signature(callee)
            suspends = self.suspensions.functions[callee]
        else:
            signature = self._type(callee)
            suspends = self.suspensions.types[callee]
            if opcode == CALL_INDIRECT:
                table, p = _leb(self.code, p)
                above = (self.spaces.tables[table].index,)
            else:
                above = (reference_type(callee, null=True),)
        self.calls = True
        stack = self.stack
        above = signature.params + above
        under = len(stack) - len(above)
        if under < 0:
            raise IndexError
        if suspends and self._is_last(signature, under, p):
            suspends = 0
        if suspends or (self.relocate and opcode != CALL_REF):
            event = self._event(opcode, start, p, use, define)
            event.signature, event.callee, event.detail = signature, callee, table
            if suspends:
                event.copy = self._copy(under, above)
                self._site(event, tuple([kind & _PLAIN for kind in stack[:under]]) if under else ())
        stack[under:] = signature.results
        return p

    def _is_last(self, signature: FuncType, under: int, p: int) -> bool:
        """Whether a call, which ends at ``p``, is the last thing that the function does. Its results are
        then the
        function's own, and so are the dummies of a callee that unwinds: the frame holds nothing, and is
        left out."""
        results = self.signature.results
        if signature.results != results or not _NUMBERS.issuperset(results):
            return False
        code = self.code
        if code[p] != RETURN:
            while p < self.end and code[p] == END:
                p += 1
            if under or p != self.end:
                return False
        return not any(opener.kind == TRY_TABLE for opener in self.control)

    def _ref_func(self, opcode: int, start: int, use: int, define: int) -> int:
        callee, p = _leb(self.code, start + 1)
        self._event(opcode, start, p, use, define).callee = callee
        self.concrete = True
        self.stack.append(reference_type(self.spaces.functions[callee], null=False))
        return p

    # -- instructions without control flow that are not in the tables -----------------------------------

    def _plain(self, opcode: int, start: int, _use: int, _define: int) -> int:
        stack, reader = self.stack, Reader(self.code, start + 1, self.end)
        if opcode == 0x1A:  # drop
            stack.pop()
        elif opcode == 0x1B:  # select
            del stack[-2:]
            stack[-1] &= _PLAIN
        elif opcode == 0x1C:  # select with types
            kinds = [read_type(reader) for _ in range(reader.count())]
            self.concrete = self.concrete or any(kind >= COPIED for kind in kinds)
            stack[-3:] = kinds
        elif opcode == 0x23:
            stack.append(self.spaces.globals[reader.uleb()].type)
        elif opcode == 0x24:
            reader.uleb()
            stack.pop()
        elif opcode == 0x25:
            stack[-1] = self.spaces.tables[reader.uleb()].element
        elif opcode == 0x26:
            reader.uleb()
            del stack[-2:]
        elif opcode == 0x3F:
            stack.append(self._address(reader))
        elif opcode == 0x40:
            stack[-1] = self._address(reader)
        return reader.pos

    def _address(self, reader: Reader) -> int:
        return I64 if self.spaces.memories[reader.uleb()].is_64 else I32

    def _reference(self, opcode: int, start: int, _use: int, _define: int) -> int:
        stack, reader = self.stack, Reader(self.code, start + 1, self.end)
        if opcode == 0xD0:  # ref.null
            heap = sleb(reader, 33)
            self.concrete = self.concrete or heap >= 0
            stack.append(reference_type(heap, null=True))
        elif opcode == 0xD1:  # ref.is_null
            stack[-1] = I32
        elif opcode == 0xD3:  # ref.eq
            stack.pop()
            stack[-1] = I32
        else:  # ref.as_non_null
            stack[-1] = _not_null(stack[-1])
        return reader.pos

    def _bulk(self, _opcode: int, start: int, use: int, define: int) -> int:
        reader = Reader(self.code, start, self.end)
        sub = Reader(self.code, start + 1, self.end).uleb()
        skip_instruction(reader)
        stack = self.stack
        effect = bulk_effect(sub)
        if effect is not None:
            kind = 0xFC00 | sub
            if kind in DROPS or (self.relocate and kind in SEGMENT_KINDS):
                self._segment_event(kind, start, reader.pos, use, define)
            _apply(stack, effect)
        elif sub in (19, 20, 21, 22):  # wide arithmetic
            del stack[-4 if sub < 21 else -2 :]
            stack += [I64, I64]
        else:  # table.grow, table.size
            index = self.spaces.tables[Reader(self.code, start + 2, self.end).uleb()].index
            _apply(stack, (2 if sub == 15 else 0, index))
        return reader.pos

    def _segment_event(self, kind: int, start: int, end: int, use: int, define: int) -> None:
        reader = Reader(self.code, start + 2, end)
        event = self._event(kind, start, end, use, define)
        event.callee = reader.uleb()
        if kind in (MEMORY_INIT, TABLE_INIT):
            event.detail = reader.uleb()

    def _gc(self, _opcode: int, start: int, use: int, define: int) -> int:
        """Structures, arrays, casts."""
        reader = Reader(self.code, start, self.end)
        names = Reader(self.code, start + 1, self.end)
        sub = names.uleb()
        skip_instruction(reader)
        if sub in (24, 25):
            self.concrete = True
            return self._branch_on_cast(0xFB00 | sub, names, (start, reader.pos, use, define))
        self.concrete = True
        if self.relocate and 0xFB00 | sub in SEGMENT_KINDS:
            event = self._event(0xFB00 | sub, start, reader.pos, use, define)
            event.detail, event.callee = names.uleb(), names.uleb()
            names = Reader(self.code, start + 2, self.end)
        taken, left = gc_effect(sub, names, self.spaces.composites)
        stack = self.stack
        if sub in (26, 27):  # any.convert_extern and back: null or not, as before
            null = is_defaultable(stack[-1] & _PLAIN)
            left = reference_type(-0x12 if sub == 26 else -0x11, null=null)
        _apply(stack, (taken, left))
        return reader.pos

    def _branch_on_cast(self, kind: int, names: Reader, where: tuple[int, int, int, int]) -> int:
        flags, label = names.byte(), names.uleb()
        source, wanted = sleb(names, 33), sleb(names, 33)
        self._check((label,))
        event = self._event(kind, *where)
        event.labels = (label,)
        if kind == BR_ON_CAST:  # it goes on with what was not of the type; null went, if it may be null
            left = reference_type(source, null=bool(flags & 1) and not flags & 2)
        else:
            left = reference_type(wanted, null=bool(flags & 2))
        self.stack[-1] = left
        return event.end

    def _vector(self, opcode: int, start: int, _use: int, _define: int) -> int:
        reader = Reader(self.code, start, self.end)
        sub = Reader(self.code, start + 1, self.end).uleb()
        skip_instruction(reader)
        _apply(self.stack, vector_effect(sub) if opcode == 0xFD else atomic_effect(sub))
        return reader.pos

    def _unsupported(self, opcode: int, start: int, _use: int, _define: int) -> int:
        feature = _FEATURES.get(opcode)
        if feature is None:
            raise MalformedModuleError(f"opcode {opcode:#x} does not exist", start)
        raise UnsupportedFeatureError(feature, self.function)


_FEATURES = {
    **dict.fromkeys((0x06, 0x07, 0x09, 0x18, 0x19), "an exception instruction of the old proposal"),
}

Handler = Callable[[_Decoder, int, int, int, int], int]
_HANDLERS: list[Handler] = [_Decoder._unsupported] * 256
for _opcodes, _handler in (
    ((BLOCK, LOOP, IF, TRY_TABLE), _Decoder._open),
    ((ELSE,), _Decoder._else),
    ((END,), _Decoder._end),
    ((BR, BR_IF, BR_TABLE, BR_ON_NULL, BR_ON_NON_NULL), _Decoder._branch),
    ((UNREACHABLE, RETURN, THROW, THROW_REF), _Decoder._leave),
    ((RETURN_CALL, RETURN_CALL_INDIRECT, RETURN_CALL_REF), _Decoder._tail_call),
    ((CALL, CALL_INDIRECT, CALL_REF), _Decoder._call),
    ((REF_FUNC,), _Decoder._ref_func),
    ((0x01, 0x1A, 0x1B, 0x1C, *range(0x23, 0x27), 0x3F, 0x40), _Decoder._plain),
    ((0xD0, 0xD1, 0xD3, 0xD4), _Decoder._reference),
    ((0xFC,), _Decoder._bulk),
    ((0xFB,), _Decoder._gc),
    ((0xFD, 0xFE), _Decoder._vector),
):
    for _opcode in _opcodes:
        _HANDLERS[_opcode] = _handler


def _apply(stack: list[int], effect: tuple[int, int]) -> None:
    taken, left = effect
    if taken > len(stack):
        raise IndexError
    if taken:
        del stack[-taken:]
    if left:
        stack.append(left)


def _not_null(kind: int) -> int:
    """The type of a reference that was found not to be null."""
    return reference_type(heap_type(kind & _PLAIN), null=False)


def _read_locals(reader: Reader, params: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, bytes]]:
    found = list(params)
    groups = reader.count()
    start = reader.pos
    for _ in range(groups):
        count = reader.uleb()
        if len(found) + count > LOCALS_MAX:
            raise MalformedModuleError("too many locals", reader.pos)
        found += [read_type(reader)] * count
    return tuple(found), (groups, bytes(reader.data[start : reader.pos]))


def _leb(code: bytes, p: int) -> tuple[int, int]:
    """An unsigned LEB128 at ``p``, and the position after it."""
    value = code[p]
    if value < 128:
        return value, p + 1
    value &= 127
    shift = 7
    while True:
        byte = code[p + 1]
        p += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, p + 1
        shift += 7
        if shift > 63:
            raise MalformedModuleError("a number that is too long", p)
