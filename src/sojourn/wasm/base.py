"""The base module: the original, made so that it can be left at any site. A pure function of its bytes.

No index of the original moves; what is new comes after what was there:

* one memory, ``control``: the request flag at address 0, frames from ``FRAMES`` on;
* three globals: unwinding, save and resume;
* one table, for the twins that the host puts there;
* for each import that may suspend a *wrapper*, which is called in its place and whose frame holds the
  arguments: going on, the call is made again;
* the save helpers;
* the continuations of large loops (``peel``).

All of it, and all that twins must name, is exported under names that begin with ``PREFIX``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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
from .callgraph import Calls, calls_of, element_functions, suspensions
from .emit import dummy, function_code
from .frames import (
    Control,
    Groups,
    Helper,
    global_get,
    helper_body,
    i32_const,
    local_get,
    save_code,
    save_helpers,
    sized,
)
from .index_spaces import FuncType, IndexSpaces, encode_type, sleb_bytes
from .liveness import liveness
from .peel import CONTINUATION_BYTES_MIN, Peeling, continuable, continuation_type

RESUMABLE_VERSION = 2  # goes up with every change of what comes out
PREFIX = "resumable:"
CONTROL, UNWINDING, SAVE, RESUME, TWINS = (
    PREFIX + name for name in ("control", "unwinding", "save", "resume", "twins")
)
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
    """

    original: bytes
    code: bytes
    suspensions: Suspensions
    suspending_imports: tuple[int, ...]


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
    first = len(spaces.globals)
    return Control(len(spaces.memories), first, first + 1, first + 2, len(spaces.tables))


def tags_of(spaces: IndexSpaces) -> tuple[FuncType, ...]:
    """The types of a module's exception tags."""
    return tuple(kind for kind in (spaces.types[index] for index in spaces.tags) if kind is not None)


class BaseTarget:
    """How the base module numbers what code names: as the original, but for imports that have wrappers."""

    moved = False

    def __init__(self, spaces: IndexSpaces, suspending_imports: Sequence[int]) -> None:
        self.control = control_of(spaces)
        self.types = TypeNumbers(len(spaces.types))
        first = len(spaces.functions)
        self.wrappers = {index: first + place for place, index in enumerate(suspending_imports)}
        first += len(suspending_imports)
        self.helpers = {key: first + place for place, key in enumerate(save_helpers(bool(spaces.tags)))}
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
    """Makes the bodies of a range of functions; may be sent to another process."""

    code: bytes
    starts: Sequence[int]
    spaces: IndexSpaces
    suspensions: Suspensions
    suspending_imports: tuple[int, ...]
    forced: frozenset[int]  # functions that name an import with a wrapper without calling it

    def __call__(self, span: tuple[int, int]) -> Bodies:
        target = BaseTarget(self.spaces, self.suspending_imports)
        return [self._body(function, target) for function in range(*span)]

    def _body(self, function: int, target: BaseTarget) -> tuple[bytes, Sequence[int], Sequence[Continuation]]:
        index = function - self.spaces.functions_imported
        start, end = self.starts[index], self.starts[index + 1]
        if not self.suspensions.functions[function] and function not in self.forced:
            return self.code[start:end], [], []
        body = analysed(self.spaces, self.suspensions, function, self.code, start)
        code, hints = function_code(body, target)
        return (
            sized(code),
            hints,
            self._continuations(body, target) if end - start > CONTINUATION_BYTES_MIN else [],
        )

    def _continuations(self, body: Body, target: BaseTarget) -> list[Continuation]:
        tags, kind = tags_of(self.spaces), continuation_type(body)
        return [
            (event.site, kind.params, kind.results, sized(Peeling(body, target, tags).continued(event)))
            for event in body.sites
            if continuable(body, event)
        ]


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
) -> Resumable:
    """Make the base module of ``original``, which must be valid.

    Args:
        suspends: whether an imported function may suspend its caller.
        inert: leave all code as it is, so that it can never be left: what the rest costs is measured against.
        run: does a task for each of several ranges of functions, in order; may use other processes.

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
    spans = _spans(starts, spaces.functions_imported)
    calls = [call for part in run(ScanTask(code, starts, spaces.functions_imported), spans) for call in part]
    where = (
        Suspensions(*map(bytes, _nothing(spaces))) if inert else suspensions(module, spaces, calls, imports)
    )
    forced = frozenset(
        index for index, call in enumerate(calls, spaces.functions_imported) if set(call.taken) & set(imports)
    )
    bodies = BodyTask(code, starts, spaces, where, imports, forced)
    made = [body for part in run(bodies, spans) for body in part]
    base = _assemble(module, spaces, BaseTarget(spaces, imports), made, _named(calls, where, spaces))
    return Resumable(original, base, where, imports)


def _nothing(spaces: IndexSpaces) -> tuple[int, int, int, int]:
    functions = len(spaces.functions)
    return functions, len(spaces.types), functions, functions


def _spans(starts: Sequence[int], imported: int) -> list[tuple[int, int]]:
    """Ranges of functions of about ``_CHUNK_BYTES`` of code each."""
    spans, first = [], 0
    for index in range(len(starts) - 1):
        if starts[index + 1] - starts[first] >= _CHUNK_BYTES or index == len(starts) - 2:
            spans.append((imported + first, imported + index + 1))
            first = index + 1
    return spans


def _named(calls: Sequence[Calls], where: Suspensions, spaces: IndexSpaces) -> set[int]:
    """The functions that twins may name: what functions that can suspend call or take the address of."""
    found: set[int] = set()
    for function, call in enumerate(calls, spaces.functions_imported):
        if where.functions[function]:
            found.update(call.functions, call.taken)
    return found


def _assemble(
    module: Module, spaces: IndexSpaces, target: BaseTarget, made: Bodies, named: set[int]
) -> bytes:
    tags, control = tags_of(spaces), target.control
    own = [_wrapper(spaces, target, index) for index in target.wrappers]
    own += [helper_body(control, key, tags, target) for key in target.helpers]
    kinds = [spaces.functions[index] for index in target.wrappers]
    kinds += [target.types.index(key.signature()) for key in target.helpers]
    first = len(spaces.functions) + len(own)
    names = []
    for function, (_, _, continuations) in enumerate(made, spaces.functions_imported):
        for site, params, results, code in continuations:
            own.append(code)
            kinds.append(target.types.index(FuncType(tuple(params), tuple(results))))
            names.append(continuation_name(function, site))
    module.append_to(SectionId.FUNCTION, [uleb(kind) for kind in kinds])
    module.append_to(SectionId.TABLE, [b"\x70\0\0"])
    module.append_to(SectionId.MEMORY, [b"\x01" + uleb(CONTROL_PAGES) * 2])
    zero, frames = (b"\x7f\x01" + i32_const(value) + b"\x0b" for value in (0, FRAMES))
    module.append_to(SectionId.GLOBAL, [zero, frames, frames])
    module.replace(
        SectionId.CODE, b"".join([uleb(len(made) + len(own)), *(code for code, _, _ in made), *own])
    )
    module.append_to(SectionId.TYPE, target.types.encode())
    _rewrite_references(module, target)
    module.append_to(SectionId.EXPORT, _exports(module, spaces, target, named))
    module.append_to(
        SectionId.EXPORT, [_export(name, FUNCTION, index) for index, name in enumerate(names, first)]
    )
    _add_hints(module, made, spaces.functions_imported)
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
    return [_export(*entry) for entry in entries]


def export_name(kind: int, index: int) -> str:
    """Under which name twins find an item of the base module."""
    return f"{PREFIX}{'ftmge'[kind]}{index}"


def continuation_name(function: int, site: int) -> str:
    """Under which name twins find the continuation for a loop."""
    return f"{PREFIX}c{function}.{site}"


def _export(name: str, kind: int, index: int) -> bytes:
    encoded = name.encode()
    return uleb(len(encoded)) + encoded + bytes([kind]) + uleb(index)


def _rewrite_references(module: Module, target: BaseTarget) -> None:
    """Put wrappers in the place of their imports in exports, tables and globals."""
    exports = [
        _export(name, kind, target.wrappers.get(index, index) if kind == FUNCTION else index)
        for name, kind, index in module.exports()
    ]
    if exports:
        module.replace(SectionId.EXPORT, uleb(len(exports)) + b"".join(exports))
    if any(index in target.wrappers for functions in element_functions(module) for index in functions):
        raise UnsupportedFeatureError("a table that holds an imported function that may suspend")


def _add_hints(module: Module, made: Bodies, imported: int) -> None:
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
