"""Runs resumable modules in the engine, for tests: call, be left at a site, go on in a fresh instance.

What a real monitor does, in its plainest form. The whole state is carried over: memories, globals, tables
and references (functions by their index), dropped segments, frames. Twins are made anew for every resume.
Values go in and out through adapters (``signatures.py``), so any type can.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import wasmtime
from wasmtime import _ffi

from sojourn.wasm.additions import (
    CONTROL,
    EXTERNALS,
    EXTERNALS_COUNT,
    FRAMES,
    FUNCTIONS,
    PARTS,
    PREFIX,
    REFERENCES,
    REFERENCES_COUNT,
    RESUME,
    SAVE,
    TWINS,
    UNWINDING,
    drop_name,
    dropped_name,
    export_name,
    part_with,
)
from sojourn.wasm.base import Resumable
from sojourn.wasm.binary import FUNCTION, GLOBAL, TABLE, Module
from sojourn.wasm.index_spaces import EXTERNREF, FuncType, IndexSpaces, family, is_reference
from sojourn.wasm.parts import make_part
from sojourn.wasm.peel import twin_type
from sojourn.wasm.plan import LOADER_SLOT
from sojourn.wasm.twins import BASE, ENTER, Twins

from .signatures import adapter, as_list, global_adapter, table_adapter

Host = Callable[..., Any]
Externals = Callable[[wasmtime.Store, str, str], Any]
MEMORY_BYTES_MAX = 64 << 20  # larger memories are not copied around


def config() -> wasmtime.Config:
    made = wasmtime.Config()
    made.wasm_memory64 = True
    made.wasm_exceptions = True
    made.wasm_tail_call = True
    made.wasm_function_references = True
    made.wasm_gc = True
    made.wasm_wide_arithmetic = True
    made.cranelift_opt_level = "none"
    made.cranelift_nan_canonicalization = True
    made.max_wasm_stack = 1 << 20
    return made


ENGINE = wasmtime.Engine(config())


def raw(store: wasmtime.Store, func: wasmtime.Func) -> int:
    """What tells functions of one store apart."""
    function: Any = _ffi.wasmtime_func_to_raw
    return int(function(store._context(), ctypes.byref(func._func)) or 0)


@dataclass
class Life:
    """One instance of a resumable module."""

    store: wasmtime.Store
    program: Program
    exports: Any = None
    adapters: dict[str, Any] = field(default_factory=dict)
    parts: dict[int, Any] = field(default_factory=dict)

    def export(self, name: str) -> Any:
        exports = self.exports
        if name not in exports:  # a function of a part
            plan = self.program.resumable.plan
            assert plan is not None
            exports = self.part(part_with(plan, name))
        return exports[name]

    def part(self, number: int) -> Any:
        """The exports of a part of the module, instantiated now when it is not there yet."""
        if number not in self.parts:
            module = self.program.part(number)
            imports = [self.export(item.name or "") for item in module.imports]
            self.parts[number] = wasmtime.Instance(self.store, module, imports).exports(self.store)
        return self.parts[number]

    def request(self, yes: bool) -> None:
        pointer = ctypes.cast(self.export(CONTROL).data_ptr(self.store), ctypes.POINTER(ctypes.c_uint32))
        pointer[0] = 1 if yes else 0

    @property
    def unwinding(self) -> bool:
        return bool(self.export(UNWINDING).value(self.store))

    def records(self) -> bytes:
        end = self.export(SAVE).value(self.store)
        return bytes(self.export(CONTROL).read(self.store, FRAMES, end))


Reference = Any  # a function by its index, None for null, anything of the host's


@dataclass
class State:
    """What goes on elsewhere."""

    memories: list[bytes]
    globals: dict[int, list[Any]]
    tables: dict[int, list[Reference]]
    dropped: list[int]
    references: list[Reference]
    externals: list[Reference]
    records: bytes


@dataclass
class Program:
    """A resumable module and what it imports; ``hosts`` maps (module, name) to a host function, ``externals``
    makes all other imports.

    A host function gets the life and the arguments. One that returns ``SUSPEND`` leaves the guest, and is
    called again when it goes on.
    """

    resumable: Resumable
    hosts: Mapping[tuple[str, str], Host] = field(default_factory=dict)
    externals: Externals | None = None

    def __post_init__(self) -> None:
        self.module = wasmtime.Module(ENGINE, self.resumable.code)
        self.twins = Twins(self.resumable)
        self.original = Module.parse(self.resumable.original)
        self.spaces = IndexSpaces.of(self.original)
        self.compiled: dict[tuple[int, int], wasmtime.Module] = {}
        self.adapters: dict[Any, wasmtime.Module] = {}
        self.indices = {name: index for name, kind, index in self.original.exports() if kind == FUNCTION}
        self.parts: dict[int, wasmtime.Module] = {}
        self.loads = 0
        self.resumes = 0
        self.frames_resumed = 0
        self.cut_short = 0
        self.last: Life | None = None

    def start(self, store: wasmtime.Store | None = None) -> Life:
        store = store or wasmtime.Store(ENGINE)
        life = Life(store, self)
        imports = []
        for item in self.module.imports:
            key = item.module, item.name or ""
            if key in self.hosts:
                assert isinstance(item.type, wasmtime.FuncType)
                host = self._import(life, self.hosts[key], item.type)
                imports.append(wasmtime.Func(store, item.type, host))
            else:
                assert self.externals is not None
                imports.append(self.externals(store, *key))
        life.exports = wasmtime.Instance(store, self.module, imports).exports(store)
        if self.resumable.plan is not None:
            kind = wasmtime.FuncType([wasmtime.ValType.i32()], [])
            loader = wasmtime.Func(store, kind, lambda slot: self._load(life, slot))
            life.export(PARTS).set(store, LOADER_SLOT, loader)
        return life

    def _load(self, life: Life, slot: int) -> None:
        assert self.resumable.plan is not None
        self.loads += 1
        number = self.resumable.plan.part_of_slot(slot)
        assert number not in life.parts
        life.part(number)

    def part(self, number: int) -> wasmtime.Module:
        if number not in self.parts:
            code = make_part(self.resumable, number)
            assert code == make_part(self.resumable, number)
            self.parts[number] = wasmtime.Module(ENGINE, code)
        return self.parts[number]

    def _import(self, life: Life, host: Host, kind: wasmtime.FuncType) -> Host:
        def call(*args: Any) -> Any:
            found = host(life, *args)
            if found is SUSPEND:
                life.export(UNWINDING).set_value(life.store, wasmtime.Val.i32(1))
                zeros = [0.0 if str(result) in ("f32", "f64") else 0 for result in kind.results]
                return zeros[0] if len(zeros) == 1 else zeros or None
            return found

        return call

    # -- calls of any type ------------------------------------------------------------------------------

    def _adapted(self, life: Life, name: str, key: Any, make: Callable[[], bytes], item: Any) -> Any:
        if name not in life.adapters:
            module = self.adapters.get(key)
            if module is None:
                module = self.adapters[key] = wasmtime.Module(ENGINE, make())
            life.adapters[name] = wasmtime.Instance(life.store, module, [item]).exports(life.store)
        return life.adapters[name]

    def callable(self, life: Life, name: str, kind: FuncType, func: Any) -> Any:
        make = lambda: adapter(self.original, kind)  # noqa: E731
        return self._adapted(life, f"call {name}", ("call", kind), make, func)["f"]

    def _global(self, life: Life, index: int) -> Any:
        item = self.spaces.globals[index]
        make = lambda: global_adapter(self.original, item)  # noqa: E731
        value = life.export(export_name(GLOBAL, index))
        return self._adapted(life, f"global {index}", ("global", item), make, value)

    def _table(self, life: Life, index: int) -> Any:
        item = self.spaces.tables[index]
        top = family(item.element, self.spaces.types)
        make = lambda: table_adapter(self.original, item, top)  # noqa: E731
        table = life.export(export_name(TABLE, index))
        return self._adapted(life, f"table {index}", ("table", item), make, table)

    # -- references -------------------------------------------------------------------------------------

    def _functions(self, life: Life) -> dict[int, int]:
        """The functions whose address is taken, by what tells them apart."""
        table = life.export(FUNCTIONS)
        return {
            raw(life.store, table.get(life.store, place)): index
            for place, index in enumerate(self.resumable.additions.functions)
        }

    def _known(self, life: Life, functions: dict[int, int], reference: Any) -> Reference:
        if isinstance(reference, wasmtime.Val):
            reference = reference.value
        return functions[raw(life.store, reference)] if isinstance(reference, wasmtime.Func) else reference

    def _reference(self, life: Life, known: Reference) -> Any:
        if isinstance(known, int):
            place = self.resumable.additions.functions.index(known)
            return life.export(FUNCTIONS).get(life.store, place)
        return known

    # -- lives ------------------------------------------------------------------------------------------

    def save(self, life: Life) -> State:
        store, additions = life.store, self.resumable.additions
        memories = []
        for index in range(len(self.spaces.memories)):
            memory = life.export(f"{PREFIX}m{index}")
            memories.append(bytes(memory.read(store, 0, memory.data_len(store))))
        values = {
            index: as_list(self._global(life, index)["get"](store))
            for index, item in enumerate(self.spaces.globals)
            if item.mutable and self._plain(item.type)
        }
        functions = self._functions(life) if additions.references else {}
        for index, item in enumerate(self.spaces.globals):
            if item.mutable and not self._plain(item.type):
                value = life.export(export_name(GLOBAL, index)).value(store)
                values[index] = [self._known(life, functions, value)]
        tables = {}
        for index in self.resumable.tables:
            table, size = self._table(life, index), life.export(f"{PREFIX}t{index}").size(store)
            entries = [table["get"](store, place) for place in range(size)]
            tables[index] = [self._known(life, functions, entry) for entry in entries]
        kept = []
        for name, count in ((REFERENCES, REFERENCES_COUNT), (EXTERNALS, EXTERNALS_COUNT)):
            used = life.export(count).value(store) if additions.references else 0
            entries = [life.export(name).get(store, place) for place in range(used)]
            kept.append([self._known(life, functions, entry) for entry in entries])
        dropped = [
            place for place, key in enumerate(additions.drops) if life.export(dropped_name(key)).value(store)
        ]
        return State(memories, values, tables, dropped, *kept, life.records())

    def _plain(self, kind: int) -> bool:
        return not is_reference(kind) or family(kind, self.spaces.types) not in (EXTERNREF, 0x70)

    def restore(self, state: State) -> tuple[Life, Any]:
        """A fresh instance in that state, and the twin of the outermost frame, to be called."""
        life = self.start()
        self._restore_items(life, state)
        store, additions = life.store, self.resumable.additions
        frames = self.twins.frames(state.records)
        records = bytearray(state.records)
        twins, table, entered = {}, life.export(TWINS), []
        for frame in frames:
            key = frame.function, frame.site
            if key not in twins:
                twins[key] = len(twins)
                func = self._twin(life, *key)
                table.grow(store, 1, func)
                entered.append((key[0], func))
            at = frame.offset + self.twins.record_bytes(*key) - 4
            records[at : at + 4] = twins[key].to_bytes(4, "little")
        control = life.export(CONTROL)
        control.write(store, records, FRAMES)
        life.export(RESUME).set_value(store, wasmtime.Val.i32(FRAMES + len(records)))
        self.resumes += 1
        self.frames_resumed += len(frames)
        function, func = entered[0]
        if function >= len(self.spaces.functions):
            function = additions.suspending_imports[function - len(self.spaces.functions)]
        kind = twin_type(self.spaces.signature(function).results, self.spaces)
        return life, self.callable(life, "twin", kind, func)

    def _restore_items(self, life: Life, state: State) -> None:
        """All but the frames."""
        store, additions = life.store, self.resumable.additions
        for index, data in enumerate(state.memories):
            memory = life.export(f"{PREFIX}m{index}")
            missing = len(data) - memory.data_len(store)
            if missing:
                memory.grow(store, missing // memory.type(store).page_size)
            if data:
                memory.write(store, data, 0)
        for index, values in state.globals.items():
            if self._plain(self.spaces.globals[index].type):
                self._global(life, index)["set"](store, *values)
            else:
                self._set_global(life, index, values[0])
        for place in state.dropped:
            life.export(drop_name(additions.drops[place]))(store)
        for index, entries in state.tables.items():
            table, size = self._table(life, index), life.export(f"{PREFIX}t{index}").size(store)
            found = [self._reference(life, entry) for entry in entries]
            if len(found) > size:
                assert table["grow"](store, found[size], len(found) - size) == size
            for place, entry in enumerate(found):
                table["set"](store, place, entry)
        for name, entries in ((REFERENCES, state.references), (EXTERNALS, state.externals)):
            for entry in entries:
                life.export(name).grow(store, 1, self._reference(life, entry))

    def _set_global(self, life: Life, index: int, value: Reference) -> None:
        kind = EXTERNREF if self.spaces.globals[index].type == EXTERNREF else 0x70
        made = wasmtime.Val.externref if kind == EXTERNREF else wasmtime.Val.funcref
        found = self._reference(life, value)
        life.export(export_name(GLOBAL, index)).set_value(life.store, made(found))

    def _twin(self, life: Life, function: int, site: int) -> wasmtime.Func:
        module = self.compiled.get((function, site))
        if module is None:
            code = self.twins.make(function, site)
            assert code == self.twins.make(function, site)
            module = self.compiled[function, site] = wasmtime.Module(ENGINE, code)
        imports = []
        for item in module.imports:
            assert item.module == BASE
            imports.append(life.export(item.name or ""))
        found: wasmtime.Func = wasmtime.Instance(life.store, module, imports).exports(life.store)[ENTER]
        return found

    # -- whole calls ------------------------------------------------------------------------------------

    def finish(self, func: Any, every: bool, turns_max: int) -> list[Any]:
        """Call a function without parameters in the life that is, to its end."""
        assert self.last is not None
        return self._until_done(self.last, func, (), every, turns_max)

    def memory_bytes(self) -> int:
        assert self.last is not None
        life = self.last
        return sum(
            life.export(f"{PREFIX}m{index}").data_len(life.store)
            for index in range(len(self.spaces.memories))
        )

    def begin(self, every: bool = True, turns_max: int = 100_000) -> Life:
        """A first life, whose start function has run."""
        self.last = self.start()
        if PREFIX + "start" in self.last.exports:
            self._until_done(self.last, self.last.export(PREFIX + "start"), (), every, turns_max)
        return self.last

    def call(self, name: str, *args: Any, every: bool = True, turns_max: int = 100_000) -> list[Any]:
        """Call an exported function in the life that is; its results, in plain types. Left at every poll when
        ``every``, up to ``turns_max`` times; each resume is in a fresh instance."""
        assert self.last is not None
        life, index = self.last, self.indices[name]
        func = self.callable(life, name, self.spaces.signature(index), life.export(name))
        return self._until_done(life, func, args, every, turns_max)

    def _until_done(
        self, life: Life, func: Any, args: tuple[Any, ...], every: bool, turns_max: int
    ) -> list[Any]:
        life.request(every)
        result = func(life.store, *args)
        turns = 0
        while life.unwinding:
            turns += 1
            life, enter = self.restore(self.save(life))
            self.last = life
            if turns >= turns_max:
                self.cut_short += 1
            life.request(every and turns < turns_max)
            result = enter(life.store)
        return as_list(result)

    def run(self, name: str, *args: Any, every: bool = True, turns_max: int = 100_000) -> Any:
        """Call an exported function of numbers in a new first life."""
        self.begin(every, turns_max)
        found = self.call(name, *args, every=every, turns_max=turns_max)
        return found[0] if len(found) == 1 else found or None


SUSPEND = object()


def exported_functions(code: bytes) -> list[str]:
    return [name for name, kind, _ in Module.parse(code).exports() if kind == FUNCTION]
