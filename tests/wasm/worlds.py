"""Runs a script of the specification's test-suite in three worlds at once, and compares them.

* the module as it is;
* the resumable module, never asked to stop;
* the resumable module, left at every poll, each time going on in a fresh instance of a fresh store.

All must give the same values and the same traps. The first world is also compared with what the script
expects, so that a fault of the reader shows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import wasmtime

from sojourn.wasm.additions import PREFIX
from sojourn.wasm.base import Resumable, make_resumable
from sojourn.wasm.binary import FUNCTION, MalformedModuleError, Module, UnsupportedFeatureError
from sojourn.wasm.index_spaces import IndexSpaces

from . import wast
from .living import ENGINE, MEMORY_BYTES_MAX, Program
from .signatures import adapter, as_list, plain_values
from .wast import Form

Outcome = tuple[str, Any]
SPECTEST = """(module
  (global (export "global_i32") i32 (i32.const 666)) (global (export "global_i64") i64 (i64.const 666))
  (global (export "global_f32") f32 (f32.const 666.6)) (global (export "global_f64") f64 (f64.const 666.6))
  (table (export "table") 10 20 funcref) (table (export "table64") i64 10 20 funcref)
  (memory (export "memory") 1 2)
  (func (export "print")) (func (export "print_i32") (param i32)) (func (export "print_i64") (param i64))
  (func (export "print_f32") (param f32)) (func (export "print_f64") (param f64))
  (func (export "print_i32_f32") (param i32 f32)) (func (export "print_f64_f64") (param f64 f64)))"""


@dataclass
class Tally:
    """What came of a script."""

    modules: int = 0
    assertions: int = 0
    left: int = 0  # assertions in which the third world was left at least once
    resumes: int = 0
    linked: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)  # by the script
    invalid: int = 0  # modules that must be refused, and were
    wrong: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


class Plain:
    """One instance of a module as it is, with the same calls as a ``Program``."""

    def __init__(self, code: bytes, store: wasmtime.Store, externals: Any) -> None:
        self.store = store
        self.original = Module.parse(code)
        self.spaces = IndexSpaces.of(self.original)
        module = wasmtime.Module(ENGINE, code)
        imports = [externals(store, item.module, item.name or "") for item in module.imports]
        self.exports = wasmtime.Instance(store, module, imports).exports(store)
        self.indices = {name: index for name, kind, index in self.original.exports() if kind == FUNCTION}
        self.adapters: dict[str, Any] = {}

    def call(self, name: str, *args: Any) -> list[Any]:
        if name not in self.adapters:
            kind = self.spaces.signature(self.indices[name])
            module = wasmtime.Module(ENGINE, adapter(self.original, kind))
            instance = wasmtime.Instance(self.store, module, [self.exports[name]])
            self.adapters[name] = instance.exports(self.store)["f"]
        return as_list(self.adapters[name](self.store, *args))


class Never:
    """A ``Program`` in its own world, that is called without being asked to stop, or at every poll."""

    def __init__(self, program: Program, store: wasmtime.Store | None, every: bool) -> None:
        self.program = program
        self.every = every
        program.last = program.start(store)
        if PREFIX + "start" in program.last.exports:
            program.finish(program.last.export(PREFIX + "start"), every, TURNS_MAX)

    @property
    def exports(self) -> Any:
        assert self.program.last is not None
        return self.program.last.exports

    def call(self, name: str, *args: Any) -> list[Any]:
        memory = self.program.memory_bytes()
        every = self.every and memory <= MEMORY_BYTES_MAX
        return self.program.call(name, *args, every=every, turns_max=TURNS_MAX)


class World:
    """All instances that a script has made, in one of the three ways."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.store = wasmtime.Store(ENGINE)
        self.registered: dict[str, Any] = {}
        self.instances: dict[str, Any] = {}

    def externals(self, store: wasmtime.Store, module: str, name: str) -> Any:
        if module == "spectest":
            key = id(store), "spectest"
            if key not in self.instances:
                made = wasmtime.Instance(store, _spectest(), []).exports(store)
                self.instances = {**self.instances, key: (store, made)}  # type: ignore[dict-item]
            return self.instances[key][1][name]  # type: ignore[index]
        if module not in self.registered:
            raise wasmtime.WasmtimeError(f"unknown import {module}")
        return self.registered[module].exports[name]

    def make(self, code: bytes, resumable: Resumable | None, linked: bool) -> Any:
        if resumable is None:
            return Plain(code, self.store, self.externals)
        program = Program(resumable, {}, self.externals)
        left = self.kind == "left" and not linked
        return Never(program, None if left else self.store, left)


@cache
def _spectest() -> wasmtime.Module:
    return wasmtime.Module(ENGINE, wasmtime.wat2wasm(SPECTEST))


class Script:
    """Runs one script."""

    def __init__(self, text: bytes, *, everywhere: bool) -> None:
        self.text = text
        self.everywhere = everywhere
        self.tally = Tally()
        self.worlds = [World("original"), World("straight"), World("left")]
        self.named: dict[str, list[Any]] = {}
        self.last: list[Any] | None = None
        self.definitions: dict[str, Form] = {}
        self.forms = wast.read(text)
        self.registered = self._registered()

    def _registered(self) -> set[int]:
        """The modules that others import from, by where they begin."""
        found, named, last = set(), {}, -1
        for form in self.forms:
            if form.head == "module":
                last = form.start
                name = _name(form)
                if name:
                    named[name] = last
            elif form.head == "register":
                found.add(named.get(form.items[2], last) if len(form.items) > 2 else last)
        return found

    def run(self) -> Tally:
        for form in self.forms:
            try:
                handler = getattr(self, "_" + form.head.replace(".", "_"), None)
                if handler is None:
                    self.tally.skipped[form.head] += 1
                else:
                    handler(form)
            except _SkippedError as why:
                self.tally.skipped[str(why)[:60]] += 1
        return self.tally

    # -- modules ----------------------------------------------------------------------------------------

    def _code(self, form: Form) -> bytes:
        text = self.text[form.start : form.end]
        words = [item for item in form.items[1:3] if isinstance(item, str)]
        if "quote" in words:
            text = b"(module " + b" ".join(i for i in form.items if isinstance(i, bytes)) + b")"
        elif "binary" in words:
            return b"".join(item for item in form.items if isinstance(item, bytes))
        return bytes(wasmtime.wat2wasm(text.replace(b"$$", b"$")))

    def _module(self, form: Form) -> None:
        words = [item for item in form.items[1:3] if isinstance(item, str)]
        name = _name(form)
        self.last = None
        if "definition" in words:
            raise _SkippedError("module definition")
        if "instance" in words:
            raise _SkippedError("module instance")
        if name:
            self.named.pop(name, None)
        try:
            code = self._code(form)
            wasmtime.Module.validate(ENGINE, code)
        except (wasmtime.WasmtimeError, UnicodeDecodeError) as error:
            raise _SkippedError("engine refuses: " + str(error).splitlines()[0][:60]) from None
        self.tally.modules += 1
        made = self._make(code, form.start)
        if made is None:
            return
        self.last = made
        if name:
            self.named[name] = made

    def _make(self, code: bytes, start: int) -> list[Any] | None:
        try:
            resumable = make_resumable(code, everywhere=self.everywhere)
        except UnsupportedFeatureError as error:
            self.tally.refused[error.feature] += 1
            return None
        module = Module.parse(code)
        linked = start in self.registered or any(item.module != "spectest" for item in module.imports())
        self.tally.linked += linked
        found: list[Outcome] = []
        for world in self.worlds:
            plain = None if world.kind == "original" else resumable
            found.append(outcome(lambda w=world, p=plain: w.make(code, p, linked)))  # type: ignore[misc]
        kinds = {kind if kind == "values" else (kind, what) for kind, what in found}
        if len(kinds) > 1:
            self.tally.wrong.append(f"instantiation: {[f if f[0] != 'values' else 'ok' for f in found]}")
            return None
        return [what for _, what in found] if found[0][0] == "values" else None

    def _register(self, form: Form) -> None:
        made = self._instance(form.items[2] if len(form.items) > 2 else None)
        for world, item in zip(self.worlds, made, strict=True):
            world.registered[form.items[1].decode()] = item

    def _instance(self, name: str | None) -> list[Any]:
        made: list[Any] | None
        if name and name.startswith("$@"):
            made = [world.registered.get(name[2:]) for world in self.worlds]
            made = None if None in made else made
        else:
            made = self.named.get(name.replace("$$", "$")) if name else self.last
        if made is None:
            raise _SkippedError("of a module that is not there")
        return made

    # -- calls ------------------------------------------------------------------------------------------

    def _act(self, form: Form, *, left: bool = True) -> Outcome:
        if form.head == "get":
            raise _SkippedError("get")
        items = form.items[1:]
        name = items.pop(0) if isinstance(items[0], str) else None
        made = self._instance(name)
        field = items.pop(0).decode("utf-8", "surrogateescape")
        args: list[Any] = []
        for value in map(wast.bits, items):
            args += plain_values(value)
        resumes = made[2].program.resumes
        cut = made[2].program.cut_short
        if field not in made[0].indices:
            raise _SkippedError("of something that is not exported by the module itself")
        found = [outcome(lambda m=m: m.call(field, *args)) for m in (made if left else made[:2])]  # type: ignore[misc]
        if any(one != found[0] for one in found):
            self.tally.wrong.append(f"{field} {args}: {found}")
        made_now = made[2].program.resumes - resumes
        self.tally.resumes += made_now
        self.tally.left += made_now > 0
        if made[2].program.cut_short > cut:
            self.tally.skipped["stopped being left after many turns"] += 1
        self.tally.assertions += 1
        return found[0]

    def _invoke(self, form: Form) -> None:
        self._act(form)

    def _assert_return(self, form: Form) -> None:
        found = self._act(form.items[1])
        wanted: list[Any] = []
        for item in form.items[2:]:
            kind, value = wast.bits(item) if item.head not in ("any", "pattern", "either") else ("any", None)
            if kind not in ("i32", "i64", "f32", "f64", "v128") or value is None:
                return
            wanted += plain_values((kind, value))
        if found != ("values", wanted):
            self.tally.unexpected.append(f"{form.items[1].items[1:]}: {found}, not {wanted}")

    def _assert_trap(self, form: Form) -> None:
        action = form.items[1]
        if action.head == "module":
            self._module(action)
            return
        found = self._act(action)
        if found[0] != "trap":
            self.tally.unexpected.append(f"{action.items[1:]}: {found}, not a trap")

    def _assert_exception(self, form: Form) -> None:
        found = self._act(form.items[1])
        if found[0] != "exception":
            self.tally.unexpected.append(f"{form.items[1].items[1:]}: {found}, not an exception")

    def _assert_exhaustion(self, form: Form) -> None:
        self._act(form.items[1], left=False)

    def _assert_invalid(self, form: Form) -> None:
        if form.items[1].head != "module":
            raise _SkippedError(form.head)
        try:
            code = self._code(form.items[1])
        except (wasmtime.WasmtimeError, UnicodeDecodeError):
            raise _SkippedError("the assembler refuses it") from None
        self.tally.modules += 1
        try:
            made = make_resumable(code, everywhere=self.everywhere)
        except (MalformedModuleError, UnsupportedFeatureError):
            self.tally.invalid += 1
            return
        if _valid(made.code) and not _valid(code):
            self.tally.skipped["invalid, but not what came out"] += 1
            return
        self.tally.invalid += 1

    _assert_malformed = _assert_invalid
    _assert_unlinkable = _assert_invalid


TURNS_MAX = 300


class _SkippedError(Exception):
    """A command that is not carried out, and why."""


def _valid(code: bytes) -> bool:
    try:
        wasmtime.Module.validate(ENGINE, code)
    except wasmtime.WasmtimeError:
        return False
    return True


def _name(form: Form) -> str:
    found = next((item for item in form.items[1:3] if isinstance(item, str) and item[0] == "$"), "")
    return found.replace("$$", "$")


def run_file(path: str, *, everywhere: bool = True) -> Tally:
    return Script(Path(path).read_bytes(), everywhere=everywhere).run()


def outcome(call: Any) -> Outcome:
    """The values of a call, or how it ended."""
    try:
        return "values", call()
    except wasmtime.Trap as trap:
        return ("trap", trap.trap_code) if trap.trap_code is not None else ("exception", "exception")
    except wasmtime.WasmtimeError as error:
        return "exception", "exception" if "exception" in str(error) else str(error)[:80]
