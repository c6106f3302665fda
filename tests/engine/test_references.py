"""What is not taken of tables and segments: a context may come from anybody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sojourn.context import Table
from sojourn.model.errors import ContextError
from sojourn.vm.process import engine
from sojourn.vm.process.kept import Kept, keep, kept_by
from sojourn.vm.process.preparing import prepare

from ..wat import wat

pytestmark = pytest.mark.engine

MODULE = """(module
  (type $number (func (result i32)))
  (table $fixed 2 funcref)
  (table $t 4 funcref)
  (table $typed 2 (ref null $number))
  (elem (table $t) (i32.const 0) func $one $one)
  (elem $more func $one)
  (elem declare func $one $other)
  (global $g (mut funcref) (ref.func $one))
  (func $one (export "one") (result i32) (i32.const 1))
  (func $other (param i32))
  (func (export "change") (param i32)
    (table.set $t (i32.const 1) (ref.null func))
    (table.set $t (i32.const 2) (ref.func $other))
    (table.set $typed (i32.const 1) (ref.func $one))
    (drop (table.grow $t (ref.func $one) (local.get 0)))
    (global.set $g (ref.null func))
    (elem.drop $more))
  (func (export "loop") (loop $l (br $l)))
  (func $hidden))"""
ONE, OTHER, HIDDEN = 0, 1, 4


@pytest.fixture(scope="module")
def module() -> engine.CompiledModule:
    return engine.compile_module(prepare(wat(MODULE)))


@contextmanager
def instance(module: engine.CompiledModule) -> Iterator[engine.Instance]:
    made = engine.Instance(module, {}, lambda: None, 1 << 20, 1)
    try:
        yield made
    finally:
        made.close()


def test_only_what_changed_is_kept(module: engine.CompiledModule) -> None:
    with instance(module) as one, instance(module) as two:
        assert kept_by(one) == Kept()
        one.call("change", 3)
        kept = kept_by(one)
        changes = ((1, None), (2, OTHER), (4, ONE), (5, ONE), (6, ONE))
        assert kept == Kept((Table(1, 7, changes), Table(2, 2, ((1, ONE),))), (1,), ())
        assert one.read_globals() == [("funcref", engine.NULL)]
        keep(two, kept)
        two.write_globals(one.read_globals())
        assert kept_by(two) == kept
        assert two.read_globals() == one.read_globals()


@pytest.mark.parametrize(
    "kept",
    [
        Kept((Table(0, 2, ((0, ONE),)),)),  # no code changes it
        Kept((Table(1, 3),)),  # smaller than it begins
        Kept((Table(1, 4, ((0, HIDDEN),)),)),  # a function without an address
        Kept((Table(1, 4, ((0, 12345),)),)),  # or none at all
        Kept((Table(2, 2, ((0, OTHER),)),)),  # of another type than the table's
        Kept((Table(1, 1 << 24),)),  # larger than a table may be
        Kept((Table(3, 1),)),
        Kept((), (0,)),
        Kept((), (), (0,)),
        Kept((), (1 << 19,)),
    ],
)
def test_what_its_program_cannot_keep_is_refused(module: engine.CompiledModule, kept: Kept) -> None:
    with instance(module) as made, pytest.raises(ContextError):
        keep(made, kept)


def test_a_program_without_any(module: engine.CompiledModule) -> None:
    plain = engine.compile_module(prepare(wat('(module (table 1 funcref) (func (export "f")))')))
    with instance(plain) as made:
        assert kept_by(made) == Kept()
        keep(made, Kept())
        for kept in (Kept((Table(0, 1),)), Kept((Table(63, 1),)), Kept((), (0,))):
            with pytest.raises(ContextError):
                keep(made, kept)


def test_globals_of_functions_that_do_not_exist(module: engine.CompiledModule) -> None:
    with instance(module) as made:
        for values in ([("funcref", 7)], [("externref", engine.NULL)], [("i32", 0)], []):
            with pytest.raises(ValueError, match="functions?|types"):
                made.write_globals(values)
