from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.wasm import MalformedModuleError, Module
from sojourn.wasm.binary import GLOBAL, ORDER, Reader, SectionId, global_mutabilities, uleb

from ..wat import wat

RICH = """(module
  (import "m" "f" (func (param i32)))
  (import "m" "g" (global i64))
  (import "m" "t" (table 1 funcref))
  (import "m" "mem" (memory 1 2))
  (memory 3)
  (memory i64 4 5)
  (global (mut f64) (f64.const 1.5))
  (global v128 (v128.const i32x4 1 2 3 4))
  (global (mut funcref) (ref.func $x))
  (tag (param i32))
  (table 2 10 funcref)
  (func $x (export "x"))
  (elem (i32.const 0) $x)
  (data (i32.const 0) "abc"))"""


@given(st.integers(0, 2**64 - 1))
def test_uleb_round_trip(value: int) -> None:
    assert Reader(uleb(value)).uleb(64) == value


@pytest.mark.parametrize(
    "data", [b"\x80", b"\xff" * 5 + b"\x01", b"\xff\xff\xff\xff\x1f", b"\x80\x80\x80\x80\x80\x00"]
)
def test_bad_numbers_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedModuleError):
        Reader(data).uleb()


def test_an_untouched_module_is_encoded_as_it_was() -> None:
    assert Module.parse(wat(RICH)).encode() == wat(RICH)


def test_what_a_module_holds() -> None:
    module = Module.parse(wat(RICH))
    assert [(i.module, i.name, i.kind) for i in module.imports()] == [
        ("m", "f", 0),
        ("m", "g", GLOBAL),
        ("m", "t", 1),
        ("m", "mem", 2),
    ]
    assert [(m.pages_min, m.pages_max, m.is_64) for m in module.memories()] == [
        (1, 2, False),
        (3, None, False),
        (4, 5, True),
    ]
    assert global_mutabilities(module) == [True, False, True]
    assert list(module.exports()) == [("x", 0, 1)]


@pytest.mark.parametrize("number", [n for n in ORDER if n != SectionId.CODE])
def test_a_new_section_lands_in_its_place(number: int) -> None:
    module = Module.parse(b"\0asm\x01\0\0\0")
    for present in (SectionId.TYPE, SectionId.CODE, SectionId.DATA):
        module.replace(present, b"\0")
    module.replace(number, b"\0")
    assert [n for n, _ in Module.parse(module.encode()).sections] == sorted(
        {SectionId.TYPE, SectionId.CODE, SectionId.DATA, number}, key=ORDER.index
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "magic"),
        (b"#!/usr/bin/env python", "magic"),
        (b"\0asm\x0d\0\x01\0", "component"),
        (b"\0asm\x01\0\0\0\x01", "end"),
        (b"\0asm\x01\0\0\0\x01\x05\0", "end"),
        (b"\0asm\x01\0\0\0\x0a\x01\0\x01\x01\0", "order"),
        (b"\0asm\x01\0\0\0\x01\x01\0\x01\x01\0", "order"),
        (b"\0asm\x01\0\0\0\x63\x01\0", "unknown"),
    ],
)
def test_what_is_no_module_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(MalformedModuleError, match=words):
        Module.parse(data)


def test_a_count_beyond_the_end_costs_nothing() -> None:
    module = Module.parse(b"\0asm\x01\0\0\0" + b"\x02\x05" + uleb(2**32 - 1))
    with pytest.raises(MalformedModuleError, match="count"):
        list(module.imports())


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    try:
        module = Module.parse(b"\0asm\x01\0\0\0" + data)
        list(module.imports()), module.memories(), list(module.exports()), module.bodies()
        global_mutabilities(module)
    except MalformedModuleError:
        pass
