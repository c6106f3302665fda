"""The WebAssembly engine: the only module that touches wasmtime, and its private bindings above all.

What is built on it sees three things: ``compile_module`` and ``load_module`` (a ``CompiledModule``), and
``Instance``, a running instance whose imports are plain Python callables.

Why not wasmtime-py's own host functions: ``Linker.define_func`` costs 16 microseconds a call. Here
every import is one C callback on the engine's unchecked interface, which costs about 0.6: it gets the
address of the raw arguments, finds its instance by the calling thread, and writes the result in place.

Rules of the callback: no exception may cross into the engine. What a host function raises is kept in the
instance and the guest is stopped by a trap; ``Instance.call`` raises it again on this side.

Interruption is by epochs: while any guest runs, one ticker thread advances the engine's epoch every
``TICK_S``; each tick calls the instance's ``check``, which raises to stop the guest.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from threading import get_ident
from typing import Any

import wasmtime
from wasmtime import _bindings, _ffi

from sojourn.model.errors import ModuleError
from sojourn.vm.process.wasi.abi import SIGNATURES
from sojourn.vm.process.wasi.outside import LimitReached
from sojourn.wasm import PRIVATE

WASM_STACK_BYTES = 16 << 20
THREAD_STACK_BYTES = WASM_STACK_BYTES + (4 << 20)  # the host functions run on the same stack
TABLE_ELEMENTS_MAX = 1 << 20
# The engine limits each memory and each table, not their sum: so there is one memory (all that compilers for
# WASI make), and few tables (64 MB of elements at most).
MEMORIES_MAX = 1
TABLES_MAX = 8
TICK_S = 0.01
PAGE_BYTES = 1 << 16
WASI_MODULE = "wasi_snapshot_preview1"

# Every function a guest can import: (module, name, parameters, has a result).
IMPORTS: tuple[tuple[str, str, str, bool], ...] = (
    *((WASI_MODULE, name, params, name != "proc_exit") for name, params in SIGNATURES.items()),
    ("host", "call", "iiii", True),
)


class GuestTrapError(Exception):
    """The guest did what WebAssembly forbids: its own fault, never the host's.

    Attributes:
        code: the kind of trap, in words (``"stack overflow"``); empty when the engine gives none.
        backtrace: the engine's text, with the guest's function names where its module has them.
    """

    def __init__(self, code: str, backtrace: str) -> None:
        super().__init__(code or backtrace.partition("\n")[0])
        self.code = code
        self.backtrace = backtrace


# -- the engine ------------------------------------------------------------------------------------


@cache
def _engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.wasm_memory64 = True
    # The engine refuses a guest stack larger than its (unused) asynchronous stack.
    _ffi.wasmtime_config_async_stack_size_set(config.ptr(), WASM_STACK_BYTES + (2 << 20))
    config.max_wasm_stack = WASM_STACK_BYTES
    return wasmtime.Engine(config)


@cache
def fingerprint() -> str:
    """What compiled code depends on besides the module: engine version, CPU and configuration."""
    machine = f"{platform.machine()} {platform.system()}"
    return f"wasmtime-{version('wasmtime')} {machine} epoch memory64 stack={WASM_STACK_BYTES}"


class CompiledModule:
    """A module compiled for this machine, its imports resolved; shared by all its instances.

    Attributes:
        globals: the names under which its mutable globals are exported.
        functions: the names of its exported functions.
        commands: those among them that take nothing and give nothing.
    """

    def __init__(self, module: wasmtime.Module) -> None:
        self._module = module
        exports = list(module.exports)
        self.globals = tuple(e.name for e in exports if e.name.startswith(PRIVATE + "global:"))
        kinds = {e.name: e.type for e in exports if isinstance(e.type, wasmtime.FuncType)}
        self.functions = frozenset(kinds)
        self.commands = frozenset(n for n, kind in kinds.items() if not kind.params and not kind.results)
        try:
            self._pre = _linker().instantiate_pre(module)
        except wasmtime.WasmtimeError as error:
            raise ModuleError(f"the module cannot be linked: {_first_line(error)}", _IMPORTS_HINT) from None
        self.pre = self._pre.ptr()

    def serialize(self) -> bytes:
        """Machine code for this engine and CPU; never to be loaded from a source that is not trusted."""
        return bytes(self._module.serialize())


_IMPORTS_HINT = "Try: build it for WASI preview 1 (target wasm32-wasip1), as a command"


def compile_module(code: bytes) -> CompiledModule:
    """Validate and compile. Takes about a second per 0.8 MB of code and processor.

    Raises:
        ModuleError: the module is not valid, or imports what is not there.
    """
    try:
        module = wasmtime.Module(_engine(), code)
    except wasmtime.WasmtimeError as error:
        raise ModuleError(f"not a valid WebAssembly module: {_cause(error)}") from None
    check_imports(module)
    return CompiledModule(module)


def load_module(path: str) -> CompiledModule:
    """Map compiled code from a file that ``serialize`` wrote. The caller has verified every byte of it.

    Raises:
        ValueError: made by another engine or configuration.
    """
    try:
        return CompiledModule(wasmtime.Module.deserialize_file(_engine(), path))
    except wasmtime.WasmtimeError as error:
        raise ValueError(_first_line(error)) from None


def check_imports(module: wasmtime.Module) -> None:
    known = {(where, name) for where, name, _, _ in IMPORTS}
    for item in module.imports:
        if (item.module, item.name) not in known:
            raise ModuleError(
                f"the module imports {item.module}.{item.name}, which does not exist here", _IMPORTS_HINT
            )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _cause(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("0: ") if lines else "unknown reason"


# -- imports as raw callbacks ------------------------------------------------------------------------

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
)
_trap_new = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)(
    ("wasmtime_trap_new", _ffi.dll)
)
_define = ctypes.CFUNCTYPE(
    ctypes.c_void_p,
    *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t),
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
)(("wasmtime_linker_define_func_unchecked", _ffi.dll))
_mmap = ctypes.CFUNCTYPE(
    ctypes.c_void_p,
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
    use_errno=True,
)(("mmap", ctypes.CDLL(None)))

_running: dict[int, Instance] = {}  # thread -> the instance whose guest it runs


def _callback(number: int, params: str, has_result: bool) -> Any:
    """The C callback for import ``number``; a raw value takes 16 bytes, parameters and result share them."""
    array = ctypes.c_uint64 * (2 * max(1, len(params)))
    unpack = struct.Struct("<" + "".join("I12x" if kind == "i" else "Q8x" for kind in params)).unpack_from

    def call(_env: int, _caller: int, address: int, _count: int) -> int | None:
        instance = _running[get_ident()]
        try:
            values = array.from_address(address)
            instance.host_calls_left -= 1
            if instance.host_calls_left < 0:
                raise LimitReached("host_calls")
            result = instance.functions[number](*unpack(values))
            if has_result:
                values[0] = result
            return None
        except BaseException as error:  # noqa: BLE001 - nothing may cross into the engine
            return instance.stop(error)

    return _CALLBACK(call)


_callbacks: list[Any] = []  # as long as the linker, which is forever


@cache
def _linker() -> wasmtime.Linker:
    linker = wasmtime.Linker(_engine())
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


# -- epochs ------------------------------------------------------------------------------------------


class _Ticker:
    """Advances the engine's epoch while at least one guest runs; no thread otherwise."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._guests = 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._guests += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._tick, name="sojourn-epochs", daemon=True)
                self._thread.start()
            elif self._guests == 1:
                self._lock.notify()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._guests -= 1

    def _tick(self) -> None:
        engine = _engine()
        while True:
            with self._lock:
                while self._guests == 0:
                    self._lock.wait()
            time.sleep(TICK_S)
            engine.increment_epoch()


_ticker = _Ticker()
_EPOCH_CALLBACK = _bindings._wasmtime_store_epoch_deadline_callback.argtypes[1]
_EPOCH_FINALIZER = _bindings._wasmtime_store_epoch_deadline_callback.argtypes[3]


def _on_epoch(_context: Any, _data: Any, delta: Any, _kind: Any) -> int:
    instance = _running.get(get_ident())
    try:
        delta[0] = 1
        if instance is not None:
            instance.check()
        return 0
    except BaseException as error:  # noqa: BLE001 - nothing may cross into the engine
        if instance is not None:
            instance.stopped = instance.stopped or error
        return ctypes.cast(_ffi.wasmtime_error_new(b"stopped"), ctypes.c_void_p).value or 0


_epoch_callback = _EPOCH_CALLBACK(_on_epoch)
_no_finalizer = _EPOCH_FINALIZER()


# -- instances ---------------------------------------------------------------------------------------

_GC_HEAP_FULL = "GC heap out of memory"  # in the engine's words
_BUILTIN_KINDS = {0: "i32", 1: "i64", 2: "f32", 3: "f64"}


class Instance:
    """One instance of a module: the guest's memory, globals and functions.

    Used by one thread at a time. ``memory`` is a writable view of the whole linear memory; it is void
    after ``close``, and ``refresh`` must be called when the guest may have grown it.

    Args:
        module: what to instantiate.
        functions: the host functions by ``(module, name)``; each takes unsigned integers and
            returns an errno. What one raises stops the guest and comes out of ``call``.
        check: called about every ``TICK_S`` while the guest computes; what it raises stops the guest.
        memory_bytes_max: the limit of the linear memory, and again of the objects that the engine collects.
        host_calls_max: after so many the guest is stopped with ``LimitReached("host_calls")``.

    Raises:
        ModuleError: the module cannot be instantiated; its start function trapped.
        MemoryError: its initial memory is above the limit.
    """

    def __init__(
        self,
        module: CompiledModule,
        functions: Mapping[tuple[str, str], Callable[..., int]],
        check: Callable[[], None],
        memory_bytes_max: int,
        host_calls_max: int,
    ) -> None:
        self.functions: Sequence[Callable[..., int]] = [
            functions.get((where, name), _absent) for where, name, _, _ in IMPORTS
        ]
        self.check = check
        self.stopped: BaseException | None = None
        self.host_calls_left = host_calls_max
        self.view = memoryview(b"")
        self._array: Any = None
        self._store = wasmtime.Store(_engine())
        self._context = self._store._context()
        self._store.set_limits(memory_bytes_max, TABLE_ELEMENTS_MAX, 1, TABLES_MAX, MEMORIES_MAX)
        self._store.set_epoch_deadline(1)
        _ffi.wasmtime_store_epoch_deadline_callback(self._store.ptr(), _epoch_callback, None, _no_finalizer)
        self._instance = _ffi.wasmtime_instance_t()
        try:
            self._enter(
                lambda trap: _ffi.wasmtime_instance_pre_instantiate(
                    module.pre, self._context, ctypes.byref(self._instance), trap
                )
            )
            memory = self._export("memory", _ffi.WASMTIME_EXTERN_MEMORY.value)
            self._memory: Any = None if memory is None else memory.memory
            self.refresh()
        except wasmtime.WasmtimeError as error:
            self._store.close()
            if "memory minimum size" in str(error):
                raise MemoryError(_cause(error)) from None
            raise ModuleError(f"the module cannot be instantiated: {_cause(error)}") from None
        except BaseException:
            self._store.close()
            raise

    def _enter(self, enter: Callable[[Any], Any]) -> None:
        """Run guest code on this thread; raise what stopped it."""
        trap = ctypes.POINTER(_ffi.wasm_trap_t)()
        thread = get_ident()
        outer = _running.get(thread)
        _running[thread] = self
        try:
            with _ticker:
                error = enter(ctypes.byref(trap))
        finally:
            if outer is None:
                del _running[thread]
            else:
                _running[thread] = outer
        failure: Any = wasmtime.WasmtimeError._from_ptr(error) if error else None
        if trap:
            failure = wasmtime.Trap._from_ptr(trap)
        stopped, self.stopped = self.stopped, None
        if stopped is not None:
            raise stopped
        if isinstance(failure, wasmtime.Trap):
            raise GuestTrapError(_trap_words(failure), failure.message) from None
        if failure is not None:
            raise failure

    def call(self, name: str, *args: int) -> int | None:
        """Call an exported function of i32 parameters; return its i32 result, if it has one.

        Raises:
            KeyError: no such export.
            GuestTrapError: the guest trapped, or did what the engine refuses.
            LimitReached: its collected objects need more than the memory limit.
            BaseException: what a host function or ``check`` raised.
        """
        found = self._export(name, _ffi.WASMTIME_EXTERN_FUNC.value)
        if found is None:
            raise KeyError(name)
        func = found.func
        kind = wasmtime.Func._from_raw(func).type(self._store)
        params = (_ffi.wasmtime_val_t * max(1, len(args)))()
        for slot, value in zip(params, args, strict=False):
            slot.kind = _ffi.WASMTIME_I32.value
            slot.of.i32 = value
        count = len(kind.results)
        results = (_ffi.wasmtime_val_t * max(1, count))()
        try:
            self._enter(
                lambda trap: _ffi.wasmtime_func_call(
                    self._context, ctypes.byref(func), params, len(args), results, count, trap
                )
            )
        except wasmtime.WasmtimeError as error:  # neither a trap nor ours: what the engine will not do
            if _GC_HEAP_FULL in str(error):
                raise LimitReached("memory_bytes") from None
            raise GuestTrapError(_cause(error), str(error)) from None
        return results[0].of.i32 & 0xFFFFFFFF if count else None

    def has_function(self, name: str) -> bool:
        return self._export(name, _ffi.WASMTIME_EXTERN_FUNC.value) is not None

    def _export(self, name: str, kind: int) -> Any:
        """The raw union of one export, or None. One look-up: listing all exports is quadratic."""
        item = _ffi.wasmtime_extern_t()
        encoded = name.encode()
        buffer = ctypes.create_string_buffer(encoded, len(encoded))
        found = _ffi.wasmtime_instance_export_get(
            self._context, ctypes.byref(self._instance), buffer, len(encoded), ctypes.byref(item)
        )
        return item.of if found and int(getattr(item.kind, "value", item.kind)) == kind else None

    # memory

    def refresh(self) -> memoryview:
        """Renew ``view`` after the memory may have grown or moved."""
        if self._memory is None:
            return self.view
        size = _ffi.wasmtime_memory_data_size(self._context, ctypes.byref(self._memory))
        if size != len(self.view):
            self._array = (
                (ctypes.c_ubyte * size).from_address(self._base()) if size else (ctypes.c_ubyte * 0)()
            )
            self.view = memoryview(self._array).cast("B")
        return self.view

    def _base(self) -> int:
        data = _ffi.wasmtime_memory_data(self._context, ctypes.byref(self._memory))
        return ctypes.cast(data, ctypes.c_void_p).value or 0

    def map_memory(self, descriptor: int, size: int) -> None:
        """Make the first ``size`` bytes of memory those of a file, copy-on-write; grow to fit.

        Raises:
            MemoryError: ``size`` is above the limit.
            OSError: the system refused the mapping; the instance must then be closed.
        """
        missing = size - len(self.view)
        if missing > 0:
            before = ctypes.c_uint64()
            pages = -(-missing // PAGE_BYTES)
            error = _ffi.wasmtime_memory_grow(
                self._context, ctypes.byref(self._memory), pages, ctypes.byref(before)
            )
            if error:
                raise MemoryError(_first_line(wasmtime.WasmtimeError._from_ptr(error)))
            self.refresh()
        base = self._base()
        # PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED: the pages lie inside the engine's reservation,
        # which it unmaps as a whole when the store goes.
        if _mmap(base, size, 3, 2 | 16, descriptor, 0) != base:
            raise OSError(ctypes.get_errno(), "cannot map the image into memory")

    # globals

    def read_global(self, name: str) -> int:
        """The bits of an exported number; floats as their IEEE pattern."""
        item = self._export(name, _ffi.WASMTIME_EXTERN_GLOBAL.value)
        if item is None:
            raise KeyError(name)
        value = _ffi.wasmtime_val_t()
        _ffi.wasmtime_global_get(self._context, ctypes.byref(item.global_), ctypes.byref(value))
        if int(value.kind) not in _BUILTIN_KINDS:
            raise ValueError(f"{name} is not a number")
        return int(value.of.i64) & (0xFFFFFFFF if int(value.kind) in (0, 2) else 0xFFFFFFFFFFFFFFFF)

    def write_global(self, name: str, bits: int) -> None:
        item = self._export(name, _ffi.WASMTIME_EXTERN_GLOBAL.value)
        if item is None:
            raise KeyError(name)
        value = _ffi.wasmtime_val_t()
        _ffi.wasmtime_global_get(self._context, ctypes.byref(item.global_), ctypes.byref(value))
        value.of.i64 = bits if bits < 1 << 63 else bits - (1 << 64)
        error = _ffi.wasmtime_global_set(self._context, ctypes.byref(item.global_), ctypes.byref(value))
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)

    def stop(self, error: BaseException) -> int:
        """Keep ``error`` for ``call`` and return a trap for the engine (used by the callbacks)."""
        if self.stopped is None:
            self.stopped = error
        return _trap_new(b"stopped", 7) or 0

    def close(self) -> None:
        """Free everything. ``view`` is void from here on."""
        self.view = memoryview(b"")
        self._array = None
        self._memory = None
        self._store.close()


def _absent(*_: int) -> int:
    return 0xFFFFFFFF  # host.call without a host


def _trap_words(trap: wasmtime.Trap) -> str:
    try:
        code = trap.trap_code
    except ValueError:  # a code newer than the binding
        return ""
    return code.name.lower().replace("_", " ") if code is not None else ""
