"""Split modules in the engine: parts come when they are called, and whoever waits for one can be ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import pytest

from sojourn.model.errors import ModuleError
from sojourn.model.progress import Silent
from sojourn.store.home import Home
from sojourn.vm.process import compiled, engine
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.parting import Parts
from sojourn.vm.process.partition import Layer, Recorded, deferred
from sojourn.vm.process.preparing import decode_plan, encode_plan, prepare
from sojourn.vm.process.wasi.outside import Suspended
from sojourn.wasm import instrument
from sojourn.wasm.plan import Plan

from ..wat import wat

pytestmark = pytest.mark.engine

# Functions 0 to 3; what `f` returns is 4 * 100 + 7.
PROGRAM = wat("""(module
  (memory (export "memory") 1)
  (type $t (func (param i32) (result i32))) (table 1 funcref) (elem (i32.const 0) $double)
  (func $double (type $t) (i32.add (local.get 0) (local.get 0)))
  (func $inner (type $t) (local i32) (loop $l
    (local.set 1 (i32.add (local.get 1) (i32.const 100)))
    (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (local.get 1))
  (func $outer (type $t) (i32.add (call $inner (call_indirect (type $t) (local.get 0) (i32.const 0)))
    (i32.const 7)))
  (func (export "f") (result i32) (call $outer (i32.const 2)))
  (func (export "spin") (call $spin)) (func $spin (loop $l (br $l))))""")
PARTS = [[0], [1], [2, 5]]


class InMemory:
    """A cache of parts that counts what is compiled."""

    def __init__(self) -> None:
        self.parts: dict[int, engine.TwinModule] = {}

    def find(self, number: int) -> engine.TwinModule | None:
        return self.parts.get(number)

    def save(self, number: int, part: engine.TwinModule) -> None:
        assert number not in self.parts
        self.parts[number] = part

    def lock(self, _: int) -> nullcontext[None]:
        return nullcontext()


def split(cache: InMemory) -> engine.CompiledModule:
    prepared = prepare(PROGRAM, split=lambda _: PARTS)
    module = engine.compile_module(prepared)
    plan = prepared.plan
    assert plan is not None
    assert decode_plan(encode_plan(plan)) == plan
    module.parts = Parts(
        lambda: instrument(PROGRAM).code,
        prepared.facts,
        lambda: plan,
        lambda names: [int(n) for n in names],
        cache,
    )
    return module


def made(module: engine.CompiledModule, check: Callable[[], None] = lambda: None) -> engine.Instance:
    return engine.Instance(module, {}, check, 4 << 16, 1000)


def test_parts_come_when_they_are_called_and_once() -> None:
    cache = InMemory()
    module = split(cache)
    for _ in range(2):
        instance = made(module)
        assert instance.call("f") == 407
        assert instance.call("f") == 407
        instance.close()
    assert sorted(cache.parts) == [1, 2, 3]


def test_parts_are_made_ahead_of_need() -> None:
    cache = InMemory()
    module = split(cache)
    assert module.parts is not None
    module.parts.ahead(["2", "3", "2"])
    for number in (2, 3):
        module.parts.get(number, lambda: None)
    assert sorted(cache.parts) == [2, 3]


class Meeting(InMemory):
    """A cache in which each look for a part waits until there is one for another."""

    def __init__(self) -> None:
        super().__init__()
        self.looked: set[int] = set()
        self.both = threading.Barrier(2)

    def find(self, number: int) -> engine.TwinModule | None:
        if number not in self.looked:
            self.looked.add(number)
            self.both.wait(60)
        return super().find(number)


def test_of_what_is_made_ahead_two_parts_overlap_and_none_is_made_twice() -> None:
    cache = Meeting()
    module = split(cache)
    assert module.parts is not None
    module.parts.ahead(["3"])
    module.parts.ahead(["3", "1"])
    for number in (1, 3):
        module.parts.get(number, lambda: None)
    assert cache.looked == {1, 3}


class Source:
    """Parts that never come, or fail."""

    def __init__(self, plan: Plan, get: Callable[[int, Callable[[], None]], engine.TwinModule]) -> None:
        self.plan = plan
        self.get = get

    def ahead(self, packages: Iterable[str]) -> None:
        return

    def rest(self) -> None:
        return


def test_a_guest_that_waits_for_a_part_can_be_ended() -> None:
    module = split(InMemory())
    assert module.parts is not None
    begun = threading.Event()

    def never(_: int, waiting: Callable[[], None]) -> engine.TwinModule:
        begun.set()
        while True:
            waiting()

    module.parts = Source(module.parts.plan, never)
    instance = made(module)
    killer = threading.Thread(target=lambda: (begun.wait(30), instance.ask(KeyboardInterrupt("killed"))))
    killer.start()
    with pytest.raises(KeyboardInterrupt, match="killed"):
        instance.call("f")
    killer.join()
    instance.close()


def test_a_part_that_cannot_be_made_ends_the_guest_with_its_error() -> None:
    module = split(InMemory())
    parts = module.parts
    assert parts is not None

    def fails(_: int, waiting: Callable[[], None]) -> engine.TwinModule:
        raise ModuleError("a part of the module cannot run here")

    module.parts = Source(parts.plan, fails)
    instance = made(module)
    with pytest.raises(ModuleError, match="a part"):
        instance.call("f")
    instance.close()
    module.parts = parts
    instance = made(module)
    assert instance.call("f") == 407
    instance.close()


def test_a_function_of_a_part_is_stopped_as_any() -> None:
    instance = made(split(InMemory()))
    timer = threading.Timer(0, lambda: instance.ask(KeyboardInterrupt("killed")))
    timer.start()
    with pytest.raises(KeyboardInterrupt, match="killed"):
        instance.call("spin")
    instance.close()


RECORD = Recorded(
    (Layer("start", (), (3,)), Layer("plain", (), (1,)), Layer("all", ("plain",), (0, 2))), "record"
)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], CompiledModules]:
    monkeypatch.setattr(compiled, "recorded", lambda digest: RECORD if digest == "sha256:split" else None)
    home = Home.open(tmp_path / "home")
    return lambda: CompiledModules(home, Silent())


def never() -> bytes:
    raise AssertionError("it is in the cache")


def test_a_recorded_module_runs_split_until_it_is_there_whole(modules: Callable[[], CompiledModules]) -> None:
    def run(module: engine.CompiledModule) -> None:
        instance = made(module)
        assert instance.call("f") == 407
        instance.close()

    first = modules().get("sha256:split", lambda: PROGRAM, "program")
    assert first.parts is not None
    run(first)
    again = modules().get("sha256:split", never, "program")
    assert again.parts is not None
    run(again)  # its parts too come from the cache, without the original
    assert modules().complete("sha256:split", lambda: PROGRAM, "program")
    whole = modules().get("sha256:split", never, "program")
    assert whole.parts is None
    run(whole)
    assert modules().complete("sha256:split", never, "program")


def test_only_one_compiles_the_whole(modules: Callable[[], CompiledModules]) -> None:
    store = modules()

    def read() -> bytes:
        assert not modules().complete("sha256:split", never, "program")
        return PROGRAM

    assert store.complete("sha256:split", read, "program")


def test_what_was_left_in_parts_goes_on_in_the_whole(modules: Callable[[], CompiledModules]) -> None:
    parts = modules().get("sha256:split", lambda: PROGRAM, "program")
    modules().complete("sha256:split", lambda: PROGRAM, "program")
    whole = modules().get("sha256:split", lambda: PROGRAM, "program")
    for left, goes_on in ((parts, whole), (whole, parts), (parts, parts)):
        instance = made(left)
        instance.ask(Suspended())
        with pytest.raises(Suspended):
            instance.call("f")
        records = instance.records()
        instance.close()
        assert len(records) > 0
        instance = made(goes_on)
        assert instance.resume(records) == 407
        instance.close()


def test_parts_of_packages_come_with_those_that_they_need() -> None:
    assert RECORD.parts_for(["all.of.it"]) == [1, 2]
    assert RECORD.parts_for(["plain", "unknown", "start"]) == [1]
    assert deferred(RECORD, PROGRAM) == [(1,), (0, 2), [4, 5]]
