"""Instances in the engine: the guest's memory, globals and functions, and how it is left in the middle and
goes on.

With ``engine_modules.py`` and ``engine_references.py`` the only place that touches wasmtime. What is built on
them sees ``compile_module`` and ``load_module`` (a ``CompiledModule``), and ``Instance``, whose imports are
plain Python callables.

Interruption is by the poll in the guest's own code (``wasm.emit``): any thread may set the request flag of
an instance, and the guest comes back unwinding, its frames saved. While any guest runs, one thread calls
each instance's ``check`` every ``TICK_S``; what that raises is the reason to stop. A guest that came back
without a reason goes on at once.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import get_ident
from typing import Any, Protocol

import wasmtime
from wasmtime import _ffi

from sojourn.model.errors import ModuleError
from sojourn.vm.process.wasi.outside import LimitReached, Suspended, TurnOver
from sojourn.wasm.additions import (
    CONTROL,
    CONTROL_PAGES,
    FRAMES,
    PARTS,
    REQUEST,
    RESUME,
    SAVE,
    TWINS,
    UNWINDING,
    part_with,
)
from sojourn.wasm.twins import ENTER

from .engine_modules import (
    COMPILER_FLAGS,
    ENGINE_VERSION,
    IMPORTS,
    THREAD_STACK_BYTES,
    CompiledModule,
    TwinModule,
    bits_of,
    cause,
    check_valid,
    compile_module,
    compile_twin,
    engine,
    fingerprint,
    first_line,
    is_number,
    kind_of,
    load_module,
    load_twin,
    put_loader,
    running,
    set_bits,
    trap_new,
)
from .engine_references import References
from .preparing import WASI_MODULE
from .watching import Watch

__all__ = [
    "COMPILER_FLAGS",
    "ENGINE_VERSION",
    "IMPORTS",
    "THREAD_STACK_BYTES",
    "WASI_MODULE",
    "CompiledModule",
    "GuestTrapError",
    "Instance",
    "TwinModule",
    "check_valid",
    "compile_module",
    "compile_twin",
    "fingerprint",
    "load_module",
    "load_twin",
]

TABLE_ELEMENTS_MAX = 1 << 20
NULL = 0xFFFFFFFF  # for no function
# The engine limits each memory and each table, not their sum: so there is one memory (all that compilers for
# WASI make), and few tables (64 MB of elements at most).
MEMORIES_MAX = 1 + 1  # the guest's, and the control memory
TABLES_MAX = 8 + 5  # the guest's, and ours: of twins, of parts, three for references
PAGE_BYTES = 1 << 16
_CONTROL_BYTES = CONTROL_PAGES * PAGE_BYTES
_INSTANCES_MAX = 1 << 16  # the guest's, and one for each twin and part

_mmap = ctypes.CFUNCTYPE(
    ctypes.c_void_p,
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
    use_errno=True,
)(("mmap", ctypes.CDLL(None)))


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


class Resumer(Protocol):
    """Knows how to go on at each site of one module (``resuming.ModuleResumer``)."""

    def stack(self, records: bytes) -> Any: ...

    def fetch(self, records: memoryview, waiting: Callable[[], object]) -> None:
        """See that the twins for ``records`` are at hand, compiled where they were not.

        Args:
            waiting: called many times a second meanwhile; what it raises ends the wait.
        """
        ...

    def place(self, instance: Instance, records: memoryview) -> int:
        """See that all twins for ``records`` are in the instance's table, and write its place there into
        each record. Returns the place of the outermost one."""
        ...


_watch = Watch()


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
            returns an errno. What one raises stops the guest and comes out of ``call``; ``Leave`` leaves
            the guest, and the call is made again when it goes on.
        check: called every few milliseconds while the guest runs, on another thread; what it raises stops
            the guest and comes out of ``call``. It may return how soon to call it again, in seconds.
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
        check: Callable[[], float | None],
        memory_bytes_max: int,
        host_calls_max: int,
    ) -> None:
        self.module = module
        self.functions: Sequence[Callable[..., int]] = [
            functions.get((where, name), _absent) for where, name, _, _ in IMPORTS
        ]
        self.check = check
        self.stopped: BaseException | None = None
        self.leavable = False  # whether what the guest is in now is all there is to go on with
        self.aside: Callable[[], AbstractContextManager[object]] = (
            nullcontext  # around a wait for the compiler
        )
        self.host_calls_left = host_calls_max
        self.view = memoryview(b"")
        self._array: Any = None
        self._request: Any = None
        self._control: Any = memoryview(b"")
        self._asking = threading.Lock()
        self.sites: dict[int, tuple[int, int]] = {}  # what the resumer knows: by trailer, size and place
        self._twins: dict[int, int] = {}  # by the identity of the twin: its place
        self._placed: list[tuple[Any, int]] = []  # by place: the function of the twin, its results
        self._parts: dict[int, Any] = {}  # the parts that are here, by number
        needed = module.facts.memory_pages * PAGE_BYTES
        if needed > memory_bytes_max:
            raise MemoryError(f"its memory begins with {needed:,} bytes")
        self._store = wasmtime.Store(engine())
        self._context = self._store._context()
        # The control memory does not count, so the guest's own limit is set when both are there.
        self._limit_memory(max(memory_bytes_max, _CONTROL_BYTES))
        self._instance = _ffi.wasmtime_instance_t()
        try:
            self._enter(
                lambda trap: _ffi.wasmtime_instance_pre_instantiate(
                    module.pre, self._context, ctypes.byref(self._instance), trap
                )
            )
            self._limit_memory(memory_bytes_max)
            memory = self._export("memory", _ffi.WASMTIME_EXTERN_MEMORY.value)
            self._memory: Any = None if memory is None else memory.memory
            self._attach_control()
            if module.parts is not None:
                put_loader(self._context, self._must("table", PARTS).table)
            self.refresh()
            self.references = References(self) if module.has_references else None
        except wasmtime.WasmtimeError as error:
            self._store.close()
            raise ModuleError(f"the module cannot be instantiated: {cause(error)}") from None
        except BaseException:
            self._store.close()
            raise

    def _limit_memory(self, bytes_max: int) -> None:
        self._store.set_limits(bytes_max, TABLE_ELEMENTS_MAX, _INSTANCES_MAX, TABLES_MAX, MEMORIES_MAX)

    def _attach_control(self) -> None:
        control = self._must("memory", CONTROL).memory
        address = _ffi.wasmtime_memory_data(self._context, ctypes.byref(control))
        base = ctypes.cast(address, ctypes.c_void_p).value or 0
        array: Any = (ctypes.c_ubyte * _CONTROL_BYTES).from_address(base)
        self._control = memoryview(array).cast("B")
        self._request = ctypes.c_uint32.from_address(base + REQUEST)
        self._registers = {name: self._must("global", name).global_ for name in (UNWINDING, SAVE, RESUME)}

    def _must(self, kind: str, name: str) -> Any:
        found = self._export(name, getattr(_ffi, f"WASMTIME_EXTERN_{kind.upper()}").value)
        if found is None:
            raise RuntimeError(f"a prepared module has no {kind} {name}")
        return found

    # being left, and going on

    def ask(self, reason: BaseException) -> None:
        """Make the guest come back, from any thread: ``call`` raises ``reason`` as soon as it does. Of
        several reasons the first counts, but any comes before ``Suspended``, and that before ``TurnOver``."""
        with self._asking:
            self._put_reason(reason)
            if self._request is not None:
                self._request.value = 1

    def _put_reason(self, reason: BaseException) -> None:
        if _rank(reason) > _rank(self.stopped):
            self.stopped = reason

    def take_back(self, kind: type[Suspended]) -> None:
        """What was asked for is not wanted any more, if it is of this kind."""
        with self._asking:
            if type(self.stopped) is kind:
                self.stopped = None
                if self._request is not None:
                    self._request.value = 0

    def look(self) -> float | None:
        """Call ``check``; what it raises is a reason to stop (used by the watching thread)."""
        try:
            return self.check()
        except BaseException as error:  # noqa: BLE001 - the guest's thread raises it
            self.ask(error)
            return None

    def watch(self, on: bool) -> None:
        """Whether the guest computes, and ``check`` is called, between two waits of a call."""
        if on:
            _watch.begin(self)
        else:
            _watch.end(self)

    def leave(self) -> None:
        """Have the guest unwind as soon as the host function that calls this returns."""
        self._set_register(UNWINDING, 1)

    @property
    def unwound(self) -> bool:
        """Whether the guest was left in the middle: its frames are saved."""
        return self._register(UNWINDING) != 0

    def records(self) -> bytes:
        """The saved frames (``wasm.frames``)."""
        return bytes(self._saved())

    def _saved(self) -> memoryview:
        return memoryview(self._control)[FRAMES : self._register(SAVE)]

    def fetch(self, waiting: Callable[[], object], records: bytes | None = None) -> None:
        """Get the code for going on where the guest was left, or where ``records`` were saved, compiling what
        was never needed before. Goes on as well without; but this can be ended (``Resumer.fetch``)."""
        self._resumer().fetch(self._saved() if records is None else memoryview(records), waiting)

    def stack(self, records: bytes) -> Any:
        """The frames in ``records`` (``resuming.Stack``).

        Raises:
            ContextError: they are not frames of this module.
        """
        return self._resumer().stack(records)

    def _resumer(self) -> Resumer:
        resumer: Resumer | None = self.module.resumer
        if resumer is None:
            raise RuntimeError("nobody knows how to go on with this module")
        return resumer

    def resume(self, records: bytes | None = None) -> int | None:
        """Go on where the guest was left, or where ``records`` were saved, in this instance or another of
        the module; as ``call``."""
        end = self._register(SAVE) if records is None else FRAMES + len(records)
        if records is not None:
            self._control[FRAMES:end] = records
        function, results = self._placed[self._resumer().place(self, self._control[FRAMES:end])]
        self._set_register(RESUME, end)
        self._forget()
        if self.references is not None:
            self.references.forget()
        return self._run(function, (), results)

    def _forget(self) -> None:
        """Nothing is saved and nothing unwinds."""
        self._set_register(SAVE, FRAMES)
        self._set_register(UNWINDING, 0)

    def place_twin(self, twin: TwinModule, function: int) -> int:
        """The place of a twin of ``function`` in the table of twins; put there now when it is not."""
        found = self._twins.get(id(twin))
        if found is None:
            number = self.module.parts.plan.part_of_function(function) if self.module.parts else 0
            if number:  # it has stubs for what the twin names in other parts, which then need not be here
                self._part(number)
            enter = self._instantiate_twin(twin)
            self._placed.append((enter, len(wasmtime.Func._from_raw(enter).type(self._store).results)))
            found = self._twins[id(twin)] = len(self._placed) - 1
        return found

    def fill(self, slot: int) -> None:
        """Bring the part that fills a slot (used by the loader).

        Raises:
            ModuleError: the part cannot be made.
            BaseException: the reason given to ``ask``, if it came while the part was being compiled.
        """
        assert self.module.parts is not None
        self._part(self.module.parts.plan.part_of_slot(slot))

    def _part(self, number: int) -> Any:
        """A part of the module, instantiated now when it is not here yet."""
        found = self._parts.get(number)
        if found is None:
            assert self.module.parts is not None
            with self.aside():
                part = self.module.parts.get(number, self._wait_for_part)
            found = self._parts[number] = self._instantiate(part)
        return found

    def _wait_for_part(self) -> None:
        """A guest that waits for a part can be ended, but not left: no frame of it is saved there."""
        if self.stopped is not None and not isinstance(self.stopped, Suspended):
            raise self.stopped

    def _find_shared(self, name: bytes, item: Any) -> None:
        """Set ``item`` to what the base module, or the part that has it, exports under ``name``."""
        if self._find_in(self._instance, name, item):
            return
        plan = self.module.parts.plan if self.module.parts else None
        number = part_with(plan, name.decode()) if plan is not None else 0
        # The stub in a part that is here does as well, and nothing need be brought.
        here = [self._parts[number]] if number in self._parts else list(self._parts.values())
        if not any(self._find_in(part, name, item) for part in here) and not (
            number and self._find_in(self._part(number), name, item)
        ):
            raise RuntimeError(f"neither the base module nor a part exports {name.decode()}")

    def _find_in(self, part: Any, name: bytes, item: Any) -> bool:
        found: bool = _ffi.wasmtime_instance_export_get(
            self._context, ctypes.byref(part), name, len(name), ctypes.byref(item)
        )
        return found

    def _instantiate(self, module: TwinModule) -> Any:
        """An instance of a twin or part, linked to this one."""
        imports = (_ffi.wasmtime_extern_t * len(module.names))()
        for item, name in zip(imports, module.names, strict=True):
            self._find_shared(name, item)
        made, trap = _ffi.wasmtime_instance_t(), ctypes.POINTER(_ffi.wasm_trap_t)()
        error = _ffi.wasmtime_instance_new(
            *(self._context, module.module.ptr(), imports, len(module.names)),
            *(ctypes.byref(made), ctypes.byref(trap)),
        )
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)
        return made

    def _instantiate_twin(self, twin: TwinModule) -> Any:
        made = self._instantiate(twin)
        item, name = _ffi.wasmtime_extern_t(), ENTER.encode()
        _ffi.wasmtime_instance_export_get(
            self._context, ctypes.byref(made), name, len(name), ctypes.byref(item)
        )
        value: Any = _ffi.wasmtime_val_t()
        value.kind = _ffi.WASMTIME_FUNCREF.value
        value.of.funcref = item.of.func
        table = self._must("table", TWINS).table
        before = ctypes.c_uint64()
        error = _ffi.wasmtime_table_grow(
            self._context, ctypes.byref(table), 1, ctypes.byref(value), ctypes.byref(before)
        )
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)
        return item.of.func

    def _register(self, name: str) -> int:
        value: Any = _ffi.wasmtime_val_t()
        _ffi.wasmtime_global_get(self._context, ctypes.byref(self._registers[name]), ctypes.byref(value))
        return int(value.of.i32)

    def _set_register(self, name: str, number: int) -> None:
        value: Any = _ffi.wasmtime_val_t()
        value.kind = _ffi.WASMTIME_I32.value
        value.of.i32 = number
        error = _ffi.wasmtime_global_set(
            self._context, ctypes.byref(self._registers[name]), ctypes.byref(value)
        )
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)

    # calling

    def _enter(self, enter: Callable[[Any], Any]) -> None:
        """Run guest code on this thread; raise what stopped it."""
        trap = ctypes.POINTER(_ffi.wasm_trap_t)()
        thread = get_ident()
        outer = running.get(thread)
        running[thread] = self
        _watch.begin(self)
        try:
            error = enter(ctypes.byref(trap))
        finally:
            _watch.end(self)
            if outer is None:
                del running[thread]
            else:
                running[thread] = outer
        failure: Any = wasmtime.WasmtimeError._from_ptr(error) if error else None
        if trap:
            failure = wasmtime.Trap._from_ptr(trap)
        stopped = self._taken_reason()
        if stopped is not None:
            if self._request is not None and not isinstance(stopped, Suspended):
                self._forget()
            raise stopped
        if isinstance(failure, wasmtime.Trap):
            raise GuestTrapError(_trap_words(failure), failure.message) from None
        if failure is not None:
            raise failure

    def _taken_reason(self) -> BaseException | None:
        """The reason why the guest came back, if there is one; a guest that came to its end is not
        suspended."""
        with self._asking:
            reason, self.stopped = self.stopped, None
            if self._request is not None:
                self._request.value = 0
        if isinstance(reason, Suspended) and not (self._request is not None and self.unwound):
            return None
        return reason

    def call(self, name: str, *args: int) -> int | None:
        """Call an exported function of i32 parameters; return its i32 result, if it has one.

        Raises:
            KeyError: no such export.
            GuestTrapError: the guest trapped, or did what the engine refuses.
            LimitReached: its collected objects need more than the memory limit.
            BaseException: what a host function or ``check`` raised, or the reason given to ``ask``.
        """
        found = self._export(name, _ffi.WASMTIME_EXTERN_FUNC.value)
        if found is None:
            raise KeyError(name)
        return self._run(found.func, args, self.module.facts.functions[name][1])

    def _run(self, func: Any, args: Sequence[int], count: int) -> int | None:
        params = (_ffi.wasmtime_val_t * max(1, len(args)))()
        for slot, value in zip(params, args, strict=False):
            slot.kind = _ffi.WASMTIME_I32.value
            slot.of.i32 = value
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
            raise GuestTrapError(cause(error), str(error)) from None
        if self.unwound:  # left without a reason to stop: go on
            return self.resume()
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
            self.grow_memory(-(-missing // PAGE_BYTES))
        base = self._base()
        # PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED: the pages lie inside the engine's reservation,
        # which it unmaps as a whole when the store goes.
        if _mmap(base, size, 3, 2 | 16, descriptor, 0) != base:
            raise OSError(ctypes.get_errno(), "cannot map the image into memory")

    def grow_memory(self, pages: int) -> None:
        """
        Raises:
            MemoryError: it would be above the limit.
        """
        before = ctypes.c_uint64()
        error = _ffi.wasmtime_memory_grow(
            self._context, ctypes.byref(self._memory), pages, ctypes.byref(before)
        )
        if error:
            raise MemoryError(first_line(wasmtime.WasmtimeError._from_ptr(error)))
        self.refresh()

    @property
    def has_memory(self) -> bool:
        return self._memory is not None

    # globals

    def read_globals(self) -> list[tuple[str, int]]:
        """Type and bits of all mutable globals, in order; of a reference the function, or ``NULL``."""
        return [(kind_of(value), self._bits(value)) for _, value in self._globals()]

    def _bits(self, value: Any) -> int:
        if is_number(value):
            return bits_of(value)
        function = None if self.references is None else self.references.function(value)
        return NULL if function is None else function

    def write_globals(self, values: Sequence[tuple[str, int]]) -> None:
        """Set all of them.

        Raises:
            ValueError: other numbers or types than ``read_globals`` gives, or no such function.
        """
        present = self._globals()
        if [kind for kind, _ in values] != [kind_of(value) for _, value in present]:
            raise ValueError("other types of globals")
        for (item, value), (_, bits) in zip(present, values, strict=True):
            if is_number(value):
                set_bits(value, bits)
            elif self.references is not None:
                self.references.set_value(value, None if bits == NULL else bits)
            error = _ffi.wasmtime_global_set(self._context, ctypes.byref(item), ctypes.byref(value))
            if error:
                raise wasmtime.WasmtimeError._from_ptr(error)

    def _globals(self) -> list[tuple[Any, Any]]:
        """Each exported global that is state, and its value."""
        found = []
        for name in self.module.globals:
            item = self._must("global", name).global_
            value = _ffi.wasmtime_val_t()
            _ffi.wasmtime_global_get(self._context, ctypes.byref(item), ctypes.byref(value))
            found.append((item, value))
        return found

    def read_global(self, name: str) -> int:
        """The bits of an exported number; floats as their IEEE pattern."""
        item = self._export(name, _ffi.WASMTIME_EXTERN_GLOBAL.value)
        if item is None:
            raise KeyError(name)
        value: Any = _ffi.wasmtime_val_t()
        _ffi.wasmtime_global_get(self._context, ctypes.byref(item.global_), ctypes.byref(value))
        if int(value.kind) not in _BUILTIN_KINDS:
            raise ValueError(f"{name} is not a number")
        return int(value.of.i64) & (0xFFFFFFFF if int(value.kind) in (0, 2) else 0xFFFFFFFFFFFFFFFF)

    def write_global(self, name: str, bits: int) -> None:
        item = self._export(name, _ffi.WASMTIME_EXTERN_GLOBAL.value)
        if item is None:
            raise KeyError(name)
        value: Any = _ffi.wasmtime_val_t()
        _ffi.wasmtime_global_get(self._context, ctypes.byref(item.global_), ctypes.byref(value))
        value.of.i64 = bits if bits < 1 << 63 else bits - (1 << 64)
        error = _ffi.wasmtime_global_set(self._context, ctypes.byref(item.global_), ctypes.byref(value))
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)

    def stop(self, error: BaseException) -> int:
        """Keep ``error`` for ``call`` and return a trap for the engine (used by the callbacks)."""
        with self._asking:
            self._put_reason(error)
        return trap_new(b"stopped", 7) or 0

    def close(self) -> None:
        """Free everything. ``view`` is void from here on."""
        with self._asking:
            self._request = None
        self.view = memoryview(b"")
        self._array = None
        self._memory = None
        self._store.close()


def _rank(reason: BaseException | None) -> int:
    """Of reasons to come back a higher one takes the place of a lower."""
    if reason is None or isinstance(reason, TurnOver):
        return 0 if reason is None else 1
    return 2 if isinstance(reason, Suspended) else 3


def _absent(*_: int) -> int:
    return 0xFFFFFFFF  # host.call without a host


def _trap_words(trap: wasmtime.Trap) -> str:
    try:
        code = trap.trap_code
    except ValueError:  # a code newer than the binding
        return ""
    return code.name.lower().replace("_", " ") if code is not None else ""
