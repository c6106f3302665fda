"""A WebAssembly module as its sections (binary format 1, section 5 of the core specification).

Splitting is shallow: a section's bytes are parsed only when somebody asks for what is in them, and an
untouched section is written back byte for byte. Input is hostile: every read is bounds-checked, every
count is checked against the bytes that are left, and what is wrong is a ``MalformedModuleError``. Whether
a well-formed module is *valid* is for the engine to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

MAGIC = b"\0asm\x01\0\0\0"
COMPONENT_MAGIC = b"\0asm\x0d\0\x01\0"


class MalformedModuleError(ValueError):
    """The bytes are not a WebAssembly module. ``offset`` is where that showed."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} (at byte {offset})")
        self.offset = offset


@contextmanager
def invalid_is_malformed() -> Iterator[None]:
    """What reads a module takes it to be valid. One that is not, and names what it does not have or takes
    what is not on its stack, fails a look-up: that is its fault, not ours."""
    try:
        yield
    except (LookupError, OverflowError) as error:
        raise MalformedModuleError(f"the module is not valid ({type(error).__name__})", 0) from error


class UnsupportedFeatureError(ValueError):
    """A module that is valid, but uses something that cannot be made resumable.

    Attributes:
        feature: what it is, in the words of the specification.
        function: the index of the function that uses it, or None for the module as a whole.
    """

    def __init__(self, feature: str, function: int | None = None) -> None:
        where = "" if function is None else f" in function {function}"
        super().__init__(f"{feature}{where} cannot be made resumable")
        self.feature = feature
        self.function = function


class SectionId(IntEnum):
    CUSTOM = 0
    TYPE = 1
    IMPORT = 2
    FUNCTION = 3
    TABLE = 4
    MEMORY = 5
    GLOBAL = 6
    EXPORT = 7
    START = 8
    ELEMENT = 9
    CODE = 10
    DATA = 11
    DATA_COUNT = 12
    TAG = 13


# The order in which non-custom sections must appear; it is not that of their numbers.
ORDER = (1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11)
_RANK = {number: rank for rank, number in enumerate(ORDER)}

FUNCTION, TABLE, MEMORY, GLOBAL, TAG = range(5)  # kinds of imports and exports


def uleb(value: int) -> bytes:
    """Encode an unsigned LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """A cursor over bytes that never reads past ``end``."""

    __slots__ = ("data", "end", "pos")

    def __init__(self, data: bytes | memoryview, pos: int = 0, end: int | None = None) -> None:
        self.data = data
        self.pos = pos
        self.end = len(data) if end is None else end

    def byte(self) -> int:
        if self.pos >= self.end:
            raise MalformedModuleError("unexpected end", self.pos)
        value = self.data[self.pos]
        self.pos += 1
        return value

    def uleb(self, bits: int = 32) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= bits:
                raise MalformedModuleError("a number that is too long", self.pos)
        if value >> bits:
            raise MalformedModuleError("a number that is too large", self.pos)
        return value

    def count(self) -> int:
        """The length of a vector, each element of which takes at least one byte."""
        value = self.uleb()
        if value > self.end - self.pos:
            raise MalformedModuleError("a count beyond the end", self.pos)
        return value

    def skip_leb(self, bytes_max: int) -> None:
        """Pass over one LEB128, signed or not."""
        for _ in range(bytes_max):
            if self.byte() < 0x80:
                return
        raise MalformedModuleError("a number that is too long", self.pos)

    def skip(self, size: int) -> None:
        if size > self.end - self.pos:
            raise MalformedModuleError("unexpected end", self.pos)
        self.pos += size

    def name(self) -> str:
        size = self.uleb()
        start = self.pos
        self.skip(size)
        try:
            return str(self.data[start : self.pos], "utf-8")
        except UnicodeDecodeError:
            raise MalformedModuleError("a name that is not UTF-8", start) from None


@dataclass(frozen=True)
class Memory:
    """Limits of a linear memory, in pages. ``pages_max`` is None when the module sets none."""

    pages_min: int
    pages_max: int | None
    is_64: bool
    shared: bool


@dataclass(frozen=True)
class Import:
    module: str
    name: str
    kind: int


@dataclass
class Module:
    """The sections of a module in file order: ``(id, payload)`` pairs, custom sections included."""

    sections: list[tuple[int, bytes | memoryview]] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes) -> Module:
        """Split ``data`` into sections.

        Raises:
            MalformedModuleError: not a core module, cut short, or its sections are out of order.
        """
        if data[:8] == COMPONENT_MAGIC:
            raise MalformedModuleError("a component, not a core module", 4)
        if data[:8] != MAGIC:
            raise MalformedModuleError("no WebAssembly magic number", 0)
        reader = Reader(memoryview(data), 8)
        sections: list[tuple[int, bytes | memoryview]] = []
        last = -1
        while reader.pos < reader.end:
            number = reader.byte()
            size = reader.uleb()
            start = reader.pos
            reader.skip(size)
            if number != SectionId.CUSTOM:
                rank = _RANK.get(number)
                if rank is None or rank <= last:
                    raise MalformedModuleError(f"section {number} is unknown or out of order", start)
                last = rank
            sections.append((number, reader.data[start : reader.pos]))
        return cls(sections)

    def encode(self) -> bytes:
        parts: list[bytes | memoryview] = [MAGIC]
        for number, payload in self.sections:
            parts += [bytes([number]), uleb(len(payload)), payload]
        return b"".join(parts)

    def section(self, number: int) -> bytes | memoryview:
        """The payload of a section; that of an empty vector when the module has none."""
        return next((payload for n, payload in self.sections if n == number), b"\0")

    def replace(self, number: int, payload: bytes) -> None:
        """Put ``payload`` in place of a section, or where the section belongs when there is none yet."""
        for index, (present, _) in enumerate(self.sections):
            if present == number:
                self.sections[index] = (number, payload)
                return
        later = {n for n in ORDER if _RANK[n] > _RANK[number]}
        where = next((i for i, (n, _) in enumerate(self.sections) if n in later), len(self.sections))
        self.sections.insert(where, (number, payload))

    def remove(self, number: int) -> bytes | memoryview | None:
        """Take a section out; return its payload, or None when there is none."""
        for index, (present, payload) in enumerate(self.sections):
            if present == number:
                del self.sections[index]
                return payload
        return None

    def append_to(self, number: int, entries: list[bytes]) -> int:
        """Add entries at the end of a section that is a vector; return the count it had before."""
        payload = self.section(number)
        reader = Reader(payload)
        before = reader.uleb()
        self.replace(number, uleb(before + len(entries)) + bytes(payload[reader.pos :]) + b"".join(entries))
        return before

    def imports(self) -> Iterator[Import]:
        for item, _ in self._imports():
            yield item

    def _imports(self) -> Iterator[tuple[Import, Memory | None]]:
        reader = Reader(self.section(SectionId.IMPORT))
        for _ in range(reader.count()):
            module, name, kind = reader.name(), reader.name(), reader.byte()
            memory = None
            if kind == FUNCTION:
                reader.uleb()
            elif kind == TABLE:
                _skip_table_type(reader)
            elif kind == MEMORY:
                memory = memory_type(reader)
            elif kind == GLOBAL:
                _skip_value_type(reader)
                reader.byte()
            elif kind == TAG:
                reader.byte()
                reader.uleb()
            else:
                raise MalformedModuleError(f"an import of unknown kind {kind}", reader.pos)
            yield Import(module, name, kind), memory

    def memories(self) -> list[Memory]:
        """All linear memories, imported ones first."""
        found = [memory for _, memory in self._imports() if memory is not None]
        reader = Reader(self.section(SectionId.MEMORY))
        found += [memory_type(reader) for _ in range(reader.count())]
        return found

    def exports(self) -> Iterator[tuple[str, int, int]]:
        """Each export as (name, kind, index)."""
        reader = Reader(self.section(SectionId.EXPORT))
        for _ in range(reader.count()):
            yield reader.name(), reader.byte(), reader.uleb()

    def bodies(self) -> tuple[bytes | memoryview, list[int]]:
        """The code section and the boundaries of its bodies: body i is ``code[at[i]:at[i + 1]]``, its own
        size prefix included."""
        code = self.section(SectionId.CODE)
        reader = Reader(code)
        boundaries = []
        for _ in range(reader.count()):
            boundaries.append(reader.pos)
            reader.skip(reader.uleb())
        return code, [*boundaries, reader.pos]


def memory_type(reader: Reader) -> Memory:
    flags = reader.byte()
    if flags & ~0x0F:
        raise MalformedModuleError(f"a memory with unknown flags {flags:#x}", reader.pos)
    bits = 64 if flags & 4 else 32
    least = reader.uleb(bits)
    most = reader.uleb(bits) if flags & 1 else None
    if flags & 8:
        reader.uleb()  # custom page size
    return Memory(least, most, bool(flags & 4), bool(flags & 2))


def _skip_table_type(reader: Reader) -> None:
    _skip_value_type(reader)
    flags = reader.byte()
    bits = 64 if flags & 4 else 32
    reader.uleb(bits)
    if flags & 1:
        reader.uleb(bits)


def _skip_value_type(reader: Reader) -> None:
    if reader.byte() in (0x63, 0x64):  # (ref null? heaptype): a signed 33-bit number follows
        reader.skip_leb(5)


def global_mutabilities(module: Module) -> list[bool]:
    """Whether each defined global (not the imported ones) is mutable, in order."""
    from .instructions import skip_expression

    reader = Reader(module.section(SectionId.GLOBAL))
    found = []
    for _ in range(reader.count()):
        _skip_value_type(reader)
        found.append(bool(reader.byte()))
        skip_expression(reader)
    return found
