"""The process context: all that is needed to go on elsewhere, as plain data.

Knows no engine, no file and no clock: what a component saves comes in as data, the time as an argument. A
context that exists is within its bounds: ``Context`` checks itself when it is made, whoever makes it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .memory import MEMORY_BYTES_MAX, Memory

RECORDS_BYTES_MAX = 256 << 20
FRAMES_MAX = 1 << 20
SYSTEM_BYTES_MAX = 1 << 30
MEMORIES_MAX = 16
PACKS_MAX = 16
GLOBALS_MAX = 1 << 16
TABLES_MAX = 64
TABLE_ELEMENTS_MAX = 1 << 24
CHANGES_MAX = 1 << 20
SEGMENTS_MAX = 1 << 20
GRANTS_MAX = 4096
LEVEL = "process"
# References are functions by their index, or -1 for null.
VALUE_BYTES = {"i32": 4, "i64": 8, "f32": 4, "f64": 8, "v128": 16, "funcref": 4, "externref": 4}
_U32, _I64_MOST = (1 << 32) - 1, (1 << 63) - 1
_DIGEST = re.compile(r"(?:[a-z0-9]{1,16}:)?[0-9a-f]{64}")
_NAME = re.compile(r"[0-9a-f]{64}")
_PID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")


@dataclass(frozen=True)
class Global:
    """A mutable global: its type and its bits (floats as their IEEE pattern, v128 as one number)."""

    type: str
    bits: int

    def __post_init__(self) -> None:
        if self.type not in VALUE_BYTES or not 0 <= self.bits < 1 << 8 * VALUE_BYTES[self.type]:
            raise ValueError(f"a global {self.type} of {self.bits:#x}")


@dataclass(frozen=True)
class Table:
    """A table that is not as instantiation makes it.

    Attributes:
        index: which table.
        size: its elements now.
        changes: (index of the element, index of the function or None), in order.
    """

    index: int
    size: int
    changes: tuple[tuple[int, int | None], ...] = ()

    def __post_init__(self) -> None:
        _check_number(self.index, TABLES_MAX - 1, "a table's index")
        _check_number(self.size, TABLE_ELEMENTS_MAX, "a table's size")
        _check_increasing([element for element, _ in self.changes], self.size - 1, "a table's changes")
        for _, function in self.changes:
            if function is not None:
                _check_number(function, _U32 - 1, "a function's index")


@dataclass(frozen=True)
class Context:
    """A process between two instructions.

    Attributes:
        program: digest of the program.
        runtime: SHA-256 of the original module, in hexadecimal.
        transform: the version of the transform that the frames belong to.
        pid: the process.
        created_ns: when the context was made, nanoseconds since 1970.
        epoch: counts the owners of the process.
        sequence: counts the checkpoints of the process.
        parent: digest of the checkpoint that this one was made after, or that the process was forked from.
        level: of the monitor; always ``process``.
        grants, limits: as their own ``to_dict`` gives them.
        secrets: names of the secrets to bind again. Never values.
        memories: the linear memories, in order.
        packs: names of the packs with the stored chunks; those of a file that holds its own are in it.
        globals: the mutable globals, in the order in which the base module exports them.
        tables: those that instantiation does not make as they are; one behind all of the program's holds what
            the frames refer to.
        dropped_elements, dropped_data: segments that were dropped, increasing.
        records: the records of all frames, the innermost first, as the module saved them.
        frames: (function, site) of each record, for people, outermost first; empty when nobody has looked.
        system: what each component of the virtual system calls saved.
        output_bytes: how much of its output has been released.
        monotonic_ns: what the process's monotonic clock showed.
        realtime_ns: what its real-time clock showed, nanoseconds since 1970.

    Raises:
        ValueError: it does not hold together, or is out of bounds.
    """

    program: str
    runtime: str
    transform: int
    pid: str
    created_ns: int
    epoch: int = 1
    sequence: int = 0
    parent: str | None = None
    level: str = LEVEL
    grants: list[dict[str, Any]] = field(default_factory=list)
    limits: dict[str, Any] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    memories: tuple[Memory, ...] = ()
    packs: tuple[str, ...] = ()
    globals: tuple[Global, ...] = ()
    tables: tuple[Table, ...] = ()
    dropped_elements: tuple[int, ...] = ()
    dropped_data: tuple[int, ...] = ()
    records: bytes = b""
    frames: tuple[tuple[int, int], ...] = ()
    system: dict[str, Any] = field(default_factory=dict)
    output_bytes: int = 0
    monotonic_ns: int = 0
    realtime_ns: int = 0

    def __post_init__(self) -> None:
        _match(_DIGEST, "program", self.program)
        _match(_DIGEST, "runtime", self.runtime)
        _match(_PID, "pid", self.pid)
        if self.parent is not None:
            _match(_DIGEST, "parent", self.parent)
        if self.level != LEVEL:
            raise ValueError(f"a context of the level {self.level!r}")
        _check_number(self.transform, _U32, "transform")
        for name in ("created_ns", "epoch", "sequence", "output_bytes", "monotonic_ns", "realtime_ns"):
            _check_number(getattr(self, name), _I64_MOST, name)
        self._check_resources()
        self._check_state()
        self._check_frames()

    def _check_resources(self) -> None:
        _check_count(self.grants, GRANTS_MAX, "grants")
        _check_count(self.secrets, GRANTS_MAX, "secrets")
        if not all(type(grant) is dict for grant in self.grants) or type(self.limits) is not dict:
            raise ValueError("grants and limits are dicts")
        for secret in self.secrets:
            _match(_SECRET, "secret", secret)
        if type(self.system) is not dict or not all(type(name) is str for name in self.system):
            raise ValueError("the system's state is a dict with an entry for each component")

    def _check_state(self) -> None:
        _check_count(self.memories, MEMORIES_MAX, "memories")
        if sum(memory.size_bytes for memory in self.memories) > MEMORY_BYTES_MAX:
            raise ValueError("the memories are too large together")
        for memory in self.memories:
            if memory.base.digest:
                _match(_DIGEST, "base", memory.base.digest)
        _check_count(self.packs, PACKS_MAX, "packs")
        for pack in self.packs:
            _match(_NAME, "pack", pack)
        if len(set(self.packs)) != len(self.packs):
            raise ValueError("a pack is named twice")
        _check_count(self.globals, GLOBALS_MAX, "globals")
        _check_count([change for table in self.tables for change in table.changes], CHANGES_MAX, "changes")
        _check_increasing([table.index for table in self.tables], TABLES_MAX - 1, "tables")
        _check_increasing(self.dropped_elements, SEGMENTS_MAX - 1, "dropped element segments")
        _check_increasing(self.dropped_data, SEGMENTS_MAX - 1, "dropped data segments")

    def _check_frames(self) -> None:
        _check_count(self.records, RECORDS_BYTES_MAX, "bytes of frames")
        _check_count(self.frames, FRAMES_MAX, "frames")
        for pair in self.frames:
            _check_number(pair[0], _U32, "a frame's function")
            _check_number(pair[1], _U32, "a frame's site")
        if len(self.records) < _TRAILER.size * max(len(self.frames), bool(self.records)):
            raise ValueError("the records are too short")
        if self.frames and trailer(self.records) != self.frames[0]:
            raise ValueError("the records end with another frame than the list of frames")


_TRAILER = struct.Struct("<II")


def trailer(records: bytes) -> tuple[int, int]:
    """(function, site) of the last record: the outermost frame, which is loaded first."""
    site, function = _TRAILER.unpack_from(records, len(records) - _TRAILER.size)
    return function, site


def _match(pattern: re.Pattern[str], name: str, value: object) -> None:
    if type(value) is not str or not pattern.fullmatch(value):
        raise ValueError(f"{name}: {str(value)[:80]!r}")


def _check_number(value: object, most: int, name: str) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name}: {str(value)[:40]}")


def _check_count(values: Sequence[Any], most: int, name: str) -> None:
    if len(values) > most:
        raise ValueError(f"{len(values):,} {name}, at most {most:,} can be")


def _check_increasing(values: Iterable[int], most: int, name: str) -> None:
    last = -1
    for value in values:
        if type(value) is not int or not last < value <= most:
            raise ValueError(f"{name}: {str(value)[:40]} behind {last}")
        last = value
