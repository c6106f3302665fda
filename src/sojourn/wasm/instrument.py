"""The module that the virtual machine runs: the original, plus what a monitor must be able to see.

Three things differ; no index of the original moves, and the same bytes in give the same bytes out:

* every mutable global is exported under a private name, so that the whole state of an instance can be
  read and written from outside;
* the start function is not called by the engine but exported under a private name, so that making an
  instance runs no code of the guest, and a monitor decides when and where that runs;
* a refused ``memory.grow`` leaves a mark. The engine answers -1 for it and says nothing to the host,
  so a monitor could not tell a program that ran out of the memory it was allowed from one that failed by
  itself. After each ``memory.grow`` (a handful per module)::

      memory.grow 0          memory.grow 0
                      ->     global.set $result
                             global.get $result
                             i32.const -1
                             i32.eq
                             global.get $denied
                             i32.or
                             global.set $denied
                             global.get $result

Only functions that contain the byte pair of a ``memory.grow`` are decoded, so this is fast for a module
of a hundred megabytes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from .binary import (
    FUNCTION,
    GLOBAL,
    MalformedModuleError,
    Memory,
    Module,
    Reader,
    SectionId,
    global_mutabilities,
    uleb,
)
from .instructions import instructions

INSTRUMENT_VERSION = 2  # goes up with every change of what comes out
PRIVATE = "sojourn:"  # names that start so are ours
START = PRIVATE + "start"  # exported function: what the module's start section named
DENIED = PRIVATE + "denied"  # exported i32: not zero once a memory.grow was refused

_GROW = 0x40
_I32, _I64 = 0x7F, 0x7E


@dataclass(frozen=True)
class Instrumented:
    """A module ready to be compiled.

    Attributes:
        code: the module's bytes.
        globals: private export names of all mutable globals, in index order.
        memories: the limits of its linear memories.
        code_bytes: the size of its code section.
    """

    code: bytes
    globals: tuple[str, ...]
    memories: tuple[Memory, ...]
    code_bytes: int


def instrument(original: bytes) -> Instrumented:
    """Make the module to run from the original.

    Raises:
        MalformedModuleError: the bytes are no module, or the module uses names that are ours.
    """
    module = Module.parse(original)
    taken = next((name for name, _, _ in module.exports() if name.startswith(PRIVATE)), None)
    if taken is not None:
        raise MalformedModuleError(f"the export {taken!r} is a private name of the virtual machine", 0)
    memories = module.memories()
    imported = sum(1 for item in module.imports() if item.kind == GLOBAL)
    mutable = [imported + index for index, yes in enumerate(global_mutabilities(module)) if yes]
    exports = [(f"{PRIVATE}global:{index}", index) for index in mutable]
    if memories:
        exports.append((DENIED, _mark_refused_growth(module, memories, imported)))
    entries = [_export(name, GLOBAL, index) for name, index in exports]
    start = module.remove(SectionId.START)
    if start is not None:
        entries.append(_export(START, FUNCTION, Reader(start).uleb()))
    module.append_to(SectionId.EXPORT, entries)
    private = tuple(name for name, _ in exports if name != DENIED)
    return Instrumented(module.encode(), private, tuple(memories), len(module.section(SectionId.CODE)))


def _export(name: str, kind: int, index: int) -> bytes:
    encoded = name.encode()
    return uleb(len(encoded)) + encoded + bytes([kind]) + uleb(index)


def _mark_refused_growth(module: Module, memories: list[Memory], imported: int) -> int:
    """Rewrite every ``memory.grow``; return the index of the global that is set when one is refused."""
    first = imported + module.append_to(
        SectionId.GLOBAL,
        [bytes([_I32, 1, 0x41, 0, 0x0B]), bytes([_I32, 1, 0x41, 0, 0x0B]), bytes([_I64, 1, 0x42, 0, 0x0B])],
    )
    denied, result_32, result_64 = first, first + 1, first + 2
    tails = [_mark(denied, result_64 if m.is_64 else result_32, m.is_64) for m in memories]
    code, boundaries = module.bodies()
    parts: list[bytes | memoryview] = [uleb(len(boundaries) - 1)]
    copied = boundaries[0]
    for index in _candidates(code, boundaries, len(memories)):
        start, end = boundaries[index], boundaries[index + 1]
        body = _rewrite(code, start, end, tails)
        parts += [code[copied:start], uleb(len(body)), body]
        copied = end
    if len(parts) > 1:
        parts.append(code[copied : boundaries[-1]])
        module.replace(SectionId.CODE, b"".join(parts))
    return denied


def _mark(denied: int, result: int, is_64: bool) -> bytes:
    """The instructions after a ``memory.grow`` (see the module's docstring)."""
    minus_one, equal = (b"\x42\x7f", b"\x51") if is_64 else (b"\x41\x7f", b"\x46")
    get, put = b"\x23" + uleb(result), b"\x24" + uleb(result)
    return put + get + minus_one + equal + b"\x23" + uleb(denied) + b"\x72\x24" + uleb(denied) + get


def _candidates(code: bytes | memoryview, boundaries: list[int], memories: int) -> list[int]:
    """The bodies that hold the bytes of a ``memory.grow``, in order."""
    if memories > 0x7F:
        return list(range(len(boundaries) - 1))
    pattern = re.compile(b"\x40[\0-" + re.escape(bytes([memories - 1])) + b"]", re.DOTALL)
    found = {bisect_right(boundaries, match.start()) - 1 for match in pattern.finditer(code)}
    return sorted(index for index in found if 0 <= index < len(boundaries) - 1)


def _rewrite(code: bytes | memoryview, start: int, end: int, tails: list[bytes]) -> bytes:
    """One body without its size prefix, with the marks put in."""
    reader = Reader(code, start, end)
    reader.uleb()
    first = copied = reader.pos
    for _ in range(reader.count()):  # groups of locals
        reader.uleb()
        if reader.byte() in (0x63, 0x64):
            reader.skip_leb(5)
    parts: list[bytes | memoryview] = []
    for opcode, offset in instructions(reader):
        if opcode == _GROW:
            memory = Reader(code, offset + 1, end).uleb()
            if memory >= len(tails):
                raise MalformedModuleError(f"memory {memory} does not exist", offset)
            parts += [code[copied : reader.pos], tails[memory]]
            copied = reader.pos
    if reader.pos != end:
        raise MalformedModuleError("bytes after the end of a function", reader.pos)
    return b"".join([*parts, code[copied:end]]) if parts else bytes(code[first:end])
