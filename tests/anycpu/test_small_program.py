"""One context file goes from this CPU to aarch64 and back, in the middle of a program that computes."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from ..wat import wat
from .conftest import Aarch64
from .lives import here, life

INNER = 2_000_000
WASI = "wasi_snapshot_preview1"
# Each round: INNER steps of x = x * M + 1 (mod 2^64) and s = s + sqrt(x >> 11) / 3, then both as 16 bytes.
PROGRAM = f"""(module
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $x i64) (local $s f64) (local $i i32)
    (local.set $x (i64.const 1))
    (loop $round
      (local.set $i (i32.const {INNER}))
      (loop $step
        (local.set $x (i64.add (i64.mul (local.get $x) (i64.const 6364136223846793005)) (i64.const 1)))
        (local.set $s (f64.add (local.get $s) (f64.div
          (f64.sqrt (f64.convert_i64_u (i64.shr_u (local.get $x) (i64.const 11)))) (f64.const 3))))
        (br_if $step (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
      (i64.store (i32.const 16) (local.get $x))
      (f64.store (i32.const 24) (local.get $s))
      (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 16))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $round))))"""
ROUND_BYTES = 16
NAME = "prog.wasm"
ROUNDS = 2 * ROUND_BYTES  # written in each life, at least


@pytest.mark.network
def test_there_and_back_in_the_middle_of_a_loop(other: Aarch64, tmp_path: Path) -> None:
    program = tmp_path / "prog.wasm"
    program.write_bytes(wat(PROGRAM))
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "SOJOURN_HOME": str(tmp_path / "home")}
    back = {**env, "SOJOURN_HOME": str(tmp_path / "another home")}
    first, second, third = (other.shared / f"{number}.context" for number in range(3))
    written = life(here, env, ["run", str(program)], tmp_path / "a", str(first), ROUNDS, NAME)
    written += life(
        other.command,
        env,
        ["resume", other.inside(first)],
        tmp_path / "b",
        other.inside(second),
        ROUNDS,
        NAME,
    )
    written += life(here, back, ["resume", str(second)], tmp_path / "c", str(third), ROUNDS, NAME)
    assert len(written) >= 6 * ROUND_BYTES
    assert written == straight(program, env, len(written) // ROUND_BYTES)


@pytest.mark.engine
def test_what_was_resumed_can_be_evicted_again(tmp_path: Path) -> None:
    program = tmp_path / "prog.wasm"
    program.write_bytes(wat(PROGRAM))
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "SOJOURN_HOME": str(tmp_path / "home")}
    files = [tmp_path / f"{number}.context" for number in range(3)]
    written = life(here, env, ["run", str(program)], tmp_path / "out", str(files[0]), ROUNDS, NAME)
    for before, after in pairwise(files):
        home = {**env, "SOJOURN_HOME": str(after) + ".home"}
        written += life(here, home, ["resume", str(before)], tmp_path / "out", str(after), ROUNDS, NAME)
    assert written == straight(program, env, len(written) // ROUND_BYTES)


def straight(program: Path, env: dict[str, str], rounds: int) -> bytes:
    """The same number of rounds from a process that nobody stops."""
    command = [sys.executable, "-m", "sojourn", "run", str(program)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        found = process.stdout.read(rounds * ROUND_BYTES)
        process.kill()
    return found
