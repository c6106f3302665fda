"""What a hostile guest may answer: whatever the bytes, a value or the typed error, in bounded memory."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pandas as pd
import pytest

from sojourn.functions import codec
from sojourn.functions.codec import Registry, decode, encode
from sojourn.functions.protocol import open_facts
from sojourn.functions.wire import Message
from sojourn.model.errors import CodecError

MIB = 1 << 20
HEADER_BYTES = 2 * MIB


def packed(tree: Any) -> bytes:
    return msgpack.packb(tree, default=codec._wide_integer)


def many(item: Any) -> bytes:
    """A header of ``HEADER_BYTES`` that repeats one item, in runs within runs as long lists are sent."""
    data = packed(item)
    run = b"\xdc\x10\x00" + data * 4096
    runs = max(1, min(4096, HEADER_BYTES // len(run)))
    return b"\x81" + packed(codec._RUNS) + b"\xdc" + runs.to_bytes(2, "big") + run * runs


def deep(opening: bytes, filler: bytes) -> bytes:
    """Lists or maps that are never complete until the deepest one is."""
    return (opening + filler) * 900 + b"\x90"


EMPTY_RANGE = {14: ["range", 0, 0, 1, None]}
BOMBS: dict[str, Callable[[], bytes]] = {
    "empty lists": lambda: many([]),
    "empty maps": lambda: many({}),
    "maps of one": lambda: many({"a": None}),
    "short text": lambda: many("ab"),
    "integers": lambda: many(70_000),
    "lists of one": lambda: many([[]]),
    "empty sets": lambda: many({3: []}),
    "empty dicts": lambda: many({2: [[], []]}),
    "deques": lambda: many({11: ["deque", [], None]}),
    "counters": lambda: many({11: ["counter", [], []]}),
    "zones": lambda: many({11: ["zone", "Europe/Paris"]}),
    "wide integers": lambda: many({5: b"\x01" * 60}),
    "arrays": lambda: many({13: ["scalar", "<f8", b"\0" * 8]}),
    "indexes": lambda: many(EMPTY_RANGE),
    "frames": lambda: many({14: ["frame", [], EMPTY_RANGE, EMPTY_RANGE, {}, True]}),
    "lists that do not end": lambda: deep(b"\xdc\x10\x00", b"\xa2ab" * 4095),
    "maps that do not end": lambda: deep(b"\xde\x04\x00", b"\xa2ab\xc0" * 1023 + b"\xa1c"),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_small_header_cannot_become_many_objects(bomb: Callable[[], bytes], monkeypatch: Any) -> None:
    budget = 8 * MIB
    monkeypatch.setattr(codec, "OBJECT_BYTES_MAX", budget)
    header = bomb()
    with contextlib.suppress(CodecError):  # loads what it needs
        decode(header[:40])
    tracemalloc.start()
    try:
        with contextlib.suppress(CodecError):
            value = decode(header)
            assert tracemalloc.get_traced_memory()[0] <= budget, "the value itself is larger than is allowed"
            del value
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Beside the budget: what msgpack has read of lists that are not complete.
    assert peak <= 4 * budget + 900 * (4096 * codec.ITEM_BYTES) * header.startswith((b"\xdc", b"\xde"))


@pytest.mark.parametrize("name", ["empty lists", "maps of one", "short text", "empty sets", "frames"])
def test_too_many_objects_is_said_in_words(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(codec, "OBJECT_BYTES_MAX", 1 * MIB)
    with pytest.raises(CodecError, match="so many parts") as caught:
        decode(BOMBS[name]())
    assert "array" in caught.value.hint


def column(code: str, count: int, text: bytes = b"") -> tuple[bytes, list[memoryview]]:
    if code == "s":
        return packed({10: ["s", 0, 1]}), [memoryview(text), memoryview(bytearray(4 * count))]
    return packed({10: [code, 0]}), [memoryview(bytearray(8 * count))]


@pytest.mark.parametrize("code", ["s", "q", "d"])
def test_a_column_of_many_items_is_counted_before_it_is_made(code: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(codec, "OBJECT_BYTES_MAX", MIB)
    header, buffers = column(code, 100_000)
    with pytest.raises(CodecError, match="so many parts"):
        decode(header, buffers)


def test_text_that_one_character_makes_wide_is_counted(monkeypatch: Any) -> None:
    monkeypatch.setattr(codec, "OBJECT_BYTES_MAX", MIB)
    text = b"a" * MIB
    assert decode(packed({8: 0}), [memoryview(text)]) == "a" * MIB
    with pytest.raises(CodecError, match="so many parts"):
        decode(packed({8: 0}), [memoryview(text + "😀".encode())])


def test_half_a_million_records_are_below_the_limit(monkeypatch: Any) -> None:
    records = [{"id": n, "name": f"n{n}", "tags": ["a", "b"], "size": n / 7} for n in range(20_000)]
    monkeypatch.setattr(codec, "OBJECT_BYTES_MAX", codec.OBJECT_BYTES_MAX * len(records) // 500_000)
    message = encode(records)
    assert decode(message.header, message.buffers) == records


@pytest.mark.parametrize(
    "facts",
    [{"a": {}}, {"a": []}, {"a": [[], []]}, {"a": 1}, [], {str(n): "" for n in range(100)}, {1: "a"}, "text"],
    ids=repr,
)
def test_facts_are_a_flat_map_of_a_few_texts(facts: Any) -> None:
    with pytest.raises(CodecError, match="not a message"):
        open_facts(packed(facts))


RANGE = {14: ["range", 0, 10**9, 1, None]}
NUMBER = {13: ["array", "<f8", [], "C", 0]}
HOSTILE_FRAMES = {
    "one number for a billion rows": {14: ["series", NUMBER, RANGE, None, {}, True]},
    "a frame of one number": {14: ["frame", NUMBER, RANGE, RANGE, {}, True]},
    "a column of one number": {14: ["frame", [NUMBER], RANGE, {14: ["range", 0, 1, 1, None]}, {}, True]},
    "a list shorter than its index": {14: ["series", [], RANGE, None, {}, True]},
    "categories that are a long range": {
        14: ["categorical", {13: ["array", "|i1", [8], "C", 0]}, RANGE, False]
    },
    "levels that are a long range": {14: ["multi", [RANGE], [{13: ["array", "|i1", [8], "C", 0]}], ["a"]]},
    "a zone that is a file": {
        14: ["timestamp", {13: ["scalar", "<M8[ns]", b"\0" * 8]}, "dateutil//proc/self/status"]
    },
    "zoned moments whose zone is a file": {
        14: ["datetimes", {13: ["array", "<M8[ns]", [1], "C", 0]}, "dateutil//proc/self/status"]
    },
    "a frame whose columns disagree": {14: ["frame", [[1], [2, 3]], EMPTY_RANGE, EMPTY_RANGE, {}, True]},
    "an index that repeats for ever": {14: ["range", 0, 10, 0, None]},
    "a path of millions of parts": {11: ["posixpath", "a/" * 1_000_000]},
    "a flag of millions of bits": {12: ["Mode", "flag", {5: b"\x7f" * 100_000}]},
    "a date out of range": {11: ["date", 10_000, 1, 1]},
    "a moment of huge numbers": {11: ["timedelta", 2**63 - 1, 0, 0]},
    "a decimal that is none": {11: ["decimal", "1e" + "9" * 50]},
    "a shape that overflows": {13: ["array", "<f8", [2**62, 4], "C", 0]},
    "a shape of true": {13: ["array", "|b1", [True] * 8, "C", 0]},
    "too many dimensions": {13: ["array", "<f8", [1] * 65, "C", 0]},
    "a shape and bytes that disagree": {13: ["array", "<f8", [2], "C", 0]},
    "an order that is none": {13: ["array", "<f8", [1], "A", 0]},
    "text as a number": {13: ["array", "<f8", ["1"], "C", 0]},
}


@pytest.mark.parametrize("tree", HOSTILE_FRAMES.values(), ids=HOSTILE_FRAMES)
def test_hostile_parts_are_refused_before_they_take_memory(tree: Any) -> None:
    import enum

    mode = enum.IntFlag("Mode", ["READ", "WRITE"])
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(packed(tree), [memoryview(bytearray(8))], Registry({"Mode": mode}))
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


def seeds() -> list[Message]:
    frame = pd.DataFrame(
        {
            "a": pd.array([1, None], dtype="Int64"),
            "b": pd.Categorical(["x", "y"]),
            "c": pd.date_range("2024", periods=2, tz="UTC"),
            "d": ["p", None],
        }
    )
    multi = pd.DataFrame([[1.0, 2.0]], columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]))
    structure = np.zeros(2, [("p", [("x", "f4"), ("y", "i2", (2, 3))]), ("s", "U3")])
    values = [frame, multi, structure, list(range(2_000)), ["ab"] * 2_000, {1: (2, {3})}, np.eye(3), 2**80]
    return [encode(value) for value in values]


def mutated(message: Message, rng: random.Random) -> tuple[bytes, list[memoryview]]:
    header, buffers = bytearray(message.header), [bytearray(buffer) for buffer in message.buffers]
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(header))
        match rng.randrange(5):
            case 0:
                header[at] = rng.randrange(256)
            case 1:
                header[at : at + rng.randint(1, 4)] = b""
            case 2:
                header[at:at] = rng.choice(
                    [b"\x90", b"\x80", b"\xdc\x10\x00", b"\x81\x0e", b"\xcf" + b"\xff" * 8]
                )
            case 3 if buffers:
                buffer = rng.choice(buffers)
                del buffer[rng.randrange(len(buffer) + 1) :]
            case _:
                header[at] ^= 1 << rng.randrange(8)
        if not header:
            header = bytearray(b"\xc0")
    return bytes(header), [memoryview(buffer) for buffer in buffers]


def fuzz(seed: int, count: int) -> None:
    rng = random.Random(seed)
    samples = seeds()
    for _ in range(count):
        with contextlib.suppress(CodecError):
            decode(*mutated(rng.choice(samples), rng))


@pytest.mark.parametrize("seed", range(4))
def test_mutated_values_are_values_or_refused_in_bounded_memory(seed: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(codec, "OBJECT_BYTES_MAX", 16 * MIB)
    fuzz(seed, 1)
    tracemalloc.start()
    try:
        fuzz(seed, 400)
        assert tracemalloc.get_traced_memory()[1] < 128 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.soak
def test_many_mutated_values() -> None:
    for seed in range(100, 200):
        fuzz(seed, 2_000)


@pytest.mark.soak
@pytest.mark.parametrize("name", BOMBS)
def test_a_whole_header_of_bombs_fits_the_machine(name: str) -> None:
    """At full size, in a process of its own: the peak of its memory, whoever allocated it."""
    code = textwrap.dedent(f"""
        import resource, sys
        sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
        import test_hostile_values as t
        t.HEADER_BYTES = 60 << 20
        header = t.BOMBS[{name!r}]()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            t.decode(header)
        except t.CodecError:
            pass
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(done.stdout) < 1_600 * MIB
