"""Calls guest functions of any signature with plain numbers, for tests: what the engine's binding cannot pass
(vectors, most references, the bits of a NaN) is converted by a small module in between.

An adapter takes and gives only ``i32``, ``i64`` and ``externref``: floats as their bits, vectors as two
halves, references as "is it null?". A reference is passed in as null.
"""

from __future__ import annotations

from typing import Any

from sojourn.wasm.binary import FUNCTION, GLOBAL, TABLE, Module, SectionId, uleb
from sojourn.wasm.index_spaces import (
    EXTERNREF,
    F32,
    F64,
    I32,
    I64,
    REF,
    REF_NULL,
    V128,
    FuncType,
    Global,
    Table,
    encode_type,
    heap_type,
    is_defaultable,
    is_reference,
    read_types,
    sleb_bytes,
)

_GET, _SET = b"\x20", b"\x21"


def adapter(original: Module, kind: FuncType) -> bytes:
    """A module that imports a function of type ``kind`` and exports it as ``f`` with plain types."""
    params, given = _params(kind)
    results, taken, locals_ = _results(kind, len(params))
    plain = FuncType(tuple(params), tuple(results))
    module = Module()
    module.replace(SectionId.TYPE, bytes(original.section(SectionId.TYPE)))
    module.append_to(SectionId.TYPE, [kind.encode(), plain.encode()])
    first = _types_before(original)
    module.replace(SectionId.IMPORT, b"\x01\x01m\x01f" + bytes([FUNCTION]) + uleb(first))
    module.replace(SectionId.FUNCTION, b"\x01" + uleb(first + 1))
    module.replace(SectionId.EXPORT, b"\x01\x01f" + bytes([FUNCTION, 1]))
    declared = uleb(len(locals_)) + b"".join(b"\x01" + encode_type(local) for local in locals_)
    body = declared + given + b"\x10\0" + taken + b"\x0b"
    module.replace(SectionId.CODE, b"\x01" + uleb(len(body)) + body)
    return module.encode()


def global_adapter(original: Module, item: Global) -> bytes:
    """A module that imports a global of that type and exports ``get`` and, if it can be set, ``set``."""
    get_results, taken, locals_ = _results(FuncType((), (item.type,)), 0)
    set_params, given = _params(FuncType((item.type,), ()))
    module = Module()
    module.replace(SectionId.TYPE, bytes(original.section(SectionId.TYPE)))
    kinds = [FuncType((), tuple(get_results)), FuncType(tuple(set_params), ())][: 1 + item.mutable]
    module.append_to(SectionId.TYPE, [kind.encode() for kind in kinds])
    first = _types_before(original)
    module.replace(SectionId.IMPORT, b"\x01\x01m\x01g" + bytes([GLOBAL]) + item.encode())
    count = len(kinds)
    module.replace(SectionId.FUNCTION, uleb(count) + b"".join(uleb(first + place) for place in range(count)))
    exports = [b"\x03get" + bytes([FUNCTION, 0]), b"\x03set" + bytes([FUNCTION, 1])][:count]
    module.replace(SectionId.EXPORT, uleb(count) + b"".join(exports))
    declared = uleb(len(locals_)) + b"".join(b"\x01" + encode_type(local) for local in locals_)
    bodies = [declared + b"\x23\0" + taken + b"\x0b", b"\0" + given + b"\x24\0\x0b"][:count]
    code = b"".join(uleb(len(body)) + body for body in bodies)
    module.replace(SectionId.CODE, uleb(count) + code)
    return module.encode()


def table_adapter(original: Module, item: Table, top: int) -> bytes:
    """A module that imports a table and exports ``get``, ``set`` and ``grow``, which take and give references
    of the type ``top``, and places as ``i32``."""
    wide = item.index == I64
    cast = b"" if item.element == top else b"\xfb" + _cast_to(item.element)
    kinds = [FuncType((I32,), (top,)), FuncType((I32, top), ()), FuncType((top, I32), (I32,))]
    place = _GET + b"\0" + (b"\xad" if wide else b"")
    count = _GET + b"\x01" + (b"\xad" if wide else b"")
    bodies = [
        place + b"\x25\0",
        place + _GET + b"\x01" + cast + b"\x26\0",
        _GET + b"\0" + cast + count + b"\xfc\x0f\0" + (b"\xa7" if wide else b""),
    ]
    module = Module()
    module.replace(SectionId.TYPE, bytes(original.section(SectionId.TYPE)))
    module.append_to(SectionId.TYPE, [kind.encode() for kind in kinds])
    first = _types_before(original)
    module.replace(SectionId.IMPORT, b"\x01\x01m\x01t" + bytes([TABLE]) + item.encoded)
    module.replace(SectionId.FUNCTION, b"\x03" + b"".join(uleb(first + place) for place in range(3)))
    names = (b"\x03get", b"\x03set", b"\x04grow")
    exports = [name + bytes([FUNCTION, place]) for place, name in enumerate(names)]
    module.replace(SectionId.EXPORT, b"\x03" + b"".join(exports))
    code = b"".join(uleb(len(body) + 2) + b"\0" + body + b"\x0b" for body in bodies)
    module.replace(SectionId.CODE, b"\x03" + code)
    return module.encode()


def _cast_to(kind: int) -> bytes:
    return (b"\x17" if is_defaultable(kind) else b"\x16") + sleb_bytes(heap_type(kind))


def _types_before(original: Module) -> int:
    return len(read_types(original))


def _params(kind: FuncType) -> tuple[list[int], bytes]:
    params: list[int] = []
    code = b""

    def take(plain: int) -> bytes:
        params.append(plain)
        return _GET + uleb(len(params) - 1)

    for param in kind.params:
        if param in (I32, I64, EXTERNREF):
            code += take(param)
        elif param == F32:
            code += take(I32) + b"\xbe"
        elif param == F64:
            code += take(I64) + b"\xbf"
        elif param == V128:
            code += take(I64) + b"\xfd\x12" + take(I64) + b"\xfd\x1e\x01"
        elif param in (0x6E,):  # anyref
            code += take(EXTERNREF) + b"\xfb\x1a"
        else:
            code += b"\xd0" + encode_type(_nullable(param))[1 if param >= 0x100 else 0 :]
            if param & 0xFF == REF and param >= 0x100:
                code += b"\xd4"
    return params, code


def _nullable(kind: int) -> int:
    return kind if kind < 0x100 else REF_NULL | kind >> 9 << 9


def _results(kind: FuncType, first: int) -> tuple[list[int], bytes, list[int]]:
    results: list[int] = []
    code = b""
    locals_ = [_nullable(result) for result in kind.results]
    for place in reversed(range(len(locals_))):
        code += _SET + uleb(first + place)
    for place, result in enumerate(kind.results):
        get = _GET + uleb(first + place)
        if result == F32:
            results.append(I32)
            code += get + b"\xbc"
        elif result == F64:
            results.append(I64)
            code += get + b"\xbd"
        elif result == V128:
            results += [I64, I64]
            code += get + b"\xfd\x1d\0" + get + b"\xfd\x1d\x01"
        elif not is_reference(result):
            results.append(result)
            code += get
        elif heap_type(result) in (heap_type(EXTERNREF), heap_type(EXTERNREF) + 3):  # extern, noextern
            results.append(EXTERNREF)
            code += get
        else:
            results.append(I32)
            code += get + b"\xd1"
    return results, code, locals_


def plain_values(kind: tuple[str, Any]) -> list[Any]:
    """A value of a script as arguments of an adapter."""
    name, value = kind
    if name == "v128":
        return [_signed(value & (1 << 64) - 1, 64), _signed(value >> 64, 64)]
    if name in ("i32", "f32"):
        return [_signed(value, 32)]
    if name in ("i64", "f64"):
        return [_signed(value, 64)]
    if value[0] in ("extern", "host"):
        return [f"extern {value[1]}"]
    return [None]


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


def as_list(results: Any) -> list[Any]:
    if results is None:
        return []
    return list(results) if isinstance(results, list) else [results]
