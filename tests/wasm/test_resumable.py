"""Run straight is the same as: run, be left at every poll, go on in a fresh instance each time."""

from __future__ import annotations

from typing import Any

import pytest

from sojourn.wasm import base, peel
from sojourn.wasm.base import make_resumable
from sojourn.wasm.emit import TURNS, UNROLLED_BYTES_MAX
from sojourn.wasm.twins import SiteError, Twins

from ..wat import wat
from .living import SUSPEND, Life, Program
from .worlds import Plain, World

pytestmark = pytest.mark.engine

# name: (module text, [(arguments, ...)])
CASES: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
    "loop": (
        """(func (export "f") (param i32) (result i32) (local i32)
          (loop $l (local.set 1 (i32.add (local.get 1) (local.get 0)))
            (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
          (local.get 1))""",
        [(1,), (5,)],
    ),
    "small loops": (
        """(func (export "f") (param i32) (result i32) (local i32 i32)
          (block $out (block $other
            (loop $l
              (local.set 1 (i32.add (i32.mul (local.get 1) (i32.const 3)) (local.get 0)))
              (br_if $l (i32.and (local.get 1) (i32.const 1)))
              (br_table $l $other $out (i32.rem_u (local.get 1) (i32.const 3)))))
            (local.set 1 (i32.add (local.get 1) (i32.const 1000))))
          (local.set 2 (i32.const 11))
          (i32.const 5)
          (loop $l (result i32)
            (if (i32.gt_s (local.get 2) (i32.const 6)) (then
              (local.set 2 (i32.sub (local.get 2) (i32.const 1))) (br $l)))
            (block $b (br_if $b (i32.eqz (local.get 2)))
              (local.set 2 (i32.sub (local.get 2) (i32.const 1))) (br $l))
            (local.get 1))
          (local.set 1 (i32.add))
          (local.set 2 (i32.const 9))
          (loop $l
            (if (i32.eqz (local.tee 2 (i32.sub (local.get 2) (i32.const 1))))
              (then (return (local.get 1))))
            (br $l))
          (unreachable))""",
        [(1,), (2,), (8,), (11,)],
    ),
    "recursion": (
        """(func $f (export "f") (param i32) (result i32)
          (if (result i32) (i32.lt_s (local.get 0) (i32.const 2)) (then (local.get 0))
            (else (i32.add (call $f (i32.sub (local.get 0) (i32.const 1)))
                           (call $f (i32.sub (local.get 0) (i32.const 2)))))))""",
        [(1,), (6,)],
    ),
    "operands": (
        """(func $g (param i32) (result i64) (loop) (i64.extend_i32_s (local.get 0)))
        (func (export "f") (param i32) (result i64)
          (i64.const 1000)
          (i64.mul (i64.const 7) (call $g (local.get 0)))
          (i64.trunc_f32_s (f32.add (f32.const 2.5) (f32.convert_i64_s (call $g (i32.const 4)))))
          (i64.add) (i64.sub))""",
        [(3,), (-9,)],
    ),
    "operands under blocks": (
        """(func $g (param i32) (result i32) (loop) (i32.mul (local.get 0) (i32.const 3)))
        (func (export "f") (param i32) (result i32)
          (i32.const 11)
          (block (result i32)
            (i32.const 5)
            (loop $l (result i32)
              (i32.const 2)
              (if (result i32) (i32.and (local.get 0) (i32.const 1))
                (then (call $g (local.get 0)))
                (else (i32.const 1) (call $g (i32.const 9)) (i32.sub)))
              (i32.add)
              (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
              (br_if $l (i32.gt_s (local.get 0) (i32.const 0))) )
            (i32.add))
          (i32.mul))""",
        [(1,), (4,)],
    ),
    "block parameters": (
        """(func $g (param i32 i32) (result i32 i32) (loop)
            (i32.add (local.get 0) (local.get 1)) (local.get 0))
        (func (export "f") (param i32) (result i32)
          (i32.const 100) (i32.const 1) (local.get 0)
          (loop $l (param i32 i32) (result i32)
            (call $g) (local.tee 0)
            (call $g) (i32.const 40) (i32.gt_s)
            (if (param i32) (result i32) (then) (else (local.get 0) (br $l))))
          (i32.add))""",
        [(1,), (13,)],
    ),
    "all types": (
        """(func $g (loop))
        (func (export "f") (param i32) (result f64) (local i64 f32 f64 v128)
          (local.set 1 (i64.const -5)) (local.set 2 (f32.const 1.5)) (local.set 3 (f64.const 2.25))
          (local.set 4 (i32x4.splat (local.get 0)))
          (f64.const 0.5) (v128.const i32x4 1 2 3 4) (call $g)
          (i32x4.extract_lane 2 (i32x4.add (local.get 4))) (f64.convert_i32_s) (f64.add)
          (f64.convert_i64_s (local.get 1)) (f64.add) (f64.promote_f32 (local.get 2)) (f64.add)
          (f64.add (local.get 3)))""",
        [(10,)],
    ),
    "indirect": (
        """(type $t (func (param i32) (result i32))) (table 2 funcref) (elem (i32.const 0) $a $b)
        (func $a (type $t) (loop) (i32.add (local.get 0) (i32.const 1)))
        (func $b (type $t) (i32.add (i32.const 50) (call_indirect (type $t) (local.get 0) (i32.const 0))))
        (func (export "f") (param i32) (result i32)
          (i32.mul (i32.const 2) (call_indirect (type $t) (local.get 0) (local.get 0))))""",
        [(0,), (1,)],
    ),
    "branches": (
        """(func $g (param i32) (result i32) (loop) (local.get 0))
        (func (export "f") (param i32) (result i32) (local i32)
          (block $a (block $b (block $c (block $d
            (loop $l
              (local.set 1 (i32.add (local.get 1) (call $g (i32.const 1))))
              (br_table $a $b $l $c $d (call $g (local.get 0))))
            (unreachable))
            (local.set 1 (call $g (i32.const 100)))) (return (i32.sub (local.get 1) (i32.const 1))))
            (local.set 1 (i32.const 7)) (br $a))
          (call $g (local.get 1)))""",
        [(0,), (1,), (3,), (9,)],
    ),
    "nested loops": (
        """(func (export "f") (param i32) (result i32) (local i32 i32 i32)
          (loop $o
            (local.set 1 (i32.const 3))
            (loop $i
              (local.set 2 (i32.add (local.get 2) (local.get 1)))
              (local.set 3 (i32.xor (local.get 3) (i32.mul (local.get 2) (local.get 0))))
              (br_if $i (local.tee 1 (i32.sub (local.get 1) (i32.const 1)))))
            (br_if $o (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
          (i32.add (local.get 3) (local.get 2)))""",
        [(3,)],
    ),
    "exceptions": (
        """(tag $e (param i32)) (tag $n) (tag $w (param i64 f32 i32))
        (func $g (param i32) (loop)
          (if (i32.eq (local.get 0) (i32.const 1)) (then (throw $e (i32.const 42))))
          (if (i32.eq (local.get 0) (i32.const 2)) (then (throw $n)))
          (if (i32.eq (local.get 0) (i32.const 3))
            (then (throw $w (i64.const 9) (f32.const 2) (i32.const 5)))))
        (func $cleanup (param i32) (local exnref)
          (block $c (result exnref)
            (try_table (catch_all_ref $c) (call $g (local.get 0)))
            (return))
          (local.set 1) (call $g (i32.const 0)) (throw_ref (local.get 1)))
        (func (export "f") (param i32) (result i32)
          (block $n (block $w (result i64 f32 i32) (block $e (result i32)
            (try_table (catch $e $e) (catch $n $n) (catch $w $w) (call $cleanup (local.get 0))
              (call $cleanup (i32.add (local.get 0) (i32.const 1))))
            (return (i32.const -1)))
            (call $g (i32.const 0)) (return))
            (local.set 0) (i32.trunc_f32_s) (i32.add (local.get 0)) (call $g (i32.const 0))
            (local.set 0) (i32.wrap_i64) (return (i32.add (local.get 0))))
          (i32.const -2))""",
        [(0,), (1,), (2,), (3,), (4,)],
    ),
    "tail calls": (
        """(func $even (param i32) (result i32)
            (if (i32.eqz (local.get 0)) (then (return (i32.const 1))))
            (return_call $odd (i32.sub (local.get 0) (i32.const 1))))
        (func $odd (param i32) (result i32)
            (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
            (return_call $even (i32.sub (local.get 0) (i32.const 1))))
        (func (export "f") (param i32) (result i32) (i32.add (i32.const 10) (call $even (local.get 0))))""",
        [(0,), (7,)],
    ),
    "memory and globals": (
        """(memory 1) (global $g (mut i64) (i64.const 5)) (global $f (mut f32) (f32.const 1))
        (func (export "f") (param i32) (result i64)
          (loop $l
            (i32.store8 (local.get 0) (i32.wrap_i64 (global.get $g)))
            (global.set $g (i64.mul (global.get $g) (i64.const 3)))
            (global.set $f (f32.mul (global.get $f) (f32.const 1.5)))
            (drop (memory.grow (i32.const 1)))
            (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
          (i64.add (i64.load (i32.const 0)) (i64.add (global.get $g)
            (i64.add (i64.trunc_f32_s (global.get $f)) (i64.extend_i32_u (memory.size))))))""",
        [(6,)],
    ),
    "last calls": (
        """(func $g (param i32) (result i32) (local i64 f64)
            (local.set 1 (i64.const 9)) (local.set 2 (f64.const 0.5))
            (loop $l (local.set 1 (i64.add (local.get 1) (i64.const 1)))
              (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (i32.add (i32.wrap_i64 (local.get 1)) (i32.trunc_f64_s (local.get 2))))
        (func $h (param i32) (result i32)
          (if (result i32) (i32.and (local.get 0) (i32.const 1))
            (then (i32.const 5) (return (call $g (local.get 0)))) (else (call $g (i32.const 2)))))
        (func (export "f") (param i32) (result i32)
          (i32.add (call $h (local.get 0)) (i32.mul (call $h (i32.const 3)) (local.get 0))))""",
        [(1,), (4,)],
    ),
    "dead code": (
        """(func $g (param i32) (result i32) (loop) (local.get 0))
        (func (export "f") (param i32) (result i32)
          (block $b (result i32)
            (br $b (call $g (local.get 0)))
            (drop) (i32.add) (call $g) (drop) (loop (br 0))
            (block (result i64) (unreachable)) (drop) (i32.const 1))
          (if (result i32) (then (return (call $g (i32.const 3))) (call $g))
            (else (i32.const 4) (return) (drop))))""",
        [(0,), (1,)],
    ),
    "many values": (
        '(func $g (loop)) (func (export "f") (param i32) (result i32) (local'
        + " i32 i64 f64" * 40
        + ")"
        + "".join(f"(local.set {i} (i32.const {i}))" for i in range(1, 120, 3))
        + "".join(f"(local.set {i + 1} (i64.const {i}))" for i in range(1, 120, 3))
        + "(call $g) (i32.const 0)"
        + "".join(
            f"(i32.add (local.get {i})) (i32.add (i32.wrap_i64 (local.get {i + 1})))"
            for i in range(1, 120, 3)
        )
        + "".join(f"(i32.add (i32.trunc_f64_s (local.get {i + 2})))" for i in range(1, 120, 3))
        + ")",
        [(0,)],
    ),
}


def straight(code: bytes, name: str, args: tuple[Any, ...]) -> Any:
    world = World("original")
    found = Plain(code, world.store, world.externals).call(name, *args)
    return found[0] if len(found) == 1 else found or None


@pytest.mark.parametrize("name", CASES)
def test_being_left_at_every_poll_changes_nothing(name: str) -> None:
    text, calls = CASES[name]
    code = wat(f"(module {text})")
    program = Program(make_resumable(code))
    for args in calls:
        expected = straight(code, "f", args)
        assert program.run("f", *args, every=False) == expected
        assert program.run("f", *args) == expected
    assert program.resumes > len(calls) // 2


@pytest.mark.parametrize("name", CASES)
def test_loops_go_on_through_their_continuations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (base, peel):
        monkeypatch.setattr(module, "CONTINUATION_BYTES_MIN", 0)
    test_being_left_at_every_poll_changes_nothing(name)


def test_a_call_that_comes_last_leaves_no_frame() -> None:
    text = """(func $g (param i32) (result i32) (loop) (local.get 0))
      (func $last (param i32) (result i32) (block (result i32) (call $g (local.get 0))))
      (func $guarded (param i32) (result i32) (block $b
        (try_table (catch_all $b) (return (call $g (local.get 0))))) (i32.const 0))"""
    twins = Twins(make_resumable(wat(f"(module {text})")))
    assert twins.record_bytes(0, 0) > 0
    assert twins.record_bytes(2, 0) > 0
    with pytest.raises(SiteError):
        twins.record_bytes(1, 0)


def test_a_small_loop_asks_once_in_several_turns() -> None:
    turn, poll = b"\x41\x95\x9a\xef\x3a", b"\xfe\x10\x42"  # i32.const 123456789, i32.atomic.load
    large = "(global.set $g (i32.const 1))" * UNROLLED_BYTES_MAX
    for more, copies, polls in (("", TURNS, 1), (large, 1, 1), ("(call $f (i32.const 0))", 1, 2)):
        text = f"""(module (global $g (mut i32) (i32.const 0))
          (func $f (export "f") (param i32) (loop $l {more}
            (br_if $l (local.tee 0 (i32.xor (local.get 0) (i32.const 123456789)))))))"""
        code = make_resumable(wat(text)).code
        assert (code.count(turn), code.count(poll)) == (copies, polls)


def test_an_import_is_called_again() -> None:
    code = wat(
        """(module (import "h" "read" (func $read (param i64 i32) (result i32)))
        (func (export "f") (param i32) (result i32)
          (i32.add (local.get 0) (call $read (i64.const 5) (local.get 0)))))"""
    )
    calls: list[tuple[int, int]] = []

    def read(_: Life, first: int, second: int) -> Any:
        calls.append((first, second))
        return SUSPEND if len(calls) < 4 else 30

    program = Program(make_resumable(code), {("h", "read"): read})
    assert program.run("f", 7) == 37
    assert calls == [(5, 7)] * 4
    assert program.resumes == 3


def test_the_same_bytes_come_out_each_time() -> None:
    for text, _ in CASES.values():
        code = wat(f"(module {text})")
        assert make_resumable(code).code == make_resumable(code).code
