"""Writes decoded bodies as code again: verbatim runs, and between them what makes a function suspendable.

Before and after, for a call of ``$g`` that may suspend, with ``$x`` live behind it and ``$y`` on the stack
under its
argument ``$z``::

    local.get $y                 local.get $y
    local.get $z                 local.get $z
    call $g                      local.set $slot1
                                 local.tee $slot0
                                 local.get $slot1
                                 call $g
                                 global.get $unwinding
                                 if
                                   local.get $x
                                   local.get $slot0
                                   i32.const <site>
                                   i32.const <function>
                                   call $save_i32_2
                                   i32.const 0        ;; a dummy of the result type
                                   return
                                 end
    i32.add                      i32.add

The head of a loop, and the entry of some functions, *polls*::

    i32.const 0
    i32.atomic.load $control     ;; has somebody asked?
    if
      i32.const 1
      global.set $unwinding
      <save and return, as above>
    end

The load is atomic because an engine may merge two plain loads of one address when nothing is stored
between, and a loop that stores nothing could then never be stopped. It is the same machine instruction.

In a small loop that has no other site the poll would be a large part of each turn. It is written in
``TURNS`` copies and asks once for all of them; a branch to its head goes to the next copy. Before and after::

    loop $l                      block $out
      <body>                       loop $l
    end                              <poll>
                                     block $l <body> br $out end     ;; TURNS - 1 times
                                     <body>
                                   end
                                 end

At the head everything is as it was, so the site means the same, and a twin still takes single turns until
it comes to the head.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Protocol

from .binary import UnsupportedFeatureError, uleb
from .events import (
    BLOCK,
    BR,
    BR_IF,
    BR_ON_CAST,
    BR_ON_CAST_FAIL,
    BR_ON_NON_NULL,
    BR_ON_NULL,
    BR_TABLE,
    CALL,
    CALL_BYTES_MIN,
    CALL_INDIRECT,
    DATA_DROP,
    DEAD,
    ELEM_DROP,
    ELSE,
    END,
    ENTRY,
    FUNCTION_BYTES_MAX,
    IF,
    LOOP,
    REF_FUNC,
    RETURN_CALL,
    RETURN_CALL_INDIRECT,
    SEGMENT_KINDS,
    TRY_TABLE,
    VALUE_BYTES_MIN,
    Body,
    Event,
)
from .frames import (
    NUMBERS,
    Control,
    Helpers,
    Layouts,
    Types,
    global_get,
    global_set,
    i32_const,
    local_get,
    local_set,
    null,
    save_code,
    save_inline,
)
from .index_spaces import (
    F32,
    F64,
    I32,
    I64,
    V128,
    encode_type,
    is_defaultable,
    nullable,
    sleb_bytes,
)

SLOTS_MAX = 50_000
UNROLLED_BYTES_MAX = 48  # of a loop
TURNS = 4  # for one poll, in such a loop

_DUMMIES = {
    I32: b"\x41\0",
    I64: b"\x42\0",
    F32: b"\x43" + bytes(4),
    F64: b"\x44" + bytes(8),
    V128: b"\xfd\x0c" + bytes(16),
}
_CASTS = (BR_ON_CAST, BR_ON_CAST_FAIL)
_BRANCHES = frozenset((BR, BR_IF, BR_TABLE, BR_ON_NULL, BR_ON_NON_NULL, *_CASTS))
_OPENERS = frozenset((BLOCK, LOOP, IF, TRY_TABLE))
_IF, _BLOCK, _LOOP, _END_CODE, _RETURN = b"\x04\x40", b"\x02", b"\x03", b"\x0b", b"\x0f"


class Target(Helpers, Types, Protocol):
    """The module that code is written for: how it numbers what code names.

    Attributes:
        control: what we added to it.
        moved: whether its functions have other numbers than in the original, so that every call must be
            rewritten.
        indirect: what comes before each indirect call.
    """

    control: Control
    moved: bool
    indirect: bytes

    def function(self, index: int) -> bytes:
        """The number, encoded, of a function of the original."""
        ...

    def reference(self, index: int) -> bytes:
        """Code that leaves the address of a function of the original."""
        ...

    def segment(self, event: Event, code: bytes) -> bytes:
        """What does the work of an instruction (encoded: ``code``) that names a segment of the original."""
        ...

    def results(self, kinds: tuple[int, ...]) -> tuple[int, ...]:
        """What a function that has these results returns here."""
        ...

    def stand_in(self, kind: int, function: int) -> bytes:
        """Code that leaves some reference of a type that has no null, for ``function`` to return."""
        ...


def dummy(target: Target, kind: int, function: int) -> bytes:
    """A constant of a type, to be returned by a function that is being left."""
    if kind in _DUMMIES:
        return _DUMMIES[kind]
    return null(kind) if is_defaultable(kind) else target.stand_in(kind, function)


class Emitter:
    """Writes parts of one body. ``parts`` grows; ``hints`` are the positions in it of branches hardly ever
    taken.

    Args:
        dummies: pushed before every return of a function that is being left.
        relabel: whether branches are written anew, because blocks lie elsewhere (in a twin).
    """

    def __init__(self, body: Body, target: Target, layouts: Layouts, *, relabel: bool = False) -> None:
        self.body = body
        self.target = target
        self.layouts = layouts
        self.parts: list[bytes] = []
        self.hints: list[int] = []
        self.relabel = relabel
        self.labels: list[int] = []  # for each block of the original around this point, its depth here
        self.depth = 0
        self._code = body.code
        results = target.results(body.events[0].signature.results)
        self._leave = b"".join(dummy(target, kind, body.function) for kind in results) + _RETURN + _END_CODE
        control = target.control
        self._test = global_get(control.unwinding)
        self._poll = i32_const(0) + b"\xfe\x10\x42" + uleb(control.memory) + b"\0"
        self._begin = i32_const(1) + global_set(control.unwinding)

    def run(self, events: Iterable[Event], position: int, end: int) -> None:
        """Write the code from ``position`` to ``end``, in which ``events`` lie."""
        parts, code, verbatim = self.parts, self._code, not self.relabel
        always = _MOVED if self.target.moved else _ALWAYS
        for event in events:
            if event.start < position:
                continue  # in a loop that was written in several copies
            if verbatim and event.site < 0 and event.copy is None and event.kind not in always:
                continue
            if event.start > position:
                parts.append(code[position : event.start])
            position = event.end
            turn = self._turn(event) if event.kind == LOOP and event.site >= 0 else []
            if turn:
                self._unrolled(event, turn)
                position = turn[-1].end
            else:
                self._event(event)
        if end > position:
            parts.append(code[position:end])

    def _event(self, event: Event) -> None:
        kind = event.kind
        if event.copy is not None:
            self.copy(*event.copy)
        if kind in _OPENERS:
            self._open(event)
        elif kind != DEAD and kind != ENTRY:
            self._instruction(event)
        if event.site >= 0:
            if kind in (ENTRY, LOOP):
                self.poll(event)
            else:
                self.check(event)

    def _instruction(self, event: Event) -> None:
        kind = event.kind
        if kind == REF_FUNC:
            self.parts.append(self.target.reference(event.callee))
        elif kind in (CALL, RETURN_CALL):
            self.parts += (bytes([kind]), self.target.function(event.callee))
        elif kind in _INDIRECT:
            self.parts += (self.target.indirect, self._code[event.start : event.end])
        elif kind in SEGMENT_KINDS:
            self.parts.append(self.target.segment(event, self._code[event.start : event.end]))
        elif self.relabel and kind in _BRANCHES:
            self._branch(event)
        else:
            if self.relabel and kind == END:
                self.labels.pop()
                self.depth -= 1
            self.parts.append(self._code[event.start : event.end])

    # -- small loops ----------------------------------------------------------------------------------

    def _turn(self, loop: Event) -> list[Event]:
        """The events of a loop that is to be written in copies, its end the last; none for other loops."""
        events, close = self.body.events, self.body.events[loop.close]
        if close.end - loop.start > UNROLLED_BYTES_MAX or loop.signature.params:
            return []
        first = loop.close
        while events[first - 1] is not close.opener:
            first -= 1
            if events[first].site >= 0:
                return []
        return events[first : loop.close + 1]

    def _unrolled(self, loop: Event, turn: list[Event]) -> None:
        """Write a loop in copies (see the module's docstring)."""
        before = self.relabel, self.labels, self.depth
        if not self.relabel:
            self.relabel, self.depth = True, _depth(loop)
            self.labels = list(range(self.depth))
        if loop.copy is not None:
            self.copy(*loop.copy)
        kind, start, end = self._code[loop.start + 1 : loop.end], loop.end, turn[-1].start
        self.parts += (_BLOCK, kind, _LOOP, kind)
        self.depth += 2
        self.poll(loop)
        for _ in range(TURNS - 1):
            self.parts.append(_BLOCK + b"\x40")
            self.enter()
            self.run(turn[:-1], start, end)
            self.parts.append(b"\x0c\x02" + _END_CODE)
            self.labels.pop()
            self.depth -= 1
        self.labels.append(self.depth - 1)
        self.run(turn[:-1], start, end)
        self.parts.append(_END_CODE * 2)
        self.labels.pop()
        self.relabel, self.labels, self.depth = before

    # -- control flow in twins ------------------------------------------------------------------------

    def enter(self) -> None:
        """A block of the original begins here."""
        self.labels.append(self.depth)
        self.depth += 1

    def _open(self, event: Event) -> None:
        if self.relabel and event.kind == TRY_TABLE:
            self.parts.append(
                self.try_table(event, self._code[event.start + 1 : _type_end(event, self._code)])
            )
        else:
            self.parts.append(self._code[event.start : event.end])
        if self.relabel:
            self.enter()

    def try_table(self, event: Event, block_type: bytes) -> bytes:
        """A ``try_table`` with the clauses of the original's, whose labels are found anew."""
        assert not isinstance(event.detail, int)
        clauses = [
            bytes([kind]) + (uleb(tag) if kind < 2 else b"") + self._label(label)
            for (kind, tag), label in zip(event.detail, event.labels, strict=True)
        ]
        return b"\x1f" + block_type + uleb(len(clauses)) + b"".join(clauses)

    def _branch(self, event: Event) -> None:
        if event.kind in _CASTS:
            code = self._code[event.start : event.end]
            start = code.index(event.kind & 0xFF, 1) + 2  # behind the number of the instruction, and flags
            label_end = start + 1
            while code[label_end - 1] > 127:
                label_end += 1
            self.parts += (code[:start], self._label(event.labels[0]), code[label_end:])
            return
        self.parts.append(bytes([event.kind]))
        if event.kind == BR_TABLE:
            self.parts.append(uleb(len(event.labels) - 1))
        self.parts += map(self._label, event.labels)

    def _label(self, label: int) -> bytes:
        return uleb(self.depth - 1 - self.labels[-1 - label])

    # -- sites ----------------------------------------------------------------------------------------

    def copy(self, first: int, kinds: tuple[int, ...], above: tuple[int, ...]) -> None:
        """Copy the values at height ``first`` and up, under the operands ``above``, into their slots."""
        slots = self.body.slots
        keys = [slots[key] for key in enumerate(kinds + above, first)]
        self.parts += map(local_set, reversed(keys))
        for index, kind in zip(keys, kinds + above, strict=True):
            self.parts.append(local_get(index))
            if not is_defaultable(kind):
                self.parts.append(b"\xd4")

    def check(self, event: Event) -> None:
        """Behind a call: leave the function when the callee came back unwinding."""
        self.parts.append(self._test)
        self._save(event, b"")

    def poll(self, event: Event) -> None:
        """Leave the function when somebody asked for it."""
        params = event.signature.params if event.kind == LOOP else ()
        if params:
            self.copy(event.base, params, ())
        self.parts.append(self._poll)
        self._save(event, self._begin)

    def _save(self, event: Event, begin: bytes) -> None:
        self.hints.append(len(self.parts))
        groups = self.layouts.groups(event)
        self.parts.append(_IF + begin)
        if self.body.calls or not NUMBERS.keys() >= groups.keys():
            self.parts += save_code(self.target, self.body.function, event.site, groups)
        else:
            self.parts += save_inline(self.target.control, self.body.function, event.site, groups)
        self.parts.append(self._leave)


_ALWAYS = frozenset((DEAD, REF_FUNC, DATA_DROP, ELEM_DROP))
_INDIRECT = frozenset((CALL_INDIRECT, RETURN_CALL_INDIRECT))
_MOVED = _ALWAYS | {CALL, RETURN_CALL, *_INDIRECT, *SEGMENT_KINDS}


def _depth(event: Event) -> int:
    """How many blocks lie around an event, the function itself among them."""
    depth, opener = 0, event.outer
    while opener is not None:
        depth, opener = depth + 1, opener.outer
    return depth


def _type_end(event: Event, code: bytes) -> int:
    """Where the block type of an opener ends."""
    position = event.start + 1
    if code[position] in (0x63, 0x64):
        position += 1
    while code[position] > 127:
        position += 1
    return position + 1


def slot_kinds(body: Body) -> list[int]:
    """The types of the slots, in their order; a local that has no value at first takes null as well."""
    return [nullable(kind) for _, kind in body.slots]


def slot_declarations(body: Body) -> tuple[int, bytes]:
    """Groups of locals for the slots: how many groups, and their encoding."""
    groups: list[list[int]] = []
    for kind in slot_kinds(body):
        if groups and groups[-1][1] == kind:
            groups[-1][0] += 1
        else:
            groups.append([1, kind])
    if len(body.locals) + len(body.slots) > SLOTS_MAX:
        raise UnsupportedFeatureError("more locals than engines allow", body.function)
    return len(groups), b"".join(uleb(count) + encode_type(kind) for count, kind in groups)


def function_code(body: Body, target: Target) -> tuple[bytes, list[int]]:
    """The whole of a body for the base module, without its size, and the offsets of unlikely branches in
    it."""
    added = sum(CALL_BYTES_MIN + VALUE_BYTES_MIN * site.live.bit_count() for site in body.sites)
    if body.end - body.first + added > FUNCTION_BYTES_MAX:  # before any of it is made
        raise UnsupportedFeatureError("more code than engines allow", body.function)
    emitter = Emitter(body, target, Layouts(body))
    count, declared = body.declared
    more, slots = slot_declarations(body)
    emitter.parts.append(uleb(count + more) + declared + slots)
    emitter.run(body.events, body.first, body.end)
    code = b"".join(emitter.parts)
    if len(code) > FUNCTION_BYTES_MAX:
        raise UnsupportedFeatureError("more code than engines allow", body.function)
    offsets = list(accumulate(map(len, emitter.parts), initial=0)) if emitter.hints else []
    return code, [offsets[part] for part in emitter.hints]


__all__ = ["ELSE", "Emitter", "Target", "dummy", "function_code", "sleb_bytes", "slot_declarations"]
