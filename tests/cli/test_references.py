"""A WebAssembly command that keeps references, changes tables and drops segments goes on the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..wat import wat
from .commands import Commands

pytestmark = pytest.mark.engine

WASI = "wasi_snapshot_preview1"
# Each round: waits for a byte of input in a frame that holds a reference, calls what is in the table, in a
# global and in the frame, changes the table, and writes the sum as a line of one letter.
PROGRAM = f"""(module
  (import "{WASI}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (type $number (func (result i32)))
  (memory (export "memory") 1)
  (table $t 3 funcref)
  (elem declare func $one $two $three $four)
  (elem $more funcref (ref.func $three) (ref.func $four))
  (data $text "round ")
  (global $g (mut funcref) (ref.null func))
  (global $x (mut externref) (ref.null extern))
  (global $place (mut i32) (i32.const 0))
  (func $one (result i32) (i32.const 1))
  (func $two (result i32) (i32.const 2))
  (func $three (result i32) (i32.const 3))
  (func $four (result i32) (i32.const 4))
  (func $wait (result i32)
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1))
    (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))
      (then (call $exit (i32.const 9))))
    (i32.load (i32.const 8)))
  (func $call (param $f funcref) (result i32)
    (table.set $t (i32.const 2) (local.get $f))
    (call_indirect $t (type $number) (i32.const 2)))
  (func $round (param $f funcref) (param $letter i32)
    (if (i32.eqz (call $wait)) (then (call $exit (i32.const 7))))
    ;; the reference lives in the frame that was left
    (i32.store8 (i32.const 70) (i32.add (i32.const 64) (i32.add (local.get $letter)
      (i32.add (call $call (local.get $f)) (i32.add (call $call (global.get $g))
        (call_indirect $t (type $number) (global.get $place)))))))
    (i32.store8 (i32.const 71) (i32.const 10))
    (i32.store (i32.const 0) (i32.const 70)) (i32.store (i32.const 4) (i32.const 2))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start") (local $letter i32)
    (table.set $t (i32.const 0) (ref.func $one))
    (table.set $t (i32.const 1) (ref.func $two))
    (global.set $g (ref.func $two))
    (memory.init $text (i32.const 200) (i32.const 0) (i32.const 6))
    (data.drop $text)
    (drop (table.grow $t (ref.null func) (i32.const 5)))
    (table.init $t $more (i32.const 5) (i32.const 0) (i32.const 2))
    (elem.drop $more)
    (loop $again
      (call $round (ref.func $four) (local.get $letter))
      (global.set $place (i32.const 5))
      (global.set $g (ref.func $one))
      (local.set $letter (i32.add (local.get $letter) (i32.const 1)))
      ;; what was dropped stays dropped: this would trap
      (data.drop $text)
      (memory.init $text (i32.const 300) (i32.const 0) (i32.const 0))
      (table.init $t $more (i32.const 0) (i32.const 0) (i32.const 0))
      (if (i32.ne (table.size $t) (i32.const 8)) (then (unreachable)))
      (br $again))))"""


def test_they_go_on_the_same(home: object, tmp_path: Path) -> None:
    cli = Commands(tmp_path / "home", tmp_path)
    (tmp_path / "prog.wasm").write_bytes(wat(PROGRAM))
    straight = cli("run", "prog.wasm", stdin="x" * 6)
    assert (straight.returncode, straight.stderr) == (7, "")
    assert straight.stdout == "G\nI\nJ\nK\nL\nM\n"
    found, commands = b"", ["run", "prog.wasm"]
    for _ in range(3):
        with cli.running(*commands) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"xx")
            process.stdin.flush()
            found += process.stdout.read(4)
            pid = cli.named("prog.wasm")
            assert cli("evict", pid).returncode == 0
            process.wait(20)
        commands = ["resume", pid]
    assert found.decode() == straight.stdout
    assert cli("resume", pid, stdin="").returncode == 7
