"""Plain data as bytes: exact both ways, canonical, and bounded by the length of the input."""

from __future__ import annotations

import enum
import math
import random
import tracemalloc

import msgpack
import pytest
from hypothesis import given

from sojourn.context.plain import DEPTH_MAX, PlainError, pack, unpack

from .samples import plain


def same(one: object, two: object) -> bool:
    """Equal, and of the same types all the way down (True is not 1, 1 is not 1.0, -0.0 is not 0.0)."""
    return type(one) is type(two) and repr(_sorted(one)) == repr(_sorted(two))


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return sorted(((repr(key), _sorted(item)) for key, item in value.items()))
    return [_sorted(item) for item in value] if isinstance(value, list) else value


@given(plain)
def test_what_is_packed_is_unpacked(value: object) -> None:
    assert same(unpack(pack(value)), value)


@given(plain)
def test_equal_values_have_equal_bytes(value: object) -> None:
    def turned(part: object) -> object:
        if isinstance(part, dict):
            return {key: turned(part[key]) for key in reversed(part)}
        return [turned(item) for item in part] if isinstance(part, list) else part

    assert pack(turned(value)) == pack(value)


def test_text_that_is_no_unicode() -> None:
    assert unpack(pack("a\udcff")) == "a\udcff"


class Kind(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "value",
    [
        (1,),
        {1.5: 0},
        {True: 0},
        {None: 0},
        {(1,): 0},
        math.nan,
        math.inf,
        1 << 64,
        -(1 << 63) - 1,
        Kind.ONE,
        {1},
    ],
)
def test_what_is_no_plain_data_is_refused_by_name(value: object) -> None:
    with pytest.raises(PlainError, match=r"clock\.parts\[1\]"):
        pack({"clock": {"parts": [0, value]}})


def test_depth_is_bounded() -> None:
    value: object = 1
    for _ in range(DEPTH_MAX):
        value = [value]
    assert same(unpack(pack(value)), value)
    with pytest.raises(PlainError, match="deep"):
        pack([value])
    with pytest.raises(PlainError, match="deep"):
        unpack(b"\x91" * 100_000 + b"\x01")
    with pytest.raises(PlainError, match="deep"):
        unpack(b"\x81\x01" * 100_000 + b"\x01")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x01",  # two values
        b"\xcc\x01",  # a longer form than needed
        b"\xd9\x01a",
        b"\xc4\x02a",
        b"\x92\x01",
        b"\xca\0\0\0\0",  # a short float
        b"\xcb\x7f\xf8\0\0\0\0\0\0",  # not a number
        b"\xc1",
        b"\xd4\x01\x01",  # extension types
        b"\xc7\x01\x01\x01",
        b"\xd7\xff\0\0\0\0\0\0\0\0",  # a time
        b"\x82\x01\x01\x01\x02",  # a key twice
        b"\x82\x02\x01\x01\x02",  # keys not in order
        b"\x81\xc0\x01",  # a key of a wrong type
        b"\x81\x90\x01",
        b"\x81\xcb\x3f\xf0\0\0\0\0\0\0\x01",
        b"\xa1\xff",  # no text
        b"\xdc\0\x01\x01",
    ],
)
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    with pytest.raises(PlainError):
        unpack(data)


@pytest.mark.parametrize("count", [10**9, (1 << 32) - 1, 1 << 20])
@pytest.mark.parametrize("kind", [b"\xdd", b"\xdf", b"\xc6", b"\xdb"])
def test_lengths_that_are_only_claimed_cost_nothing(kind: bytes, count: int) -> None:
    # One level inside another: each would be allowed as much as the whole, if nobody counted.
    data = (kind + count.to_bytes(4, "big")) * 60 + bytes(1000)
    tracemalloc.start()
    try:
        with pytest.raises(PlainError):
            unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_many_values_are_bounded() -> None:
    with pytest.raises(PlainError, match="claims"):
        unpack(msgpack.packb([[0] * 100] * 100), items_max=1000)


def test_every_change_is_seen_or_changes_the_value() -> None:
    """Canonical means one form for each value: other bytes that are accepted are another value."""
    rng = random.Random(7)
    value = {"a": [1, 2.5, None, True, b"xyz", "text"], "b": {1: {2: [3] * 20}}, "c": -70000}
    good = pack(value)
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            found = unpack(bytes(data))
        except PlainError:
            continue
        assert pack(found) == bytes(data)
        assert same(found, value) == (bytes(data) == good)
