"""Lives of one process: each from a start or a context to the next context."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def here(*args: str) -> list[str]:
    return [sys.executable, "-m", "sojourn", *args]


def life(
    command: Callable[..., list[str]],
    env: dict[str, str],
    start: list[str],
    out: Path,
    file: str,
    output_bytes: int,
    name: str,
    deadline_s: float = 300.0,
) -> bytes:
    """Run or resume until so much output is out, evict, write the context to ``file``; what was written.

    Args:
        name: of the process; no other one in the home has it.
    """

    def ask(*args: str) -> str:
        done = subprocess.run(command(*args), env=env, capture_output=True, text=True, timeout=deadline_s)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with out.open("wb") as sink:
        process = subprocess.Popen(command(*start), env=env, stdout=sink, stdin=subprocess.DEVNULL)
        try:
            end_s = time.monotonic() + deadline_s
            while out.stat().st_size < output_bytes:
                assert process.poll() is None, "it ended by itself"
                assert time.monotonic() < end_s, "no output"
                time.sleep(0.02)
            (pid,) = [
                item["pid"]
                for item in json.loads(ask("ps", "--json"))
                if item["name"] == name and item["state"] == "running"
            ]
            ask("evict", pid)
            process.wait(deadline_s)
            ask("checkpoint", pid, "-o", file)
        finally:
            process.kill()
            process.wait()
    return out.read_bytes()
