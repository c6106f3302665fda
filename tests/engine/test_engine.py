"""The engine adapter: small modules, really compiled and run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sojourn.model.errors import ModuleError
from sojourn.vm.process import engine
from sojourn.vm.process.preparing import prepare
from sojourn.vm.process.wasi.outside import LimitReached
from sojourn.wasm import DENIED

from ..wat import wat

pytestmark = pytest.mark.engine

MODULE = """(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (global (mut i64) (i64.const -5)) (global (mut f64) (f64.const 1.5))
  (func (export "clock") (result i32) (call $clock (i32.const -1) (i64.const -2) (i32.const 3)))
  (func (export "exit") (call $exit (i32.const 7)) unreachable)
  (func (export "spin") (loop $l (br $l)))
  (func (export "calls") (loop $l (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 0))) (br $l)))
  (func (export "trap") unreachable)
  (func (export "divide") (result i32) (i32.div_u (i32.const 1) (i32.const 0)))
  (func $r (export "recurse") (call $r))
  (func (export "peek") (result i32) (i32.load (i32.const 8)))
  (func (export "outside") (result i32) (i32.load (i32.const 100000)))
  (func (export "grow") (result i32) (memory.grow (i32.const 1)))
  (func (export "grow_much") (result i32) (memory.grow (i32.const 100))))"""


@pytest.fixture(scope="module")
def module() -> engine.CompiledModule:
    return engine.compile_module(prepare(wat(MODULE)))


@contextmanager
def instance(
    module: engine.CompiledModule,
    check: Callable[[], None] = lambda: None,
    calls: int = 1 << 40,
    memory: int = 4 << 16,
    **functions: Callable[..., int],
) -> Iterator[engine.Instance]:
    made = engine.Instance(
        module, {(engine.WASI_MODULE, name): f for name, f in functions.items()}, check, memory, calls
    )
    try:
        yield made
    finally:
        made.close()


def on_guest_thread(body: Callable[[], Any]) -> Any:
    """Run ``body`` with the stack that a guest gets."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(body())
        except BaseException as error:
            result.append(error)

    before = threading.stack_size(engine.THREAD_STACK_BYTES)
    thread = threading.Thread(target=run)
    thread.start()
    threading.stack_size(before)
    thread.join()
    return result[0]


def test_a_host_function_gets_unsigned_numbers_and_its_result_arrives(module: engine.CompiledModule) -> None:
    seen = []

    def clock(*args: int) -> int:
        seen.append(args)
        return 28

    with instance(module, clock_time_get=clock) as made:
        assert made.call("clock") == 28
    assert seen == [(2**32 - 1, 2**64 - 2, 3)]


def test_what_a_host_function_raises_stops_the_guest_and_comes_out(module: engine.CompiledModule) -> None:
    def leave(code: int) -> int:
        raise ZeroDivisionError(code)

    with instance(module, proc_exit=leave) as made:
        with pytest.raises(ZeroDivisionError, match="7"):
            made.call("exit")
        assert made.call("peek") == 0  # the next call knows nothing of it


def test_the_check_stops_a_loop_that_calls_nothing(module: engine.CompiledModule) -> None:
    calls = iter([None, None])

    def check() -> None:
        if next(calls, TimeoutError) is TimeoutError:
            raise TimeoutError

    with instance(module, check) as made, pytest.raises(TimeoutError):
        made.call("spin")


def test_host_calls_are_counted_to_the_last(module: engine.CompiledModule) -> None:
    seen = []
    with instance(module, calls=100, clock_time_get=lambda *_: seen.append(0) or 0) as made:
        with pytest.raises(LimitReached) as caught:
            made.call("calls")
        assert caught.value.name == "host_calls"
    assert len(seen) == 100


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trap", "unreachable"),
        ("divide", "integer division by zero"),
        ("outside", "memory out of bounds"),
        ("recurse", "stack overflow"),
    ],
)
def test_a_trap_is_the_guests_own_fault(module: engine.CompiledModule, name: str, words: str) -> None:
    with instance(module) as made:
        error = on_guest_thread(lambda: made.call(name))
    assert isinstance(error, engine.GuestTrapError)
    assert error.code == words


def test_memory_is_seen_and_written_from_outside(module: engine.CompiledModule) -> None:
    with instance(module) as made:
        made.view[8:12] = b"\x2a\0\0\0"
        assert made.call("peek") == 42
        assert made.call("grow") == 1
        assert len(made.view) == 1 << 16
        assert len(made.refresh()) == 2 << 16


def test_refused_growth_leaves_a_mark(module: engine.CompiledModule) -> None:
    with instance(module) as made:
        made.call("grow")
        assert made.read_global(DENIED) == 0
        assert made.call("grow_much") == 2**32 - 1
        assert made.read_global(DENIED) == 1


def test_globals_go_out_and_in_bit_for_bit(module: engine.CompiledModule) -> None:
    with instance(module) as made:
        assert made.read_global("sojourn:global:0") == 2**64 - 5
        assert made.read_global("sojourn:global:1") == 0x3FF8 << 48
        for bits in (0, 1, 2**63, 2**64 - 1):
            made.write_global("sojourn:global:0", bits)
            assert made.read_global("sojourn:global:0") == bits


def test_memory_is_mapped_copy_on_write(module: engine.CompiledModule, tmp_path: Path) -> None:
    image = tmp_path / "memory"
    image.write_bytes(bytes(8) + b"\x07\0\0\0" + bytes((2 << 16) - 12))
    with image.open("rb") as file, instance(module) as one, instance(module) as two:
        one.map_memory(file.fileno(), 2 << 16)
        two.map_memory(file.fileno(), 2 << 16)
        one.view[8] = 9
        assert (one.call("peek"), two.call("peek")) == (9, 7)
        assert one.call("grow") == 2
    assert image.read_bytes()[8] == 7


def test_an_image_above_the_limit_is_refused(module: engine.CompiledModule, tmp_path: Path) -> None:
    image = tmp_path / "memory"
    image.write_bytes(bytes(8 << 16))
    with image.open("rb") as file, instance(module) as made, pytest.raises(MemoryError):
        made.map_memory(file.fileno(), 8 << 16)


def test_initial_memory_above_the_limit(module: engine.CompiledModule) -> None:
    with pytest.raises(MemoryError, match="begins with"), instance(module, memory=1000):
        pass


def test_code_goes_to_a_file_and_back(module: engine.CompiledModule, tmp_path: Path) -> None:
    path = tmp_path / "code"
    path.write_bytes(module.serialize())
    with instance(engine.load_module(str(path), module.facts), clock_time_get=lambda *_: 1) as made:
        assert made.call("clock") == 1


def test_code_of_something_else_is_refused(module: engine.CompiledModule, tmp_path: Path) -> None:
    path = tmp_path / "code"
    path.write_bytes(b"not compiled code" * 100)
    with pytest.raises(ValueError):
        engine.load_module(str(path), module.facts)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('(module (import "env" "x" (func)))', "imports env.x"),
        ('(module (import "wasi_snapshot_preview1" "fd_fly" (func)))', "fd_fly"),
        ('(module (import "wasi_snapshot_preview1" "fd_close" (func)))', "cannot be linked"),
    ],
)
def test_an_import_that_does_not_exist_is_named(text: str, words: str) -> None:
    with pytest.raises(ModuleError, match=words):
        engine.compile_module(prepare(wat(text)))


def test_an_invalid_module_is_refused() -> None:
    bad = bytearray(wat("(module (func (result i32) (i32.const 1)))"))
    bad[bad.index(0x41)] = 0x42
    with pytest.raises(ModuleError, match="type mismatch"):
        engine.check_valid(bytes(bad))


def test_instances_on_many_threads_do_not_meet(module: engine.CompiledModule) -> None:
    results: dict[int, int | None] = {}

    def guest(number: int) -> None:
        with instance(module, clock_time_get=lambda *_: number) as made:
            results[number] = made.call("clock")

    threads = [threading.Thread(target=guest, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: n for n in range(20)}


NODE = "(type $a (array (mut i64))) (type $n (struct (field (ref null $n)) (field (ref null $a))))"
HOARD = f"""(module {NODE} (global $g (mut (ref null $n)) (ref.null $n))
  (func (export "hoard")
    (loop $l
      (global.set $g (struct.new $n (global.get $g) (array.new $a (i64.const 1) (i32.const 1000))))
      (br $l))))"""


def test_objects_that_the_engine_collects_are_refused() -> None:
    """They would be memory beside the limit, and cannot be carried elsewhere."""
    with pytest.raises(ModuleError, match="garbage collection"):
        prepare(wat(HOARD))


def test_what_the_engine_refuses_is_the_guests_own_fault() -> None:
    module = engine.compile_module(prepare(wat('(module (func (export "f") (param i64)))')))
    with instance(module) as made, pytest.raises(engine.GuestTrapError):
        made.call("f")


@pytest.mark.parametrize(
    "text",
    [
        "(module (memory 1) (memory 1))",
        f"(module {'(table 1 funcref)' * (engine.TABLES_MAX + 1)})",
        f"(module (table {engine.TABLE_ELEMENTS_MAX + 1} funcref))",
        "(module (memory 1 2 shared))",
    ],
)
def test_memory_beside_the_one_limited_is_refused(text: str) -> None:
    module = engine.compile_module(prepare(wat(text)))
    with pytest.raises(ModuleError), instance(module):
        pass
