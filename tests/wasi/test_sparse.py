"""A file with holes behaves as one without, and holds no more than was written."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from sojourn.vm.process.wasi.sparse import CHUNK_BYTES, CHUNK_COST_BYTES, SparseBytes

OFFSETS = st.integers(0, 3 * CHUNK_BYTES)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), OFFSETS, st.binary(max_size=40)),
        st.tuples(st.just("long"), OFFSETS, st.integers(0, 2 * CHUNK_BYTES)),
        st.tuples(st.just("resize"), OFFSETS, st.none()),
    ),
    max_size=12,
)


@given(STEPS, OFFSETS, st.integers(0, 3 * CHUNK_BYTES))
def test_reads_what_a_dense_file_would(steps: list, offset: int, size: int) -> None:
    sparse, dense = SparseBytes(), bytearray()
    for kind, at, what in steps:
        if kind == "resize":
            sparse.resize(at)
            dense[at:] = bytes(max(0, at - len(dense)))
            continue
        data = what if kind == "write" else b"x" * what
        before = sparse.held
        growth = sparse.growth(at, len(data))
        sparse.write(at, data)
        assert sparse.held == before + growth
        dense += bytes(max(0, at + len(data) - len(dense)))
        dense[at : at + len(data)] = data
    assert sparse.size == len(dense)
    assert sparse.read(offset, size) == dense[offset : offset + size]
    assert all(sparse.chunks.values())
    held = sum(map(len, sparse.chunks.values()))
    assert held <= len(dense)
    assert sparse.held == held + CHUNK_COST_BYTES * len(sparse.chunks)


def test_a_hole_costs_nothing() -> None:
    sparse = SparseBytes()
    sparse.write(1 << 40, b"end")
    assert sparse.size == (1 << 40) + 3
    assert sparse.held == 3 + CHUNK_COST_BYTES
    assert sparse.read(5, 3) == b"\0\0\0"
    sparse.resize(10)
    assert (sparse.held, sparse.chunks) == (0, {})


@given(st.lists(st.tuples(OFFSETS, st.integers(0, 40)), max_size=4), st.integers(1, 4 * CHUNK_BYTES))
def test_what_filling_up_to_an_end_will_hold(writes: list[tuple[int, int]], beyond: int) -> None:
    sparse = SparseBytes()
    for at, size in writes:
        sparse.write(at, bytes(size))
    before, end = sparse.held, sparse.size + beyond
    growth = sparse.dense_growth(end)
    sparse.write(sparse.size, bytes(beyond))
    assert sparse.held == before + growth


def test_single_bytes_far_apart_hold_no_more_than_is_counted() -> None:
    sparse = SparseBytes()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(2000):
        sparse.write(number * CHUNK_BYTES, b"x")
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held < 1.5 * sparse.held
