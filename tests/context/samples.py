"""Contexts to test with: one of everything, and strategies for any."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

from sojourn.context import CHUNK_BYTES, PAGE_BYTES, Base, BaseKind, Context, Global, Memory, Table, compare
from sojourn.context.pack import Index, read_index, write_pack

NOW_NS = 1_700_000_000_000_000_000
IMAGE = Base(BaseKind.IMAGE, "1" * 64, PAGE_BYTES)


def memory_bytes(pattern: str) -> bytes:
    """Memory of one chunk for each letter: ``0`` is zero, any other letter a chunk of it."""
    return b"".join(bytes(CHUNK_BYTES) if c == "0" else c.encode() * CHUNK_BYTES for c in pattern)


def view_of(pattern: str) -> memoryview:
    return memoryview(bytearray(memory_bytes(pattern)))


def record(function: int, site: int, values: bytes = b"") -> bytes:
    return values + struct.pack("<II", site, function)


def context(**changes: Any) -> Context:
    """One with everything in it."""
    values: dict[str, Any] = {
        "program": "sha256:" + "a" * 64,
        "runtime": "b" * 64,
        "transform": 3,
        "pid": "abcd2345",
        "created_ns": NOW_NS,
        "epoch": 2,
        "sequence": 7,
        "parent": "c" * 64,
        "grants": [{"kind": "dir", "path": "/x", "guest_path": "/x", "writable": False}],
        "limits": {"memory_bytes": 1 << 30, "cpu_seconds": 1.5},
        "secrets": ("TOKEN",),
        "memories": (compare(view_of("abb0c0ad"), None), Memory.fresh(2 * PAGE_BYTES, IMAGE)),
        "globals": (Global("i32", 7), Global("v128", 1 << 127), Global("f64", 0x7FF8_0000_0000_0001)),
        "tables": (Table(0, 100, ((3, 17), (99, None))), Table(2, 0)),
        "dropped_elements": (0, 5),
        "dropped_data": (1,),
        "records": record(9, 1, b"\0" * 12) + record(4, 2),
        "frames": ((4, 2), (9, 1)),
        "system": {
            "descriptors": [{"fd": 3, "offset": 1 << 40}],
            "random": b"\0\xff",
            "inodes": {1: None, 2: {}},
        },
        "output_bytes": 123,
        "monotonic_ns": 5_000_000_000,
        "realtime_ns": NOW_NS,
    }
    return Context(**(values | changes))


def chunks_of(views: list[memoryview], memories: tuple[Memory, ...]) -> dict[bytes, memoryview]:
    """The stored chunks, by digest."""
    found = {}
    for view, memory in zip(views, memories, strict=False):
        for index, digest in memory.stored():
            found[digest] = view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
    return found


def pack_bytes(chunks: dict[bytes, memoryview], compress: bool) -> tuple[bytes, Index]:
    data = b"".join(b"".join(pieces) for pieces in write_pack(list(chunks), chunks.values(), compress))
    return data, index_of(data)


def index_of(data: bytes) -> Index:
    from sojourn.context.pack import TRAILER_BYTES, index_bytes

    return read_index(data[-index_bytes(data[-TRAILER_BYTES:]) :], len(data))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.binary(max_size=40),
)
keys = st.one_of(st.text(max_size=8), st.integers(-(1 << 63), (1 << 64) - 1), st.binary(max_size=8))
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=25,
)
patterns = st.text("0abc", min_size=4, max_size=32).filter(lambda text: len(text) % 4 == 0)
u31 = st.integers(0, (1 << 31) - 1)


@st.composite
def contexts(draw: st.DrawFn) -> Context:
    frames = draw(st.lists(st.tuples(u31, u31), max_size=5))
    records = b"".join(record(*frame, draw(st.binary(max_size=9))) for frame in reversed(frames))
    if draw(st.booleans()):
        frames = []  # nobody looked
    changes = draw(st.dictionaries(st.integers(0, 999), st.none() | u31, max_size=5))
    return context(
        memories=tuple(compare(view_of(pattern), None) for pattern in draw(st.lists(patterns, max_size=2))),
        tables=(Table(1, 1000, tuple(sorted(changes.items()))),),
        globals=tuple(
            draw(st.lists(st.builds(Global, st.just("i64"), st.integers(0, (1 << 64) - 1)), max_size=4))
        ),
        frames=tuple(frames),
        records=records,
        system=draw(st.dictionaries(st.text(max_size=8), plain, max_size=4)),
        parent=draw(st.none() | st.just("d" * 64)),
        sequence=draw(u31),
    )
