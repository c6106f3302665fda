"""The base module: the original, made so that it can be left at any site. A pure function of its bytes.

No index of the original moves; what is new comes after what was there:

* one memory, ``control``: the request flag at address 0, frames from ``FRAMES`` on;
* three globals: unwinding, save and resume;
* one table, for the twins that the host puts there;
* for each import that may suspend a *wrapper*, which is called in its place and whose frame holds the
  arguments: going on, the call is made again;
* the save helpers;
* the continuations of large loops (``peel``);
* if the module is split (``plan``), what its parts are reached by.

All of it, and all that twins must name, is exported under names that begin with ``PREFIX``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .binary import (
    FUNCTION,
    GLOBAL,
    MEMORY,
    TABLE,
    TAG,
    Import,
    MalformedModuleError,
    Module,
    Reader,
    SectionId,
    UnsupportedFeatureError,
    uleb,
)
from .body import Body, Event, Suspensions, decode
from .callgraph import Calls, address_taken, calls_of, element_functions, suspensions
from .emit import Target, dummy, function_code
from .frames import (
    Control,
    Groups,
    Helper,
    global_get,
    global_set,
    helper_body,
    i32_const,
    local_get,
    save_code,
    save_helpers,
    sized,
)
from .index_spaces import I32, FuncType, IndexSpaces, encode_type, sleb_bytes
from .liveness import liveness
from .peel import CONTINUATION_BYTES_MIN, Peeling, continuable, continuation_type
from .plan import LOADER_SLOT, Plan, make_plan

RESUMABLE_VERSION = 2  # goes up with every change of what comes out
PREFIX = "resumable:"
CONTROL, UNWINDING, SAVE, RESUME, TWINS, PENDING, PARTS = (
    PREFIX + name for name in ("control", "unwinding", "save", "resume", "twins", "pending", "parts")
)
LOADER_TYPE = FuncType((I32,), ())  # of the function in the slot ``LOADER_SLOT``: it takes another slot
REQUEST = 0  # the address of the request flag in the control memory
FRAMES = 64  # the address of the first record
CONTROL_PAGES = 1024

# A continuation (``peel``): its site, what it takes and gives, its code.
Continuation = tuple[int, Sequence[int], Sequence[int], bytes]
# For each function: code, offsets of unlikely branches in it, and its continuations.
Bodies = list[tuple[bytes, Sequence[int], Sequence[Continuation]]]
Task = Callable[[tuple[int, int]], object]
Runner = Callable[[Callable[[tuple[int, int]], Any], Sequence[tuple[int, int]]], Iterable[Any]]
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Resumable:
    """A module that can be left at any site, and what is needed to make its twins.

    Attributes:
        original: the module it was made from.
        code: the base module.
        suspensions: where it may suspend.
        suspending_imports: the functions that have wrappers, in the order of these.
        plan: how it is split; None when it is whole.
    """

    original: bytes
    code: bytes
    suspensions: Suspensions
    suspending_imports: tuple[int, ...]
    plan: Plan | None = None


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


def control_of(spaces: IndexSpaces) -> Control:
    """Where what we add to a module with these index spaces lies."""
    first, tables = len(spaces.globals), len(spaces.tables)
    return Control(len(spaces.memories), first, first + 1, first + 2, tables, first + 3, tables + 1)


def tags_of(spaces: IndexSpaces) -> tuple[FuncType, ...]:
    """The types of a module's exception tags."""
    return tuple(kind for kind in (spaces.types[index] for index in spaces.tags) if kind is not None)


class BaseTarget:
    """How the base module numbers what code names: as the original, but for imports that have wrappers.

    Attributes:
        wrappers, helpers: their numbers.
        dispatchers: for each type of function that has a slot, the number of the one that calls it.
    """

    moved = False

    def __init__(
        self, spaces: IndexSpaces, suspending_imports: Sequence[int], plan: Plan | None = None
    ) -> None:
        self.control = control_of(spaces)
        self.types = TypeNumbers(len(spaces.types))
        first = len(spaces.functions)
        self.wrappers = {index: first + place for place, index in enumerate(suspending_imports)}
        first += len(suspending_imports)
        self.helpers = {key: first + place for place, key in enumerate(save_helpers(bool(spaces.tags)))}
        first += len(self.helpers)
        kinds = sorted({spaces.functions[function] for function in plan.slots}) if plan else []
        self.dispatchers = {kind: first + place for place, kind in enumerate(kinds)}
        self._encoded = {key: uleb(index) for key, index in self.helpers.items()}

    def function(self, index: int) -> bytes:
        return uleb(self.wrappers.get(index, index))

    def helper(self, key: Helper) -> bytes:
        found = self._encoded.get(key)
        if found is None:  # an exception reference in a module without a tag: it can only be null or foreign
            raise UnsupportedFeatureError("an exception reference in a module without tags")
        return found

    def block(self, signature: FuncType) -> bytes:
        return self.types.block(signature)

    def type_index(self, signature: FuncType) -> int:
        return self.types.index(signature)

    def segment(self, event: Event) -> bytes:
        raise AssertionError("in the base module segment instructions stay as they are")


@dataclass(frozen=True)
class BodyTask:
    """Makes the bodies of functions of the base module; may be sent to another process.

    Attributes:
        functions: their numbers; a span is of places in it.
        forced: functions that name an import with a wrapper without calling it.
    """

    code: bytes
    starts: Sequence[int]
    spaces: IndexSpaces
    suspensions: Suspensions
    suspending_imports: tuple[int, ...]
    functions: Sequence[int]
    forced: frozenset[int]

    def __call__(self, span: tuple[int, int]) -> Bodies:
        target = BaseTarget(self.spaces, self.suspending_imports)
        return [self._body(function, target) for function in self.functions[span[0] : span[1]]]

    def _body(self, function: int, target: BaseTarget) -> tuple[bytes, Sequence[int], Sequence[Continuation]]:
        index = function - self.spaces.functions_imported
        start, end = self.starts[index], self.starts[index + 1]
        if not self.suspensions.functions[function] and function not in self.forced:
            return self.code[start:end], [], []
        body = analysed(self.spaces, self.suspensions, function, self.code, start)
        return body_and_continuations(body, target, tags_of(self.spaces), end - start)


def body_and_continuations(
    body: Body, target: Target, tags: Sequence[FuncType], size: int
) -> tuple[bytes, Sequence[int], Sequence[Continuation]]:
    """A body of ``size`` bytes for the base module or a part, and the continuations of its loops."""
    code, hints = function_code(body, target)
    if size <= CONTINUATION_BYTES_MIN:
        return sized(code), hints, []
    kind = continuation_type(body)
    return (
        sized(code),
        hints,
        [
            (event.site, kind.params, kind.results, sized(Peeling(body, target, tags).continued(event)))
            for event in body.sites
            if continuable(body, event)
        ],
    )


@dataclass(frozen=True)
class ScanTask:
    """Finds what a range of functions calls; may be sent to another process."""

    code: bytes
    starts: Sequence[int]
    imported: int

    def __call__(self, span: tuple[int, int]) -> list[Calls]:
        return [calls_of(self.code, self.starts[function - self.imported]) for function in range(*span)]


def analysed(
    spaces: IndexSpaces,
    suspensions: Suspensions,
    function: int,
    code: bytes,
    start: int,
    *,
    relocate: bool = False,
) -> Body:
    """A body decoded, with the live locals of its sites."""
    body = decode(spaces, suspensions, function, code, start, relocate=relocate)
    liveness(body.events)
    return body


def serially(task: Callable[[tuple[int, int]], Any], spans: Sequence[tuple[int, int]]) -> Iterable[Any]:
    """The plainest ``Runner``: one span after the other, here."""
    return map(task, spans)


def make_resumable(
    original: bytes,
    suspends: Callable[[Import], bool] = lambda _: True,
    run: Runner = serially,
    *,
    inert: bool = False,
    deferred: Sequence[Sequence[int]] = (),
) -> Resumable:
    """Make the base module of ``original``, which must be valid.

    Args:
        suspends: whether an imported function may suspend its caller.
        run: does a task for each of several ranges of functions, in order; may use other processes.
        inert: leave all code as it is, so that it can never be left: what the rest costs is measured against.
        deferred: the functions of each part that is to be made later (``plan``, ``parts``).

    Raises:
        MalformedModuleError: not a module, or one with names that are ours.
        UnsupportedFeatureError: something in it cannot be made resumable.
    """
    module = Module.parse(original)
    taken = next((name for name, _, _ in module.exports() if name.startswith(PREFIX)), None)
    if taken is not None:
        raise MalformedModuleError(f"the export {taken!r} is a private name", 0)
    spaces = IndexSpaces.of(module)
    functions = [item for item in module.imports() if item.kind == FUNCTION]
    imports = () if inert else tuple(index for index, item in enumerate(functions) if suspends(item))
    code, starts = module.bodies()
    code = bytes(code)
    if len(starts) - 1 != len(spaces.functions) - spaces.functions_imported:
        raise MalformedModuleError("a function without a body, or a body without a function", 0)
    first = spaces.functions_imported
    defined = range(first, len(spaces.functions))
    spans = [(begin + first, end + first) for begin, end in spans_of(starts, first, defined)]
    calls = [call for part in run(ScanTask(code, starts, first), spans) for call in part]
    where = (
        Suspensions(*map(bytes, _nothing(spaces))) if inert else suspensions(module, spaces, calls, imports)
    )
    forced = frozenset(index for index, call in enumerate(calls, first) if set(call.taken) & set(imports))
    plan = None
    if deferred:
        plan = make_plan(spaces, code, starts, calls, where, address_taken(module), deferred)
    target = BaseTarget(spaces, imports, plan)
    resident = [index for index in defined if index not in plan.owners] if plan else defined
    bodies = BodyTask(code, starts, spaces, where, imports, resident, forced)
    made = [body for part in run(bodies, spans_of(starts, first, resident)) for body in part]
    if plan:
        made = _with_stubs(spaces, target, plan, dict(zip(resident, made, strict=True)))
    named = set(plan.exported) if plan else _named(calls, where, spaces)
    base = _assemble(module, spaces, target, made, named, plan)
    return Resumable(original, base, where, imports, plan)


def _nothing(spaces: IndexSpaces) -> tuple[int, int, int, int]:
    functions = len(spaces.functions)
    return functions, len(spaces.types), functions, functions


def spans_of(starts: Sequence[int], imported: int, functions: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges of places in ``functions``, of about ``_CHUNK_BYTES`` of code each."""
    spans, first, size = [], 0, 0
    for place, function in enumerate(functions, 1):
        index = function - imported
        size += starts[index + 1] - starts[index]
        if size >= _CHUNK_BYTES or place == len(functions):
            spans.append((first, place))
            first, size = place, 0
    return spans


def _with_stubs(
    spaces: IndexSpaces,
    target: BaseTarget,
    plan: Plan,
    resident: dict[int, tuple[bytes, Sequence[int], Sequence[Continuation]]],
) -> Bodies:
    """The bodies of all functions of a base that is split: what stands for those that lie in parts."""
    stubs, nothing = set(plan.stubs), sized(b"\0\0\x0b")
    made: Bodies = []
    for function in range(spaces.functions_imported, len(spaces.functions)):
        found = resident.get(function)
        if found is None:
            code = stub(spaces, target.control, plan, function, target) if function in stubs else nothing
            found = code, (), ()
        made.append(found)
    return made


class Dispatchers(Protocol):
    """Where a module that is being made has the dispatchers."""

    @property
    def dispatchers(self) -> Mapping[int, int]: ...


def stub(spaces: IndexSpaces, control: Control, plan: Plan, function: int, dispatchers: Dispatchers) -> bytes:
    """What is called in place of a function of a part (``plan``)."""
    params = range(len(spaces.signature(function).params))
    ask = i32_const(plan.slots[function]) + global_set(control.pending)
    dispatcher = uleb(dispatchers.dispatchers[spaces.functions[function]])
    return sized(b"\0" + ask + b"".join(map(local_get, params)) + b"\x12" + dispatcher + b"\x0b")


def _dispatcher(spaces: IndexSpaces, target: BaseTarget, kind: int) -> bytes:
    """See that the pending slot is filled, and call what is in it."""
    control, signature = target.control, spaces.types[kind]
    assert signature is not None
    pending, table = global_get(control.pending), uleb(control.parts)
    loader = uleb(target.type_index(LOADER_TYPE))
    load = pending + i32_const(LOADER_SLOT) + b"\x11" + loader + table
    params = b"".join(map(local_get, range(len(signature.params))))
    call = params + pending + b"\x13" + uleb(kind) + table
    return sized(b"\0" + pending + b"\x25" + table + b"\xd1\x04\x40" + load + b"\x0b" + call + b"\x0b")


def _named(calls: Sequence[Calls], where: Suspensions, spaces: IndexSpaces) -> set[int]:
    """The functions that twins may name: what functions that can suspend call or take the address of."""
    found: set[int] = set()
    for function, call in enumerate(calls, spaces.functions_imported):
        if where.functions[function]:
            found.update(call.functions, call.taken)
    return found


def _assemble(
    module: Module,
    spaces: IndexSpaces,
    target: BaseTarget,
    made: Bodies,
    named: set[int],
    plan: Plan | None,
) -> bytes:
    tags, control = tags_of(spaces), target.control
    own = [_wrapper(spaces, target, index) for index in target.wrappers]
    own += [helper_body(control, key, tags, target) for key in target.helpers]
    kinds = [spaces.functions[index] for index in target.wrappers]
    kinds += [target.types.index(key.signature()) for key in target.helpers]
    own += [_dispatcher(spaces, target, kind) for kind in target.dispatchers]
    kinds += target.dispatchers
    first = len(spaces.functions) + len(own)
    names = []
    for function, (_, _, continuations) in enumerate(made, spaces.functions_imported):
        for site, params, results, code in continuations:
            own.append(code)
            kinds.append(target.types.index(FuncType(tuple(params), tuple(results))))
            names.append(continuation_name(function, site))
    module.append_to(SectionId.FUNCTION, [uleb(kind) for kind in kinds])
    tables = [b"\x70\0\0"] + ([b"\x70\0" + uleb(plan.slots_count)] if plan else [])
    module.append_to(SectionId.TABLE, tables)
    module.append_to(SectionId.MEMORY, [b"\x01" + uleb(CONTROL_PAGES) * 2])
    zero, frames = (b"\x7f\x01" + i32_const(value) + b"\x0b" for value in (0, FRAMES))
    module.append_to(SectionId.GLOBAL, [zero, frames, frames] + ([zero] if plan else []))
    module.replace(
        SectionId.CODE, b"".join([uleb(len(made) + len(own)), *(code for code, _, _ in made), *own])
    )
    module.append_to(SectionId.TYPE, target.types.encode())
    _rewrite_references(module, target)
    module.append_to(SectionId.EXPORT, _exports(module, spaces, target, named))
    module.append_to(
        SectionId.EXPORT, [export(name, FUNCTION, index) for index, name in enumerate(names, first)]
    )
    if plan:
        module.append_to(SectionId.EXPORT, _exports_for_parts(target))
    add_hints(module, made, spaces.functions_imported)
    return module.encode()


def _wrapper(spaces: IndexSpaces, target: BaseTarget, index: int) -> bytes:
    """Call the import; if it wants to be left, save its arguments, for the call is made again."""
    kind = spaces.signature(index)
    function = target.wrappers[index]
    call = b"".join(local_get(place) for place in range(len(kind.params))) + b"\x10" + uleb(index)
    leave = global_get(target.control.unwinding) + b"\x04\x40"
    save = b"".join(save_code(target, function, 0, argument_groups(kind)))
    dummies = b"".join(dummy(result, function) for result in kind.results)
    return sized(b"\0" + call + leave + save + dummies + b"\x0f\x0b\x0b")


def argument_groups(kind: FuncType) -> Groups:
    """What the frame of a wrapper holds: its parameters."""
    groups: Groups = {}
    for place, param in enumerate(kind.params):
        groups.setdefault(param, []).append(place)
    return groups


def _exports(module: Module, spaces: IndexSpaces, target: BaseTarget, named: set[int]) -> list[bytes]:
    control = target.control
    entries = [
        (CONTROL, MEMORY, control.memory),
        (UNWINDING, GLOBAL, control.unwinding),
        (SAVE, GLOBAL, control.save),
        (RESUME, GLOBAL, control.resume),
        (TWINS, TABLE, control.twins),
        *((export_name(MEMORY, index), MEMORY, index) for index in range(len(spaces.memories))),
        *((export_name(TABLE, index), TABLE, index) for index in range(len(spaces.tables))),
        *((export_name(GLOBAL, index), GLOBAL, index) for index in range(len(spaces.globals))),
        *((export_name(TAG, index), TAG, index) for index in range(len(spaces.tags))),
    ]
    functions = (named - target.wrappers.keys()) | {*target.wrappers.values(), *target.helpers.values()}
    entries += [(export_name(FUNCTION, index), FUNCTION, index) for index in sorted(functions)]
    start = module.remove(SectionId.START)
    if start is not None:
        entries.append((PREFIX + "start", FUNCTION, Reader(start).uleb()))
    return [export(*entry) for entry in entries]


def _exports_for_parts(target: BaseTarget) -> list[bytes]:
    entries = [(PENDING, GLOBAL, target.control.pending), (PARTS, TABLE, target.control.parts)]
    entries += [(dispatcher_name(kind), FUNCTION, index) for kind, index in target.dispatchers.items()]
    return [export(*entry) for entry in entries]


def dispatcher_name(kind: int) -> str:
    """Under which name parts find the dispatcher for a type."""
    return f"{PREFIX}d{kind}"


def export_name(kind: int, index: int) -> str:
    """Under which name twins find an item of the base module."""
    return f"{PREFIX}{'ftmge'[kind]}{index}"


def continuation_name(function: int, site: int) -> str:
    """Under which name twins find the continuation for a loop."""
    return f"{PREFIX}c{function}.{site}"


def export(name: str, kind: int, index: int) -> bytes:
    """One entry of the export section."""
    encoded = name.encode()
    return uleb(len(encoded)) + encoded + bytes([kind]) + uleb(index)


def _rewrite_references(module: Module, target: BaseTarget) -> None:
    """Put wrappers in the place of their imports in exports, tables and globals."""
    exports = [
        export(name, kind, target.wrappers.get(index, index) if kind == FUNCTION else index)
        for name, kind, index in module.exports()
    ]
    if exports:
        module.replace(SectionId.EXPORT, uleb(len(exports)) + b"".join(exports))
    if any(index in target.wrappers for functions in element_functions(module) for index in functions):
        raise UnsupportedFeatureError("a table that holds an imported function that may suspend")


def add_hints(module: Module, made: Bodies, imported: int) -> None:
    """Tell the engine that saving is unlikely, so that it keeps that code out of the way."""
    entries = []
    for function, (_, hints, _) in enumerate(made, imported):
        if hints:
            parts = [b"".join((uleb(offset), b"\x01\0")) for offset in hints]
            entries.append(uleb(function) + uleb(len(parts)) + b"".join(parts))
    module.sections = [
        (number, payload)
        for number, payload in module.sections
        if number != SectionId.CUSTOM or not Reader(payload).name().startswith("metadata.code.")
    ]
    if entries:
        name = b"metadata.code.branch_hint"
        payload = uleb(len(name)) + name + uleb(len(entries)) + b"".join(entries)
        place = next(i for i, (number, _) in enumerate(module.sections) if number == SectionId.CODE)
        module.sections.insert(place, (int(SectionId.CUSTOM), payload))
