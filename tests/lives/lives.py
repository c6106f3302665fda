"""A program run undisturbed and run in many lives: both must write the same bytes and end in the same way.

A life ends by ``evict`` at a moment that nobody chose. After a few lives the operating-system process ends
too, and the next one goes on with what is stored.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sojourn.store.output import read_output

TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Course:
    """How a process went.

    Attributes:
        output: what it wrote to each stream.
        ending: its state at the end, exit status and reason.
        lives: how many it had.
    """

    output: dict[int, bytes]
    ending: dict[str, Any]
    lives: int

    def same_as(self, other: Course) -> bool:
        return (self.output, self.ending) == (other.output, other.ending)


@dataclass(frozen=True)
class Runner:
    """Runs programs in ``home``."""

    home: Path

    def undisturbed(self, program: Path, stdin: bytes = b"", **order: Any) -> Course:
        return self.run(program, stdin, mean_ms=0, **order)

    def run(
        self,
        program: Path,
        stdin: bytes = b"",
        *,
        seed: int = 0,
        mean_ms: float = 20,
        lives_each: int = 5,
        lives_max: int = 1000,
        **order: Any,
    ) -> Course:
        """The course of a process with lives of about ``mean_ms`` (0: one life), ``lives_each`` of them in
        one operating-system process; from the ``lives_max``-th on it is left alone."""
        order |= {"home": str(self.home), "program": str(program), "lives": lives_each, "mean_ms": mean_ms}
        reader, writer = os.pipe()
        feeder = subprocess.Popen(
            [sys.executable, "-c", "import sys, os\nos.write(1, bytes.fromhex(sys.stdin.read()))"],
            stdin=subprocess.PIPE,
            stdout=writer,
        )
        os.close(writer)
        assert feeder.stdin is not None
        feeder.stdin.write(stdin.hex().encode())
        feeder.stdin.close()
        lives = 0
        try:
            while True:
                found = self._live({**order, "seed": seed + lives}, reader)
                lives += found["lives"]
                order["pid"] = found["pid"]
                if "ending" in found:
                    ending = {
                        key: found["ending"].get(key) for key in ("state", "exit_code", "limit", "reason")
                    }
                    return Course(self._output(found["pid"]), ending, lives)
                if lives >= lives_max:
                    order |= {"mean_ms": 0, "lives": 1}
        finally:
            os.close(reader)
            feeder.kill()
            feeder.wait()

    def _live(self, order: dict[str, Any], stdin: int) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", f"{__package__}.life", json.dumps(order)],
            stdin=stdin,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        if done.returncode != 0 or not done.stdout:
            raise AssertionError(f"status {done.returncode}: {done.stderr[-3000:].decode()}\norder: {order}")
        return dict(json.loads(done.stdout))

    def _output(self, pid: str) -> dict[int, bytes]:
        found = {1: b"", 2: b""}
        for piece in read_output(self.home / "processes" / pid / "output"):
            found[piece.stream] += piece.data
        return found
