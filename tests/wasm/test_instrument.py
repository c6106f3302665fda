from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.wasm import DENIED, MalformedModuleError, Module, instrument
from sojourn.wasm.binary import Reader
from sojourn.wasm.instructions import instructions

from ..wat import wat

GROW = """(module (memory (export "memory") 1)
  (global (mut i32) (i32.const 7)) (global i32 (i32.const 8)) (global (mut i64) (i64.const 9))
  (func (export "grow") (param i32) (result i32) (local i64 f32)
    (block (unreachable) ) (memory.grow (local.get 0)))
  (func (export "other") (result i32) (i32.const 64) (drop) (i32.const 0)))"""

EVERYTHING = """(module
  (type $ft (func (param i32) (result i32)))
  (memory 1) (table $t 4 funcref) (tag $e (param i32)) (elem $p func $f) (data $d "x")
  (func $f (type $ft)
    (local v128 funcref externref exnref)
    (block $l (result i32)
      (try_table (result i32) (catch $e $l) (catch_all_ref 0) (local.get 0)))
    (br_table 0 0 0 (i32.const 1)))
  (func $g (param i32) (result i32)
    (if (result i32) (local.get 0) (then (return_call $f (i32.const 1)))
      (else (call_indirect $t (type $ft) (i32.const 1) (i32.const 0)))))
  (func (drop (select (result i32) (i32.const 1) (i32.const 2) (i32.const 3)))
    (memory.init $d (i32.const 0) (i32.const 0) (i32.const 0)) (data.drop $d)
    (memory.copy (i32.const 0) (i32.const 0) (i32.const 0))
    (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))
    (table.init $t $p (i32.const 0) (i32.const 0) (i32.const 0)) (elem.drop $p)
    (drop (table.grow $t (ref.null func) (i32.const 1))) (drop (table.size $t))
    (drop (table.get $t (i32.const 0)))
    (drop (v128.const i64x2 1 2)) (drop (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
       (v128.const i64x2 1 2) (v128.const i64x2 1 2)))
    (drop (v128.load32_lane offset=4 1 (i32.const 0) (v128.const i64x2 1 2)))
    (drop (i32x4.extract_lane 1 (v128.const i64x2 1 2)))
    (drop (i32.trunc_sat_f64_s (f64.const 1))) (drop (f32.const 1)) (drop (i64.const -1))
    (drop (i32.atomic.load (i32.const 0))) (atomic.fence)
    (drop (memory.size)) (drop (i64.extend8_s (i64.const 1))) (drop (ref.is_null (ref.func $f)))
    (throw $e (i32.const 1))))"""


def test_private_exports_and_no_index_moves() -> None:
    made = instrument(wat(GROW))
    exports = {name: index for name, _, index in Module.parse(made.code).exports()}
    assert made.globals == ("sojourn:global:0", "sojourn:global:2")
    assert exports["sojourn:global:2"] == 2
    assert exports["grow"] == 0 and exports["other"] == 1
    assert DENIED in exports


def test_the_same_bytes_in_give_the_same_bytes_out() -> None:
    assert instrument(wat(GROW)).code == instrument(wat(GROW)).code


def test_only_the_function_that_grows_changes() -> None:
    before, after = Module.parse(wat(GROW)), Module.parse(instrument(wat(GROW)).code)
    (code_a, at_a), (code_b, at_b) = before.bodies(), after.bodies()
    bodies_a = [bytes(code_a[i:j]) for i, j in itertools.pairwise(at_a)]
    bodies_b = [bytes(code_b[i:j]) for i, j in itertools.pairwise(at_b)]
    assert bodies_a[1] == bodies_b[1]
    assert len(bodies_b[0]) > len(bodies_a[0])


@pytest.mark.parametrize("text", [GROW, EVERYTHING])
def test_every_instruction_is_walked_to_its_end(text: str) -> None:
    code, boundaries = Module.parse(wat(text)).bodies()
    for start, end in itertools.pairwise(boundaries):
        reader = Reader(code, start, end)
        reader.uleb()
        for _ in range(reader.count()):
            reader.uleb()
            if reader.byte() in (0x63, 0x64):
                reader.skip_leb(5)
        list(instructions(reader))
        assert reader.pos == end


def test_a_module_that_uses_our_names_is_refused() -> None:
    with pytest.raises(MalformedModuleError, match="private name"):
        instrument(wat('(module (func (export "sojourn:x")))'))


def test_deep_nesting_needs_no_recursion() -> None:
    text = "(module (func " + "(block " * 20_000 + ")" * 20_000 + "))"
    depth = 20_000
    body = b"\0" + b"\x02\x40" * depth + b"\x0b" * depth + b"\x0b"
    reader = Reader(body, 1)
    assert sum(1 for _ in instructions(reader)) == 2 * depth + 1
    assert len(text) > depth


@settings(max_examples=300)
@given(st.data())
def test_mutated_modules_are_refused_or_instrumented(data: st.DataObject) -> None:
    original = bytearray(wat(data.draw(st.sampled_from([GROW, EVERYTHING]))))
    for _ in range(data.draw(st.integers(1, 8))):
        original[data.draw(st.integers(8, len(original) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedModuleError):
        instrument(bytes(original))
