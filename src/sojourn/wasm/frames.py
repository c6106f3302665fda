"""How a frame lies in the control memory: the code that saves one, and the code that loads it.

A *record* is what a function leaves behind at a site when it unwinds: the values that are live there, then
two
numbers, the site and the function::

    [v128 ...][i64 ...][f64 ...][exception ...][f32 ...][function reference ...][external reference ...]
    [i32 ...][site: i32][function: i32]

In each group come first the locals in the order of their indices, then the values of the operand stack from
the bottom. So the layout follows from the body alone, and nothing about it is stored. The innermost frame
is saved first; going on, the outermost is loaded first, from the end of the records backwards.

Saving is outlined: one helper function for each type and number of values up to ``GROUP_MAX``, larger
groups by several calls. A site that holds integers only, as most do, saves with a single call, because the
helpers for ``i32`` take the site and the function as well, as one number.

An exception reference is saved as the number of its tag and the tag's values, and made again by throwing
it. A null reference has the number -1. One whose tag the module does not know has -2; it cannot be made
again.

A reference to a function or to something of the host's is put into a private table when the frame is saved,
and the record holds its place there, -1 for null. Whoever carries the state to another instance finds out
what these tables hold (``state.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Protocol

from .binary import UnsupportedFeatureError, uleb
from .events import Body, Event
from .index_spaces import (
    ANYREF,
    EXNREF,
    EXTERNREF,
    F32,
    F64,
    FUNCREF,
    I32,
    I64,
    V128,
    FuncType,
    encode_type,
    family,
    heap_type,
    is_defaultable,
    is_reference,
    nullable,
    sleb_bytes,
)

NUMBERS = {V128: 16, I64: 8, F64: 8, F32: 4, I32: 4}
SIZES = {**NUMBERS, FUNCREF: 4, EXTERNREF: 4}  # a reference is its place in a table
REFERENCES = (FUNCREF, EXTERNREF)
ORDER = (V128, I64, F64, EXNREF, F32, *REFERENCES, I32)
GROUP_MAX = {V128: 8, I64: 16, F64: 16, F32: 8, I32: 32}
TRAILER_BYTES = 8
NULL_EXCEPTION, FOREIGN_EXCEPTION = -1, -2
NULL_REFERENCE = -1
_GROW = 16  # by how many places a table of references grows

_STORE = {V128: b"\xfd\x0b", I64: b"\x37", F64: b"\x39", F32: b"\x38", I32: b"\x36"}
_LOAD = {V128: b"\xfd\x00", I64: b"\x29", F64: b"\x2b", F32: b"\x2a", I32: b"\x28"}
_ADD, _END, _RETURN, _CALL = b"\x6a", b"\x0b", b"\x0f", b"\x10"
_THROW_REF, _UNREACHABLE = b"\x0a", b"\0"
_CATCH, _CATCH_ALL, _CATCH_ALL_REF = b"\0", b"\x02", b"\x03"


@lru_cache(maxsize=1 << 16)
def local_get(index: int) -> bytes:
    return b"\x20" + uleb(index)


@lru_cache(maxsize=1 << 16)
def local_set(index: int) -> bytes:
    return b"\x21" + uleb(index)


def global_get(index: int) -> bytes:
    return b"\x23" + uleb(index)


def global_set(index: int) -> bytes:
    return b"\x24" + uleb(index)


@lru_cache(maxsize=1 << 12)
def i32_const(value: int) -> bytes:
    return b"\x41" + sleb_bytes(value)


@dataclass(frozen=True, slots=True)
class Control:
    """The indices of what we add to a module.

    Attributes:
        memory: the control memory.
        unwinding: the global that is not 0 while frames are being saved.
        save: the global with the address behind the last record saved.
        resume: the global with the address behind the next record to load.
        twins: the table of the functions that records are loaded by.
        pending: in a module that is split (``plan``), the global with the slot that a stub asks for.
        parts: in such a module, the table of slots.
        functions: the table of all functions whose address is taken; -1 in a module without references.
        references: by family of references, the table of those in records and the global that counts them.
    """

    memory: int
    unwinding: int
    save: int
    resume: int
    twins: int
    pending: int
    parts: int
    functions: int = -1
    references: dict[int, tuple[int, int]] = field(default_factory=dict, hash=False)


# -- helpers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Helper:
    """An outlined function: saves ``count`` values of ``kind``, the last of a record also its trailer. One
    for references puts a reference into its table and returns the place."""

    kind: int
    count: int
    trailer: bool = False

    def signature(self) -> FuncType:
        results = (I32,) if self.kind in REFERENCES else ()
        return FuncType((self.kind,) * self.count + ((I64,) if self.trailer else ()), results)


SAVE_EXCEPTION = Helper(EXNREF, 1)


class Helpers(Protocol):
    """Where a module that is being made has the helpers."""

    def helper(self, key: Helper) -> bytes:
        """The index of a helper, encoded."""
        ...


class Types(Protocol):
    """The types of a module that is being made."""

    def block(self, signature: FuncType) -> bytes:
        """A block type, encoded."""
        ...

    def type_index(self, signature: FuncType) -> int:
        """The index of a function type."""
        ...


@cache
def save_helpers(exceptions: bool, references: bool) -> tuple[Helper, ...]:
    """All helpers that save, in their order in the base module."""
    found = [
        Helper(kind, count) for kind in NUMBERS if kind != I32 for count in range(1, GROUP_MAX[kind] + 1)
    ]
    found.append(Helper(I32, GROUP_MAX[I32]))
    found += [Helper(I32, count, trailer=True) for count in range(GROUP_MAX[I32] + 1)]
    if exceptions:
        found.append(SAVE_EXCEPTION)
    if references:
        found += [Helper(kind, 1) for kind in REFERENCES]
    return tuple(found)


class Target(Helpers, Types, Protocol):
    """Where a module that is being made has what it needs."""


def helper_body(control: Control, key: Helper, tags: Sequence[FuncType], target: Target) -> bytes:
    """The code of a helper, its size included: store all parameters, move the save address."""
    if key == SAVE_EXCEPTION:
        return sized(_save_exception(control, tags, target, target))
    if key.kind in REFERENCES:
        return sized(_keep_reference(control, key.kind))
    size = SIZES[key.kind]
    save = global_get(control.save)
    stores = [
        save + local_get(index) + _STORE[key.kind] + _memarg(control.memory, index * size)
        for index in range(key.count)
    ]
    end = key.count * size
    if key.trailer:
        stores.append(save + local_get(key.count) + _STORE[I64] + _memarg(control.memory, end))
        end += TRAILER_BYTES
    return sized(b"".join([b"\0", *stores, _move(control.save, end), _END]))


def null(kind: int) -> bytes:
    """A null reference of the hierarchy of a type."""
    return b"\xd0" + sleb_bytes(heap_type(kind))


def _keep_reference(control: Control, kind: int) -> bytes:
    """``(param funcref) (result i32)``: put a reference into its table, at the next place."""
    table, count = control.references[kind]
    place, grow = global_get(count), b"\xd0" + bytes([kind]) + i32_const(_GROW) + b"\xfc\x0f" + uleb(table)
    return b"".join(
        (
            *(b"\0", local_get(0), b"\xd1\x04\x40", i32_const(NULL_REFERENCE), _RETURN, _END),
            *(place, b"\xfc\x10", uleb(table), b"\x4f\x04\x40", grow, b"\x1a", _END),
            *(place, local_get(0), b"\x26", uleb(table)),
            *(place, i32_const(1), _ADD, global_set(count)),
            *(place, i32_const(1), b"\x6b", _END),
        )
    )


def load_reference(control: Control, kind: int, offset: int) -> bytes:
    """The reference of type ``kind`` (never one without null) that is named at ``offset`` of the record."""
    top = kind if kind in REFERENCES else (EXTERNREF if heap_type(kind) == -0x0E else FUNCREF)
    place = global_get(control.resume) + _LOAD[I32] + _memarg(control.memory, offset)
    table, _ = control.references[top]
    cast = b"" if kind == top else b"\xfb\x17" + sleb_bytes(heap_type(kind))
    return b"".join(
        (
            *(place, i32_const(NULL_REFERENCE), b"\x46\x04", encode_type(kind), null(kind)),
            *(b"\x05", place, b"\x25", uleb(table), cast, _END),
        )
    )


def sized(body: bytes) -> bytes:
    return uleb(len(body)) + body


def _move(pointer: int, distance: int) -> bytes:
    return global_get(pointer) + i32_const(distance) + _ADD + global_set(pointer)


def _memarg(memory: int, offset: int) -> bytes:
    return b"\x40" + uleb(memory) + uleb(offset)  # no alignment is promised


# -- exceptions ----------------------------------------------------------------------------------------


def exception_bytes(tags: Sequence[FuncType]) -> int:
    """The size of any exception in a record: its tag's number, and room for the largest payload."""
    return 4 + max((sum(SIZES.get(kind, 4) for kind in tag.params) for tag in tags), default=0)


def _payload(tag: FuncType) -> list[tuple[int, int, int]]:
    """The values of a tag: (position, type, offset in the record)."""
    found, offset = [], 4
    for position, kind in enumerate(tag.params):
        found.append((position, kind, offset))
        offset += SIZES.get(kind, 4)
    return found


def _savable(tag: FuncType) -> bool:
    return all(kind in SIZES for kind in tag.params)


def _save_exception(control: Control, tags: Sequence[FuncType], types: Types, helpers: Helpers) -> bytes:
    """Throw the exception and catch it by each tag; store the number of the one that caught, and its values.

    Before: ``(param exnref)``. The blocks lie inside each other, one for each tag, so that the clause of
        the tag at position ``i`` leaves ``i`` of them; behind each block its payload is on the stack.
    """
    known = [index for index, tag in enumerate(tags) if _savable(tag)]
    local_types = [kind for index in known for kind in tags[index].params]
    save, done = global_get(control.save), _move(control.save, exception_bytes(tags)) + _RETURN

    def number(value: int) -> bytes:
        return save + i32_const(value) + _STORE[I32] + _memarg(control.memory, 0)

    out = [uleb(len(local_types)), *(b"\x01" + encode_type(kind) for kind in local_types)]
    out += [local_get(0), b"\xd1\x04\x40", number(NULL_EXCEPTION), done, _END]
    out.append(b"\x02\x40")  # the outermost block is that of an exception nobody here knows
    out += [b"\x02" + types.block(FuncType((), tags[index].params)) for index in reversed(known)]
    clauses = [_CATCH + uleb(index) + uleb(depth) for depth, index in enumerate(known)]
    clauses.append(_CATCH_ALL + uleb(len(known)))
    out += [b"\x1f\x40", uleb(len(clauses)), *clauses, local_get(0), _THROW_REF, _END, _UNREACHABLE]
    base = 1
    for index in known:
        params = tags[index].params
        out.append(_END)
        out += [local_set(base + position) for position in reversed(range(len(params)))]
        out += [
            save + _storable(helpers, kind, base + position) + _memarg(control.memory, offset)
            for position, kind, offset in _payload(tags[index])
        ]
        out += [number(index), done]
        base += len(params)
    return b"".join([*out, _END, number(FOREIGN_EXCEPTION), done, _END])


def _storable(helpers: Helpers, kind: int, index: int) -> bytes:
    """A local's value, as it is stored, and the instruction that stores it."""
    if kind in REFERENCES:
        return local_get(index) + _CALL + helpers.helper(Helper(kind, 1)) + _STORE[I32]
    return local_get(index) + _STORE[kind]


def _load_exception(control: Control, tags: Sequence[FuncType], offset: int) -> list[bytes]:
    """The exception at ``offset`` of the record, or null: throw it anew and catch it."""
    where = global_get(control.resume)
    number = where + _LOAD[I32] + _memarg(control.memory, offset)
    out = [b"\x02\x69", number, i32_const(FOREIGN_EXCEPTION), b"\x46\x04\x40", _UNREACHABLE, _END]
    for index, tag in enumerate(tags):
        if _savable(tag):
            out += [number, i32_const(index), b"\x46\x04\x40\x02\x69\x1f\x40\x01", _CATCH_ALL_REF, b"\0"]
            for _, kind, place in _payload(tag):
                if kind in REFERENCES:
                    out.append(load_reference(control, kind, offset + place))
                else:
                    out += [where, _LOAD[kind], _memarg(control.memory, offset + place)]
            out += [b"\x08", uleb(index), _END, _UNREACHABLE, _END, b"\x0c\x01", _END]
    return [*out, b"\xd0\x69", _END]


# -- records -------------------------------------------------------------------------------------------

# The locals that a record holds, by type; those with references by the top of their hierarchy.
Groups = dict[int, list[int]]


class Layouts:
    """What the records of one body hold. Masks are taken apart in pieces of sixteen bits, each piece once
    for the
    body, because neighbouring sites differ little."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._kinds: dict[int, int] = {}
        self._pieces: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {}

    def groups(self, event: Event) -> Groups:
        """The locals in the record of a site.

        Raises:
            UnsupportedFeatureError: a value of a type that cannot be saved is live there.
        """
        found: Groups = {}
        mask, first = event.live, 0
        while mask:
            piece = mask & 0xFFFF
            if piece:
                for kind, index in self._pieces.get((first, piece)) or self._piece(first, piece):
                    if kind in found:
                        found[kind].append(index)
                    else:
                        found[kind] = [index]
            mask >>= 16
            first += 16
        for key in enumerate(event.held):
            found.setdefault(self._stored(key[1]), []).append(self._body.slots[key])
        if ANYREF in found:
            raise UnsupportedFeatureError(
                "a reference to a collected object that is live at a suspension point", self._body.function
            )
        return found

    def _stored(self, kind: int) -> int:
        """As what a type is stored."""
        found = self._kinds.get(kind)
        if found is None:
            found = family(kind, self._body.spaces.types) if is_reference(kind) else kind
            self._kinds[kind] = found
        return found

    def _piece(self, first: int, piece: int) -> tuple[tuple[int, int], ...]:
        kinds = self._body.locals
        found = tuple(
            (self._stored(kinds[first + bit]), first + bit) for bit in range(16) if piece >> bit & 1
        )
        self._pieces[first, piece] = found
        return found


def record_bytes(groups: Groups, exception: int) -> int:
    """The size of a record; ``exception`` is that of one exception in it."""
    sizes = sum((SIZES.get(kind) or exception) * len(values) for kind, values in groups.items())
    return sizes + TRAILER_BYTES


def save_code(helpers: Helpers, function: int, site: int, groups: Groups) -> list[bytes]:
    """Push the values of a site and call the helpers, in the order of the record."""
    parts: list[bytes] = []
    for kind in ORDER:
        values = groups.get(kind)
        if values is None or kind == I32 or kind in REFERENCES:
            continue
        most = GROUP_MAX.get(kind, 1)
        for start in range(0, len(values), most):
            part = values[start : start + most]
            parts += map(local_get, part)
            parts += (_CALL, helpers.helper(Helper(kind, len(part))))
    pushes = list(map(local_get, groups.get(I32, ())))
    if FUNCREF in groups or EXTERNREF in groups:
        pushes = _kept(helpers, groups) + pushes
    most = GROUP_MAX[I32]
    start = 0
    while len(pushes) - start > most:
        parts += pushes[start : start + most]
        parts += (_CALL, helpers.helper(Helper(I32, most)))
        start += most
    parts += pushes[start:]
    parts += (_trailer(function, site), _CALL)
    parts.append(helpers.helper(Helper(I32, len(pushes) - start, trailer=True)))
    return parts


def save_inline(control: Control, function: int, site: int, groups: Groups) -> list[bytes]:
    """Do what ``save_code`` does without a call, for numbers only. In a function that calls nothing, the
    call of a
    helper would be the only reason for a stack frame, and cost every call of the function a prologue."""
    save = global_get(control.save)
    parts: list[bytes] = []
    offset = 0
    for kind in ORDER:
        for index in groups.get(kind, ()):
            parts += (save, local_get(index), _STORE[kind], _memarg(control.memory, offset))
            offset += SIZES[kind]
    parts += (save, _trailer(function, site), _STORE[I64], _memarg(control.memory, offset))
    parts.append(_move(control.save, offset + TRAILER_BYTES))
    return parts


def _trailer(function: int, site: int) -> bytes:
    """The two numbers that end a record, as one constant."""
    return b"\x42" + sleb_bytes(function << 32 | site)


def _kept(helpers: Helpers, groups: Groups) -> list[bytes]:
    """For each reference the code that puts it into its table and leaves its place."""
    return [
        local_get(index) + _CALL + helpers.helper(Helper(kind, 1))
        for kind in REFERENCES
        for index in groups.get(kind, ())
    ]


def load_code(
    control: Control, groups: Groups, tags: Sequence[FuncType], kinds: Callable[[int], int]
) -> list[bytes]:
    """Take one record back, the last one left, and set the locals that it holds. ``kinds`` says the type of
    a local."""
    parts = [_move(control.resume, -record_bytes(groups, exception_bytes(tags)))]
    where = global_get(control.resume)
    offset = 0
    for kind in ORDER:
        for index in groups.get(kind, ()):
            if kind in NUMBERS:
                parts += [where, _LOAD[kind], _memarg(control.memory, offset), local_set(index)]
                offset += NUMBERS[kind]
                continue
            wanted = kinds(index)
            if kind == EXNREF:
                parts += _load_exception(control, tags, offset)
                offset += exception_bytes(tags)
            else:
                parts.append(load_reference(control, nullable(wanted), offset))
                offset += SIZES[kind]
            parts += [b"" if is_defaultable(wanted) else b"\xd4", local_set(index)]
    return parts
