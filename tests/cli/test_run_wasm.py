"""``sojourn run`` with WebAssembly commands, as a person runs it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..conftest import Sojourn
from ..wat import wat

pytestmark = pytest.mark.engine

WASI = "wasi_snapshot_preview1"
EXIT = f'(module (import "{WASI}" "proc_exit" (func $exit (param i32))) (memory (export "memory") 1)'
CAT = f"""(module
  (import "{WASI}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $again
      (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 1000))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.load (i32.const 8)) (then
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br $again))))))"""
YES = f"""(module
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 16) "y\\n")
  (func (export "_start")
    (loop $again
      (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 2))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $again))))"""
SPIN = '(module (func (export "_start") (loop $l (br $l))))'
GROW = """(module (memory (export "memory") 1) (func (export "_start")
  (loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable))"""
START_LOOPS = '(module (func $s (loop $l (br $l))) (start $s) (func (export "_start")))'


def module(tmp_path: Path, text: str) -> str:
    path = tmp_path / "prog.wasm"
    path.write_bytes(wat(text))
    return str(path)


def test_exit_status_is_the_programs_own(sojourn: Sojourn, tmp_path: Path) -> None:
    done = sojourn("run", module(tmp_path, EXIT + '(func (export "_start") (call $exit (i32.const 42))))'))
    assert (done.returncode, done.stdout, done.stderr) == (42, "", "")


def test_stdin_goes_in_and_stdout_comes_out(sojourn: Sojourn, tmp_path: Path) -> None:
    text = "line\n" * 5000
    assert sojourn("run", module(tmp_path, CAT), stdin=text).stdout == text


@pytest.mark.parametrize(
    ("text", "flags", "limit"),
    [
        (SPIN, ["--cpu", "0.2s"], "cpu_seconds"),
        (SPIN, ["--wall", "0.3s"], "wall_seconds"),
        (YES, ["--output", "1000"], "output_bytes"),
        (YES, ["--host-calls", "100"], "host_calls"),
        (GROW, ["--memory", "1M"], "memory_bytes"),
        (START_LOOPS, ["--cpu", "0.2s"], "cpu_seconds"),
    ],
)
def test_each_limit_ends_the_process_and_is_named(
    sojourn: Sojourn, tmp_path: Path, text: str, flags: list[str], limit: str
) -> None:
    done = sojourn("run", "--json", *flags, module(tmp_path, text))
    assert done.returncode == 125
    ending = json.loads(done.stderr)
    assert (ending["state"], ending["limit"]) == ("failed", limit)
    if limit == "output_bytes":
        assert done.stdout == "y\n" * 500


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no"),
        (b"\0asm", "not a valid WebAssembly module"),
        (b"\0asm\x01\0\0\0\x01\xff", "not a valid WebAssembly module"),
        (b"\0asm\x0d\0\x01\0", "component"),
        (wat('(module (import "env" "secret" (func)) (func (export "_start")))'), "env.secret"),
        (wat('(module (func (export "main")))'), "_start"),
        (wat('(module (func (export "_start") (param i32)))'), "_start that takes or returns"),
        (wat('(module (memory 65536) (func (export "_start")))'), "memory_bytes"),
    ],
)
def test_bad_modules_get_a_typed_error(sojourn: Sojourn, tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.wasm"
    path.write_bytes(content)
    done = sojourn("run", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def start(home: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sojourn", "run", *args],
        env={**os.environ, "SOJOURN_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(sojourn: Sojourn, name: str) -> str:
    """The pid of the running process called ``name``."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for record in json.loads(sojourn("ps", "--json").stdout):
            if record["name"] == name and record["state"] == "running":
                return str(record["pid"])
    raise AssertionError(f"{name} does not run")


def test_ctrl_c_ends_the_guest(sojourn: Sojourn, runtime_home: Path, tmp_path: Path) -> None:
    process = start(runtime_home, "--name", "ctrl-c", module(tmp_path, SPIN))
    pid = wait_for(sojourn, "ctrl-c")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    process.communicate()
    assert json.loads(sojourn("inspect", "--json", pid).stdout)["ending"]["reason"] == "interrupted"


def test_ctrl_c_twice_is_ctrl_c(sojourn: Sojourn, runtime_home: Path, tmp_path: Path) -> None:
    process = start(runtime_home, "--name", "ctrl-c twice", module(tmp_path, SPIN))
    pid = wait_for(sojourn, "ctrl-c twice")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    process.communicate()
    assert json.loads(sojourn("inspect", "--json", pid).stdout)["ending"]["reason"] == "interrupted"


# A compiler is C code that knows nothing of signals, and goes on for minutes.
COMPILES_LONG = """
import hashlib, os, sys
from sojourn.cli.main import main
from sojourn.vm.process import compiled

def compile_module(prepared):
    os.write(2, b"compiling\\n")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)

compiled.compile_module = compile_module
sys.argv = ["sojourn", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_program_is_compiled(
    sojourn: Sojourn, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    home = tmp_path / "fresh"
    with subprocess.Popen(
        [sys.executable, "-c", COMPILES_LONG, "run", module(tmp_path, SPIN)],
        env={**os.environ, "SOJOURN_HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "compiling\n"
        process.send_signal(number)
        try:
            found = process.wait(30)
        finally:
            process.kill()
        said = process.stderr.read()
        assert found == status, said
        assert "Traceback" not in said
    (record,) = json.loads(sojourn("ps", "-a", "--json", SOJOURN_HOME=str(home)).stdout)
    assert (record["state"], record["ending"]["reason"]) == ("killed", "interrupted")
    assert list((home / "locks").iterdir()) == []


def test_another_terminal_can_kill_it(sojourn: Sojourn, runtime_home: Path, tmp_path: Path) -> None:
    process = start(runtime_home, "--name", "to-kill", module(tmp_path, SPIN))
    pid = wait_for(sojourn, "to-kill")
    assert sojourn("kill", pid).returncode == 0
    assert process.wait(10) == 137
    process.communicate()
    assert sojourn("kill", pid).returncode != 0


def test_a_host_that_dies_leaves_its_process_lost(
    sojourn: Sojourn, runtime_home: Path, tmp_path: Path
) -> None:
    process = start(runtime_home, "--name", "to-lose", module(tmp_path, SPIN))
    pid = wait_for(sojourn, "to-lose")
    process.kill()
    process.communicate()
    assert json.loads(sojourn("inspect", "--json", pid).stdout)["state"] == "lost"


def test_output_is_logged(sojourn: Sojourn, tmp_path: Path) -> None:
    sojourn("run", "--name", "logged", module(tmp_path, CAT), stdin="kept\n")
    pid = next(r["pid"] for r in json.loads(sojourn("ps", "-a", "--json").stdout) if r["name"] == "logged")
    assert sojourn("logs", pid).stdout == "kept\n"
    assert json.loads(sojourn("logs", "--json", pid).stdout)["text"] == "kept\n"


def test_a_closed_pipe_ends_the_guest_quietly(runtime_home: Path, tmp_path: Path) -> None:
    process = start(runtime_home, module(tmp_path, YES))
    assert process.stdout is not None
    assert process.stdout.readline() == "y\n"
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("flags", [[], ["--wall", "3s"]])
def test_a_guest_that_writes_where_nobody_reads_can_be_ended(
    sojourn: Sojourn, runtime_home: Path, tmp_path: Path, flags: list[str]
) -> None:
    name = f"flood {len(flags)}"
    process = start(runtime_home, "--quiet", "--name", name, *flags, module(tmp_path, YES))
    pid = wait_for(sojourn, name)
    if flags:
        assert process.wait(30) == 125
    else:
        assert process.stdout is not None
        select.select([process.stdout], [], [], 30)  # it writes
        assert sojourn("kill", pid).returncode == 0
        assert process.wait(10) == 137
    process.communicate()


def test_closed_standard_descriptors_are_no_files_of_ours(sojourn: Sojourn, tmp_path: Path) -> None:
    """Whatever we open first would otherwise be the guest's output."""
    path = module(tmp_path, CAT)
    script = f"exec '{sys.executable}' -m sojourn run '{path}' <&- >&-"
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env={**os.environ, "SOJOURN_HOME": str(tmp_path / "fresh")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
