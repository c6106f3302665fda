"""Runs resumable modules in the engine, for tests: call, be left at a site, go on in a fresh instance.

What a real monitor does, in its plainest form: memories and globals are copied as they are, twins are made
anew for every resume. Tables are not copied here; tests that change tables say so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import wasmtime

from sojourn.wasm.base import CONTROL, FRAMES, PARTS, PREFIX, RESUME, SAVE, TWINS, UNWINDING, Resumable
from sojourn.wasm.binary import FUNCTION, Module
from sojourn.wasm.index_spaces import IndexSpaces
from sojourn.wasm.parts import make_part
from sojourn.wasm.plan import LOADER_SLOT
from sojourn.wasm.twins import BASE, ENTER, Twins

Host = Callable[..., Any]


def config() -> wasmtime.Config:
    made = wasmtime.Config()
    made.wasm_memory64 = True
    made.wasm_exceptions = True
    made.wasm_tail_call = True
    made.wasm_function_references = True
    made.wasm_gc = True
    made.wasm_wide_arithmetic = True
    made.cranelift_opt_level = "none"
    made.max_wasm_stack = 1 << 20
    return made


ENGINE = wasmtime.Engine(config())


@dataclass
class Life:
    """One instance of a resumable module."""

    store: wasmtime.Store
    instance: wasmtime.Instance
    program: Program
    parts: dict[int, wasmtime.Instance] = field(default_factory=dict)

    def export(self, name: str) -> Any:
        exports = self.instance.exports(self.store)
        if name not in exports:  # a function of a part
            function = int(name.removeprefix(PREFIX)[1:].partition(".")[0])
            plan = self.program.resumable.plan
            assert plan is not None
            exports = self.part(plan.part_of_function(function)).exports(self.store)
        return exports[name]

    def part(self, number: int) -> wasmtime.Instance:
        """A part of the module, instantiated now when it is not there yet."""
        if number not in self.parts:
            module = self.program.part(number)
            imports = [self.export(item.name or "") for item in module.imports]
            self.parts[number] = wasmtime.Instance(self.store, module, imports)
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


@dataclass
class State:
    """What goes on elsewhere: memories, globals, frames."""

    memories: list[bytes]
    globals: list[Any]
    records: bytes


@dataclass
class Program:
    """A resumable module and what it imports; ``make`` maps (module, name) to a host function.

    A host function gets the life and the arguments. One that returns ``SUSPEND`` leaves the guest, and is
    called again when it goes on.
    """

    resumable: Resumable
    hosts: Mapping[tuple[str, str], Host] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.module = wasmtime.Module(ENGINE, self.resumable.code)
        self.twins = Twins(self.resumable)
        self.spaces = IndexSpaces.of(Module.parse(self.resumable.original))
        self.compiled: dict[tuple[int, int], wasmtime.Module] = {}
        self.parts: dict[int, wasmtime.Module] = {}
        self.loads = 0
        self.resumes = 0
        self.frames_resumed = 0

    def start(self) -> Life:
        store = wasmtime.Store(ENGINE)
        life = Life(store, None, self)  # type: ignore[arg-type]
        imports = []
        for item in self.module.imports:
            host = self.hosts[item.module, item.name or ""]
            assert isinstance(item.type, wasmtime.FuncType)
            imports.append(wasmtime.Func(store, item.type, self._import(life, host, item.type)))
        life.instance = wasmtime.Instance(store, self.module, imports)
        plan = self.resumable.plan
        if plan is not None:

            def load(slot: int) -> None:
                self.loads += 1
                number = plan.part_of_slot(slot)
                assert number not in life.parts
                life.part(number)

            kind = wasmtime.FuncType([wasmtime.ValType.i32()], [])
            life.export(PARTS).set(store, LOADER_SLOT, wasmtime.Func(store, kind, load))
        return life

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

    # -- lives ------------------------------------------------------------------------------------------

    def save(self, life: Life) -> State:
        memories = []
        for index in range(len(self.spaces.memories)):
            memory = life.export(f"{PREFIX}m{index}")
            memories.append(bytes(memory.read(life.store, 0, memory.data_len(life.store))))
        values = [
            life.export(f"{PREFIX}g{index}").value(life.store) if item.mutable else None
            for index, item in enumerate(self.spaces.globals)
        ]
        return State(memories, values, life.records())

    def restore(self, state: State) -> tuple[Life, wasmtime.Func]:
        """A fresh instance in that state, and the twin of the outermost frame, to be called."""
        life = self.start()
        store = life.store
        for index, data in enumerate(state.memories):
            memory = life.export(f"{PREFIX}m{index}")
            missing = len(data) - memory.data_len(store)
            if missing:
                memory.grow(store, missing // memory.type(store).page_size)
            memory.write(store, data, 0)
        for index, item in enumerate(self.spaces.globals):
            if item.mutable:
                live = life.export(f"{PREFIX}g{index}")
                live.set_value(store, state.globals[index])
        frames = self.twins.frames(state.records)
        records = bytearray(state.records)
        twins, table, entered = {}, life.export(TWINS), []
        for frame in frames:
            key = frame.function, frame.site
            if key not in twins:
                twins[key] = len(twins)
                func = self._twin(life, *key)
                table.grow(store, 1, func)
                entered.append(func)
            at = frame.offset + self.twins.record_bytes(*key) - 4
            records[at : at + 4] = twins[key].to_bytes(4, "little")
        control = life.export(CONTROL)
        control.write(store, records, FRAMES)
        life.export(RESUME).set_value(store, wasmtime.Val.i32(FRAMES + len(records)))
        self.resumes += 1
        self.frames_resumed += len(frames)
        return life, entered[0]

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
        return wasmtime.Instance(life.store, module, imports).exports(life.store)[ENTER]

    def run(self, name: str, *args: Any, every: bool = True, turns_max: int = 100_000) -> Any:
        """Call an exported function, being left at every poll when ``every``; each resume is in a fresh
        instance. The result of the last life."""
        life = self.start()
        if PREFIX + "start" in life.instance.exports(life.store):
            life.export(PREFIX + "start")(life.store)
        life.request(every)
        result = life.export(name)(life.store, *args)
        for _ in range(turns_max):
            if not life.unwinding:
                self.last = life
                return result
            life, enter = self.restore(self.save(life))
            life.request(every)
            result = enter(life.store)
        raise AssertionError("it never ends")


SUSPEND = object()


def exported_functions(code: bytes) -> list[str]:
    return [name for name, kind, _ in Module.parse(code).exports() if kind == FUNCTION]
