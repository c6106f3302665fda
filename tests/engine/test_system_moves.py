"""A guest that is left in a call goes on in another machine, with its files, clocks and counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sojourn.context.plain import pack, unpack
from sojourn.model.errors import ContextError, LimitError
from sojourn.model.limits import Limits
from sojourn.model.progress import Silent
from sojourn.model.states import State
from sojourn.store.home import Home
from sojourn.vm.process.assembly import assemble
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.engine import CompiledModule, Instance
from sojourn.vm.process.streams import Given, Receiver, Streams
from sojourn.vm.process.virtual_machine import VirtualMachine
from sojourn.vm.process.wasi.mounts import MountTree

from ..wat import wat

pytestmark = pytest.mark.engine

# Writes a file, says "a", sleeps 50 ms, reads the file through the same descriptor and says what is in it.
PROGRAM = r"""(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "f") (data (i32.const 72) "hello") (data (i32.const 80) "a")
  (data (i32.const 128) "\48\00\00\00\05\00\00\00") (data (i32.const 136) "\50\00\00\00\01\00\00\00")
  (data (i32.const 144) "\00\02\00\00\20\00\00\00") (data (i32.const 152) "\00\02\00\00\05\00\00\00")
  (data (i32.const 272) "\01\00\00\00\00\00\00\00\80\f0\fa\02")
  (func $must (param i32) (if (local.get 0) (then (call $exit (local.get 0)))))
  (func (export "_start") (local $fd i32)
    (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 1)
      (i64.const 0x3fffffff) (i64.const 0) (i32.const 0) (i32.const 8)))
    (local.set $fd (i32.load (i32.const 8)))
    (call $must (call $write (local.get $fd) (i32.const 128) (i32.const 1) (i32.const 8)))
    (call $must (call $write (i32.const 1) (i32.const 136) (i32.const 1) (i32.const 8)))
    (call $must (call $poll (i32.const 256) (i32.const 320) (i32.const 1) (i32.const 8)))
    (call $must (call $seek (local.get $fd) (i64.const 0) (i32.const 0) (i32.const 8)))
    (call $must (call $read (local.get $fd) (i32.const 144) (i32.const 1) (i32.const 8)))
    (call $must (call $write (i32.const 1) (i32.const 152) (i32.const 1) (i32.const 8)))))"""


@pytest.fixture
def module(home: Home) -> CompiledModule:
    return CompiledModules(home, Silent()).get("0" * 64, lambda: wat(PROGRAM), "program")


def machine(
    module: CompiledModule,
    take: Callable[[memoryview], None],
    state: dict[str, Any] | None = None,
    limits: Limits | None = None,
) -> VirtualMachine:
    sink = Receiver(take)
    return assemble(
        module,
        limits or Limits(),
        Streams(Given(), sink, sink),
        lambda tree, quota: [(b"/", tree)] if isinstance(tree, MountTree) else [],
        args=[b"program"],
        state=state,
    )


def enter(instance: Instance) -> int | None:
    instance.leavable = True
    return instance.call("_start")


def left(module: CompiledModule, output: bytearray) -> VirtualMachine:
    """A machine whose guest was left after it said "a"."""

    def take(data: memoryview) -> None:
        output.extend(data)
        made.suspend()

    made = machine(module, take)
    assert made.run(enter) is None
    return made


def moved(one: VirtualMachine, two: VirtualMachine) -> VirtualMachine:
    """Make ``two`` what ``one`` is, its system aside."""
    two.instance.refresh()[:] = one.instance.refresh()
    two.instance.write_globals(one.instance.read_globals())
    two.restored = one.instance.records()
    return two


def test_it_goes_on_elsewhere(module: CompiledModule) -> None:
    plain = bytearray()
    straight = machine(module, plain.extend)
    ending = straight.run(enter)
    assert ending is not None
    assert (ending.state, ending.exit_code, bytes(plain)) == (State.EXITED, 0, b"ahello")
    calls = straight.usage().host_calls
    straight.close()

    output = bytearray()
    one = left(module, output)
    state = unpack(pack(one.save_system()))
    two = moved(one, machine(module, output.extend, state))
    shown = one.surroundings.monotonic_ns()
    one.close()
    assert two.surroundings.monotonic_ns() >= shown
    ending = two.go_on()
    assert ending is not None
    assert (ending.state, ending.exit_code, bytes(output)) == (State.EXITED, 0, b"ahello")
    assert two.system.output_bytes == 6
    assert two.usage().host_calls == calls
    assert two.surroundings.wall_ns() >= 50_000_000  # it did sleep, in one life and the other together
    two.close()


def test_it_goes_on_here_after_a_look(module: CompiledModule) -> None:
    output = bytearray()
    one = left(module, output)
    first = one.save_system()
    assert one.save_system() == first  # the clocks stand still
    one.stay()
    while (ending := one.go_on()) is None:
        one.stay()
    assert (ending.exit_code, bytes(output)) == (0, b"ahello")
    one.close()


def test_a_state_that_is_not_whole_and_limits_that_are_too_low(module: CompiledModule) -> None:
    one = left(module, bytearray())
    state = one.save_system()
    one.close()
    for name in state:
        with pytest.raises(ContextError, match="damaged"):
            machine(module, bytes, {key: value for key, value in state.items() if key != name})
        with pytest.raises(ContextError, match="damaged"):
            machine(module, bytes, state | {name: -1})
    with pytest.raises(LimitError, match="file_bytes: .* is less than a guest has already"):
        machine(module, bytes, state, Limits(file_bytes=2500))


def test_a_start_function_runs_once_in_the_life_of_a_process(home: Home) -> None:
    begun = "(func $begin (global.set $begun (i32.add (global.get $begun) (i32.const 1)))) (start $begin)"
    exit_so = "(call $exit (global.get $begun))"
    text = PROGRAM.replace("(func $must", f"(global $begun (mut i32) (i32.const 0)) {begun} (func $must", 1)
    assert text.endswith("(i32.const 8)))))")
    code = wat(text[:-2] + exit_so + "))")
    module = CompiledModules(home, Silent()).get("1" * 64, lambda: code, "program")
    output = bytearray()
    one = left(module, output)
    two = moved(one, machine(module, output.extend, unpack(pack(one.save_system()))))
    one.close()
    ending = two.go_on()
    assert ending is not None
    assert (ending.exit_code, bytes(output)) == (1, b"ahello")
    two.close()
