"""Programs in C, C++ and Rust, compiled here, left at every poll and at moments that nobody chose.

Debian's clang and wasi-libc compile C; C++ needs its ``libc++-*-dev-wasm32`` too, and Rust its ``rustc`` and
``libstd-rust-dev-wasm32``. What is not there is skipped with a word.
"""

from __future__ import annotations

import fcntl
import random
import shutil
import subprocess
import sys
import termios
from pathlib import Path
from typing import IO

import pytest

from sojourn.model.grants import DirectoryGrant
from sojourn.model.states import State
from sojourn.store.home import Home

from ..cli.commands import Commands, until
from .dense import Dense, each_poll, now_and_then

pytestmark = pytest.mark.native

SOURCES = sorted((Path(__file__).parent / "c").iterdir())
STDIN = "".join(f"line {i} Word{i % 13} {'x' * (i % 50)}\n" for i in range(200)).encode()
STATUS = {"recursion": 6, "memory": 3, "lowering": 4}
_FLAGS = {"vectors": ("-msimd128",), "numbers": ("-lc-printscan-long-double",)}
_STACK = "-Wl,-z,stack-size=1048576"


def compiler(source: Path) -> tuple[str, ...]:
    """The command that compiles it, without its output."""
    if source.suffix == ".rs":
        rustc = "/usr/bin/rustc"  # Debian's: another one has other targets
        if not Path("/usr/lib/rustlib/wasm32-wasi").is_dir() or not Path(rustc).exists():
            pytest.skip("Debian's rustc and libstd-rust-dev-wasm32 are not installed")
        return (rustc, "--target=wasm32-wasi", "-Copt-level=2", "-Cstrip=symbols", str(source))
    name = "clang++" if source.suffix == ".cc" else "clang"
    flags = ("-fno-exceptions", "-std=c++17") if source.suffix == ".cc" else ("-lm",)
    return (name, "--target=wasm32-wasi", str(source), _STACK, *_FLAGS.get(source.stem, ()), *flags)


def built(source: Path, level: str, target: Path) -> bytes:
    command = compiler(source)
    if source.suffix != ".rs":
        command = (*command, level)
    done = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True, check=False)
    if source.suffix == ".cc" and "file not found" in done.stderr:
        pytest.skip("Debian's libc++ for wasm32 is not installed")
    assert done.returncode == 0, done.stderr
    return target.read_bytes()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_program_left_at_every_poll(source: Path, tmp_path: Path, home: Home) -> None:
    (tmp_path / "granted").mkdir()
    program = Dense(
        home,
        built(source, "-O1", tmp_path / "program.wasm"),
        ("/tmp", "/data") if source.stem in ("files", "shapes") else (),
        STDIN,
        (DirectoryGrant(str(tmp_path / "granted"), "/data", True),),
    )
    straight = program.run(lambda number: None)
    panics = source.suffix == ".rs"
    assert straight[2].state is (State.FAILED if panics else State.EXITED), straight
    assert panics or straight[2].exit_code == STATUS.get(source.stem, 0)
    assert straight[0]
    assert program.run(each_poll(250)) == straight
    assert program.lives > 100
    assert program.run(now_and_then(random.randrange(1 << 30), 0.0005, 100)) == straight


@pytest.mark.soak
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3", "-Os"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_program_left_at_thousands_of_polls(source: Path, level: str, tmp_path: Path, home: Home) -> None:
    (tmp_path / "granted").mkdir()
    program = Dense(
        home,
        built(source, level, tmp_path / "program.wasm"),
        ("/tmp", "/data") if source.stem in ("files", "shapes") else (),
        STDIN,
        (DirectoryGrant(str(tmp_path / "granted"), "/data", True),),
    )
    straight = program.run(lambda number: None)
    assert program.run(each_poll(20_000)) == straight
    for seed in range(10):
        assert program.run(now_and_then(seed, 0.0003, 2000)) == straight, f"seed {seed}"


def _waiting_in(pipe: IO[bytes]) -> int:
    """How many bytes nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_program_in_c_through_the_verbs(tmp_path: Path) -> None:
    """Waiting for input, evicted, forked; each goes on with what it is given there."""
    if shutil.which("clang") is None:
        pytest.skip("Debian's clang is not installed")
    built(Path(__file__).parent / "c" / "files.c", "-O2", tmp_path / "files.wasm")
    Home.open(tmp_path / "home")
    cli = Commands(tmp_path / "home", tmp_path)
    expected = cli("run", "files.wasm", "/tmp", stdin=STDIN.decode())
    assert expected.returncode == 0, expected.stderr
    half = STDIN[:2345]  # in the middle of a line
    with cli.running("run", "--name", "asks", "files.wasm", "/tmp") as first:
        pid = cli.named("asks")
        assert first.stdin is not None
        first.stdin.write(half)
        first.stdin.flush()
        until(lambda: _waiting_in(first.stdin) == 0, "all that was given is read")
        forks = cli.json("fork", pid, "-n", "2")["forks"]
        cli.evict(pid)
    rest = STDIN[len(half) :].decode()
    for one in (pid, *forks):
        assert cli("resume", one, stdin=rest).returncode == 0
    assert cli.output(pid).decode() == expected.stdout
    for fork in forks:
        assert cli.output(fork)
        assert expected.stdout.endswith(cli.output(fork).decode())
