"""What a module declares: its types, and the index spaces of functions, tables, memories, globals and tags.

Imported items come first in each space, as the specification numbers them. A value type is an ``int``: the
byte of the binary format for numbers, vectors and the short reference types, and for ``(ref null? ht)`` the
byte (0x63 or 0x64) with bit 9 set and the heap type above it (bit 8 is left free for whoever wants a mark).
``encode_type`` is the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .binary import (
    FUNCTION,
    GLOBAL,
    MEMORY,
    TABLE,
    TAG,
    MalformedModuleError,
    Memory,
    Module,
    Reader,
    SectionId,
    memory_type,
    uleb,
)
from .instructions import skip_expression

I32, I64, F32, F64, V128 = 0x7F, 0x7E, 0x7D, 0x7C, 0x7B
FUNCREF, EXTERNREF, EXNREF, ANYREF = 0x70, 0x6F, 0x69, 0x6E
I31REF, STRUCTREF, ARRAYREF = 0x6C, 0x6B, 0x6A
REF_NULL, REF = 0x63, 0x64
_FAMILIES = {0x70: FUNCREF, 0x73: FUNCREF, 0x6F: EXTERNREF, 0x72: EXTERNREF, 0x69: EXNREF, 0x74: EXNREF}
_LONG = 0x200  # in the number of a type that is not one byte long
_HEAP_SHIFT = 10
_HEAP_MASK = (1 << 33) - 1

_SUB, _SUB_FINAL, _REC = 0x50, 0x4F, 0x4E
_FUNC, _STRUCT, _ARRAY = 0x60, 0x5F, 0x5E

TYPES_MAX = 1_000_000
VALUES_MAX = 1000  # parameters, and results, of one function type


@dataclass(frozen=True, slots=True)
class FuncType:
    """Parameter and result types of a function, block or tag."""

    params: tuple[int, ...]
    results: tuple[int, ...]

    def encode(self) -> bytes:
        return bytes([_FUNC]) + _vector(self.params) + _vector(self.results)


@dataclass(frozen=True, slots=True)
class Composite:
    """A structure or array type: the storage types of its fields; an array has one."""

    array: bool
    fields: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its element type, its index type (``I32`` or ``I64``) and its limits, as encoded."""

    element: int
    index: int
    encoded: bytes


@dataclass(frozen=True, slots=True)
class Global:
    type: int
    mutable: bool

    def encode(self) -> bytes:
        return encode_type(self.type) + bytes([self.mutable])


@dataclass(frozen=True, slots=True)
class IndexSpaces:
    """All that is declared outside of the bodies.

    Attributes:
        types: by type index; ``None`` for one that is no function type.
        composites: the types of structures and arrays, by type index.
        functions: the type index of each function, imported ones first.
        functions_imported: how many of them are imported.
        memory_types: the encoded type of each memory, beside ``memories``.
        tags: the type index of each tag.
    """

    types: tuple[FuncType | None, ...]
    functions: tuple[int, ...]
    functions_imported: int
    tables: tuple[Table, ...]
    memories: tuple[Memory, ...]
    memory_types: tuple[bytes, ...]
    globals: tuple[Global, ...]
    globals_imported: int
    tags: tuple[int, ...]
    composites: dict[int, Composite]
    tables_imported: int

    @classmethod
    def of(cls, module: Module) -> IndexSpaces:
        """Read the declarations of a module.

        Raises:
            MalformedModuleError: a declaration is cut short, or names what is not there.
        """
        declared = read_types(module)
        types = [kind if isinstance(kind, FuncType) else None for kind in declared]
        spaces = _Spaces(len(types))
        reader = Reader(module.section(SectionId.IMPORT))
        for _ in range(reader.count()):
            reader.skip(reader.uleb())
            reader.skip(reader.uleb())
            spaces.imported(reader)
        functions_imported, globals_imported = len(spaces.functions), len(spaces.globals)
        tables_imported = len(spaces.tables)
        spaces.defined(module)
        for index in spaces.functions + spaces.tags:
            if types[index] is None:
                raise MalformedModuleError(f"type {index} is not the type of a function", 0)
        return cls(
            tuple(types),
            tuple(spaces.functions),
            functions_imported,
            tuple(spaces.tables),
            tuple(spaces.memories),
            tuple(spaces.memory_types),
            tuple(spaces.globals),
            globals_imported,
            tuple(spaces.tags),
            {index: kind for index, kind in enumerate(declared) if isinstance(kind, Composite)},
            tables_imported,
        )

    def signature(self, function: int) -> FuncType:
        """The type of a function."""
        found = self.types[self.functions[function]]
        if found is None:
            raise MalformedModuleError(f"function {function} has no function type", 0)
        return found


class _Spaces:
    """The index spaces while they are being filled."""

    def __init__(self, types: int) -> None:
        self._types = types
        self.functions: list[int] = []
        self.tables: list[Table] = []
        self.memories: list[Memory] = []
        self.memory_types: list[bytes] = []
        self.globals: list[Global] = []
        self.tags: list[int] = []

    def imported(self, reader: Reader) -> None:
        kind = reader.byte()
        if kind == FUNCTION:
            self.functions.append(self._type_index(reader))
        elif kind == TABLE:
            self._table(reader)
        elif kind == MEMORY:
            self._memory(reader)
        elif kind == GLOBAL:
            self.globals.append(Global(read_type(reader), bool(reader.byte())))
        elif kind == TAG:
            self._tag(reader)
        else:
            raise MalformedModuleError(f"an import of unknown kind {kind}", reader.pos)

    def defined(self, module: Module) -> None:
        reader = Reader(module.section(SectionId.FUNCTION))
        self.functions += [self._type_index(reader) for _ in range(reader.count())]
        reader = Reader(module.section(SectionId.TABLE))
        for _ in range(reader.count()):
            initialised = bytes(reader.data[reader.pos : reader.pos + 2]) == b"\x40\0"
            if initialised:
                reader.skip(2)
            self._table(reader)
            if initialised:
                skip_expression(reader)
        reader = Reader(module.section(SectionId.MEMORY))
        for _ in range(reader.count()):
            self._memory(reader)
        reader = Reader(module.section(SectionId.GLOBAL))
        for _ in range(reader.count()):
            self.globals.append(Global(read_type(reader), bool(reader.byte())))
            skip_expression(reader)
        reader = Reader(module.section(SectionId.TAG))
        for _ in range(reader.count()):
            self._tag(reader)

    def _type_index(self, reader: Reader) -> int:
        index = reader.uleb()
        if index >= self._types:
            raise MalformedModuleError(f"type {index} does not exist", reader.pos)
        return index

    def _table(self, reader: Reader) -> None:
        element = read_type(reader)
        start = reader.pos
        flags = reader.byte()
        bits = 64 if flags & 4 else 32
        reader.uleb(bits)
        if flags & 1:
            reader.uleb(bits)
        limits = bytes(reader.data[start : reader.pos])
        self.tables.append(Table(element, I64 if flags & 4 else I32, encode_type(element) + limits))

    def _memory(self, reader: Reader) -> None:
        start = reader.pos
        self.memories.append(memory_type(reader))
        self.memory_types.append(bytes(reader.data[start : reader.pos]))

    def _tag(self, reader: Reader) -> None:
        reader.byte()
        self.tags.append(self._type_index(reader))


def read_type(reader: Reader) -> int:
    """One value type (or storage type) as an ``int``."""
    kind = reader.byte()
    if kind in (REF_NULL, REF):
        return kind | _LONG | (sleb(reader, 33) & _HEAP_MASK) << _HEAP_SHIFT
    return kind


def encode_type(kind: int) -> bytes:
    """The bytes of a value type."""
    if kind < 0x100:
        return bytes([kind])
    heap = kind >> _HEAP_SHIFT
    if heap >> 32:
        heap -= 1 << 33
    return bytes([kind & 0xFF]) + sleb_bytes(heap)


def is_reference(kind: int) -> bool:
    return kind < 0x78 or kind >= 0x100  # 0x78, 0x77 are storage types, never of a local


def is_defaultable(kind: int) -> bool:
    """Whether a local of this type has a value before anything is written to it."""
    return kind & 0xFF != REF or kind < 0x100


def heap_type(kind: int) -> int:
    """What a reference type refers to: a type index, or a negative number for an abstract heap type."""
    if kind < 0x100:
        return kind - 0x80
    heap = kind >> _HEAP_SHIFT
    return heap - (1 << 33) if heap >> 32 else heap


def reference_type(heap: int, *, null: bool) -> int:
    """The reference type with this heap type; the short form where there is one."""
    if null and heap < 0:
        return heap + 0x80
    return (REF_NULL if null else REF) | _LONG | (heap & _HEAP_MASK) << _HEAP_SHIFT


def nullable(kind: int) -> int:
    """The type of the same references and null."""
    return kind if is_defaultable(kind) else reference_type(heap_type(kind), null=True)


def family(kind: int, types: Sequence[FuncType | None]) -> int:
    """The top of a reference type's hierarchy: ``FUNCREF``, ``EXTERNREF``, ``EXNREF`` or ``ANYREF``."""
    heap = heap_type(kind)
    if heap < 0:
        return _FAMILIES.get(heap + 0x80, ANYREF)
    return FUNCREF if heap < len(types) and types[heap] is not None else ANYREF


def sleb(reader: Reader, bits: int) -> int:
    """One signed LEB128 of at most so many bits."""
    value = shift = 0
    while True:
        byte = reader.byte()
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift >= bits:
            raise MalformedModuleError("a number that is too long", reader.pos)
    return value - (1 << shift) if byte & 0x40 else value


def sleb_bytes(value: int) -> bytes:
    """Encode a signed LEB128."""
    out = bytearray()
    while not -64 <= value < 64:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0x7F)
    return bytes(out)


def read_types(module: Module) -> list[FuncType | Composite]:
    """The module's types in the order of their indices, those of recursive groups one by one."""
    reader = Reader(module.section(SectionId.TYPE))
    found: list[FuncType | Composite] = []
    for _ in range(reader.count()):
        if reader.data[reader.pos : reader.pos + 1] == bytes([_REC]):
            reader.byte()
            found += [_read_subtype(reader) for _ in range(reader.count())]
        else:
            found.append(_read_subtype(reader))
        if len(found) > TYPES_MAX:
            raise MalformedModuleError("too many types", reader.pos)
    return found


def _read_subtype(reader: Reader) -> FuncType | Composite:
    kind = reader.byte()
    if kind in (_SUB, _SUB_FINAL):
        for _ in range(reader.count()):
            reader.uleb()
        kind = reader.byte()
    if kind == _FUNC:
        return FuncType(_read_values(reader), _read_values(reader))
    if kind == _STRUCT:
        return Composite(False, tuple([_read_field(reader) for _ in range(reader.count())]))
    if kind == _ARRAY:
        return Composite(True, (_read_field(reader),))
    raise MalformedModuleError(f"a type of unknown form {kind:#x}", reader.pos)


def _read_field(reader: Reader) -> int:
    kind = read_type(reader)
    reader.byte()
    return kind


def _read_values(reader: Reader) -> tuple[int, ...]:
    count = reader.count()
    if count > VALUES_MAX:
        raise MalformedModuleError("too many parameters or results", reader.pos)
    return tuple(read_type(reader) for _ in range(count))


def _vector(kinds: tuple[int, ...]) -> bytes:
    return uleb(len(kinds)) + b"".join(map(encode_type, kinds))
