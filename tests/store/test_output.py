"""The output log: what is missing in front, and what is cut off because it will be written again."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.store.output import STDERR, STDOUT, Output, OutputWriter, cut_output, read_output


def written(path: Path, *pieces: tuple[int, bytes], begin: int = 0) -> int:
    """The offset after the pieces, each a frame of its own."""
    with OutputWriter(path, begin=begin, now_ns=lambda: 7) as log:
        for stream, data in pieces:
            log.write(stream, data)
            log.flush()
        return log.offset


def read(path: Path, start: int = 0) -> list[tuple[int, int, bytes]]:
    return [(piece.offset, piece.stream, piece.data) for piece in read_output(path, start)]


def test_a_log_may_begin_later(tmp_path: Path) -> None:
    """That of a fork: its first byte has the offset that its output had there."""
    path = tmp_path / "output"
    assert written(path, (STDOUT, b"abc"), (STDERR, b"de"), begin=100) == 105
    assert written(path, (STDOUT, b"f"), begin=50) == 106  # there is more than that already
    assert read(path) == [(100, STDOUT, b"abc"), (103, STDERR, b"de"), (105, STDOUT, b"f")]
    assert read(path, 101) == [(101, STDOUT, b"bc"), (103, STDERR, b"de"), (105, STDOUT, b"f")]
    assert list(read_output(path, 105)) == [Output(STDOUT, 105, 7, b"f")]


@pytest.mark.parametrize("size", range(99, 108))
def test_a_log_that_begins_later_is_cut_by_offset(tmp_path: Path, size: int) -> None:
    path = tmp_path / "output"
    written(path, (STDOUT, b"abc"), (STDERR, b"de"), (STDOUT, b"f"), begin=100)
    cut_output(path, size)
    assert b"".join(data for _, _, data in read(path)) == b"abcdef"[: max(0, size - 100)]
    assert written(path, (STDOUT, b"!"), begin=size) == size + 1
    assert read(path)[-1] == (size, STDOUT, b"!")


def test_what_a_power_cut_took_from_a_log_is_a_gap(tmp_path: Path) -> None:
    """The checkpoint counts more output than the log still has: what follows keeps its place."""
    path = tmp_path / "output"
    written(path, (STDOUT, b"abc"))
    path.write_bytes(path.read_bytes()[:-1])
    written(path, (STDOUT, b"abc"), begin=0)
    written(path, (STDOUT, b"xyz"), begin=10)
    assert read(path) == [(0, STDOUT, b"abc"), (10, STDOUT, b"xyz")]
    cut_output(path, 11)
    assert read(path) == [(0, STDOUT, b"abc"), (10, STDOUT, b"x")]
