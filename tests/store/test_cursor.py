"""Reading a log from a place, while it grows and when it was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.store.output import STDERR, STDOUT, Cursor, OutputWriter, Place, cut_output


def text(cursor: Cursor) -> bytes:
    return b"".join(piece.data for piece in cursor.read())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "output"


def test_a_cursor_gives_each_byte_once(path: Path) -> None:
    cursor = Cursor(path)
    assert cursor.read() == []
    with OutputWriter(path) as log:
        log.write(STDOUT, b"one ")
        log.write(STDERR, b"two ")
        log.flush()
        assert [(piece.stream, piece.offset, piece.data) for piece in cursor.read()] == [
            (STDOUT, 0, b"one "),
            (STDERR, 4, b"two "),
        ]
        assert cursor.read() == []
        log.write(STDOUT, b"three")
    assert text(cursor) == b"three"
    assert text(Cursor(path)) == b"one two three"


@pytest.mark.parametrize("again", [b"cdefgh", b"c", b"cdefghijkl"])
def test_what_is_written_again_after_a_cut_is_passed_over(path: Path, again: bytes) -> None:
    cursor = Cursor(path)
    with OutputWriter(path) as log:
        for letter in b"abcdef":
            log.write(STDOUT, bytes((letter,)))
            log.flush()
    assert text(cursor) == b"abcdef"
    cut_output(path, 2)
    assert text(cursor) == b""
    with OutputWriter(path) as log:
        log.write(STDOUT, again)  # in one frame, where there were several
    assert text(cursor) == again[4:]
    with OutputWriter(path) as log:
        log.write(STDOUT, b"defghijklm"[len(again) - 1 :])
    assert text(cursor) == b"ghijklm"[len(again[4:]) :]


def test_a_writer_goes_on_at_a_known_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OutputWriter(path) as log:
        log.write(STDOUT, b"first ")
    place = log.place
    assert place == Place(path.stat().st_size, 6)
    monkeypatch.setattr("sojourn.store.output._whole", lambda path: pytest.fail("the log was read"))
    with OutputWriter(path, place=place) as log:
        assert log.offset == 6
        log.write(STDOUT, b"second")
    assert text(Cursor(path)) == b"first second"


def test_a_place_that_is_not_the_end_is_not_believed(path: Path) -> None:
    with OutputWriter(path) as log:
        log.write(STDOUT, b"first ")
        place = log.place
        log.flush()
        log.write(STDOUT, b"second ")
    with OutputWriter(path, place=place) as log:
        assert log.offset == 13
        log.write(STDOUT, b"third")
    assert text(Cursor(path)) == b"first second third"


def test_who_waits_for_output_is_told_and_sees_it_after_a_flush(path: Path) -> None:
    heard: list[bytes] = []
    cursor = Cursor(path)

    def written() -> None:
        log.flush()
        heard.append(text(cursor))

    with OutputWriter(path, written=written) as log:
        log.write(STDOUT, b"a")
        log.write(STDERR, b"b")
    assert heard == [b"a", b"b"]
