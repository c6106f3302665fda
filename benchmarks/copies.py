"""How many copies of a large array exist at one time while a call has it as argument, result, or both.

Guest and client share one process of the operating system, so its peak of resident memory has all of them:
the caller's own array, what waits to be sent, what the guest holds, and the result. Run as a program this
prints them as JSON; ``measure`` does that in a process of its own, so that nothing else is in the peak.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import sojourn

ARRAY_BYTES = 100_000_000


def total(array):
    return float(array[0] + array[-1])


def made(size):
    import numpy as np

    return np.ones(size // 8)


def same(array):
    return array


def measure(home: Path, size: int = ARRAY_BYTES) -> dict[str, float]:
    """Copies at the peak, the caller's own included: as an argument, as a result, as both."""
    command = [sys.executable, "-m", "benchmarks.copies", str(home), str(size)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=300, cwd=Path(__file__).parent.parent
    )
    return dict(json.loads(done.stdout))


def _resident(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def _reset_peak() -> int:
    """Begin a new peak; the memory that is resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def _copies(home: Path, size: int) -> dict[str, float]:
    calls = {"argument": (total, True), "result": (made, False), "argument and result": (same, True)}
    found = {}
    for name, (function, takes_array) in calls.items():
        with sojourn.Client(home, sandboxes=1) as client:
            client.submit(function, np.ones(8) if takes_array else 64).result(300)  # starts, imports numpy
            before = _reset_peak()
            argument = np.ones(size // 8) if takes_array else size
            result = client.submit(function, argument).result(300)
            found[name] = (_resident("VmHWM") - before) / size
            del argument, result
    return found


if __name__ == "__main__":
    print(json.dumps(_copies(Path(sys.argv[1]), int(sys.argv[2]))))
