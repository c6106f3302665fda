"""The base module: the original, made so that it can be left at any site. A pure function of its bytes.

No index of the original moves; what is new comes after what was there:

* one memory, ``control``: the request flag at address 0, frames from ``FRAMES`` on;
* three globals: unwinding, save and resume;
* one table, for the twins that the host puts there;
* for each import that may suspend a *wrapper*, which is called in its place and whose frame holds the
  arguments: going on, the call is made again;
* the save helpers;
* a *segment function* for each use of a data or element segment by a function that may suspend, so that
  twins can use it too, and for each ``data.drop`` and ``elem.drop`` (all of these are calls of it), which
  also notes in a global that the segment is gone;
* in a module that handles references: a table of all functions whose address is taken, two tables for the
  references in frames, globals that count what is in these, and for each function whose address is taken
  by one that may suspend a function that leaves it, for twins: a ``ref.func`` in another module would make
  a reference that the host could not tell;
* functions that are never called, for results of reference types that have no null.

An imported function with a wrapper is the wrapper wherever the module takes its address.

* the continuations of large loops (``peel``), unless the module is split;
* if it is split (``plan``), what its parts are reached by.

All of it, and all that twins must name, is exported under names that begin with ``PREFIX``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .additions import (
    CONTROL,
    CONTROL_PAGES,
    EXTERNALS,
    EXTERNALS_COUNT,
    FRAMES,
    FUNCTIONS,
    PARTS,
    PENDING,
    PREFIX,
    REFERENCES,
    REFERENCES_COUNT,
    RESUME,
    SAVE,
    TWINS,
    UNWINDING,
    Additions,
    BaseTarget,
    additions_of,
    argument_groups,
    continuation_name,
    dispatcher_name,
    drop_name,
    dropped_global,
    dropped_name,
    export_name,
    segment_name,
    segment_signature,
    shares_entries,
    stand_in_kind,
    tags_of,
    taken_name,
    taken_signature,
)
from .analysis import Analysis, analyse
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
    invalid_is_malformed,
    uleb,
)
from .body import decode
from .callgraph import Calls, Segment, address_taken, calls_of, table_entries, with_other_functions
from .emit import Target, dummy, function_code
from .events import DROPS, FUNCTION_BYTES_MAX, MEMORY_INIT, TABLE_INIT, Body, Suspensions
from .frames import global_get, global_set, helper_body, i32_const, local_get, save_code, sized
from .index_spaces import (
    ANYREF,
    EXNREF,
    EXTERNREF,
    FUNCREF,
    FuncType,
    IndexSpaces,
    family,
    is_defaultable,
    is_reference,
)
from .liveness import liveness
from .name_section import keep_names
from .peel import CONTINUATION_BYTES_MIN, Peeling, continuable, continuation_type, peeled_bytes_max
from .plan import Plan, make_plan
from .stubs import dispatcher, entry, free_gaps_of_types, stub

RESUMABLE_VERSION = 6  # goes up with every change of what comes out

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
        additions: what was added to it.
        tables: the tables whose entries are state, because its code may change them (or others, for an
            imported one).
        plan: how it is split; None when it is whole.
    """

    original: bytes
    code: bytes
    suspensions: Suspensions
    additions: Additions
    tables: tuple[int, ...]
    plan: Plan | None = None


@dataclass(frozen=True)
class BodyTask:
    """Makes the bodies of functions of the base module; may be sent to another process.

    Attributes:
        functions: their numbers; a span is of places in it.
        forced: functions that name an import with a wrapper without calling it, or drop a segment.
        split: whether the base is that of a split module.
    """

    code: bytes
    starts: Sequence[int]
    spaces: IndexSpaces
    suspensions: Suspensions
    additions: Additions
    functions: Sequence[int]
    forced: frozenset[int]
    split: bool = False

    def __call__(self, span: tuple[int, int]) -> Bodies:
        target = BaseTarget(self.spaces, self.additions, split=self.split)
        with invalid_is_malformed():
            return [self._body(function, target) for function in self.functions[span[0] : span[1]]]

    def _body(self, function: int, target: BaseTarget) -> tuple[bytes, Sequence[int], Sequence[Continuation]]:
        index = function - self.spaces.functions_imported
        start, end = self.starts[index], self.starts[index + 1]
        if not (self.suspensions.functions[function] or function in self.forced or target.indirect):
            return self.code[start:end], [], []
        body = analysed(self.spaces, self.suspensions, function, self.code, start, relocate=target.moved)
        return body_and_continuations(body, target, tags_of(self.spaces), end - start, not self.split)


def body_and_continuations(
    body: Body, target: Target, tags: Sequence[FuncType], size: int, continued: bool = True
) -> tuple[bytes, Sequence[int], Sequence[Continuation]]:
    """A body of ``size`` bytes for the base module or a part, and the continuations of its loops unless these
    are made apart."""
    code, hints = function_code(body, target)
    if peeled_bytes_max(body, len(code)) > FUNCTION_BYTES_MAX:
        feature = "loops so deep that going on takes more code than engines allow"
        raise UnsupportedFeatureError(feature, body.function)
    if not continued or size <= CONTINUATION_BYTES_MIN:
        return sized(code), hints, []
    return sized(code), hints, continuations(body, target, tags)


def continuations(body: Body, target: Target, tags: Sequence[FuncType]) -> list[Continuation]:
    """The continuations of the large loops of a body."""
    kind = continuation_type(body)
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
        return self.of(range(*span))

    def of(self, functions: Iterable[int]) -> list[Calls]:
        """What each of some functions calls."""
        with invalid_is_malformed():
            return [calls_of(self.code, self.starts[function - self.imported]) for function in functions]


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
    everything = (1 << len(body.locals)) - 1
    for index, kind in enumerate(body.locals):
        if kind > 0xFF and not is_defaultable(kind):
            everything ^= 1 << index
    liveness(body.events, everything)
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
    everywhere: bool = False,
    analysis: Analysis | None = None,
) -> Resumable:
    """Make the base module of ``original``, which must be valid.

    Args:
        suspends: whether an imported function may suspend its caller.
        run: does a task for each of several ranges of functions, in order; may use other processes.
        inert: leave all code as it is, so that it can never be left: what the rest costs is measured against.
        deferred: the functions of each part that is to be made later (``plan``, ``parts``).
        everywhere: for tests: whether every function polls at its entry, whether that is needed or not.
        analysis: what ``analysis_of`` gives for this module, when it is known; it takes a look at all code.

    Raises:
        MalformedModuleError: not a module, or one with names that are ours.
        UnsupportedFeatureError: something in it cannot be made resumable.
    """
    with invalid_is_malformed():
        return _make_resumable(original, suspends, run, inert, deferred, everywhere, analysis)


def _make_resumable(
    original: bytes,
    suspends: Callable[[Import], bool],
    run: Runner,
    inert: bool,
    deferred: Sequence[Sequence[int]],
    everywhere: bool,
    analysis: Analysis | None,
) -> Resumable:
    source = _Source(original)
    module, spaces, code, starts = source.module, source.spaces, source.code, source.starts
    imports = () if inert else source.suspending(suspends)
    first, defined, scan = spaces.functions_imported, source.defined, source.scan
    if analysis is None:
        analysis = analyse(module, spaces, source.calls(run), imports, everywhere=everywhere, inert=inert)
    elif not analysis.fits(spaces):
        raise ValueError("the analysis of another module")
    where, tables = analysis.suspensions, {*range(spaces.tables_imported), *analysis.tables}
    if any(table >= len(spaces.tables) for table in tables):
        raise MalformedModuleError("a table that does not exist", 0)
    additions = additions_of(module, spaces, analysis, imports, bool(deferred))
    refused = [item for item in spaces.globals if item.mutable and _is_object(item.type, spaces)]
    refused += [spaces.tables[table] for table in tables if _is_object(spaces.tables[table].element, spaces)]
    if refused:
        raise UnsupportedFeatureError("a reference to an object or exception in a global or table")
    forced = frozenset(
        function
        for function, taken, segments in analysis.naming
        if any(kind in DROPS for kind, _, _ in segments) or set(taken) & set(imports)
    )
    plan = None
    if deferred:
        entries = table_entries(module) if shares_entries(spaces, additions) else None
        addresses = address_taken(module, elements=entries is None)
        addresses = addresses.union(*(taken for _, taken, _ in analysis.naming))
        users = {function for function, _, segments in analysis.naming if segments}
        plan = make_plan(spaces, scan.of, users, addresses, deferred, entries or {})
    target = BaseTarget(spaces, additions, plan)
    resident = [index for index in defined if index not in plan.owners] if plan else defined
    bodies = BodyTask(code, starts, spaces, where, additions, resident, forced, split=bool(plan))
    made = [body for part in run(bodies, spans_of(starts, first, resident)) for body in part]
    if plan:
        made = _with_stubs(spaces, target, plan, dict(zip(resident, made, strict=True)))
    named = set(plan.exported) if plan else {index for index, yes in enumerate(analysis.called) if yes}
    base = _assemble(module, spaces, target, made, named, plan)
    return Resumable(original, base, where, additions, tuple(sorted(tables)), plan)


class _Source:
    """A module that is to be made resumable, taken apart."""

    def __init__(self, original: bytes) -> None:
        self.module = module = Module.parse(original)
        private = next((name for name, _, _ in module.exports() if name.startswith(PREFIX)), None)
        if private is not None:
            raise MalformedModuleError(f"the export {private!r} is a private name", 0)
        self.spaces = spaces = IndexSpaces.of(module)
        code, self.starts = module.bodies()
        self.code = bytes(code)
        self.defined = range(spaces.functions_imported, len(spaces.functions))
        if len(self.starts) - 1 != len(self.defined):
            raise MalformedModuleError("a function without a body, or a body without a function", 0)
        self.scan = ScanTask(self.code, self.starts, spaces.functions_imported)

    def suspending(self, suspends: Callable[[Import], bool]) -> tuple[int, ...]:
        functions = [item for item in self.module.imports() if item.kind == FUNCTION]
        return tuple(index for index, item in enumerate(functions) if suspends(item))

    def calls(self, run: Runner) -> list[Calls]:
        first = self.spaces.functions_imported
        spans = spans_of(self.starts, first, self.defined)
        return [call for part in run(self.scan, [(a + first, b + first) for a, b in spans]) for call in part]


def analysis_of(original: bytes, suspends: Callable[[Import], bool] = lambda _: True) -> Analysis:
    """The analysis that ``make_resumable`` of the same module takes.

    Raises:
        MalformedModuleError: not a module.
    """
    with invalid_is_malformed():
        source = _Source(original)
        return analyse(source.module, source.spaces, source.calls(serially), source.suspending(suspends))


def _is_object(kind: int, spaces: IndexSpaces) -> bool:
    return is_reference(kind) and family(kind, spaces.types) in (ANYREF, EXNREF)


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


def _assemble(
    module: Module, spaces: IndexSpaces, target: BaseTarget, made: Bodies, named: set[int], plan: Plan | None
) -> bytes:
    tags, control = tags_of(spaces), target.control
    own = [_wrapper(spaces, target, index) for index in target.wrappers]
    own += [helper_body(control, key, tags, target) for key in target.helpers]
    own += [_segment_body(spaces, target, key) for key in target.segments]
    own += [sized(b"\0\0\x0b")] * len(target.stand_ins)
    own += [sized(b"\0" + target.reference(index) + b"\x0b") for index in target.taken]
    kinds = [spaces.functions[index] for index in target.wrappers]
    kinds += [target.types.index(key.signature()) for key in target.helpers]
    kinds += [target.types.index(segment_signature(spaces, key)) for key in target.segments]
    kinds += [stand_in_kind(target.types, heap) for heap in target.stand_ins]
    kinds += [target.types.index(taken_signature(spaces, index)) for index in target.taken]
    own += [dispatcher(spaces, target, kind) for kind in target.dispatchers]
    own += [entry(spaces, target, plan, kind) for kind in target.entries if plan]
    kinds += [*target.dispatchers, *target.entries]
    first = len(spaces.functions) + len(own)
    names = []
    for function, (_, _, continuations) in enumerate(made, spaces.functions_imported):
        for site, params, results, code in continuations:
            own.append(code)
            kinds.append(target.types.index(FuncType(tuple(params), tuple(results))))
            names.append(continuation_name(function, site))
    if plan:
        free_gaps_of_types(module, spaces, target, plan)
        keep_names(module, lambda function: function not in plan.owners)
    module.append_to(SectionId.FUNCTION, [uleb(kind) for kind in kinds])
    _rewrite_references(module, target)
    if plan and plan.entries:
        others = {index: target.entries[spaces.functions[index]] for _, index in plan.entries}
        elements = with_other_functions(module, SectionId.ELEMENT, others)
        module.replace(SectionId.ELEMENT, elements or b"")
    _add_tables(module, target, plan)
    module.append_to(SectionId.MEMORY, [b"\x01" + uleb(CONTROL_PAGES) * 2])
    zero, frames = (b"\x7f\x01" + i32_const(value) + b"\x0b" for value in (0, FRAMES))
    more = len(control.references) + target.split + len(target.additions.drops)
    module.append_to(SectionId.GLOBAL, [zero, frames, frames, *[zero] * more])
    module.replace(
        SectionId.CODE, b"".join([uleb(len(made) + len(own)), *(code for code, _, _ in made), *own])
    )
    module.append_to(SectionId.TYPE, target.types.encode())
    entries = [export(name, FUNCTION, index) for index, name in enumerate(names, first)]
    if plan:
        entries += _exports_for_parts(target)
    module.append_to(SectionId.EXPORT, _exports(module, spaces, target, named) + entries)
    add_hints(module, made, spaces.functions_imported)
    return module.encode()


def _add_tables(module: Module, target: BaseTarget, plan: Plan | None) -> None:
    tables = [b"\x70\0\0"]
    if target.additions.references:
        functions = target.additions.functions
        tables += [b"\x70\0" + uleb(len(functions)), b"\x70\0\0", b"\x6f\0\0"]
        entries = uleb(len(functions)) + b"".join(map(target.function, functions))
        where = b"\x02" + uleb(target.control.functions) + i32_const(0) + b"\x0b\0"
        module.append_to(SectionId.ELEMENT, [where + entries])
    if plan:
        tables.append(b"\x70\0" + uleb(plan.slots_count))
    module.append_to(SectionId.TABLE, tables)


def _segment_body(spaces: IndexSpaces, target: BaseTarget, key: Segment) -> bytes:
    kind, segment, name = key
    params = b"".join(local_get(place) for place in range(len(segment_signature(spaces, key).params)))
    code = bytes([kind >> 8]) + uleb(kind & 0xFF)
    if kind in DROPS:
        code += uleb(segment) + i32_const(1) + global_set(dropped_global(target, key))
    elif kind in (MEMORY_INIT, TABLE_INIT):
        code += uleb(segment) + uleb(name)
    else:
        code += uleb(name) + uleb(segment)
    return sized(b"\0" + params + code + b"\x0b")


def _wrapper(spaces: IndexSpaces, target: BaseTarget, index: int) -> bytes:
    """Call the import; if it wants to be left, save its arguments, for the call is made again."""
    kind = spaces.signature(index)
    function = target.wrappers[index]
    call = b"".join(local_get(place) for place in range(len(kind.params))) + b"\x10" + uleb(index)
    leave = global_get(target.control.unwinding) + b"\x04\x40"
    save = b"".join(save_code(target, function, 0, argument_groups(spaces, index)))
    dummies = b"".join(dummy(target, result, function) for result in kind.results)
    return sized(b"\0" + call + leave + save + dummies + b"\x0f\x0b\x0b")


def _exports(module: Module, spaces: IndexSpaces, target: BaseTarget, named: set[int]) -> list[bytes]:
    control = target.control
    entries = [
        (CONTROL, MEMORY, control.memory),
        (UNWINDING, GLOBAL, control.unwinding),
        (SAVE, GLOBAL, control.save),
        (RESUME, GLOBAL, control.resume),
        (TWINS, TABLE, control.twins),
        *_state_exports(target),
        *((export_name(MEMORY, index), MEMORY, index) for index in range(len(spaces.memories))),
        *((export_name(TABLE, index), TABLE, index) for index in range(len(spaces.tables))),
        *((export_name(GLOBAL, index), GLOBAL, index) for index in range(len(spaces.globals))),
        *((export_name(TAG, index), TAG, index) for index in range(len(spaces.tags))),
    ]
    functions = named - target.wrappers.keys()
    for added in (target.wrappers, target.helpers, target.stand_ins):
        functions |= set(added.values())
    entries += [(segment_name(key), FUNCTION, index) for key, index in target.segments.items()]
    entries += [(taken_name(function), FUNCTION, index) for function, index in target.taken.items()]
    entries += [(export_name(FUNCTION, index), FUNCTION, index) for index in sorted(functions)]
    start = module.remove(SectionId.START)
    if start is not None:
        entries.append((PREFIX + "start", FUNCTION, Reader(start).uleb()))
    return [export(*entry) for entry in entries]


def _state_exports(target: BaseTarget) -> list[tuple[str, int, int]]:
    found = [(dropped_name(key), GLOBAL, dropped_global(target, key)) for key in target.additions.drops]
    found += [(drop_name(key), FUNCTION, target.segments[key]) for key in target.additions.drops]
    control = target.control
    if control.references:
        found.append((FUNCTIONS, TABLE, control.functions))
        for names, kind in (
            ((REFERENCES, REFERENCES_COUNT), FUNCREF),
            ((EXTERNALS, EXTERNALS_COUNT), EXTERNREF),
        ):
            for name, what, index in zip(names, (TABLE, GLOBAL), control.references[kind], strict=True):
                found.append((name, what, index))
    return found


def _exports_for_parts(target: BaseTarget) -> list[bytes]:
    entries = [(PENDING, GLOBAL, target.control.pending), (PARTS, TABLE, target.control.parts)]
    entries += [(dispatcher_name(kind), FUNCTION, index) for kind, index in target.dispatchers.items()]
    return [export(*entry) for entry in entries]


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
    if target.wrappers:
        for number in (SectionId.ELEMENT, SectionId.GLOBAL, SectionId.TABLE):
            rewritten = with_other_functions(module, number, target.wrappers)
            if rewritten is not None:
                module.replace(number, rewritten)


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
