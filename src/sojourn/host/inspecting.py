"""What a stored process is made of, and where it is, as plain values for people and machines.

Nothing of the process runs and no instance is made: its memory is looked into where it is stored. What is
missing here (the program, the image, compiled code) takes away what depends on it, and only that; the reason
stands in its place. A context may come from anybody: what cannot be a context is one of the three typed
errors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from sojourn.bundle.contents import Bundle
from sojourn.context import Base, BaseKind, Context, Kind, Memory, check_transform
from sojourn.context.memory import CHUNK_BYTES
from sojourn.context.reading import MemoryReader
from sojourn.model.errors import ContextError, GrantError, LimitError, RuntimeUnavailableError, SojournError
from sojourn.model.grants import grant_from_dict
from sojourn.model.limits import Limits
from sojourn.model.program import STDIN
from sojourn.model.progress import Silent
from sojourn.store.checkpoints import Stored
from sojourn.store.home import Home
from sojourn.vm.process.artifacts import find_python
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.images import ImageStore
from sojourn.vm.process.native_frames import module_memory, native_frames
from sojourn.vm.process.python_frames import Frame, NoPythonError, stacks
from sojourn.vm.process.runtime import GUEST_FOLDER, PROGRAM_FOLDER
from sojourn.vm.process.snapshots import TRANSFORM
from sojourn.vm.process.wasi.abi import FdFlags
from sojourn.vm.process.wasi.checking import damaged, fields, items, number, raw, text

from .keeping import Keeper

SOURCE_CHARACTERS_MAX = 200  # of a line that is shown
_CARRIED = "program"
_NS = 1e9
_COUNT_MAX = 1 << 20
_PATH_MAX = 1 << 17


def describe(home: Home, stored: Stored, *, native: bool = False) -> dict[str, Any]:
    """Everything about an open checkpoint.

    Args:
        native: its WebAssembly frames also when it is a Python program, which can take seconds.

    Raises:
        DamagedContextError: it is not what a Sojourn has written.
    """
    return _Inspection(home, stored).described(native)


class _Inspection:
    def __init__(self, home: Home, stored: Stored) -> None:
        self._home = home
        self._stored = stored
        self._context = stored.context

    @cached_property
    def _bundle(self) -> Bundle | ContextError:
        """The program, or why it is not to be had."""
        try:
            return Keeper(self._home).program_of(self._context)
        except ContextError as error:
            return error
        except SojournError as error:
            raise damaged(error.message) from None

    @cached_property
    def _command(self) -> bool | None:
        """Whether it is a WebAssembly command; None when that cannot be told."""
        if isinstance(self._bundle, Bundle):
            return self._bundle.program.entry.kind == "wasm"
        return None

    def described(self, native: bool) -> dict[str, Any]:
        context = self._context
        python, python_problem = self._python()
        frames, native_problem = self._native() if native or python is None else (None, "")
        return {
            "checkpoint": self._stored.digest,
            "pid": context.pid,
            "created_s": context.created_ns / _NS,
            "epoch": context.epoch,
            "sequence": context.sequence,
            "parent": context.parent,
            "level": context.level,
            "transform": context.transform,
            "runtime": context.runtime,
            "program": self._program(),
            **_started(context),
            "memory": [_memory(memory) for memory in context.memories],
            "globals": len(context.globals),
            "tables": [{"index": t.index, "size": t.size, "changes": len(t.changes)} for t in context.tables],
            "bytes": self._bytes(),
            "descriptors": _descriptors(context.system),
            "mounts": _mounts(context.system),
            "grants": _grants(context),
            "secrets": list(context.secrets),
            "limits": _limits(context),
            "used": _used(context),
            "clocks": {
                "monotonic_s": context.monotonic_ns / _NS,
                "realtime_s": context.realtime_ns / _NS,
            },
            "waits_in": _left_call(context.system),
            "python": python,
            "python_problem": python_problem,
            "native": frames,
            "native_problem": native_problem,
        }

    def _program(self) -> dict[str, Any]:
        found: dict[str, Any] = {"digest": self._context.program, "entry": None, "problem": ""}
        if isinstance(self._bundle, Bundle):
            entry = self._bundle.program.entry
            found["entry"] = {"kind": entry.kind, "target": entry.target}
        else:
            found["problem"] = self._bundle.message
        return found

    def _bytes(self) -> dict[str, int]:
        """How many bytes each part takes, stored. Packs may be shared with other checkpoints."""
        found = dict(self._stored.section_bytes)
        carried = self._context.system.get(_CARRIED)
        if isinstance(carried, bytes):
            found["program"] = len(carried)
            found["system"] -= len(carried)
        found["chunks"] = sum(pack.index.size_bytes for pack in self._stored.packs)
        found["total"] = sum(found.values())
        return found

    # frames

    def _native(self) -> tuple[list[dict[str, Any]] | None, str]:
        context = self._context
        try:
            check_transform(context, TRANSFORM)
            digest, read = self._module()
            modules = CompiledModules(self._home, Silent())
            return [vars(frame) for frame in native_frames(modules, digest, read, context.records)], ""
        except SojournError as error:
            return None, error.message

    def _module(self) -> tuple[str, Callable[[], bytes]]:
        """The name and the bytes of the module whose frames they are.

        Raises:
            SojournError: it is not here.
        """
        if isinstance(self._bundle, ContextError):
            raise self._bundle
        if self._command:
            entry, code = self._bundle.program.entry, self._bundle.contents
            digest = next(file.digest for file in self._bundle.program.files if file.name == entry.target)
            if digest != self._context.runtime:
                raise ContextError("its module is another one than the program's")
            return digest, lambda: code[entry.target]
        artifacts = find_python()
        if artifacts.digest != self._context.runtime:
            raise RuntimeUnavailableError("the Python runtime here is another one than the process's")
        return artifacts.module_digest, artifacts.read_module

    def _python(self) -> tuple[dict[str, Any] | None, str]:
        """What a Python program is doing; a command may be a Python too."""
        if not self._context.memories:
            return None, "it has no memory"
        memory = self._context.memories[0]
        try:
            found = stacks(MemoryReader(memory, self._stored.chunk, self._base(memory.base)))
        except NoPythonError as error:
            return None, str(error)
        sources = _Sources(self._bundle)
        return {
            "version": found.version,
            "threads": [[sources.shown(frame) for frame in frames] for frames in found.threads],
            "cut": found.cut,
        }, ""

    def _base(self, base: Base) -> Callable[[int, int], bytes | memoryview] | None:
        """Reads what a memory was set up from, when that is here."""
        if base.kind is BaseKind.IMAGE:
            image = ImageStore(self._home).find_content(base.digest)
            if image is None or image.info.bytes != base.size_bytes:
                return None
            view = image.view()
            return lambda offset, size: view[offset : offset + size]
        if base.kind is BaseKind.MODULE and isinstance(self._bundle, Bundle):
            code = {file.digest: file.name for file in self._bundle.program.files}.get(base.digest)
            return None if code is None else module_memory(self._bundle.contents[code])
        return None


class _Sources:
    """Finds the lines of a program's text."""

    def __init__(self, bundle: Bundle | ContextError) -> None:
        self._contents = bundle.contents if isinstance(bundle, Bundle) else {}
        self._code = ""
        if isinstance(bundle, Bundle) and bundle.program.entry.kind == "code":
            self._code = bundle.program.entry.target
        self._lines: dict[str, list[str]] = {}

    def shown(self, frame: Frame) -> dict[str, Any]:
        return {
            **vars(frame),
            "source": self._source(frame.file, frame.line),
            "internal": frame.file.startswith(GUEST_FOLDER + "/"),
        }

    def _source(self, file: str, line: int | None) -> str | None:
        """The text of a line, without the space around it; None when it is not at hand."""
        if file not in self._lines:
            self._lines[file] = self._text(file).splitlines()
        lines = self._lines[file]
        if line is None or line > len(lines):
            return None
        return lines[line - 1].strip()[:SOURCE_CHARACTERS_MAX]

    def _text(self, file: str) -> str:
        if file == "<string>":
            return self._code
        data = self._contents.get(STDIN if file == STDIN else file.removeprefix(PROGRAM_FOLDER + "/"), b"")
        return data.decode("utf-8-sig", "replace")


# -- parts of a context that its own checks leave to whoever restores them -----------------------------


def _started(context: Context) -> dict[str, Any]:
    host = context.system.get("host")
    if type(host) is not dict or type(host.get("args")) is not list:
        raise damaged("it does not say what was started")
    return {"name": str(host.get("name", "")), "args": [str(arg) for arg in host["args"]]}


def _memory(memory: Memory) -> dict[str, Any]:
    return {
        "bytes": memory.size_bytes,
        "base": {"kind": str(memory.base.kind), "digest": memory.base.digest},
        "zero_bytes": memory.bytes_of(Kind.ZERO),
        "base_bytes": memory.bytes_of(Kind.BASE),
        "own_bytes": memory.bytes_of(Kind.STORED),
        "own_chunks": memory.bytes_of(Kind.STORED) // CHUNK_BYTES,
    }


def _descriptors(system: dict[str, Any]) -> list[dict[str, Any]]:
    state = system.get("descriptors")
    if type(state) is not dict:
        raise damaged("it has no descriptors")
    return [_descriptor(row) for row in items(state.get("open"), "the list of descriptors", _COUNT_MAX)]


def _descriptor(row: Any) -> dict[str, Any]:
    if type(row) is not dict:
        raise damaged("a descriptor is none")
    shown: dict[str, Any] = {
        "number": number(row.get("number"), "the number of a descriptor"),
        "kind": text(row.get("kind"), "the kind of a descriptor", _PATH_MAX),
        "flags": _flags(number(row.get("flags"), "the flags of a descriptor")),
        "path": None,
        "mount": None,
        "stream": None,
        "offset": None,
    }
    if "role" in row:
        shown["stream"] = text(row["role"], "the role of a stream", _PATH_MAX)
    else:
        shown["path"] = _path(raw(row.get("path"), "the path of a descriptor"))
    if "offset" in row:
        shown["offset"] = number(row["offset"], "an offset")
    place = row.get("place")
    if type(place) is dict:
        shown["mount"] = text(place.get("mount"), "a mount", _PATH_MAX) or "private"
    return shown


def _flags(value: int) -> list[str]:
    return [str(flag.name).lower() for flag in FdFlags if value & flag]


def _path(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _mounts(system: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for row in items(system.get("mounts"), "the list of mounts", _COUNT_MAX):
        mount = fields(row, ("path", "file", "device", "writable", "placeholder"), "a mount")
        found.append(
            {
                "path": text(mount["path"], "the path of a mount", _PATH_MAX),
                "kind": "file" if mount["file"] else "directory",
                "writable": bool(mount["writable"]),
            }
        )
    return found


def _grants(context: Context) -> list[dict[str, Any]]:
    try:
        return [grant_from_dict(grant).to_dict() for grant in context.grants]
    except GrantError as error:
        raise damaged(error.message) from None


def _limits(context: Context) -> dict[str, Any]:
    try:
        return Limits.from_dict(context.limits).to_dict()
    except LimitError as error:
        raise damaged(error.message) from None


def _used(context: Context) -> dict[str, Any]:
    system = context.system
    clocks = fields(system.get("clocks"), ("monotonic_ns", "wall_ns", "cpu_ns"), "the clocks")
    usage = fields(system.get("usage"), ("output_bytes", "file_bytes"), "what was used")
    return {
        "memory_bytes": sum(memory.size_bytes for memory in context.memories),
        "cpu_seconds": number(clocks["cpu_ns"], "the processor time") / _NS,
        "wall_seconds": number(clocks["wall_ns"], "the wall time") / _NS,
        "output_bytes": number(usage["output_bytes"], "the output so far"),
        "file_bytes": number(usage["file_bytes"], "the bytes of files"),
        "descriptors": len(items(system["descriptors"]["open"], "the descriptors", _COUNT_MAX)),
        "host_calls": number(system.get("host_calls"), "the host calls"),
    }


def _left_call(system: dict[str, Any]) -> str | None:
    """The system call in which it waits, when that has a state of its own."""
    state = system.get("left_call")
    if state is None:
        return None
    if type(state) is not dict:
        raise damaged("a call was left that does not exist")
    return text(state.get("name"), "the call that was left", _PATH_MAX)
