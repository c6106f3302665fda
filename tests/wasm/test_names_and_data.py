"""The name section, and what data segments make of a memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.wasm.binary import MalformedModuleError, Module, SectionId, uleb
from sojourn.wasm.initial import InitialMemory
from sojourn.wasm.names import function_names

from ..wat import wat


def test_functions_have_the_names_of_the_name_section() -> None:
    module = Module.parse(wat('(module (import "a" "b" (func $in)) (func $f) (func) (func $g))'))
    assert dict(function_names(module)) == {0: b"in", 1: b"f", 3: b"g"}


def test_a_module_without_names_has_none() -> None:
    assert not list(function_names(Module.parse(wat("(module)"))))
    other = Module([(SectionId.CUSTOM, b"\x05other\xff"), (SectionId.CUSTOM, b"\x04name\0\2\1a\2\0")])
    assert not list(function_names(other))


@pytest.mark.parametrize(
    "payload", [b"", b"\x04name\x01", b"\x04name\x01\x05\xff\xff\x03", b"\x04name\x01\2\1\0"]
)
def test_a_name_section_that_is_cut_off_is_an_error(payload: bytes) -> None:
    with pytest.raises(MalformedModuleError):
        list(function_names(Module([(SectionId.CUSTOM, payload)])))


def initial(text: str) -> InitialMemory:
    return InitialMemory(Module.parse(wat(text)))


def test_segments_lie_where_they_say_and_later_ones_on_top() -> None:
    memory = initial(
        """(module (memory 3) (data (i32.const 10) "hello") (data $passive "no") (data (i32.const 12) "LL")
        (data (i32.const 65534) "edge"))"""
    )
    assert memory.known
    assert memory.read(8, 9) == b"\0\0heLLo\0\0"
    assert memory.read(65536, 3) == b"ge\0"
    assert memory.read(65530, 12) == b"\0\0\0\0edge\0\0\0\0"
    assert memory.read(100_000, 4) == bytes(4)
    assert memory.read(0, 0) == b""
    assert memory.read(1 << 33, 2) == bytes(2)


def test_a_place_above_two_gigabytes_is_one() -> None:
    memory = initial('(module (memory 40000) (data (i32.const -2147483648) "far"))')
    assert memory.read(0x8000_0000, 3) == b"far"
    assert initial('(module (memory i64 1) (data (i64.const 7) "x"))').read(6, 3) == b"\0x\0"


def test_other_memories_are_others() -> None:
    memory = initial(
        '(module (memory 1) (memory 1) (data (memory 1) (i32.const 1) "b") (data (i32.const 1) "a"))'
    )
    assert memory.read(0, 3) == b"\0a\0"


def test_a_place_that_only_an_instance_knows_is_not_guessed() -> None:
    memory = initial(
        '(module (import "a" "b" (global i32)) (memory 1) (data (global.get 0) "x") (data (i32.const 3) "y"))'
    )
    assert not memory.known
    assert not initial('(module (memory 1) (data (i32.add (i32.const 1) (i32.const 1)) "x"))').known


def test_a_data_section_that_is_cut_off_is_an_error() -> None:
    module = Module.parse(wat('(module (memory 1) (data (i32.const 10) "hello"))'))
    payload = bytes(module.section(SectionId.DATA))
    for end in range(1, len(payload)):
        module.replace(SectionId.DATA, payload[:end])
        with pytest.raises(MalformedModuleError):
            InitialMemory(module)
    module.replace(SectionId.DATA, b"\x01\0\x41" + b"\x80" * 20)
    with pytest.raises(MalformedModuleError, match="too long"):
        InitialMemory(module)


@given(
    st.lists(
        st.tuples(st.integers(0, 200_000), st.binary(max_size=300) | st.just(b"z" * 70_000)), max_size=8
    ),
    st.integers(0, 210_000),
    st.integers(0, 70_000),
)
def test_reading_agrees_with_writing_all_segments(
    segments: list[tuple[int, bytes]], offset: int, size: int
) -> None:
    whole = bytearray(400_000)
    payload = uleb(len(segments))
    for place, data in segments:
        whole[place : place + len(data)] = data
        payload += b"\0\x41" + _signed(place) + b"\x0b" + uleb(len(data)) + data
    memory = InitialMemory(Module([(SectionId.DATA, payload)]))
    assert memory.read(offset, size) == whole[offset : offset + size]


def _signed(value: int) -> bytes:
    out = bytearray()
    while value > 0x3F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
