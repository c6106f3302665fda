"""The same program in the forms that its resumable form is measured against.

*original*: our host, our system calls, our marks, but code that can never be left. *resumable*: what runs.
*Asyncify*: the original after ``wasm-opt --asyncify -O2``, told which imports may leave (the same as here).
It has no polls: a loop that calls nothing cannot be left, and costs it nothing either. *Asyncify with polls*
can be stopped where ours can: before it, a test of a flag in memory, and behind that a call of an import,
was put at the head of each loop and at the entry of each function that calls itself. *epochs*: the original
compiled with wasmtime's epoch interruption; the deadline is never reached, which is the best case for it.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import wasmtime
from wasmtime import _bindings, _ffi

from sojourn.model.limits import Limits
from sojourn.store.files import write_verified
from sojourn.vm.process import engine as instances
from sojourn.vm.process import engine_modules
from sojourn.vm.process.command import Command
from sojourn.vm.process.compiled import CompiledModules, apart
from sojourn.vm.process.engine import CompiledModule, compile_module, fingerprint
from sojourn.vm.process.preparing import SUSPENDING, VERSION, prepare
from sojourn.vm.process.resuming import ModuleResumer
from sojourn.vm.process.streams import Collected, Given, Streams
from sojourn.vm.process.virtual_machine import VirtualMachine
from sojourn.wasm import instrument

ORIGINAL, RESUMABLE, EPOCHS = "original", "resumable", "epochs"
ASYNCIFY, POLLED = "Asyncify", "Asyncify with polls"
VARIANTS = (ORIGINAL, RESUMABLE, ASYNCIFY, POLLED, EPOCHS)
_TICK_S = 0.01
_NEVER = 1 << 40
_FLAG = 64  # an address below all data of a C program
_POLL_IMPORT = '(import "wasi_snapshot_preview1" "sched_yield" (func $poll (result i32)))'
_POLL = f"(if (i32.load (i32.const {_FLAG})) (drop (call $poll)))"


# -- modules -----------------------------------------------------------------------------------------


def compile_c(source: Path, folder: Path) -> bytes:
    """A C program as a WASI command, made with Debian's clang and wasi-libc."""
    target = folder / f"{source.stem}.wasm"
    command = ["clang", "--target=wasm32-wasi", "-O2", str(source), "-o", str(target), "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    return target.read_bytes()


def asyncified(code: bytes, *, polls: bool = False) -> bytes:
    """``code`` after Binaryen's Asyncify."""
    imports = ",".join(f"{module}.{name}" for module, name in sorted(SUSPENDING))
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.wasm", Path(folder) / "after.wasm"
        before.write_bytes(code)
        if polls:
            text = Path(folder) / "before.wat"
            subprocess.run(["wasm-opt", str(before), "-S", "-o", str(text)], check=True, capture_output=True)
            text.write_text(with_polls(text.read_text()))
            before = text
        choice = f"--pass-arg=asyncify-imports@{imports}"
        command = ["wasm-opt", str(before), "--asyncify", choice, "-O2", "-o", str(after)]
        subprocess.run(command, check=True, capture_output=True)
        return after.read_bytes()


def with_polls(text: str) -> str:
    """Put a poll at the head of each loop, and at the entry of each function that calls itself. ``text`` is
    a module as ``wasm-opt -S`` writes it, one item a line, two spaces deep."""
    functions = re.split(r"(?m)^(?= \(func \$)", text)
    made = [functions[0].replace("(module\n", "(module\n " + _POLL_IMPORT + "\n", 1)]
    for function in functions[1:]:
        name = re.match(r" \(func (\$\S+)", function)
        assert name is not None
        polled = re.sub(r"(\(loop(?: \$[^\s()]+)?(?: \(result [^)]*\))?)", rf"\1 {_POLL}", function)
        if re.search(rf"\(call {re.escape(name[1])}(?=[\s)])", function):
            lines = polled.split("\n")
            first = next(n for n, line in enumerate(lines[1:], 1) if not line.startswith("  (local "))
            lines.insert(first, "  " + _POLL)
            polled = "\n".join(lines)
        made.append(polled)
    return "".join(made)


# -- engines -----------------------------------------------------------------------------------------


@cache
def _epoch_engine() -> wasmtime.Engine:
    """As ``engine_modules.engine``, with epochs; a thread moves them on for as long as this process lives."""
    config = wasmtime.Config()
    config.wasm_memory64 = True
    config.epoch_interruption = True
    _bindings.wasmtime_config_wasm_branch_hinting_set(config.ptr(), True)
    stack = engine_modules.WASM_STACK_BYTES
    _ffi.wasmtime_config_async_stack_size_set(config.ptr(), stack + (2 << 20))
    config.max_wasm_stack = stack
    engine = wasmtime.Engine(config)

    def tick() -> None:
        while not _stopping.wait(_TICK_S):
            engine.increment_epoch()

    threading.Thread(target=tick, name="epochs", daemon=True).start()
    return engine


_stopping = threading.Event()
_epoch_linker = cache(engine_modules._linker.__wrapped__)


class _PatientStore(wasmtime.Store):
    """One whose deadline never comes: even instantiation is checked against it."""

    def __init__(self, engine: wasmtime.Engine) -> None:
        super().__init__(engine)
        self.set_epoch_deadline(_NEVER)


@contextmanager
def _with_epochs(wanted: bool) -> Iterator[None]:
    """What is compiled and instantiated meanwhile belongs to the engine with epochs."""
    if not wanted:
        yield
        return
    with (
        mock.patch.object(engine_modules, "engine", _epoch_engine),
        mock.patch.object(instances, "engine", _epoch_engine),
        mock.patch.object(engine_modules, "_linker", _epoch_linker),
        mock.patch.object(wasmtime, "Store", _PatientStore),
    ):
        yield


# -- programs ----------------------------------------------------------------------------------------


class _Given:
    """Stands for ``CompiledModules`` when the module is made already."""

    def __init__(self, module: CompiledModule) -> None:
        self._module = module

    def get(self, _digest: str, _read: Any, _what: str) -> CompiledModule:
        return self._module


class _TwinsInMemory:
    def find(self, _key: str) -> None:
        return None

    def save(self, _key: str, _twin: Any) -> None:
        return None


class CProgram:
    """One C program in one of ``VARIANTS``, ready to run."""

    def __init__(self, name: str, code: bytes, variant: str) -> None:
        self.name, self.variant = name, variant
        if variant in (ASYNCIFY, POLLED):
            code = asyncified(code, polls=variant == POLLED)
        self.digest = hashlib.sha256(code).hexdigest()
        prepared = prepare(code, inert=variant != RESUMABLE)
        self.code_bytes = prepared.code_bytes
        with _with_epochs(variant == EPOCHS):
            self.module = compile_module(prepared)
        self.module.resumer = ModuleResumer(
            lambda: instrument(code).code, prepared.facts, self.digest, _TwinsInMemory()
        )
        self.command = Command(_Given(self.module), name, self.digest, code)  # type: ignore[arg-type]

    def start(self, output: Collected, context: Any = None) -> VirtualMachine:
        with _with_epochs(self.variant == EPOCHS):
            return self.command.start((), {}, Limits(), Streams(Given(), output, output), {}, (), context)


class InertModules(CompiledModules):
    """As ``CompiledModules``, of modules that can never be left. They are kept in the same directory, under
    names of their own: the Python runtime's takes a minute or two of processor time to compile."""

    def path(self, digest: str) -> Path:
        return self._path(f"inert {digest} {VERSION} {fingerprint()}")

    def _compile(self, path: Path, original: bytes, what: str) -> CompiledModule:
        prepared = prepare(original, inert=True)
        module = apart(lambda: compile_module(prepared))
        write_verified(path.with_suffix(".facts"), prepared.facts.encode())
        write_verified(path, module.serialize())
        return module
