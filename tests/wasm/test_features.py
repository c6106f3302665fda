"""References, tables, segments, tail calls, collected objects: what is state besides memory and numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from sojourn.wasm.base import make_resumable
from sojourn.wasm.binary import UnsupportedFeatureError

from ..wat import wat
from .living import SUSPEND, Program
from .worlds import Plain, World, outcome

pytestmark = pytest.mark.engine

_WAIT = "(func $wait (loop))"

# name: (module text, calls of "f" one after the other in one life: arguments)
CASES: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
    "function references in locals and on the stack": (
        f"""(type $t (func (result i32))) {_WAIT} (elem declare func $a $b) (table $x 1 funcref)
        (func $a (result i32) (i32.const 5)) (func $b (result i32) (i32.const 6))
        (func $choose (param i32) (result funcref) (call $wait)
          (if (result funcref) (local.get 0) (then (ref.func $a)) (else (ref.func $b))))
        (func (export "f") (param i32) (result i32) (local funcref)
          (local.set 1 (call $choose (local.get 0)))
          (i32.const 0) (call $choose (i32.eqz (local.get 0))) (call $wait)
          (table.set $x)
          (call_indirect $x (type $t) (i32.const 0))
          (table.set $x (i32.const 0) (local.get 1)) (call $wait)
          (i32.add (i32.mul (i32.const 100) (call_indirect $x (type $t) (i32.const 0)))))""",
        [(0,), (1,)],
    ),
    "typed references that are never null": (
        f"""(type $t (func (param i32) (result i32))) {_WAIT} (elem declare func $a $b)
        (func $a (type $t) (call $wait) (i32.add (local.get 0) (i32.const 1)))
        (func $b (type $t) (i32.mul (local.get 0) (i32.const 3)))
        (func $choose (param i32) (result (ref $t)) (call $wait)
          (if (result (ref $t)) (local.get 0) (then (ref.func $a)) (else (ref.func $b))))
        (func $twice (param (ref $t) i32) (result (ref $t) i32)
          (local.get 0) (call_ref $t (local.get 1) (local.get 0)) (call $wait))
        (func (export "f") (param i32) (result i32) (local (ref $t))
          (local.set 1 (call $choose (local.get 0)))
          (call $wait)
          (call $twice (local.get 1) (i32.const 10)) (local.set 0)
          (call $wait)
          (call_ref $t (local.get 0) (local.get 1)) (local.set 0)
          (drop) (local.get 0))""",
        [(0,), (1,)],
    ),
    "tables that change": (
        f"""(type $t (func (result i32))) {_WAIT} (table $x 4 funcref) (elem (i32.const 0) $a $b)
        (table $y (export "y") 1 100 funcref)
        (func $a (result i32) (i32.const 5)) (func $b (result i32) (i32.const 6))
        (func (export "f") (param i32) (result i32) (local i32 i32)
          (local.set 1 (table.grow $y (table.get $x (i32.const 1)) (i32.const 2)))
          (call $wait)
          (table.copy $x $x (i32.const 2) (i32.const 0) (i32.const 2))
          (table.set $x (i32.const 0) (table.get $x (i32.const 3)))
          (table.set $x (i32.const 3) (ref.null func))
          (call $wait)
          (i32.add (i32.mul (call_indirect $x (type $t) (i32.const 0)) (i32.const 1000))
            (i32.add (i32.mul (i32.const 100) (call_indirect $y (type $t) (local.get 1)))
                     (i32.add (table.size $y) (ref.is_null (table.get $x (i32.const 3)))))))""",
        [(0,), (0,)],
    ),
    "segments that were dropped": (
        f"""(memory 1) {_WAIT} (data $d "abcdefgh") (data $gone "xyz") (table 3 funcref) (elem $e func $f $f)
        (func $f (export "f") (param i32) (result i32) (call $wait)
          (memory.init $d (i32.const 0) (i32.const 0) (i32.const 8)) (call $wait)
          (memory.init $gone (i32.const 0) (i32.const 0) (local.get 0)) (call $wait)
          (table.init $e (i32.const 0) (i32.const 0) (i32.sub (i32.const 2) (local.get 0)))
          (data.drop $gone) (elem.drop $e) (call $wait)
          (i32.load (local.get 0)))
        (func (export "drop") (data.drop $d))""",
        [(2,), (0,), (2,)],
    ),
    "results that are never null": (
        f"""{_WAIT} (type $s (struct (field i32) (field (mut i64)))) (type $a (array (mut i32)))
        (func $struct (result (ref $s)) (call $wait) (struct.new $s (i32.const 3) (i64.const 4)))
        (func $array (result (ref $a)) (call $wait) (array.new $a (i32.const 9) (i32.const 2)))
        (func $small (result (ref i31)) (call $wait) (ref.i31 (i32.const 7)))
        (func $any (result (ref any)) (call $wait) (ref.i31 (i32.const 8)))
        (func (export "f") (param i32) (result i32)
          (i32.add (i32.add (struct.get $s 0 (call $struct)) (array.get $a (call $array) (i32.const 1)))
            (i32.add (i31.get_s (call $small)) (i31.get_u (ref.cast (ref i31) (call $any))))))""",
        [(0,)],
    ),
    "collected objects between sites": (
        f"""(type $s (struct (field $v (mut i32)) (field $n (ref null $s)))) {_WAIT}
        (type $b (array (mut i8))) (data $d "0123456789")
        (func $sum (param i32) (result i32) (local (ref null $s) i32)
          (block $done
            (br_if $done (i32.eqz (local.get 0)))
            (local.set 1 (struct.new $s (local.get 0) (ref.null $s)))
            (local.set 1 (struct.new $s (i32.const 2) (local.get 1)))
            (local.set 2 (i32.add (struct.get $s $v (local.get 1))
              (struct.get $s $v (struct.get $s $n (local.get 1))))))
          (local.get 2))
        (func (export "f") (param i32) (result i32) (local i32)
          (local.set 1 (call $sum (local.get 0))) (call $wait)
          (i32.add (local.get 1)
            (array.get_u $b (array.new_data $b $d (i32.const 2) (i32.const 4)) (local.get 0)))
          (call $wait)
          (block $not (param i32) (result i32 anyref)
            (br_on_cast $not anyref (ref i31) (ref.i31 (local.get 0))) (drop) (ref.null any))
          (drop) (i32.add (call $sum (local.get 0))) (call $wait))""",
        [(0,), (3,)],
    ),
    "exceptions with references": (
        f"""{_WAIT} (type $t (func (result i32))) (tag $e (param funcref i32)) (table $x 1 funcref)
        (elem declare func $a) (func $a (result i32) (i32.const 41))
        (func $throw (param i32) (call $wait)
          (throw $e (if (result funcref) (local.get 0) (then (ref.func $a)) (else (ref.null func)))
            (i32.const 3)))
        (func (export "f") (param i32) (result i32) (local exnref funcref i32)
          (block $c (result exnref) (try_table (catch_all_ref $c) (call $throw (local.get 0))) (unreachable))
          (local.set 1) (call $wait)
          (block $d (result funcref i32) (try_table (catch $e $d) (throw_ref (local.get 1))) (unreachable))
          (local.set 3) (local.set 2) (call $wait)
          (if (ref.is_null (local.get 2)) (then (return (i32.const -1))))
          (table.set $x (i32.const 0) (local.get 2))
          (i32.add (local.get 3) (call_indirect $x (type $t) (i32.const 0))))""",
        [(0,), (1,)],
    ),
    "tail calls that leave no frame": (
        f"""{_WAIT} (type $t (func (param i32 i64) (result i64))) (table 2 funcref) (elem (i32.const 0) $a $b)
        (func $a (type $t) (call $wait) (if (i32.eqz (local.get 0)) (then (return (local.get 1))))
          (return_call_indirect (type $t) (i32.sub (local.get 0) (i32.const 1))
            (i64.mul (local.get 1) (i64.const 3)) (i32.const 1)))
        (func $b (type $t) (call $wait) (if (i32.eqz (local.get 0)) (then (return (local.get 1))))
          (return_call_ref $t (i32.sub (local.get 0) (i32.const 1))
            (i64.add (local.get 1) (i64.const 7)) (ref.func $a)))
        (func (export "f") (param i32) (result i64) (call $a (local.get 0) (i64.const 1)))""",
        [(0,), (7,)],
    ),
    "locals that only a handler reads": (
        f"""{_WAIT} (tag $e)
        (func $g (param i32) (call $wait) (if (local.get 0) (then (throw $e))))
        (func (export "f") (param i32) (result i32) (local i32)
          (local.set 1 (i32.add (local.get 0) (i32.const 77)))
          (block $c
            (try_table (catch_all $c) (call $wait) (call $g (local.get 0)) (call $wait))
            (return (i32.const 5)))
          (local.get 1))""",
        [(0,), (1,)],
    ),
    "calls by a supertype": (
        f"""{_WAIT} (rec (type $r (sub (func (result (ref null any)))))
          (type $q (sub $r (func (result (ref i31))))))
        (table 1 funcref) (elem (i32.const 0) $g)
        (func $g (type $q) (call $wait) (ref.i31 (i32.const 9)))
        (func (export "f") (param i32) (result i32)
          (i31.get_s (ref.cast (ref i31) (call_indirect (type $r) (local.get 0)))))""",
        [(0,)],
    ),
    "wide memories and tables": (
        f"""{_WAIT} (memory $m i64 1 9) (memory $n 1) (table $x i64 2 5 funcref) (elem (i64.const 0) $g)
        (type $t (func (result i64))) (data $d "abcdefgh")
        (func $g (result i64) (memory.grow $m (i64.const 1)) (call $wait) (memory.size $m) (i64.add))
        (func (export "f") (param i64) (result i64)
          (memory.init $m $d (local.get 0) (i32.const 0) (i32.const 8)) (call $wait)
          (drop (table.grow $x (table.get $x (i64.const 0)) (i64.const 1)))
          (memory.copy $n $m (i32.const 3) (local.get 0) (i32.const 8)) (call $wait)
          (i64.add (call_indirect $x (type $t) (i64.const 2)) (call $g))
          (i64.xor (i64.load $n (i32.const 3))) (i64.add (table.size $x)))""",
        [(70,), (1,)],
    ),
}


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_all_state_goes_on(name: str, everywhere: bool) -> None:
    text, calls = CASES[name]
    code = wat(f"(module {text})")
    world = World("original")
    plain = Plain(code, world.store, world.externals)
    program, straight = (Program(make_resumable(code, everywhere=everywhere)) for _ in range(2))
    program.begin()
    straight.begin(every=False)
    for args in calls:
        expected = outcome(partial(plain.call, "f", *args))
        assert outcome(partial(straight.call, "f", *args, every=False)) == expected
        assert outcome(partial(program.call, "f", *args)) == expected
    assert program.resumes >= len(calls)


def test_a_wrapper_stands_for_its_import_in_tables_and_globals() -> None:
    code = wat(
        """(module (import "h" "read" (func $read (param i32) (result i32)))
        (type $t (func (param i32) (result i32))) (table 3 funcref) (elem (i32.const 1) func $read)
        (global $g funcref (ref.func $read)) (elem $e funcref (ref.func $read))
        (func (export "f") (param i32) (result i32)
          (table.set (i32.const 0) (global.get $g))
          (table.init $e (i32.const 2) (i32.const 0) (i32.const 1))
          (i32.add (call_indirect (type $t) (local.get 0) (i32.const 0))
            (i32.add (call_indirect (type $t) (local.get 0) (i32.const 1))
                     (call_indirect (type $t) (local.get 0) (i32.const 2))))))"""
    )
    seen: list[int] = []

    def read(_: Any, value: int) -> Any:
        seen.append(value)
        return SUSPEND if len(seen) % 2 else 10 * value

    program = Program(make_resumable(code), {("h", "read"): read})
    assert program.run("f", 4) == 120
    assert program.resumes >= 3
    assert seen == [4] * 6


@pytest.mark.parametrize(
    "text",
    [
        f"""{_WAIT} (type $s (struct)) (func (result (ref null $s)) (struct.new $s) (call $wait))""",
        f"""{_WAIT} (global (mut anyref) (ref.null any)) (func (call $wait))""",
        f"""{_WAIT} (table 1 anyref) (func (call $wait) (table.set (i32.const 0) (ref.i31 (i32.const 1))))""",
        """(import "h" "f" (func $f (param anyref))) (func (call $f (ref.null any)))""",
    ],
)
def test_what_cannot_go_on_is_refused_by_name(text: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match="object"):
        make_resumable(wat(f"(module {text})"))
