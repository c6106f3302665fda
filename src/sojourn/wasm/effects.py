"""What each instruction without control flow does to the operand stack.

Tables instead of branches: ``ACTION[opcode]`` says how the decoder of a body (``body.py``) treats a one-byte
opcode, ``PUSH[opcode]`` what it leaves; ``bulk_effect``, ``vector_effect`` and ``atomic_effect`` answer for
the prefixed ones with (operands taken, type left or 0). Numbers are those of the core specification,
appendix A.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .binary import MalformedModuleError, Reader
from .index_spaces import F32, F64, I32, I64, V128, Composite, reference_type, sleb

# How the decoder treats an opcode.
LOCAL_GET, LOCAL_SET, LOCAL_TEE, BINARY, UNARY, LOAD, STORE, CONST_LEB, CONST_4, CONST_8, OTHER = range(11)

ACTION = bytearray([OTHER]) * 256
PUSH = bytearray(256)


def _fill(opcodes: Iterable[int], action: int, pushed: int = 0) -> None:
    for opcode in opcodes:
        ACTION[opcode] = action
        PUSH[opcode] = pushed


_fill((0x20,), LOCAL_GET)
_fill((0x21,), LOCAL_SET)
_fill((0x22,), LOCAL_TEE)
for _first, _last, _kind in (
    *((0x28, 0x28, I32), (0x29, 0x29, I64), (0x2A, 0x2A, F32), (0x2B, 0x2B, F64)),
    *((0x2C, 0x2F, I32), (0x30, 0x35, I64)),
):
    _fill(range(_first, _last + 1), LOAD, _kind)
_fill(range(0x36, 0x3F), STORE)
_fill((0x41,), CONST_LEB, I32)
_fill((0x42,), CONST_LEB, I64)
_fill((0x43,), CONST_4, F32)
_fill((0x44,), CONST_8, F64)
for _first, _last, _action, _kind in (
    *(
        (0x45, 0x45, UNARY, I32),
        (0x46, 0x4F, BINARY, I32),
        (0x50, 0x50, UNARY, I32),
        (0x51, 0x66, BINARY, I32),
    ),
    *(
        (0x67, 0x69, UNARY, I32),
        (0x6A, 0x78, BINARY, I32),
        (0x79, 0x7B, UNARY, I64),
        (0x7C, 0x8A, BINARY, I64),
    ),
    *(
        (0x8B, 0x91, UNARY, F32),
        (0x92, 0x98, BINARY, F32),
        (0x99, 0x9F, UNARY, F64),
        (0xA0, 0xA6, BINARY, F64),
    ),
    *((0xA7, 0xAB, UNARY, I32), (0xAC, 0xB1, UNARY, I64), (0xB2, 0xB6, UNARY, F32), (0xB7, 0xBB, UNARY, F64)),
    *((0xBC, 0xBC, UNARY, I32), (0xBD, 0xBD, UNARY, I64), (0xBE, 0xBE, UNARY, F32), (0xBF, 0xBF, UNARY, F64)),
    *((0xC0, 0xC1, UNARY, I32), (0xC2, 0xC4, UNARY, I64)),
):
    _fill(range(_first, _last + 1), _action, _kind)


def bulk_effect(sub: int) -> tuple[int, int] | None:
    """For opcodes behind 0xFC whose effect does not depend on the module; None for the others."""
    if sub <= 7:
        return 1, I32 if sub <= 3 else I64
    if sub in (8, 10, 11, 12, 14, 17):  # memory and table: init, copy, fill
        return 3, 0
    return (0, 0) if sub in (9, 13) else None  # data.drop, elem.drop


_VECTOR_UNARY = frozenset(
    (
        *range(11),  # loads
        *range(15, 21),  # splats
        *(77, 92, 93, 94, 95, 96, 97, 98, 103, 104, 105, 106, 116, 117, 122, 124, 125, 126, 127, 128, 129),
        *(135, 136, 137, 138, 148, 160, 161, 167, 168, 169, 170, 192, 193, 199, 200, 201, 202),
        *(224, 225, 227, 236, 237, 239, 248, 249, 250, 251, 252, 253, 254, 255, 257, 258, 259, 260),
    )
)
_VECTOR_TERNARY = frozenset((82, *range(261, 269), 275))
_VECTOR_TO_I32 = frozenset((21, 22, 24, 25, 27, 83, 99, 100, 131, 132, 163, 164, 195, 196))
_VECTOR_TO = {29: I64, 31: F32, 33: F64}
_VECTOR_STORES = frozenset((11, 88, 89, 90, 91))
_VECTOR_LAST = 275


def gc_effect(sub: int, names: Reader, composites: Mapping[int, Composite]) -> tuple[int, int]:
    """For opcodes behind 0xFB that do not branch; ``names`` is at their immediates."""
    if sub in _GC_FIXED:
        return _GC_FIXED[sub]
    heap = sleb(names, 33)
    if sub in (20, 21):  # ref.test
        return 1, I32
    if sub in (22, 23):  # ref.cast
        return 1, reference_type(heap, null=sub == 23)
    kind = composites.get(heap)
    if kind is None:
        raise MalformedModuleError(f"type {heap} is no structure or array", names.pos)
    made = reference_type(heap, null=False)
    if sub == 0:  # struct.new
        return len(kind.fields), made
    if sub == 2:  # struct.get
        field = names.uleb()
        if field >= len(kind.fields):
            raise MalformedModuleError(f"type {heap} has no field {field}", names.pos)
        return 1, kind.fields[field]
    if sub == 8:  # array.new_fixed
        return names.uleb(), made
    if sub == 11:  # array.get
        return 2, kind.fields[0]
    return {1: 0, 6: 2, 7: 1, 9: 2, 10: 2}[sub], made


# get_s, get_u, set, len, fill, copy, init; conversions (body.py knows their types); i31
_GC_FIXED = {
    **dict.fromkeys((3, 4, 15, 29, 30), (1, I32)),
    **dict.fromkeys((12, 13), (2, I32)),
    5: (2, 0),
    14: (3, 0),
    16: (4, 0),
    17: (5, 0),
    18: (4, 0),
    19: (4, 0),
    26: (1, 0),
    27: (1, 0),
    28: (1, reference_type(-0x14, null=False)),
}


def vector_effect(sub: int) -> tuple[int, int]:
    """For opcodes behind 0xFD; a vector operation that is none of the exceptions takes two and leaves one."""
    if sub == 12:  # v128.const
        return 0, V128
    if sub in _VECTOR_UNARY:
        return 1, V128
    if sub in _VECTOR_TO_I32:
        return 1, I32
    if sub in _VECTOR_TO:
        return 1, _VECTOR_TO[sub]
    if sub in _VECTOR_STORES:
        return 2, 0
    return (3, V128) if sub in _VECTOR_TERNARY else (2, V128)


# The seven widths of an atomic operation: i32, i64, i32 of 8 and 16, i64 of 8, 16 and 32 bits.
_WIDTHS = (I32, I64, I32, I32, I64, I64, I64)


def atomic_effect(sub: int) -> tuple[int, int]:
    """For opcodes behind 0xFE."""
    if sub == 0:  # notify
        return 2, I32
    if sub in (1, 2):  # wait
        return 3, I32
    if sub == 3:  # fence
        return 0, 0
    kind = _WIDTHS[(sub - 0x10) % 7]
    if sub < 0x17:
        return 1, kind
    if sub < 0x1E:
        return 2, 0
    return (2, kind) if sub < 0x48 else (3, kind)
