"""What a CPython guest is doing, read out of its memory alone: no code of the guest runs.

CPython says itself how it can be read: a structure that begins with a cookie lies at the beginning of its
runtime state, and has the offsets of what a debugger must find. Its own layout is that of one minor version
(``_LAYOUTS``). From there it goes: runtime, interpreters, threads, frames, code objects, tables of lines.

A frame's place is where it says itself that it is. The interpreter writes that down when an instruction
begins that may call something or fail; in between, in a loop of plain arithmetic, the innermost frame may be
a few instructions further than it says, so its line may be one that has just been done. All others are exact.

The memory may be that of a hostile guest, or made up. Each read is checked against its size; frames, threads,
characters and all that is read together are bounded; a chain that comes back to itself is left.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from sojourn.context.reading import UnreadableError

COOKIE = b"xdebugpy"
CANDIDATES_MAX = 64  # places with the cookie that are looked at
THREADS_MAX = 256  # of all interpreters together
FRAMES_MAX = 50_000  # of all threads together
TEXT_MAX = 4096  # characters of a name that are shown
TABLE_BYTES_MAX = 1 << 20  # of one table of lines
READ_BYTES_MAX = 8 << 20  # in all
_WORD = struct.Struct("<I")
_TAG_BITS = 3  # of a reference on a stack
_STATE_KIND, _STATE_COMPACT, _STATE_ASCII = 2, 1 << 5, 1 << 6
_WIDTHS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}
_FILL_BYTES = 8  # between the head of a string that is not ASCII and its characters
_OFFSET_MAX = 1 << 24
_FINAL = (0xC, 0xF)  # candidates and releases: what came before had other layouts
_OWNER_ENTRY = 3  # frames from here on are marks of the interpreter, not functions
_LINE_MAX = (1 << 31) - 1
# In a table of lines: kinds of entries.
_SHORT_LAST, _ONE_LINE, _NO_COLUMNS, _LONG, _NO_LINE = 9, 10, 13, 14, 15


class Memory(Protocol):
    """A linear memory to look into; ``context.reading.MemoryReader`` is one."""

    def read(self, address: int, size: int) -> bytes:
        """Raises ``UnreadableError``."""

    def find(self, wanted: bytes) -> Iterator[int]: ...


class NoPythonError(ValueError):
    """There is no interpreter in the memory that can be read; the message says why."""


@dataclass(frozen=True)
class Frame:
    """One call of a Python function.

    Attributes:
        function: its qualified name.
        file: as the guest knows it.
        line: where in it, from 1; None when the interpreter has no line for the place.
    """

    function: str
    file: str
    line: int | None


@dataclass(frozen=True)
class Stacks:
    """What all threads of all interpreters are doing.

    Attributes:
        version: such as ``3.15.0``.
        threads: for each thread that does something its frames, the outermost first.
        cut: why there may be more than is shown, or empty.
    """

    version: str
    threads: tuple[tuple[Frame, ...], ...]
    cut: str = ""


def stacks(memory: Memory) -> Stacks:
    """Read what a guest is doing.

    Raises:
        NoPythonError: it is no CPython, not started, or of a version whose layout is not known.
    """
    problem = "it holds no CPython"
    bounded = _Bounded(memory)
    try:
        for address in islice(memory.find(COOKIE), CANDIDATES_MAX):
            try:
                return _Interpreter(bounded, address).stacks()
            except (NoPythonError, UnreadableError) as error:
                problem = str(error)
    except UnreadableError as error:
        problem = str(error)
    raise NoPythonError(problem)


@dataclass(frozen=True)
class _Layout:
    """Where in the structure of offsets, counted in numbers of 64 bits behind the cookie, what stands."""

    interpreters: int
    interpreter_next: int
    threads: int
    thread_next: int
    frame: int
    previous: int
    executable: int
    place: int
    owner: int
    file: int
    name: int
    table: int
    first_line: int
    code: int
    sequence_size: int
    bytes_data: int
    text_state: int
    text_length: int
    text_head: int
    count: int


# _Py_DebugOffsets of Include/internal/pycore_debug_offsets.h, by (major, minor).
_LAYOUTS = {
    (3, 15): _Layout(
        *(4, 7, 8, 23, 25),
        *(39, 40, 41, 43),
        *(47, 49, 50, 51, 55),
        *(86, 87, 89, 90, 91, 92),
    )
}


class _TooMuchError(UnreadableError):
    """A bound was reached."""


class _Bounded:
    """A memory of which no more can be read than the bounds allow."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._bytes_left = READ_BYTES_MAX
        self._frames_left = FRAMES_MAX

    def read(self, address: int, size: int) -> bytes:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise _TooMuchError(f"more than {READ_BYTES_MAX:,} bytes of frames and tables")
        return self._memory.read(address, size)

    def frame(self) -> None:
        """One frame more."""
        self._frames_left -= 1
        if self._frames_left < 0:
            raise _TooMuchError(f"more than {FRAMES_MAX:,} frames")


class _Interpreter:
    """Reads one runtime. What is named as in ``_Layout`` is an offset."""

    def __init__(self, memory: _Bounded, address: int) -> None:
        self._memory = memory
        self._read = memory.read
        self._runtime = address
        version, free_threaded = struct.unpack("<QQ", self._read(address + len(COOKIE), 16))
        self.version = _version(version, free_threaded)
        layout = _LAYOUTS[(version >> 24, version >> 16 & 0xFF)]
        numbers = struct.unpack(f"<{layout.count}Q", self._read(address + len(COOKIE), 8 * layout.count))
        if max(numbers[2:]) > _OFFSET_MAX:
            raise NoPythonError("the offsets of its CPython cannot be")
        self._at = replace(layout, **{name: numbers[getattr(layout, name)] for name in _NAMES})
        self._codes: dict[int, _Code] = {}
        self._tables: dict[int, list[tuple[int, int | None]]] = {}

    def stacks(self) -> Stacks:
        found: list[tuple[Frame, ...]] = []
        cut = ""
        try:
            for thread in self._threads():
                frames: list[Frame] = []
                try:
                    self._walk(thread, frames)
                except UnreadableError as error:
                    cut = str(error)
                if frames:
                    found.append(tuple(reversed(frames)))
        except UnreadableError as error:
            cut = str(error)
        if not found:
            raise NoPythonError(cut or f"its CPython {self.version} is doing nothing")
        return Stacks(self.version, tuple(found), cut)

    def _threads(self) -> Iterator[int]:
        seen: set[int] = set()
        for interpreter in self._chain(
            self._runtime + self._at.interpreters, self._at.interpreter_next, seen
        ):
            yield from self._chain(interpreter + self._at.threads, self._at.thread_next, seen)

    def _chain(self, first: int, following: int, seen: set[int]) -> Iterator[int]:
        """What the pointer at ``first`` points to, and so on; the next ones' lie at ``following`` in each."""
        at = self._word(first)
        while at:
            if at in seen:
                raise UnreadableError("a list of threads that comes back to itself")
            if len(seen) >= THREADS_MAX:
                raise _TooMuchError(f"more than {THREADS_MAX} threads")
            seen.add(at)
            yield at
            at = self._word(at + following)

    def _walk(self, thread: int, found: list[Frame]) -> None:
        """Add the frames of a thread, the innermost first."""
        seen: set[int] = set()
        at = self._word(thread + self._at.frame)
        while at:
            if at in seen:
                raise UnreadableError("a frame that was called by itself")
            self._memory.frame()
            seen.add(at)
            if self._read(at + self._at.owner, 1)[0] < _OWNER_ENTRY:
                found.append(self._frame(at))
            at = self._word(at + self._at.previous)

    def _frame(self, at: int) -> Frame:
        address = self._word(at + self._at.executable) & ~_TAG_BITS
        code = self._codes.get(address)
        if code is None:
            code = self._codes[address] = self._code(address)
        return Frame(code.name, code.file, code.line(self._word(at + self._at.place) - code.start))

    def _code(self, address: int) -> _Code:
        table = self._word(address + self._at.table)
        if table not in self._tables:
            self._tables[table] = line_table(self._bytes(table))
        first = int.from_bytes(self._read(address + self._at.first_line, 4), "little", signed=True)
        name, file = (self._text(self._word(address + at)) for at in (self._at.name, self._at.file))
        return _Code(name, file, first, address + self._at.code, self._tables[table])

    def _bytes(self, address: int) -> bytes:
        size = self._word(address + self._at.sequence_size)
        if size > TABLE_BYTES_MAX:
            raise UnreadableError(f"a table of lines of {size:,} bytes")
        return self._read(address + self._at.bytes_data, size)

    def _text(self, address: int) -> str:
        state = self._word(address + self._at.text_state)
        length = self._word(address + self._at.text_length)
        width = state >> _STATE_KIND & 7
        if width not in _WIDTHS or not state & _STATE_COMPACT:
            raise UnreadableError(f"there is no string at {address:#x}")
        start = address + self._at.text_head + (0 if state & _STATE_ASCII else _FILL_BYTES)
        data = self._read(start, width * min(length, TEXT_MAX))
        return data.decode(_WIDTHS[width], "replace") + ("…" if length > TEXT_MAX else "")

    def _word(self, address: int) -> int:
        value: int = _WORD.unpack(self._read(address, _WORD.size))[0]
        return value


_NAMES = tuple(name for name in _Layout.__dataclass_fields__ if name != "count")


def _version(number: int, free_threaded: int) -> str:
    """The version of an interpreter that can be read.

    Raises:
        NoPythonError: another one.
    """
    major, minor, patch = number >> 24, number >> 16 & 0xFF, number >> 8 & 0xFF
    if (major, minor) not in _LAYOUTS or number >> 4 & 0xF not in _FINAL or free_threaded:
        known = ", ".join(f"{a}.{b}" for a, b in _LAYOUTS)
        raise NoPythonError(
            f"it holds a CPython of version {number:#x}, whose layout is not known here (known: {known})"
        )
    return f"{major}.{minor}.{patch}"


@dataclass(frozen=True)
class _Code:
    """A code object; ``lines`` is its table, ``start`` where its instructions begin."""

    name: str
    file: str
    first_line: int
    start: int
    lines: list[tuple[int, int | None]]

    def line(self, offset: int) -> int | None:
        """The line of the instruction at ``offset`` bytes; the function's own for one before all lines."""
        low, high = 0, len(self.lines)
        while low < high:  # the first entry that ends behind the offset
            middle = (low + high) // 2
            if self.lines[middle][0] <= offset:
                low = middle + 1
            else:
                high = middle
        if offset < 0 or low == len(self.lines):
            return None
        delta = self.lines[low][1]
        line = self.first_line + (delta or 0)
        return line if 0 < line <= _LINE_MAX else None


def line_table(data: bytes) -> list[tuple[int, int | None]]:
    """A code object's table of locations, as (offset in bytes where an entry ends, its line counted from the
    first line of the code; None for no line). What is cut off ends the table."""
    found: list[tuple[int, int | None]] = []
    at = end = line = 0
    while at < len(data):
        head = data[at]
        at += 1
        kind, end = head >> 3 & 0xF, end + 2 * ((head & 7) + 1)
        if kind in (_LONG, _NO_COLUMNS):
            value, at = _varint(data, at)
            line += -(value >> 1) if value & 1 else value >> 1
            for _ in range(3 if kind == _LONG else 0):
                _, at = _varint(data, at)
        elif kind < _NO_LINE:
            line += kind - _ONE_LINE if kind > _SHORT_LAST else 0
            at += 1 if kind <= _SHORT_LAST else 2
        found.append((end, None if kind == _NO_LINE else line))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of six bits a byte, the lowest first, and where the next one begins."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        if shift < 32:
            value |= (byte & 0x3F) << shift
        shift += 6
        if not byte & 0x40:
            break
    return value, at
