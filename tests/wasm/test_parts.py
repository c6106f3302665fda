"""A module that is split, in any way, does what the whole module does, undisturbed and left at every poll."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import wasmtime

from sojourn.wasm import base, peel
from sojourn.wasm.additions import before_indirect
from sojourn.wasm.analysis import Analysis
from sojourn.wasm.base import analysis_of, make_resumable
from sojourn.wasm.binary import Module
from sojourn.wasm.callgraph import table_entries
from sojourn.wasm.index_spaces import IndexSpaces
from sojourn.wasm.parts import make_part

from ..wat import wat
from .living import SUSPEND, Life, Program
from .test_resumable import CASES as RESUMABLE_CASES
from .test_resumable import straight

pytestmark = pytest.mark.engine

CASES: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
    **RESUMABLE_CASES,
    "a chain through many functions": (
        """(type $t (func (param i32) (result i32))) (table 8 funcref) (elem (i32.const 1) $a $c $e $g)
        (global $n (mut i32) (i32.const 0))
        (func $plain (param i32 i32) (result i32) (i32.sub (local.get 0) (local.get 1)))
        (func $a (type $t) (global.set $n (i32.add (global.get $n) (i32.const 1)))
          (call $plain (call $b (local.get 0)) (i32.const 3)))
        (func $b (type $t) (local i32) (loop $l
            (local.set 1 (i32.add (local.get 1) (call $c (local.get 0))))
            (br_if $l (i32.gt_s (local.tee 0 (i32.sub (local.get 0) (i32.const 1))) (i32.const 0))))
          (local.get 1))
        (func $c (type $t) (call_indirect (type $t) (local.get 0) (i32.const 3)))
        (func $d (type $t) (return_call $f (i32.add (local.get 0) (i32.const 1))))
        (func $e (type $t) (i32.add (call $d (local.get 0)) (call $plain (i32.const 9) (global.get $n))))
        (func $f (type $t) (loop) (return_call_indirect (type $t) (local.get 0) (i32.const 4)))
        (func $g (type $t) (if (result i32) (i32.gt_s (local.get 0) (i32.const 0))
          (then (i32.mul (i32.const 2) (call $g (i32.sub (local.get 0) (i32.const 1)))))
          (else (i32.const 1))))
        (func (export "f") (param i32) (result i32)
          (i32.add (call $a (local.get 0)) (call $b (i32.const 2))))""",
        [(3,), (6,)],
    ),
    "addresses of functions": (
        """(type $t (func (param i32) (result i32))) (table $t 3 funcref) (elem declare func $a $b $f)
        (func $a (type $t) (loop) (i32.add (local.get 0) (i32.const 1)))
        (func $b (type $t) (call $a (i32.mul (local.get 0) (i32.const 2))))
        (func $put (table.set $t (i32.const 0) (ref.func $a)) (table.set $t (i32.const 1) (ref.func $b)))
        (func $f (export "f") (type $t) (call $put)
          (i32.add (call_indirect $t (type $t) (local.get 0) (i32.const 0))
            (call_indirect $t (type $t) (local.get 0) (i32.const 1))))""",
        [(4,)],
    ),
    "segments": (
        """(memory 1) (data $d "abcdefgh")
        (func $copy (param i32) (memory.init $d (local.get 0) (i32.const 2) (i32.const 4)))
        (func $drop (data.drop $d))
        (func $g (param i32) (result i32) (loop) (call $copy (local.get 0)) (i32.load (local.get 0)))
        (func (export "f") (param i32) (result i32) (i32.add (call $g (local.get 0)) (i32.const 1)))""",
        [(5,)],
    ),
    "many values between parts": (
        f"""(func $g (param {"i32 i64 f32 f64 " * 5}) (result i64 f32 i32)
          (loop) (i64.add (local.get 1) (local.get 17)) (f32.add (local.get 2) (local.get 18))
          (i32.sub (local.get 0) (local.get 16)))
        (func (export "f") (param i32) (result i64)
          {"(local.get 0) (i64.const 7) (f32.const 2.5) (f64.const 3) " * 5} (call $g)
          (drop) (i64.trunc_f32_s) (i64.mul))""",
        [(5,)],
    ),
}


def partitions(code: bytes, seed: str, count: int) -> list[list[list[int]]]:
    """Ways to split a module: all in one part, each function in its own, and at random."""
    spaces = IndexSpaces.of(Module.parse(code))
    functions = list(range(spaces.functions_imported, len(spaces.functions)))
    random = Random(seed)
    found = [[functions], [[function] for function in functions]]
    while len(found) < count:
        parts: list[list[int]] = [[] for _ in range(random.randint(2, 5))]
        for function in functions:
            random.choice(parts).append(function)
        found.append(parts[1:])  # those in the first stay in the base
    return found


@pytest.mark.parametrize("name", CASES)
def test_split_in_any_way_a_module_does_the_same(name: str) -> None:
    text, calls = CASES[name]
    code = wat(f"(module {text})")
    loads = resumes = 0
    for parts in partitions(code, name, 8):
        program = Program(make_resumable(code, deferred=parts))
        for args in calls:
            expected = straight(code, "f", args)
            assert program.run("f", *args, every=False) == expected
            # A module whose tables change is not resumed here: ``living`` copies no tables.
            if "table.set" not in text:
                assert program.run("f", *args) == expected
        loads += program.loads
        resumes += program.resumes
    assert loads > len(calls)
    assert resumes > len(calls) or "table.set" in text


@pytest.mark.parametrize("name", ["nested loops", "operands under blocks", "a chain through many functions"])
def test_parts_have_continuations_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (base, peel):
        monkeypatch.setattr(module, "CONTINUATION_BYTES_MIN", 0)
    test_split_in_any_way_a_module_does_the_same(name)


@pytest.mark.parametrize("name", CASES)
def test_frames_do_not_depend_on_the_split(name: str) -> None:
    """What was left in a split module goes on in the whole one, and the other way round."""
    text, calls = CASES[name]
    if "table.set" in text:
        return
    code = wat(f"(module {text})")
    whole = Program(make_resumable(code))
    split = Program(make_resumable(code, deferred=partitions(code, name, 3)[2]))
    assert whole.resumable.suspensions == split.resumable.suspensions
    expected = straight(code, "f", calls[-1])
    programs = [split, whole]
    life = split.start()
    life.request(True)
    result = life.export("f")(life.store, *calls[-1])
    turn = 0
    while life.unwinding:
        turn += 1
        state = life.program.save(life)
        life, enter = programs[turn % 2].restore(state)
        life.request(True)
        result = enter(life.store)
    assert result == expected
    if not before_indirect(split.spaces, split.resumable.additions):
        for function, site in split.compiled.keys() & whole.compiled.keys():
            assert split.twins.make(function, site) == whole.twins.make(function, site)


def test_an_import_called_in_a_part_suspends_there() -> None:
    code = wat(
        """(module (import "h" "read" (func $read (param i64 i32) (result i32)))
        (import "h" "now" (func $now (result i32)))
        (func $inner (param i32) (result i32) (i32.add (call $now) (call $read (i64.const 5) (local.get 0))))
        (func (export "f") (param i32) (result i32) (i32.add (local.get 0) (call $inner (local.get 0)))))"""
    )
    for parts in ([[2, 3]], [[2], [3]], [[2]], [[3]]):
        calls: list[tuple[int, int]] = []

        def read(_: Life, first: int, second: int, calls: list[tuple[int, int]] = calls) -> Any:
            calls.append((first, second))
            return SUSPEND if len(calls) < 4 else 30

        hosts = {("h", "read"): read, ("h", "now"): lambda _: 100}
        resumable = make_resumable(code, lambda item: item.name == "read", deferred=parts)
        program = Program(resumable, hosts)
        assert program.run("f", 7) == 137
        assert calls == [(5, 7)] * 4
        assert program.resumes == 3


def test_only_functions_that_are_reached_from_outside_have_stubs() -> None:
    code = wat(
        """(module (table (export "t") 1 funcref) (elem (i32.const 0) $taken)
        (func $taken) (func $inner) (func $own (call $inner)) (func $other (call $own))
        (func (export "f") (call $other)))"""
    )
    plan = make_resumable(code, deferred=[[0], [1, 2], [3]]).plan
    assert plan is not None
    assert plan.stubs == (0, 3)
    assert plan.exported == (3, 4)  # what nothing but the table names is reached through that
    assert plan.parts == ((0,), (1, 2), (3,))
    assert [plan.part_of_slot(slot) for slot in range(1, plan.slots_count)] == [1, 2, 2, 3]
    for slot in (-1, 0, plan.slots_count):
        with pytest.raises(IndexError, match="slot"):
            plan.part_of_slot(slot)


def test_a_function_of_no_module_or_of_two_parts_is_not_deferred_twice() -> None:
    code = wat('(module (func $a) (func $b (call $a)) (func (export "f") (call $b)))')
    resumable = make_resumable(code, deferred=[[], [0, 99], [0, 1], [-4]])
    assert resumable.plan is not None
    assert resumable.plan.parts == ((0,), (1,))
    for number in (0, 3, 4, 99):
        with pytest.raises(IndexError, match="part"):
            make_part(resumable, number)
    with pytest.raises(IndexError, match="part"):
        make_part(make_resumable(code), 1)


def test_the_continuations_of_the_base_come_when_a_program_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (base, peel):
        monkeypatch.setattr(module, "CONTINUATION_BYTES_MIN", 0)
    code = wat(
        """(module (func $inner (param i32) (result i32) (loop) (i32.add (local.get 0) (i32.const 1)))
        (func (export "f") (param i32) (result i32) (local i32)
          (loop $l (local.set 1 (call $inner (local.get 1)))
            (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
          (local.get 1)))"""
    )
    program = Program(make_resumable(code, deferred=[[0]]))
    plan = program.resumable.plan
    assert plan is not None
    assert program.run("f", 5, every=False) == 5
    assert program.parts.keys() == {1}
    assert program.run("f", 5) == 5
    assert program.parts.keys() == {1, plan.part_of_continuations(1)}


def test_only_users_of_segments_stay_in_the_base_against_the_plan() -> None:
    """Bytes that look like an instruction on a segment, here in a number, are none."""
    code = wat(
        """(module (memory 1) (data $d "abc")
        (func $looks (result i32) (f32.const 0x1.1211f80000000p-113) (drop) (i32.const 1))
        (func $drops (data.drop $d))
        (func (export "f") (result i32) (call $drops) (call $looks)))"""
    )
    assert b"\xfc\x08\x09" in code
    program = Program(make_resumable(code, deferred=[[0, 1]]))
    plan = program.resumable.plan
    assert plan is not None
    assert plan.parts == ((0,),)
    assert program.run("f") == 1


@pytest.mark.parametrize("name", CASES)
def test_an_analysis_that_is_known_changes_nothing(name: str) -> None:
    code = wat(f"(module {CASES[name][0]})")
    analysis = analysis_of(code)
    assert Analysis.of(analysis.plain()) == analysis
    for deferred in ((), *partitions(code, name, 3)):
        made = make_resumable(code, deferred=deferred, analysis=Analysis.of(analysis.plain()))
        assert made == make_resumable(code, deferred=deferred)


def test_the_analysis_of_another_module_is_refused() -> None:
    one, other = wat("(module (func))"), wat("(module (func) (func))")
    with pytest.raises(ValueError, match="another module"):
        make_resumable(one, analysis=analysis_of(other))


TABLE = """(module (type $t (func (param i32) (result i32))) (table {table}) {elements}
    (func $a (type $t) (i32.add (local.get 0) (i32.const 1)))
    (func $b (type $t) (loop) (call_indirect (type $t) (i32.mul (local.get 0) (i32.const 2)) (i32.const 2)))
    (func $c (type $t) (return_call_indirect (type $t) (i32.add (local.get 0) (i32.const 3)) (i32.const 1)))
    (func $d (param i32) (result f64) (f64.const 4))
    (func $never (result i32) (i32.const 5)) {more}
    (func (export "f") (param i32) (result i32)
      (i32.add (call_indirect (type $t) (local.get 0) (i32.const 3))
        (i32.trunc_f64_s (call_indirect (param i32) (result f64) (local.get 0) (i32.const 4))))))"""
IN_ORDER = "(elem (i32.const 1) $a $b $c $d $never)"


def test_functions_behind_a_table_that_never_changes_share_a_stub_for_each_type() -> None:
    code = wat(TABLE.format(table="6 funcref", elements=IN_ORDER, more=""))
    for deferred in ([[0, 1, 2, 3, 4]], [[0], [1], [2], [3], [4]], [[1, 3], [4]], [[2, 0], [3, 4]]):
        program = Program(make_resumable(code, deferred=deferred))
        plan, deferred_functions = program.resumable.plan, {index for part in deferred for index in part}
        assert plan is not None
        assert plan.stubs == ()
        assert plan.entries == tuple((index + 1, index) for index in sorted(deferred_functions))
        for every in (False, True):
            assert program.run("f", 5, every=every) == 13
        assert program.loads
        if [4] in deferred:  # nothing calls it, and it has the place of a function of its type
            assert plan.part_of_function(4) not in program.parts
        for entry, function in plan.entries:
            assert plan.part_of_slot(plan.slots_count + entry) == plan.part_of_function(function)
        for slot in (plan.slots_count, plan.slots_count + 6):
            with pytest.raises(IndexError, match="slot"):
                plan.part_of_slot(slot)


def test_a_call_through_a_shared_stub_is_checked_as_any() -> None:
    text = TABLE.format(table="6 funcref", elements=IN_ORDER, more="").replace(
        "(i32.const 4))))))", "(i32.const 5))))))"
    )
    for deferred in ([[0, 1, 2, 3, 4]], []):
        program = Program(make_resumable(wat(text), deferred=deferred))
        with pytest.raises(wasmtime.Trap, match="indirect call type mismatch"):
            program.run("f", 5, every=False)


@pytest.mark.parametrize(
    ("table", "elements", "more"),
    [
        (
            "6 funcref",
            "(elem (i32.const 1) funcref (ref.func $a) (ref.func $b) (ref.func $c) (ref.func $d))",
            "",
        ),
        ("6 funcref", IN_ORDER + "(elem func $a)", ""),
        ('(export "t") 6 funcref', IN_ORDER, ""),
        (
            "6 funcref",
            "(global $at i32 (i32.const 1))" + IN_ORDER.replace("i32.const 1", "global.get $at"),
            "",
        ),
        ("6 funcref", IN_ORDER, "(table 1 funcref)"),
        ("6 funcref", IN_ORDER, "(func (table.set 0 (i32.const 0) (ref.null func)))"),
    ],
)
def test_other_tables_have_a_stub_for_each_function(table: str, elements: str, more: str) -> None:
    code = wat(TABLE.format(table=table, elements=elements, more=more))
    program = Program(make_resumable(code, deferred=[[0, 2], [1, 3]]))
    plan = program.resumable.plan
    assert plan is not None
    assert plan.entries == ()
    assert plan.stubs == (0, 1, 2, 3)
    assert program.run("f", 5, every="table.set" not in more) == 13


def test_of_entries_that_are_written_twice_the_last_counts() -> None:
    again = IN_ORDER.replace("$a $b $c $d $never", "$c $c $c") + IN_ORDER + "(elem (i32.const 5) $d)"
    code = wat(TABLE.format(table="6 funcref", elements=again, more=""))
    program = Program(make_resumable(code, deferred=[[0, 1], [2], [3, 4]]))
    assert program.resumable.plan is not None
    assert program.resumable.plan.entries == ((1, 0), (2, 1), (3, 2), (4, 3), (5, 3))
    assert program.run("f", 5) == 13


@pytest.mark.parametrize("target", [0, 63, 64, 127, 128, 70_000])
def test_entries_of_a_table_are_read(target: int) -> None:
    code = wat(f"(module (table {target + 2} funcref) (elem (i32.const {target}) $a $b) (func $a) (func $b))")
    assert table_entries(Module.parse(code)) == {target: 0, target + 1: 1}
    beyond = wat("(module (table 2 funcref) (elem (i32.const -1) $a) (func $a))")
    assert table_entries(Module.parse(beyond)) is None
