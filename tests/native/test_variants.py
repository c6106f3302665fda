"""The benchmarks' forms of a C program: each runs, all print the same, and a resumed one goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.resumable import Guest, of_c, run, run_resumed
from benchmarks.variants import ASYNCIFY, POLLED, RESUMABLE, VARIANTS, CProgram, compile_c, with_polls
from tests.lives.dense import on_guest_thread

pytestmark = pytest.mark.native
SOURCE = r"""
#include <stdio.h>
static int __attribute__((noinline)) depth(int n) { return n ? 1 + depth(n - 1) : 0; }
int main(void) {
  volatile unsigned sum = 0;
  printf("begins\n");
  for (unsigned i = 0; i < %d; i++) sum += depth(i %% 9);
  printf("%%u\n", sum);
  return 0;
}
"""
LONG, SHORT = 600_000_000, 1000  # half a second on a fast machine


def built(tmp_path: Path, count: int) -> bytes:
    source = tmp_path / "small.c"
    source.write_text(SOURCE % count)
    return compile_c(source, tmp_path)


def expected(count: int) -> str:
    return f"begins\n{(count // 9 * sum(range(9)) + sum(range(count % 9))) & 0xFFFFFFFF}\n"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_form_prints_the_same(tmp_path: Path, variant: str) -> None:
    if variant in (ASYNCIFY, POLLED) and shutil.which("wasm-opt") is None:
        pytest.skip("Debian's binaryen is not installed")
    program = CProgram("small", built(tmp_path, SHORT), variant)
    done = on_guest_thread(lambda: run(of_c(program)))
    assert done.output == expected(SHORT)
    assert done.cpu_s > 0


def test_the_rest_after_a_resume(tmp_path: Path) -> None:
    guest: Guest = of_c(CProgram("small", built(tmp_path, LONG), RESUMABLE))
    done = on_guest_thread(lambda: run_resumed(guest, 0.01, tmp_path))
    assert done.output == expected(LONG)
    assert done.before_s > 0.01
    assert done.cpu_s > 0


def test_polls_are_where_a_module_loops_and_recurs() -> None:
    text = """(module
 (func $once (param $0 i32) (result i32)
  (local $1 i32)
  (call $other
   (local.get $0)
  )
 )
 (func $again (param $0 i32) (result i32)
  (local $1 i32)
  (loop $label$1 (result i32)
   (call $again
    (local.get $0)
   )
  )
 )
)
"""
    once, again = with_polls(text).split(" (func $again")
    assert once.count("(call $poll)") == 0
    assert once.count("(func $poll ") == 1
    lines = again.splitlines()
    assert [n for n, line in enumerate(lines) if "(call $poll)" in line] == [2, 3]
    assert lines[3].startswith("  (loop $label$1 (result i32) (if ")
