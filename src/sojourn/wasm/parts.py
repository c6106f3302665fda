"""Makes the parts of a module that is split (``plan``): modules of functions that the base has stubs for.

A part imports what it shares with the base, as a twin does: memories, tables, globals, tags, and the
functions of the base that it names. Its code is made as that of the base, so its sites, and what its frames
hold, are those of a module that is not split: a function that was left in a part goes on in a twin, and the
twin's next frame may lie in the base of a module that never was split.

Instantiating a part fills its slots, so from then on stubs call into it. What it has, its stubs too, it
exports under the names that the base has for the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .additions import (
    PARTS,
    PENDING,
    Additions,
    BaseTarget,
    TypeNumbers,
    continuation_name,
    dispatcher_name,
    export_name,
    segment_name,
    segment_signature,
    stand_in_kind,
    tags_of,
    taken_name,
    taken_signature,
)
from .base import (
    Bodies,
    Continuation,
    Resumable,
    Runner,
    ScanTask,
    add_hints,
    analysed,
    body_and_continuations,
    continuations,
    export,
    serially,
    spans_of,
)
from .binary import FUNCTION, GLOBAL, TABLE, Module, SectionId, uleb
from .events import Event, Suspensions
from .frames import Helper, i32_const
from .index_spaces import FuncType, IndexSpaces, heap_type
from .plan import Names, Plan, names_of
from .stubs import stub
from .twins import import_entry, shared_imports

_DECLARED, _ACTIVE = b"\x03\0", b"\x02"


class PartTarget:
    """How a part numbers what code names: imports (functions of the base, helpers, dispatchers), then its own
    functions, then its stubs for functions of other parts.

    Attributes:
        imports: for each function that it imports, the name in the base and the type.
        dispatchers: for each type of a stub, the number of the dispatcher.
    """

    moved = True

    def __init__(
        self, spaces: IndexSpaces, additions: Additions, functions: Sequence[int], names: Names
    ) -> None:
        self.base = base = BaseTarget(spaces, additions, split=True)
        self.indirect = base.indirect
        self.control = base.control
        self._spaces = spaces
        self.types = TypeNumbers(len(spaces.types))
        self.imports: list[tuple[str, int]] = []
        numbers: dict[int, int] = {}
        for function in names.borrowed:
            name = export_name(FUNCTION, base.wrappers.get(function, function))
            numbers[function] = self._import(name, spaces.functions[function])
        self._helpers = {
            key: self._added(export_name(FUNCTION, index), key.signature())
            for key, index in base.helpers.items()
        }
        self._segments = {
            key: self._added(segment_name(key), segment_signature(spaces, key)) for key in base.segments
        }
        self._stand_ins = {
            heap: self._import(export_name(FUNCTION, index), stand_in_kind(self.types, heap))
            for heap, index in base.stand_ins.items()
        }
        self._taken = {
            function: self._added(taken_name(function), taken_signature(spaces, function))
            for function in names.taken
        }
        kinds = sorted({spaces.functions[function] for function in names.elsewhere})
        self.dispatchers: Mapping[int, int] = {
            kind: self._import(dispatcher_name(kind), kind) for kind in kinds
        }
        self.first = len(self.imports)
        own = enumerate((*functions, *names.elsewhere), self.first)
        numbers |= {function: number for number, function in own}
        self._numbers = {function: uleb(number) for function, number in numbers.items()}

    def _added(self, name: str, signature: FuncType) -> bytes:
        return uleb(self._import(name, self.types.index(signature)))

    def _import(self, name: str, kind: int) -> int:
        self.imports.append((name, kind))
        return len(self.imports) - 1

    def function(self, index: int) -> bytes:
        return self._numbers[index]

    def helper(self, key: Helper) -> bytes:
        return self._helpers[key]

    def reference(self, index: int) -> bytes:
        return b"\x10" + self._taken[index]

    def results(self, kinds: tuple[int, ...]) -> tuple[int, ...]:
        return kinds

    def stand_in(self, kind: int, function: int) -> bytes:
        heap = heap_type(kind)
        if heap in self._stand_ins:
            return b"\xd2" + uleb(self._stand_ins[heap])
        return self.base.stand_in(kind, function)

    def block(self, signature: FuncType) -> bytes:
        return self.types.block(signature)

    def type_index(self, signature: FuncType) -> int:
        return self.types.index(signature)

    def segment(self, event: Event, code: bytes) -> bytes:
        name = event.detail if isinstance(event.detail, int) else 0
        return b"\x10" + self._segments[event.kind, event.callee, name]


@dataclass(frozen=True)
class PartTask:
    """Makes the bodies of a part; may be sent to another process. A span is of places in its functions."""

    code: bytes
    starts: Sequence[int]
    spaces: IndexSpaces
    suspensions: Suspensions
    additions: Additions
    functions: Sequence[int]
    names: Names

    def __call__(self, span: tuple[int, int]) -> Bodies:
        target = PartTarget(self.spaces, self.additions, self.functions, self.names)
        tags = tags_of(self.spaces)
        made: Bodies = []
        for function in self.functions[span[0] : span[1]]:
            index = function - self.spaces.functions_imported
            start, end = self.starts[index], self.starts[index + 1]
            body = analysed(self.spaces, self.suspensions, function, self.code, start, relocate=True)
            made.append(body_and_continuations(body, target, tags, end - start))
        return made


def make_part(resumable: Resumable, number: int, run: Runner = serially) -> bytes:
    """The module of part ``number`` (from 1 on): a pure function of the original and the plan.

    Args:
        run: as for ``make_resumable``.

    Raises:
        IndexError: there is no such part.
        UnsupportedFeatureError: something in it cannot be made resumable.
    """
    plan = resumable.plan
    spaces = IndexSpaces.of(original := Module.parse(resumable.original))
    continued = -1 if plan is None else plan.continued(number)
    first = spaces.functions_imported
    resident = first <= continued < len(spaces.functions) and not (plan and plan.part_of_function(continued))
    if plan is None or number < 1 or not (continued < 0 or resident):
        raise IndexError(f"there is no part {number}")
    code, starts = original.bodies()
    code = bytes(code)
    functions = plan.parts[number - 1] if continued < 0 else ()
    names = names_of(plan, number, functions or [continued], ScanTask(code, starts, first).of)
    target = PartTarget(spaces, resumable.additions, functions, names)
    if functions:
        task = PartTask(code, starts, spaces, resumable.suspensions, resumable.additions, functions, names)
        made = [body for bodies in run(task, spans_of(starts, first, functions)) for body in bodies]
        own = [(function, found) for function, (_, _, found) in zip(functions, made, strict=True)]
    else:
        start = starts[continued - first]
        body = analysed(spaces, resumable.suspensions, continued, code, start, relocate=True)
        made, own = [], [(continued, continuations(body, target, tags_of(spaces)))]
    part = _Part(original, spaces, target, plan, functions, names)
    return part.assemble(made, own)


@dataclass(frozen=True)
class _Part:
    """What a part is put together of, besides its code."""

    original: Module
    spaces: IndexSpaces
    target: PartTarget
    plan: Plan
    functions: Sequence[int]
    names: Names

    def assemble(self, made: Bodies, own: Sequence[tuple[int, Sequence[Continuation]]]) -> bytes:
        spaces, target, names = self.spaces, self.target, self.names
        bodies = [code for code, _, _ in made]
        bodies += [stub(spaces, target.control, self.plan, index, target) for index in names.elsewhere]
        reached = (*self.functions, *names.elsewhere)
        kinds = [spaces.functions[function] for function in reached]
        exports = [
            export(export_name(FUNCTION, function), FUNCTION, place)
            for place, function in enumerate(reached, target.first)
        ]
        for function, found in own:
            for site, params, results, code in found:
                place = target.first + len(bodies)
                exports.append(export(continuation_name(function, site), FUNCTION, place))
                kinds.append(target.types.index(FuncType(tuple(params), tuple(results))))
                bodies.append(code)
        module = Module()
        module.replace(SectionId.TYPE, bytes(self.original.section(SectionId.TYPE)))
        module.append_to(SectionId.TYPE, target.types.encode())
        imports = self._imports()
        module.replace(SectionId.IMPORT, uleb(len(imports)) + b"".join(imports))
        module.replace(SectionId.FUNCTION, uleb(len(kinds)) + b"".join(map(uleb, kinds)))
        module.replace(SectionId.EXPORT, uleb(len(exports)) + b"".join(exports))
        module.replace(SectionId.ELEMENT, self._elements())
        module.replace(SectionId.CODE, uleb(len(bodies)) + b"".join(bodies))
        add_hints(module, made, target.first)
        return module.encode()

    def _imports(self) -> list[bytes]:
        imports = [import_entry(name, FUNCTION, uleb(kind)) for name, kind in self.target.imports]
        parts = import_entry(PARTS, TABLE, b"\x70\0" + uleb(self.plan.slots_count))
        pending = import_entry(PENDING, GLOBAL, b"\x7f\x01")
        return imports + shared_imports(self.spaces, self.target.base, [parts], [pending])

    def _elements(self) -> bytes:
        """What fills the slots, and the declaration that the addresses of imports are taken."""
        first = self.target.first
        segments = [_DECLARED + _functions(range(first))]
        if self.functions:
            slot = self.plan.slots[self.functions[0]]
            where = uleb(self.target.control.parts) + i32_const(slot) + b"\x0b\0"
            segments.append(_ACTIVE + where + _functions(range(first, first + len(self.functions))))
        places = {function: place for place, function in enumerate(self.functions, first)}
        for entry, functions in self._runs():
            where = b"\0" + i32_const(entry) + b"\x0b"
            segments.append(where + _functions([places[function] for function in functions]))
        return uleb(len(segments)) + b"".join(segments)

    def _runs(self) -> list[tuple[int, list[int]]]:
        """The entries of the table that it fills: the first of each run, and the functions of that."""
        runs: list[tuple[int, list[int]]] = []
        number = self.plan.part_of_function(self.functions[0]) if self.functions else 0
        for entry, function in self.plan.entries_of(number):
            if runs and runs[-1][0] + len(runs[-1][1]) == entry:
                runs[-1][1].append(function)
            else:
                runs.append((entry, [function]))
        return runs


def _functions(numbers: Sequence[int]) -> bytes:
    return uleb(len(numbers)) + b"".join(map(uleb, numbers))
