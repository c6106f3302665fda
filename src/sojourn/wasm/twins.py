"""Twins: the code for going on at one site of one function, made when a frame that was left there is resumed.

A twin is a module of one function. It loads the values of the frame, takes the result of the frame above
from *that* frame's twin, and goes on with the function's own code (``peel``).

A site in a twin has the number that it has in the original, so what is saved in a twin is resumed like what
is saved in the base module: the chain of stops has no end and nothing grows.

The frames above are reached through a table that the host fills: it writes the twin's place in that table
over the number of the function in each record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .additions import (
    CONTROL,
    CONTROL_PAGES,
    EXTERNALS,
    EXTERNALS_COUNT,
    FUNCTIONS,
    PENDING,
    PREFIX,
    REFERENCES,
    REFERENCES_COUNT,
    RESUME,
    SAVE,
    TWINS,
    UNWINDING,
    BaseTarget,
    TypeNumbers,
    argument_groups,
    continuation_name,
    export_name,
    segment_name,
    segment_signature,
    tags_of,
    taken_name,
    taken_signature,
)
from .base import Resumable, analysed
from .binary import FUNCTION, GLOBAL, MEMORY, TABLE, TAG, Module, SectionId, uleb
from .events import Body, Event
from .frames import (
    TRAILER_BYTES,
    Helper,
    Layouts,
    exception_bytes,
    load_code,
    local_get,
    record_bytes,
    sized,
)
from .index_spaces import FuncType, IndexSpaces, encode_type
from .peel import Peeling, continuation_type, twin_type

ENTER = PREFIX + "enter"  # what a twin exports: its function
BASE = "base"  # the module name of what it imports
_END, _CALL = b"\x0b", b"\x10"


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame in a sequence of records: where its record begins, and what was left where."""

    offset: int
    function: int
    site: int


class SiteError(ValueError):
    """A frame names a function or a site that the module does not have."""


def frames_in(records: bytes | memoryview, record_bytes: Callable[[int, int], int]) -> list[Frame]:
    """The frames in the bytes of the records, outermost first.

    Args:
        record_bytes: gives the size of the record of a function's site, or raises ``SiteError``.

    Raises:
        SiteError: the bytes are not such records.
    """
    found: list[Frame] = []
    end = len(records)
    while end:
        if end < TRAILER_BYTES:
            raise SiteError("a frame that is cut short")
        site, function = (int.from_bytes(records[at : at + 4], "little") for at in (end - 8, end - 4))
        size = record_bytes(function, site)
        if size > end:
            raise SiteError(f"a frame of function {function} that is cut short")
        found.append(Frame(end - size, function, site))
        end -= size
    return found


class TwinTarget:
    """How a twin numbers what code names: functions and helpers are imports, in the order of their first
    use."""

    moved = True

    def __init__(self, spaces: IndexSpaces, base: BaseTarget) -> None:
        self.control = base.control
        self.indirect = base.indirect
        self.types = TypeNumbers(len(spaces.types))
        self.functions: dict[str, int] = {}  # the name in the base module -> the number here
        self.kinds: list[int] = []
        self.named_types: frozenset[int] | None = frozenset()  # by the code; None: any
        self._spaces = spaces
        self._base = base

    def function(self, index: int) -> bytes:
        name = export_name(FUNCTION, self._base.wrappers.get(index, index))
        return self.named(name, self._spaces.functions[index])

    def helper(self, key: Helper) -> bytes:
        return self._added(export_name(FUNCTION, self._base.helpers[key]), key.signature())

    def _added(self, name: str, signature: FuncType) -> bytes:
        """The number here of a function that only the base module has."""
        return self.named(name, self.types.index(signature))

    def named(self, name: str, kind: int) -> bytes:
        """The number here of a function that the base module exports."""
        if name not in self.functions:
            self.functions[name] = len(self.functions)
            self.kinds.append(kind)
        return uleb(self.functions[name])

    def block(self, signature: FuncType) -> bytes:
        return self.types.block(signature)

    def type_index(self, signature: FuncType) -> int:
        return self.types.index(signature)

    def segment(self, event: Event, code: bytes) -> bytes:
        name = event.detail if isinstance(event.detail, int) else 0
        key = event.kind, event.callee, name
        return _CALL + self._added(segment_name(key), segment_signature(self._spaces, key))

    def results(self, kinds: tuple[int, ...]) -> tuple[int, ...]:
        return twin_type(kinds, self._spaces).results

    def stand_in(self, kind: int, function: int) -> bytes:
        raise AssertionError("no result of a twin lacks a null")

    def reference(self, index: int) -> bytes:
        return _CALL + self._added(taken_name(index), taken_signature(self._spaces, index))


class Twins:
    """Makes the twins of one module.

    Args:
        split: whether it is split, should ``resumable`` not have the plan.

    ``make`` is a pure function of the original module, the function and the site.
    """

    def __init__(self, resumable: Resumable, *, split: bool = False) -> None:
        self._module = Module.parse(resumable.original)
        self._spaces = IndexSpaces.of(self._module)
        self._suspensions = resumable.suspensions
        self._base = BaseTarget(self._spaces, resumable.additions, split=split or resumable.plan is not None)
        self._imports = resumable.additions.suspending_imports
        self._tags = tags_of(self._spaces)
        self._sizes: dict[int, tuple[int, ...]] = {}
        self._simple = _only_functions(self._module, self._spaces)
        code, self._starts = self._module.bodies()
        self._code = bytes(code)

    def frames(self, records: bytes | memoryview) -> list[Frame]:
        """The frames in the bytes of the records, outermost first.

        Raises:
            SiteError: the bytes are not such records.
        """
        return frames_in(records, self.record_bytes)

    def record_bytes(self, function: int, site: int) -> int:
        """The size of the record of a site.

        Raises:
            SiteError: there is no such function, or no such site in it.
        """
        wrapped = self._wrapped(function)
        if wrapped is not None and site == 0:
            exception = exception_bytes(self._tags)
            return record_bytes(argument_groups(self._spaces, wrapped), exception)
        sizes = self._sizes.get(function)
        if sizes is None:
            body = self._body(function)
            layouts, exception = Layouts(body), exception_bytes(self._tags)
            sizes = tuple(record_bytes(layouts.groups(event), exception) for event in body.sites)
            self._sizes[function] = sizes
        if site >= len(sizes):
            raise SiteError(f"function {function} has no site {site}")
        return sizes[site]

    def _wrapped(self, function: int) -> int | None:
        """The import whose wrapper a function of the base module is."""
        place = function - len(self._spaces.functions)
        return self._imports[place] if 0 <= place < len(self._imports) else None

    def _body(self, function: int) -> Body:
        index = function - self._spaces.functions_imported
        if not 0 <= index < len(self._starts) - 1 or not self._suspensions.functions[function]:
            raise SiteError(f"function {function} cannot have a frame")
        start = self._starts[index]
        return analysed(self._spaces, self._suspensions, function, self._code, start, relocate=True)

    def make(self, function: int, site: int) -> bytes:
        """The module of the twin for ``site`` of ``function`` (both as a record names them).

        Raises:
            SiteError: there is no such function, or no such site in it.
        """
        target = TwinTarget(self._spaces, self._base)
        wrapped = self._wrapped(function)
        if wrapped is not None and site == 0:
            kind, body = _wrapper_twin(self._spaces, target, wrapped, self._tags)
        else:
            kind, body = self._twin(target, function, site)
        return self._assemble(target, kind, body)

    def _twin(self, target: TwinTarget, function: int, site: int) -> tuple[FuncType, bytes]:
        body = self._body(function)
        if site >= len(body.sites):
            raise SiteError(f"function {function} has no site {site}")
        target.named_types = body.types
        kind = twin_type(body.events[0].signature.results, self._spaces)

        def continuation(loop: int) -> bytes:
            return target.named(
                continuation_name(function, loop), target.types.index(continuation_type(body))
            )

        return kind, Peeling(body, target, self._tags, continuation).twin(body.sites[site])

    def _types(self, target: TwinTarget) -> bytes:
        """The types of the original under their numbers. Where all are of functions, those that the twin
        does not use
        are as small as can be: engines make code for each different type, and most of a twin's compilation
        was that."""
        if not self._simple or target.named_types is None:
            return bytes(self._module.section(SectionId.TYPE))
        used = {*target.named_types, *target.kinds, *self._spaces.tags}
        nothing = FuncType((), ()).encode()
        kinds = [
            kind.encode() if index in used and isinstance(kind, FuncType) else nothing
            for index, kind in enumerate(self._spaces.types)
        ]
        return uleb(len(kinds)) + b"".join(kinds)

    def _assemble(self, target: TwinTarget, kind: FuncType, body: bytes) -> bytes:
        module = Module()
        number = target.types.index(kind)
        module.replace(SectionId.TYPE, self._types(target))
        module.append_to(SectionId.TYPE, target.types.encode())
        imports = [
            import_entry(name, FUNCTION, uleb(kind))
            for name, kind in zip(target.functions, target.kinds, strict=True)
        ]
        pending = [import_entry(PENDING, GLOBAL, b"\x7f\x01")] if self._base.indirect else []
        imports += shared_imports(self._spaces, self._base, [], pending)
        module.replace(SectionId.IMPORT, uleb(len(imports)) + b"".join(imports))
        module.replace(SectionId.FUNCTION, b"\x01" + uleb(number))
        name = ENTER.encode()
        export = b"\x01" + uleb(len(name)) + name + bytes([FUNCTION]) + uleb(len(target.functions))
        module.replace(SectionId.EXPORT, export)
        module.replace(SectionId.CODE, b"\x01" + sized(body))
        return module.encode()


def _only_functions(module: Module, spaces: IndexSpaces) -> bool:
    """Whether all types are of functions, each for itself, over numbers and the plain references."""
    kinds: list[int] = [table.element for table in spaces.tables] + [item.type for item in spaces.globals]
    encoded = [uleb(len(spaces.types))]
    for kind in spaces.types:
        if not isinstance(kind, FuncType):
            return False
        kinds += kind.params + kind.results
        encoded.append(kind.encode())
    return b"".join(encoded) == module.section(SectionId.TYPE) and all(kind < 0x100 for kind in kinds)


def shared_imports(
    spaces: IndexSpaces, base: BaseTarget, more_tables: Sequence[bytes], more_globals: Sequence[bytes]
) -> list[bytes]:
    """What modules share with their base besides functions, in the order of its index spaces."""
    found = []
    for index, table in enumerate(spaces.tables):
        found.append(import_entry(export_name(TABLE, index), TABLE, table.encoded))
    found.append(import_entry(TWINS, TABLE, b"\x70\0\0"))
    references = base.control.references
    if references:
        found += [import_entry(name, TABLE, b"\x70\0\0") for name in (FUNCTIONS, REFERENCES)]
        found.append(import_entry(EXTERNALS, TABLE, b"\x6f\0\0"))
    found += more_tables
    for index, encoded in enumerate(spaces.memory_types):
        found.append(import_entry(export_name(MEMORY, index), MEMORY, encoded))
    found.append(import_entry(CONTROL, MEMORY, b"\x01" + uleb(CONTROL_PAGES) * 2))
    for index, item in enumerate(spaces.globals):
        found.append(import_entry(export_name(GLOBAL, index), GLOBAL, item.encode()))
    counts = (REFERENCES_COUNT, EXTERNALS_COUNT) if references else ()
    found += [import_entry(name, GLOBAL, b"\x7f\x01") for name in (UNWINDING, SAVE, RESUME, *counts)]
    found += more_globals
    for index, kind in enumerate(spaces.tags):
        found.append(import_entry(export_name(TAG, index), TAG, b"\0" + uleb(kind)))
    return found


def import_entry(name: str, kind: int, description: bytes) -> bytes:
    """One entry of the import section, of what the base module exports under ``name``."""
    base, encoded = BASE.encode(), name.encode()
    return uleb(len(base)) + base + uleb(len(encoded)) + encoded + bytes([kind]) + description


def _wrapper_twin(
    spaces: IndexSpaces, target: TwinTarget, index: int, tags: tuple[FuncType, ...]
) -> tuple[FuncType, bytes]:
    """Make a call of an import again. The wrapper itself saves the frame when that suspends too."""
    kind = spaces.signature(index)
    declared = b"".join(b"\x01" + encode_type(param) for param in kind.params)
    loads = load_code(target.control, argument_groups(spaces, index), tags, kind.params.__getitem__)
    call = [*(local_get(place) for place in range(len(kind.params))), _CALL, target.function(index), _END]
    return twin_type(kind.results, spaces), b"".join([uleb(len(kind.params)), declared, *loads, *call])
