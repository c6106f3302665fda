"""Plain data as bytes: one way to write each value, and nothing in it can cost more than it is long.

Values are None, bool, int (64 bits), float (finite), str, bytes, lists and dicts with keys of str, bytes or
int. The bytes are msgpack, *canonical*: the shortest form of each number and length, keys in order, each key
once. So equal values have equal bytes, and bytes that are not canonical are refused.

A reader is told lengths by its input, and a list of 10^9 entries takes five bytes to announce. So the input
is walked once before anything is made of it: every length must lie inside it, and the number of values and
their depth are bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import msgpack

Plain: TypeAlias = bool | int | float | str | bytes | list[Any] | dict[Any, Any] | None

ITEMS_MAX = 1_000_000
DEPTH_MAX = 64
_INT_LEAST, _INT_MOST = -(1 << 63), (1 << 64) - 1
_Key = str | bytes | int


class PlainError(ValueError):
    """Not plain data, or not its canonical bytes. The message says where."""


def pack(value: Plain) -> bytes:
    """The canonical bytes of ``value``.

    Raises:
        PlainError: something in it is not plain data, too deep or too much; says where it lies.
    """
    counter = [0]
    ordered = _ordered(value, "", 0, counter)
    return _packb(ordered)


def unpack(data: bytes | memoryview, items_max: int = ITEMS_MAX) -> Any:
    """The value of canonical bytes. Time and memory are linear in the length of ``data``.

    Raises:
        PlainError: they are not the canonical bytes of one value within the bounds.
    """
    data = bytes(data)
    _scan(data, items_max)
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            unicode_errors="surrogatepass",
            strict_map_key=False,
            max_str_len=len(data),
            max_bin_len=len(data),
            max_array_len=items_max,
            max_map_len=items_max,
        )
    except (ValueError, TypeError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise PlainError(str(error)) from None
    if pack(value) != data:
        raise PlainError("the bytes are not in canonical form")
    return value


def _packb(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors="surrogatepass")
    return packed


def _ordered(value: Any, where: str, depth: int, counter: list[int]) -> Any:
    """``value`` with its keys in order. Types are matched exactly: a subclass would come back as something
    else.
    """
    counter[0] += 1
    if counter[0] > ITEMS_MAX:
        raise PlainError(f"more than {ITEMS_MAX:,} values")
    check = _SCALARS.get(type(value))
    if check is not None:
        if not check(value):
            raise PlainError(f"{where or 'the value'}: {value!r} is out of range")
        return value
    if depth >= DEPTH_MAX:
        raise PlainError(f"{where[:200]}: nested more than {DEPTH_MAX} deep")
    if type(value) is list:
        return [_ordered(item, f"{where}[{at}]", depth + 1, counter) for at, item in enumerate(value)]
    if type(value) is dict:
        return {
            _ordered_key(key, where, counter): _ordered(value[key], f"{where}.{key}", depth + 1, counter)
            for key in sorted(value, key=_rank)
        }
    raise PlainError(f"{where or 'the value'}: a {type(value).__name__} is not plain data")


def _ordered_key(key: Any, where: str, counter: list[int]) -> _Key:
    counter[0] += 1
    if type(key) not in (str, bytes, int) or not _SCALARS[type(key)](key):
        raise PlainError(f"{where or 'the value'}: {key!r} cannot be a key")
    result: _Key = key
    return result


def _rank(key: Any) -> tuple[int, Any]:
    if type(key) is int:
        return 0, key
    if type(key) is str:
        return 1, key.encode("utf-8", "surrogatepass")
    return 2, key if type(key) is bytes else repr(key).encode()


_SCALARS: dict[type, Callable[[Any], bool]] = {
    type(None): lambda _: True,
    bool: lambda _: True,
    int: lambda value: _INT_LEAST <= value <= _INT_MOST,
    float: math.isfinite,
    str: lambda _: True,
    bytes: lambda _: True,
}


# -- the walk ------------------------------------------------------------------------------------------

_FIXED, _SIZED, _LIST, _MAP, _BAD = range(5)


def _table() -> list[tuple[int, int]]:
    """For each first byte: what follows, and how many bytes (of content, or of the length field)."""
    table = [(_BAD, 0)] * 256
    for tag in (*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3):
        table[tag] = (_FIXED, 0)
    for tag in range(0xA0, 0xC0):
        table[tag] = (_FIXED, tag & 0x1F)
    for tag, size in (
        (0xCB, 8),
        *((0xCC + at, 1 << at) for at in range(4)),
        *((0xD0 + at, 1 << at) for at in range(4)),
    ):
        table[tag] = (_FIXED, size)
    for first in (0xC4, 0xD9):  # bytes, str
        for at in range(3):
            table[first + at] = (_SIZED, 1 << at)
    for tag in range(0x10):
        table[0x90 | tag] = (_LIST, 0)
        table[0x80 | tag] = (_MAP, 0)
    table[0xDC], table[0xDD], table[0xDE], table[0xDF] = (_LIST, 2), (_LIST, 4), (_MAP, 2), (_MAP, 4)
    return table


_TAGS = _table()


def _scan(data: bytes, items_max: int) -> None:
    """Raise ``PlainError`` unless ``data`` is exactly one value, within the bounds, of the types we write."""
    at, end, left, total = 0, len(data), 1, 1
    outer: list[int] = []
    while True:
        while left == 0:
            if not outer:
                if at != end:
                    raise PlainError("bytes follow the value")
                return
            left = outer.pop()
        left -= 1
        if at >= end:
            raise PlainError("the value is cut off")
        tag = data[at]
        kind, size = _TAGS[tag]
        at += 1
        if kind == _FIXED:
            at += size
        elif kind == _SIZED:
            at += size + int.from_bytes(data[at : at + size], "big")
        elif kind == _BAD:
            raise PlainError(f"a value of an unknown type, {tag:#x}")
        else:
            count = int.from_bytes(data[at : at + size], "big") if size else tag & 0x0F
            at += size
            count *= 2 if kind == _MAP else 1
            total += count
            if total > items_max or count > end - at:
                raise PlainError(f"a list or map that claims {count:,} values")
            outer.append(left)
            if len(outer) > DEPTH_MAX:
                raise PlainError(f"nested more than {DEPTH_MAX} deep")
            left = count
        if at > end:
            raise PlainError("the value is cut off")
