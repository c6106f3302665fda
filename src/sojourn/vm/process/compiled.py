"""Compiled modules, kept on disk.

Compiling takes seconds to a minute, mapping compiled code milliseconds. An entry's name covers everything
that its content depends on: the module, how we change it, the engine, the CPU, the configuration.
Compiled code is machine code that is run as it is, so an entry is loaded only when every byte of it is
known to be ours (``store.files``); anything else is thrown away and made anew. Concurrent processes compile
a module once: the others wait.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
import weakref
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import TypeVar

from sojourn.model.errors import ModuleError
from sojourn.model.progress import Progress
from sojourn.store.files import remove_verified, translated, verified, write_verified
from sojourn.store.home import Home, need_space, try_lock
from sojourn.wasm import Module, instrument

from .analysed import analysis_of
from .cache import CODE_SUFFIX, hold, touch
from .engine import (
    CompiledModule,
    TwinModule,
    check_valid,
    compile_module,
    fingerprint,
    load_module,
    load_twin,
)
from .parting import Parts
from .partition import Recorded, deferred, recorded
from .preparing import VERSION, Facts, Prepared, decode_plan, encode_plan, prepare
from .resuming import ModuleResumer

T = TypeVar("T")
MODULE_BYTES_MAX = 512 << 20
ANALYSED_BYTES_MAX = 4 << 20  # two seconds, to show the frames of a module that was not compiled here
COMPILED_BYTES_PER_BYTE = 6  # compiled code, for a byte of the original module, at most
_CPU_SECONDS_PER_BYTE = 1.7e-6  # of the runtime, changed and compiled, where _CALIBRATION_S was measured
_CALIBRATION_S = 0.034
_STEP_S = 0.2
_FACTS, _PLAN = ".facts", ".plan"
SPLIT_VERSION = 3  # goes up with every change of how the base and the parts of a split module are made
# What the base of a split module costs, in bytes of a module: what runs at the start is changed on one
# processor, and each of the other functions has a gap.
_RESIDENT_TIMES, _GAP_BYTES = 1.2, 9
_log = logging.getLogger(__name__)


class CompiledModules:
    """The compiled modules of one home, in memory and on disk. Safe to use from several threads."""

    def __init__(self, home: Home, progress: Progress) -> None:
        self._home = home
        self._progress = progress
        self._lock = threading.Lock()
        self._loaded: dict[str, CompiledModule] = {}

    def get(self, digest: str, read: Callable[[], bytes], what: str) -> CompiledModule:
        """The compiled form of the module with ``digest``, from memory, disk or the compiler.

        Args:
            digest: names the original module's bytes.
            read: gives those bytes, when they are needed.
            what: what a person is told is being compiled.

        Raises:
            ModuleError: not a module, or one that cannot run here.
        """
        with self._lock:
            module = self._loaded.get(digest)
        if module is None:
            module = self._find(digest, read, what)
            with self._lock:
                module = self._loaded.setdefault(digest, module)
        return module

    @property
    def scratch(self) -> Path:
        """A folder for files that are not kept."""
        return self._home.tmp

    def path(self, digest: str) -> Path:
        """Where the compiled form of the whole module lies, when it is there."""
        return self._path(_key(digest))

    def facts_path(self, digest: str) -> Path:
        """Where the facts about that lie."""
        return self.path(digest).with_suffix(_FACTS)

    def whole(self, digest: str, read: Callable[[], bytes], what: str) -> Path:
        """``path``, compiled now when it is not there; also of a module that is otherwise split.

        Raises:
            ModuleError: it cannot be compiled.
        """
        path = self.path(digest)
        if self._load(path) is None:
            with self._locked(path, what):
                if self._load(path) is None:
                    self._compile(digest, read(), what)
        return path

    def put(self, digest: str, facts: bytes, code: bytes | bytearray) -> None:
        """Take the compiled form of a whole module from somebody who is trusted (``handover``).

        Raises:
            ValueError: the engine cannot use it; nothing of it is kept.
            StoreError: the cache cannot be written.
        """
        path = self.path(digest)
        with self._locked(path, "compiled code"):
            write_verified(path.with_suffix(_FACTS), facts)
            write_verified(path, code)
            if self._load(path) is None:
                remove_verified(path)
                remove_verified(path.with_suffix(_FACTS))
                raise ValueError("it is not what it says")

    def split_path(self, digest: str) -> Path | None:
        """Where that of the base of the split module lies; None for a module that is never split."""
        record = recorded(digest)
        return None if record is None else self._path(_split_key(digest, record))

    def complete(self, digest: str, read: Callable[[], bytes], what: str) -> bool:
        """Compile the whole of a module that is in use split, unless somebody is at it.

        Returns:
            Whether it is there now.

        Raises:
            ModuleError: it cannot be compiled.
        """
        path = self.path(digest)
        with translated(path):
            held = try_lock(self._home.locks / path.stem)
        if held is None:
            return False
        try:
            if self._load(path) is None:
                self._compile(digest, read(), what)
            return True
        finally:
            with suppress(OSError):
                (self._home.locks / path.stem).unlink()
            os.close(held)

    def _path(self, key: str) -> Path:
        return self._home.cache / (hashlib.sha256(key.encode()).hexdigest() + CODE_SUFFIX)

    def _find(self, digest: str, read: Callable[[], bytes], what: str) -> CompiledModule:
        path, record = self.path(digest), recorded(digest)
        module = self._load(path)
        if module is None and record is not None:
            module = self._split(digest, record, read, what)
        if module is None:
            with self._locked(path, what):
                module = self._load(path)  # another process may have made it meanwhile
                if module is None:
                    module = self._compile(digest, read(), what)
                    _hold(module, path)
        key = _key(digest) if module.parts is None or record is None else _split_key(digest, record)
        module.resumer = self._resumer(read, module.facts, key, split=module.parts is not None)
        return module

    def _resumer(
        self, read: Callable[[], bytes], facts: Facts, key: str, *, split: bool = False
    ) -> ModuleResumer:
        files = _TwinFiles(self._path)
        return ModuleResumer(lambda: instrument(read()).code, facts, key, files, split=split)

    def frame_reader(self, digest: str, read: Callable[[], bytes]) -> ModuleResumer | None:
        """What tells the frames of a module that was left, without compiling anything. None when it was never
        compiled here, and is too large to find out now where it can be left.

        Raises:
            ModuleError: not a module, or one that cannot run here.
        """
        record = recorded(digest)
        for key in (_key(digest), *(() if record is None else (_split_key(digest, record),))):
            path = self._path(key).with_suffix(_FACTS)
            if verified(path):
                with suppress(ValueError, OSError):
                    return self._resumer(read, Facts.decode(path.read_bytes()), key)
        original = read()
        if len(original) > ANALYSED_BYTES_MAX:
            return None
        check_valid(original)
        return self._resumer(read, prepare(original).facts, _key(digest))

    def _locked(self, path: Path, what: str) -> AbstractContextManager[None]:
        return self._home.lock(
            path.stem, waiting=lambda: self._progress.begin(f"waiting for {what}", None, None)
        )

    def _split(self, digest: str, record: Recorded, read: Callable[[], bytes], what: str) -> CompiledModule:
        """The base of a module that is split, and where its parts come from."""
        key = _split_key(digest, record)
        path = self._path(key)
        module, made = self._load_base(path), None
        if module is None:
            with self._locked(path, what):
                module = self._load_base(path)
                if module is None:
                    module, made = self._compile_base(digest, record, read(), what)
                    _hold(module, path)
        module.parts = Parts(
            lambda: instrument(read()).code,
            module.facts,
            lambda: decode_plan(path.with_suffix(_PLAN).read_bytes()),
            record.parts_for,
            _PartFiles(_TwinFiles(self._path), key, lambda name: self._home.lock(self._path(name).stem)),
            None if made is None else made.marked,
        )
        return module

    def _load_base(self, path: Path) -> CompiledModule | None:
        return self._load(path) if verified(path.with_suffix(_PLAN)) else None

    def _load(self, path: Path) -> CompiledModule | None:
        held = hold(path)
        if held is None:
            return None
        module = self._load_held(path)
        if module is None:
            os.close(held)
        else:
            touch(path)
            weakref.finalize(module, os.close, held)
        return module

    def _load_held(self, path: Path) -> CompiledModule | None:
        facts_path = path.with_suffix(_FACTS)
        if not verified(path) or not verified(facts_path):
            return None
        try:
            return load_module(str(path), Facts.decode(facts_path.read_bytes()))
        except (ValueError, OSError) as error:
            _log.warning("compiled module %s is not for this engine (%s); making it anew", path, error)
            return None

    def _compile(self, digest: str, original: bytes, what: str) -> CompiledModule:
        """Compile a whole module."""
        self._check_size(original, what)
        check_valid(original)
        with shown(self._progress, f"compiling {what}", lambda: estimate_s(len(original))):
            prepared = prepare(original, analysis=analysis_of(digest))
            module = apart(lambda: compile_module(prepared))
        self._keep(self.path(digest), prepared, module)
        return module

    def _compile_base(
        self, digest: str, record: Recorded, original: bytes, what: str
    ) -> tuple[CompiledModule, Prepared]:
        """Compile the base of a module that is split. The module is known to be valid, as it was recorded;
        whatever is compiled is validated again."""
        self._check_size(original, what)
        with shown(self._progress, f"compiling {what}", lambda: base_estimate_s(original, record)):
            prepared = prepare(
                original, split=lambda marked: deferred(record, marked), analysis=analysis_of(digest)
            )
            module = apart(lambda: compile_module(prepared))
        path = self._path(_split_key(digest, record))
        assert prepared.plan is not None
        write_verified(path.with_suffix(_PLAN), encode_plan(prepared.plan))
        self._keep(path, prepared, module)
        return module, prepared

    def _check_size(self, original: bytes, what: str) -> None:
        if len(original) > MODULE_BYTES_MAX:
            raise ModuleError(f"a module of {len(original):,} bytes; the most is {MODULE_BYTES_MAX:,}")
        need_space(self._home.cache, COMPILED_BYTES_PER_BYTE * len(original), f"compiling {what}")

    def _keep(self, path: Path, prepared: Prepared, module: CompiledModule) -> None:
        write_verified(path.with_suffix(_FACTS), prepared.facts.encode())
        write_verified(path, module.serialize())


class _PartFiles:
    """Compiled parts in files, as twins are."""

    def __init__(
        self, files: _TwinFiles, key: str, lock: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        self._files = files
        self._key = key
        self._lock = lock

    def find(self, number: int) -> TwinModule | None:
        return self._files.find(self._name(number))

    def save(self, number: int, part: TwinModule) -> None:
        self._files.save(self._name(number), part)

    def lock(self, number: int) -> AbstractContextManager[None]:
        return self._lock(self._name(number))

    def _name(self, number: int) -> str:
        return f"{self._key} part {number}"


class _TwinFiles:
    """Compiled twins in files beside their modules: the code, the size of its record, what it imports."""

    def __init__(self, path: Callable[[str], Path]) -> None:
        self._path = path

    def find(self, key: str) -> TwinModule | None:
        path = self._path(key)
        names = path.with_suffix(_FACTS)
        if not verified(path) or not verified(names):
            return None
        try:
            size, *taken = names.read_text().split()
            twin = load_twin(str(path), taken, int(size))
            touch(path)
            return twin
        except (ValueError, OSError):
            return None

    def save(self, key: str, twin: TwinModule) -> None:
        path = self._path(key)
        facts = b"\n".join((str(twin.record_bytes).encode(), *twin.names))
        write_verified(path.with_suffix(_FACTS), facts)
        write_verified(path, twin.serialize())


def _hold(module: CompiledModule, path: Path) -> None:
    """Keep in the cache what was just compiled, as long as it is in use: more is read of it later."""
    held = hold(path)
    if held is not None:
        weakref.finalize(module, os.close, held)


def _key(digest: str) -> str:
    """Names a module, how it is changed before it is compiled, and what compiled code depends on."""
    return f"{digest} {VERSION} {fingerprint()}"


def _split_key(digest: str, record: Recorded) -> str:
    return f"{_key(digest)} split-{SPLIT_VERSION} {record.digest}"


def base_estimate_s(original: bytes, record: Recorded) -> float | None:
    """As ``estimate_s``, for the base of a module that is split."""
    _, starts = Module.parse(original).bodies()
    resident = len(record.layers[0].functions) / max(1, len(starts)) * starts[-1]
    return estimate_s(int(_RESIDENT_TIMES * resident + _GAP_BYTES * len(starts)))


def estimate_s(module_bytes: int) -> float | None:
    """How long changing and compiling will take here: the known cost a byte, scaled by a small module
    compiled now. None when it is too short to matter."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    usual = module_bytes * _CPU_SECONDS_PER_BYTE / cpus
    return usual * (_measure() / _CALIBRATION_S) if usual > 2 else None


def _measure() -> float:
    """Seconds for compiling a fixed, small module: more when others use the processors."""
    one = bytes([0x41, 1, 0x41, 2, 0x6A, 0x41, 3, 0x6C, 0x1A])  # (1 + 2) * 3, dropped
    body = b"\0" + one * 400 + b"\x0b"
    size = len(body).to_bytes(2, "little")
    sized = bytes([size[0] & 0x7F | 0x80, (len(body) >> 7) & 0x7F]) + body
    count = 100
    code = bytes([count]) + sized * count
    length = bytes([len(code) & 0x7F | 0x80, len(code) >> 7 & 0x7F | 0x80, len(code) >> 14])
    functions = bytes([count]) + bytes(count)
    module = (
        b"\0asm\1\0\0\0\x01\x04\x01\x60\0\0\x03"
        + bytes([len(functions)])
        + functions
        + b"\x0a"
        + length
        + code
    )
    check_valid(module)  # the first pays for starting the engine
    return median(_timed(module) for _ in range(3))


def _timed(module: bytes) -> float:
    prepared = prepare(module)
    begun = time.perf_counter()
    compile_module(prepared)
    return time.perf_counter() - begun


def apart(work: Callable[[], T]) -> T:
    """Do ``work`` on another thread. A signal that comes meanwhile is handled at once, though the compiler
    does not know of it; what the handler raises ends the wait, and the work goes on unheeded.

    The wait is on a plain lock: conditions, events and the start of a ``Thread`` are Python code, and break
    when a handler raises in the middle of them. It is short, and made again: a signal that comes just before
    a wait begins does not end it.
    """
    result: Future[T] = Future()
    working = allocate_lock()
    working.acquire()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            result.set_exception(error)
        finally:
            working.release()

    start_new_thread(run, ())
    while not working.acquire(timeout=_STEP_S):
        pass
    return result.result()


@contextmanager
def shown(progress: Progress, what: str, estimate: Callable[[], float | None]) -> Iterator[None]:
    """Show that something of estimated length is going on, from a thread, while the body runs."""
    seconds = estimate()
    progress.begin(what, seconds, seconds)
    done = threading.Event()

    def tick() -> None:
        while not done.wait(_STEP_S):
            progress.advance(_STEP_S)

    ticker = threading.Thread(target=tick, name="sojourn-progress", daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()
        progress.end()
