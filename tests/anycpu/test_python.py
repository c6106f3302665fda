"""CPython with numpy goes from this CPU to aarch64 and back, in the middle of a loop."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from sojourn.vm.process.artifacts import find_python
from sojourn.vm.process.engine import fingerprint
from sojourn.vm.process.preparing import VERSION

from .conftest import Aarch64
from .lives import here, life

DEADLINE_S = 3000.0  # emulated, with a start of the interpreter's machinery in it
LINES = 200  # bytes: two lines, at least
PROGRAM = """
import hashlib
import random
import numpy as np

rng, words = np.random.default_rng(7), random.Random(11)
a = rng.standard_normal((48, 48))
for number in range(1_000_000):
    a = np.tanh(a @ a.T / 48 + rng.standard_normal((48, 48)))
    spectrum = np.abs(np.fft.rfft(a.ravel()))
    order = sorted(range(500), key=lambda n: (words.random(), n))
    values = {"norm": float(np.linalg.norm(a)), "peak": int(spectrum.argmax()), "first": order[:3]}
    print(number, hashlib.sha256(a.tobytes()).hexdigest()[:32], values, flush=True)
"""


@pytest.fixture
def code(aarch64_root: Path, runtime_home: Path) -> tuple[Path, str]:
    """The runtime compiled for the other CPU, and its digest. Kept with the root: it takes minutes."""
    named = f"{find_python().module_digest} {VERSION} {fingerprint('aarch64')}"
    path, note = aarch64_root / "tmp" / "python.code", aarch64_root / "tmp" / "python.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    if known.get("named") != named:
        env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "SOJOURN_HOME": str(runtime_home)}
        command = here("code", "export", "--for", "aarch64", "-o", str(path), "--json")
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr
        known = {"named": named, "sha256": json.loads(done.stdout)["sha256"]}
        note.write_text(json.dumps(known))
    return path, known["sha256"]


@pytest.mark.soak
@pytest.mark.network
@pytest.mark.runtime
def test_numpy_there_and_back(
    other: Aarch64, code: tuple[Path, str], runtime_home: Path, tmp_path: Path
) -> None:
    program = tmp_path / "prog.py"
    program.write_text(PROGRAM)
    name = f"numpy-{os.getpid()}"
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "SOJOURN_HOME": str(runtime_home)}
    taken = other.command("code", "import", other.inside(code[0]), "--trust", code[1])
    subprocess.run(taken, env=env, check=True, timeout=DEADLINE_S)
    first, second, third = (other.shared / f"{number}.context" for number in range(3))
    written = life(
        here, env, ["run", "--name", name, str(program)], tmp_path / "a", str(first), LINES, name, DEADLINE_S
    )
    there = life(
        *(other.command, env, ["resume", other.inside(first)], tmp_path / "b", other.inside(second)),
        *(LINES, name, DEADLINE_S),
    )
    back = life(here, env, ["resume", str(second)], tmp_path / "c", str(third), LINES, name, DEADLINE_S)
    written += there + back
    assert written == straight(program, env, len(written))


def straight(program: Path, env: dict[str, str], size: int) -> bytes:
    """As many bytes of output from a process that nobody stops."""
    command = here("run", str(program))
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        found = process.stdout.read(size)
        process.kill()
    return found
