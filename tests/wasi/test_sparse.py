"""A file with holes behaves as one without, and holds no more than was written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sojourn.vm.process.wasi.sparse import CHUNK_BYTES, SparseBytes

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
    assert sparse.held == sum(map(len, sparse.chunks.values())) <= len(dense)


def test_a_hole_costs_nothing() -> None:
    sparse = SparseBytes()
    sparse.write(1 << 40, b"end")
    assert sparse.size == (1 << 40) + 3
    assert sparse.held == 3
    assert sparse.read(5, 3) == b"\0\0\0"
    sparse.resize(10)
    assert (sparse.held, sparse.chunks) == (0, {})
