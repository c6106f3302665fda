"""The engine's side of compiled code: its configuration, modules, and the imports that modules are linked to.

With ``engine.py`` (instances) and ``engine_references.py`` the only place that touches wasmtime, and its
private bindings above all.

Why not wasmtime-py's own host functions: ``Linker.define_func`` costs 16 microseconds a call. Here every
import is one C callback on the engine's unchecked interface, which costs about 0.6: it gets the address of
the raw arguments, finds its instance by the calling thread, and writes the result in place.

Rules of the callback: no exception may cross into the engine. What a host function raises is kept in the
instance and the guest is stopped by a trap; ``Instance.call`` raises it again on this side.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import version
from threading import get_ident
from typing import Any, Protocol

import wasmtime
from wasmtime import _bindings, _ffi

from sojourn.model.errors import ModuleError
from sojourn.vm.process.wasi.abi import SIGNATURES
from sojourn.vm.process.wasi.outside import Leave, LimitReached
from sojourn.wasm.additions import Additions
from sojourn.wasm.plan import LOADER_SLOT, Plan

from .preparing import WASI_MODULE, Facts, Prepared

# As deep as programs nest their data on other systems: C code frees, compares and hashes nested objects by
# recursion, at 100 to 300 bytes of this stack a level, and CPython watches only its stack in linear memory.
WASM_STACK_BYTES = 64 << 20
THREAD_STACK_BYTES = WASM_STACK_BYTES + (4 << 20)  # the host functions run on the same stack

ENGINE_VERSION = version("wasmtime")
# What the engine's command-line tool must be told to compile as ``engine`` does.
COMPILER_FLAGS = ("-C", "cache=n,collector=drc", "-W", "memory64=y,branch-hinting=y")

# Every function a guest can import: (module, name, parameters, has a result).
IMPORTS: tuple[tuple[str, str, str, bool], ...] = (
    *((WASI_MODULE, name, params, name != "proc_exit") for name, params in SIGNATURES.items()),
    ("host", "call", "iiii", True),
)


class Guest(Protocol):
    """An instance, as a callback sees it (``engine.Instance``)."""

    functions: Sequence[Callable[..., int]]
    host_calls_left: int

    def leave(self) -> None: ...

    def fill(self, slot: int) -> None: ...

    def stop(self, error: BaseException) -> int: ...


# -- the engine ------------------------------------------------------------------------------------


@cache
def engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.wasm_memory64 = True
    _bindings.wasmtime_config_wasm_branch_hinting_set(config.ptr(), True)
    # The engine refuses a guest stack larger than its (unused) asynchronous stack.
    _ffi.wasmtime_config_async_stack_size_set(config.ptr(), WASM_STACK_BYTES + (2 << 20))
    config.max_wasm_stack = WASM_STACK_BYTES
    return wasmtime.Engine(config)


@cache
def fingerprint(machine: str = platform.machine()) -> str:
    """What compiled code depends on besides the module: engine version, CPU and configuration."""
    where = f"{machine} {platform.system()}"
    return f"wasmtime-{ENGINE_VERSION} {where} poll memory64 stack={WASM_STACK_BYTES}"


class PartSource(Protocol):
    """Has the parts of a module that is split, or makes them. Safe to use from several threads."""

    @property
    def plan(self) -> Plan: ...

    def get(self, number: int, waiting: Callable[[], None]) -> TwinModule:
        """A part, compiled.

        Args:
            waiting: called many times a second while it is being compiled; what it raises ends the wait.

        Raises:
            ModuleError: it cannot be compiled.
        """
        ...

    def ahead(self, packages: Iterable[str]) -> None:
        """Begin to make what imports of ``packages`` will call."""
        ...

    def rest(self) -> None:
        """Nothing will be made for the time being."""
        ...


class CompiledModule:
    """A module compiled for this machine, its imports resolved; shared by all its instances.

    Attributes:
        facts: what is known of it.
        globals: the names under which its mutable globals are exported.
        functions: the names of its exported functions.
        commands: those among them that take nothing and give nothing.
        has_references: whether references or segments are a part of its state (``engine_references``).
        resumer: how a guest that was left goes on; set by whoever has the original.
        parts: where its parts come from when it is split (``wasm.plan``); None when it is whole.
    """

    def __init__(self, module: wasmtime.Module, facts: Facts) -> None:
        self._module = module
        self.facts = facts
        self.globals = facts.globals
        self.functions = frozenset(facts.functions)
        additions = Additions.of(facts.additions)
        self.has_references = bool(facts.tables or additions.references or additions.drops)
        self.commands = frozenset(name for name, kind in facts.functions.items() if kind == (0, 0))
        self.resumer: Any = None  # an engine.Resumer
        self.parts: PartSource | None = None
        try:
            self._pre = _linker().instantiate_pre(module)
        except wasmtime.WasmtimeError as error:
            raise ModuleError(f"the module cannot be linked: {first_line(error)}", _IMPORTS_HINT) from None
        self.pre = self._pre.ptr()

    def serialize(self) -> bytes:
        """Machine code for this engine and CPU; never to be loaded from a source that is not trusted."""
        return bytes(self._module.serialize())


class TwinModule:
    """A compiled twin or part (``wasm.twins``, ``wasm.parts``).

    Attributes:
        names: of what it takes from its base module, in order.
        record_bytes: the size of the record that it loads; 0 for a part.
    """

    def __init__(self, module: wasmtime.Module, names: Sequence[str], record_bytes: int) -> None:
        self.module = module
        self.record_bytes = record_bytes
        self.names = tuple(name.encode() for name in names)

    def serialize(self) -> bytes:
        """As ``CompiledModule.serialize``."""
        return bytes(self.module.serialize())


_IMPORTS_HINT = "Try: build it for WASI preview 1 (target wasm32-wasip1), as a command"


def check_valid(code: bytes) -> None:
    """Validate a module without compiling it.

    Raises:
        ModuleError: it is not valid; the message says why.
    """
    try:
        wasmtime.Module.validate(engine(), code)
    except wasmtime.WasmtimeError as error:
        raise ModuleError(f"not a valid WebAssembly module: {cause(error)}") from None


def compile_module(prepared: Prepared) -> CompiledModule:
    """Validate and compile. Takes about a second per 0.8 MB of code and processor.

    Raises:
        ModuleError: the module is not valid, or imports what is not there.
    """
    try:
        module = wasmtime.Module(engine(), prepared.code)
    except wasmtime.WasmtimeError as error:
        raise ModuleError(f"not a valid WebAssembly module: {cause(error)}") from None
    check_imports(module)
    return CompiledModule(module, prepared.facts)


def load_module(path: str, facts: Facts) -> CompiledModule:
    """Map compiled code from a file that ``serialize`` wrote. The caller has verified every byte of it.

    Raises:
        ValueError: made by another engine or configuration.
    """
    return CompiledModule(_deserialised(path), facts)


def compile_twin(code: bytes, names: Sequence[str], record_bytes: int) -> TwinModule:
    """Compile a twin, which is code of ours: milliseconds, or a second for the largest functions."""
    return TwinModule(wasmtime.Module(engine(), code), names, record_bytes)


def load_twin(path: str, names: Sequence[str], record_bytes: int) -> TwinModule:
    """As ``load_module``."""
    return TwinModule(_deserialised(path), names, record_bytes)


def _deserialised(path: str) -> wasmtime.Module:
    try:
        return wasmtime.Module.deserialize_file(engine(), path)
    except wasmtime.WasmtimeError as error:
        raise ValueError(first_line(error)) from None


def check_imports(module: wasmtime.Module) -> None:
    known = {(where, name) for where, name, _, _ in IMPORTS}
    for item in module.imports:
        if (item.module, item.name) not in known:
            raise ModuleError(
                f"the module imports {item.module}.{item.name}, which does not exist here", _IMPORTS_HINT
            )


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def cause(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("0: ") if lines else "unknown reason"


# -- imports as raw callbacks ------------------------------------------------------------------------

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
)
trap_new = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)(
    ("wasmtime_trap_new", _ffi.dll)
)
_define = ctypes.CFUNCTYPE(
    ctypes.c_void_p,
    *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t),
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
)(("wasmtime_linker_define_func_unchecked", _ffi.dll))
_new_func = ctypes.CFUNCTYPE(None, *(ctypes.c_void_p,) * 6)(("wasmtime_func_new_unchecked", _ffi.dll))
running: dict[int, Guest] = {}  # thread -> the instance whose guest it runs


def _callback(number: int, params: str, has_result: bool) -> Any:
    """The C callback for import ``number``; a raw value takes 16 bytes, parameters and result share them."""
    array = ctypes.c_uint64 * (2 * max(1, len(params)))
    unpack = struct.Struct("<" + "".join("I12x" if kind == "i" else "Q8x" for kind in params)).unpack_from

    def call(_env: int, _caller: int, address: int, _count: int) -> int | None:
        instance = running[get_ident()]
        try:
            values = array.from_address(address)
            instance.host_calls_left -= 1
            if instance.host_calls_left < 0:
                raise LimitReached("host_calls")
            result = instance.functions[number](*unpack(values))
            if has_result:
                values[0] = result
            return None
        except Leave:
            instance.host_calls_left += 1  # the same call will be made again
            instance.leave()
            values[0] = 0
            return None
        except BaseException as error:  # noqa: BLE001 - nothing may cross into the engine
            return instance.stop(error)

    return _CALLBACK(call)


_callbacks: list[Any] = []  # as long as the linker, which is forever


def _load_callback() -> Any:
    """The C callback of the loader (``wasm.plan``): it takes a slot."""

    def call(_env: int, _caller: int, address: int, _count: int) -> int | None:
        instance = running[get_ident()]
        try:
            instance.fill(ctypes.c_uint32.from_address(address).value)
            return None
        except BaseException as error:  # noqa: BLE001 - nothing may cross into the engine
            return instance.stop(error)

    return _CALLBACK(call)


@cache
def _loader() -> tuple[Any, Any]:
    return wasmtime.FuncType([wasmtime.ValType.i32()], []), _load_callback()


def put_loader(context: Any, table: Any) -> None:
    """Put the loader into the table of slots of an instance."""
    kind, callback = _loader()
    value: Any = _ffi.wasmtime_val_t()
    value.kind = _ffi.WASMTIME_FUNCREF.value
    _new_func(
        ctypes.cast(context, ctypes.c_void_p),
        ctypes.cast(kind.ptr(), ctypes.c_void_p),
        ctypes.cast(callback, ctypes.c_void_p),
        *(None, None, ctypes.addressof(value.of.funcref)),
    )
    error = _ffi.wasmtime_table_set(context, ctypes.byref(table), LOADER_SLOT, ctypes.byref(value))
    if error:
        raise wasmtime.WasmtimeError._from_ptr(error)


@cache
def _linker() -> wasmtime.Linker:
    linker = wasmtime.Linker(engine())
    kinds = {"i": wasmtime.ValType.i32, "I": wasmtime.ValType.i64}
    for number, (module, name, params, has_result) in enumerate(IMPORTS):
        results = [wasmtime.ValType.i32()] if has_result else []
        kind = wasmtime.FuncType([kinds[p]() for p in params], results)
        callback = _callback(number, params, has_result)
        _callbacks.append(callback)
        names = (module.encode(), len(module), name.encode(), len(name))
        pointers = (ctypes.cast(kind.ptr(), ctypes.c_void_p), ctypes.cast(callback, ctypes.c_void_p))
        failed = _define(ctypes.cast(linker.ptr(), ctypes.c_void_p), *names, *pointers, None, None)
        if failed:
            raise RuntimeError(f"the engine refused the host function {module}.{name}")
    return linker


# -- values --------------------------------------------------------------------------------------------

_KINDS = {0: "i32", 1: "i64", 2: "f32", 3: "f64", 4: "v128", 5: "funcref", 6: "externref"}
_BITS = {"i32": 32, "i64": 64, "f32": 32, "f64": 64, "v128": 128}


def kind_of(value: Any) -> str:
    """The type of a value in the engine's form."""
    return _KINDS[int(value.kind)]


def is_number(value: Any) -> bool:
    return kind_of(value) in _BITS


def bits_of(value: Any) -> int:
    """A number as its bits."""
    if kind_of(value) == "v128":
        return int.from_bytes(bytes(value.of.v128), "little")
    return int(value.of.i64) & (1 << _BITS[kind_of(value)]) - 1


def set_bits(value: Any, bits: int) -> None:
    """Set a number, whose type stays, from its bits."""
    kind = kind_of(value)
    if kind == "v128":
        value.of.v128 = type(value.of.v128)(*bits.to_bytes(16, "little"))
    else:
        value.of.i64 = bits if bits < 1 << 63 else bits - (1 << 64)
