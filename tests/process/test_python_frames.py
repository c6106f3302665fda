"""Python frames out of memories that were made up: right ones, and every kind of wrong one."""

from __future__ import annotations

import struct
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.context.reading import UnreadableError
from sojourn.vm.process import python_frames
from sojourn.vm.process.python_frames import COOKIE, Frame, NoPythonError, line_table, stacks

VERSION = 0x030F00F0

# Offsets that CPython on this machine does not have: only those in the memory count.
RUNTIME = {4: 1000}
INTERPRETER = {7: 12, 8: 20}
THREAD = {23: 8, 25: 44}
FRAME = {39: 8, 40: 4, 41: 16, 43: 33}
CODE = {47: 40, 49: 44, 50: 48, 51: 20, 55: 64}
OBJECTS = {86: 8, 87: 16, 89: 12, 90: 8, 91: 20}
OFFSETS = RUNTIME | INTERPRETER | THREAD | FRAME | CODE | OBJECTS
AT = 4096  # where the runtime lies
SIZE = 1 << 20


class World:
    """A memory in which an interpreter is laid out."""

    def __init__(self, version: int = VERSION, free_threaded: int = 0) -> None:
        self.data = bytearray(SIZE)
        self.reads = 0
        self._next = 16384
        numbers = [version, free_threaded, *(OFFSETS.get(at, 0) for at in range(2, 92))]
        self.put(AT, COOKIE + struct.pack("<92Q", *numbers))

    # what ``Memory`` asks for

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        if not 0 <= address <= address + size <= len(self.data):
            raise UnreadableError(f"{size} bytes at {address:#x}")
        return bytes(self.data[address : address + size])

    def find(self, wanted: bytes) -> Iterator[int]:
        at = -1
        while (at := self.data.find(wanted, at + 1)) >= 0:
            yield at

    # laying out

    def put(self, address: int, data: bytes) -> None:
        self.data[address : address + len(data)] = data

    def word(self, address: int, value: int) -> None:
        self.put(address, struct.pack("<I", value))

    def room(self, size: int) -> int:
        address = self._next
        self._next += -(-size // 16) * 16
        return address

    def text(self, value: str) -> int:
        ascii_, width = value.isascii(), 1 if max(map(ord, value), default=0) < 256 else 2
        width = 4 if max(map(ord, value), default=0) > 0xFFFF else width
        data = value.encode({1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[width])
        address = self.room(40 + len(data))
        self.word(address + OFFSETS[90], len(value))
        self.word(address + OFFSETS[89], 0xABCD0000 | ascii_ << 6 | 1 << 5 | width << 2 | 1)
        self.put(address + OFFSETS[91] + (0 if ascii_ else 8), data)
        return address

    def bytes_object(self, data: bytes) -> int:
        address = self.room(OFFSETS[87] + len(data))
        self.word(address + OFFSETS[86], len(data))
        self.put(address + OFFSETS[87], data)
        return address

    def code(self, name: str, file: str, table: bytes, first_line: int = 1) -> int:
        address = self.room(256)
        for at, value in ((47, self.text(file)), (49, self.text(name)), (50, self.bytes_object(table))):
            self.word(address + OFFSETS[at], value)
        self.word(address + OFFSETS[51], first_line)
        return address

    def frame(self, code: int, offset: int, previous: int, owner: int = 0, tag: int = 1) -> int:
        address = self.room(64)
        self.word(address + OFFSETS[40], code | tag)
        self.word(address + OFFSETS[39], previous)
        self.word(address + OFFSETS[41], code + OFFSETS[55] + offset)
        self.put(address + OFFSETS[43], bytes([owner]))
        return address

    def entry(self, previous: int) -> int:
        """A mark of the interpreter: no function."""
        return self.frame(0xFFFF00, 0, previous, owner=3)

    def thread(self, innermost: int, following: int = 0) -> int:
        address = self.room(128)
        self.word(address + OFFSETS[23], following)
        self.word(address + OFFSETS[25], innermost)
        return address

    def start(self, threads: int, following: int = 0) -> int:
        """An interpreter with these threads, the first of all."""
        address = self.room(128)
        self.word(address + OFFSETS[8], threads)
        self.word(address + OFFSETS[7], following)
        self.word(AT + OFFSETS[4], address)
        return address


def entries(*lines: int) -> bytes:
    """A table of lines: one instruction for each, as short as can be."""
    found, before = b"", 0
    for line in lines:
        delta, before = line - before, line
        found += bytes([0x80 | 13 << 3, delta << 1 if delta >= 0 else -delta << 1 | 1])
    return found


def running(*calls: tuple[str, int]) -> World:
    """A world whose one thread is in these functions, the outermost first: name, instruction."""
    world = World()
    innermost = world.entry(0)
    for name, instruction in calls:
        code = world.code(name, "prog.py", entries(0, 1, 2, 5), first_line=10)
        innermost = world.frame(code, 2 * instruction, innermost)
    world.start(world.thread(innermost))
    return world


def test_frames_come_outermost_first_with_their_lines() -> None:
    found = stacks(running(("<module>", 0), ("outer", 2), ("inner", 3)))
    assert found.version == "3.15.0"
    assert found.threads == (
        (
            Frame("<module>", "prog.py", 10),
            Frame("outer", "prog.py", 12),
            Frame("inner", "prog.py", 15),
        ),
    )
    assert found.cut == ""


@pytest.mark.parametrize("name", ["häuser.méthode", "naïve.λ", "x.𝔣", "a" * 5000])
def test_names_of_all_widths(name: str) -> None:
    ((frame,),) = stacks(running((name, 0))).threads
    assert frame.function == (name if len(name) < 5000 else "a" * 4096 + "…")


def test_marks_of_the_interpreter_are_no_calls() -> None:
    world = World()
    code = world.code("f", "p.py", entries(0))
    innermost = world.entry(world.frame(code, 0, world.entry(world.frame(code, 0, world.entry(0)))))
    world.start(world.thread(innermost))
    assert [frame.function for frame in stacks(world).threads[0]] == ["f", "f"]


def test_all_threads_of_all_interpreters() -> None:
    world = World()

    def thread(name: str, following: int = 0) -> int:
        return world.thread(world.frame(world.code(name, "p.py", entries(0)), 0, 0), following)

    second = world.start(thread("c"))
    world.start(thread("b", thread("idle", thread("a"))), second)
    found = [frame.function for (frame,) in stacks(world).threads]
    assert found == ["b", "idle", "a", "c"]


def test_an_interpreter_that_does_nothing_has_no_frames() -> None:
    world = World()
    world.start(world.thread(world.entry(0)))
    with pytest.raises(NoPythonError, match="doing nothing"):
        stacks(world)
    with pytest.raises(NoPythonError, match="doing nothing"):
        stacks(World())  # not even started


def test_a_place_without_a_line() -> None:
    world = World()
    code = world.code("f", "p.py", bytes([0x80 | 15 << 3]) + entries(4), first_line=3)
    innermost = 0
    for instruction in (0, 1, 9):
        innermost = world.frame(code, 2 * instruction, innermost)
    world.start(world.thread(innermost))
    # The first is before all lines, so at the function's own; the last is no instruction.
    assert [frame.line for frame in stacks(world).threads[0]] == [3, 7, None]


@pytest.mark.parametrize("version", [0x030E00F0, 0x031000F0, 0x030F00A3, 0x030F00B1, 0, (1 << 64) - 1])
def test_another_version_is_named_and_not_read(version: int) -> None:
    world = running(("f", 0))
    world.put(AT + 8, struct.pack("<Q", version))
    with pytest.raises(NoPythonError, match=f"version {version:#x}.*known: 3.15"):
        stacks(world)


def test_a_free_threaded_build_is_not_read() -> None:
    world = running(("f", 0))
    world.put(AT + 16, struct.pack("<Q", 1))
    with pytest.raises(NoPythonError, match="layout"):
        stacks(world)


def test_the_cookie_in_a_program_does_not_mislead() -> None:
    world = running(("f", 0))
    world.put(64, COOKIE + b"just a string of a program about debuggers")
    world.put(len(world.data) - 8, COOKIE)
    assert stacks(world).threads[0][0].function == "f"
    world.put(AT, bytes(8))
    with pytest.raises(NoPythonError):
        stacks(world)
    with pytest.raises(NoPythonError, match="no CPython"):
        stacks(_with(World(), lambda w: w.put(AT, bytes(8))))


def _with(world: World, change: Any) -> World:
    change(world)
    return world


def test_what_comes_back_to_itself_is_left() -> None:
    world = World()
    code = world.code("f", "p.py", entries(0))
    first = world.frame(code, 0, 0)
    innermost = world.frame(code, 0, first)
    world.word(first + OFFSETS[39], innermost)
    thread = world.thread(innermost)
    world.word(thread + OFFSETS[23], thread)
    world.start(thread)
    found = stacks(world)
    assert len(found.threads[0]) == 2
    assert "comes back" in found.cut


def test_frames_that_were_read_before_something_wrong_are_shown() -> None:
    world = World()
    code = world.code("f", "p.py", entries(0))
    world.start(world.thread(world.frame(code, 0, world.frame(0xFFFF0000, 0, 0))))
    found = stacks(world)
    assert [frame.function for frame in found.threads[0]] == ["f"]
    assert "0xffff" in found.cut


def test_there_are_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_frames, "FRAMES_MAX", 20)
    found = stacks(running(*[("f", 0)] * 50))
    assert len(found.threads[0]) == 20
    assert "more than 20 frames" in found.cut
    monkeypatch.setattr(python_frames, "FRAMES_MAX", 1000)
    monkeypatch.setattr(python_frames, "READ_BYTES_MAX", 3000)
    world = running(*[("f", 0)] * 50)
    found = stacks(world)
    assert 0 < len(found.threads[0]) < 50
    assert "more than 3,000 bytes" in found.cut
    monkeypatch.setattr(python_frames, "TABLE_BYTES_MAX", 4)
    with pytest.raises(NoPythonError, match="table of lines"):
        stacks(running(("f", 0)))


def test_many_cookies_share_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_frames, "READ_BYTES_MAX", 100_000)
    world = World()
    for at in range(0, SIZE - 1000, 8192):
        world.put(at, COOKIE + struct.pack("<92Q", VERSION, 0, *(OFFSETS.get(n, 0) for n in range(2, 92))))
    with pytest.raises(NoPythonError):
        stacks(world)
    assert world.reads < 100_000 / 736 + 2 * python_frames.CANDIDATES_MAX


GENUINE = running(("<module>", 0), ("häuser.λ", 2), ("inner", 3))
USED = max(at for at, byte in enumerate(GENUINE.data) if byte)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(AT, USED), st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 4))),
        max_size=12,
    ),
    st.integers(0, USED + 1),
)
def test_whatever_the_memory_holds_there_is_an_answer(changes: list[tuple[int, bytes]], cut: int) -> None:
    world = World()
    world.data = bytearray(GENUINE.data)
    for address, data in changes:
        world.put(address, data)
    if cut > AT + 800:
        del world.data[cut:]
    try:
        found = stacks(world)
    except NoPythonError as error:
        assert str(error)
    else:
        assert sum(map(len, found.threads)) > 0
        for frame in (frame for frames in found.threads for frame in frames):
            assert frame.line is None or frame.line > 0
            assert len(frame.function) <= python_frames.TEXT_MAX + 1
            str(frame).encode("utf-8", "backslashreplace")
    assert world.reads < 10_000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_of_lines(data: bytes) -> None:
    ends = [end for end, _ in line_table(data)]
    assert ends == sorted(ends)
    assert len(ends) <= len(data)


SOURCE = textwrap.dedent('''
    """A module with all that a table of lines has."""
    import os, sys
    async def agen(x):
        async with x as y:
            yield [z
                   async for z in y]

    class C(
        object,
    ):
        field: int = 3

        def method(self, n):
            try:
                return (self
                        .method(n -
                                1))
            except* ValueError as e:
                raise
            finally:
                for k in {1: 2, **{}}:
                    match k:
                        case [1, *rest] if rest:
                            pass
                        case _: continue
                    lambda: k
            assert n, "x"
''')


def _codes(code: Any) -> Iterator[Any]:
    yield code
    for constant in code.co_consts:
        if hasattr(constant, "co_linetable"):
            yield from _codes(constant)


def test_tables_of_lines_are_read_as_python_reads_them() -> None:
    """Every instruction of every function, with a long function whose numbers take several bytes."""
    far = "\n" * 3000
    long = f"def long(a):\n    x = (a +{far}    a)\n" + "    x = a\n" * 300 + f"{far}    return x\n"
    checked = 0
    for code in _codes(compile(SOURCE + long, "x", "exec")):
        table = line_table(code.co_linetable)
        begin = 0
        mine = {}
        for end, delta in table:
            for offset in range(begin, end, 2):
                mine[offset] = None if delta is None else code.co_firstlineno + delta
            begin = end
        theirs = {at: line for first, end, line in code.co_lines() for at in range(first, end, 2)}
        assert mine == theirs
        checked += len(mine)
    assert checked > 800
