"""The storm of ``storm.py``: a short one always, an hour over 200 processes in ``make soak``.

``SOJOURN_STORM_SECONDS``, ``SOJOURN_STORM_PROCESSES`` and ``SOJOURN_SEED`` change the long one.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from .storm import Storm, affine, counted

pytestmark = pytest.mark.runtime


def test_what_the_command_counts_is_known() -> None:
    """By a plain loop, for its first line."""
    total = 0
    for k in range(1000):
        total = (total * 1664525 + k) % (1 << 32)
    turn = affine(1000)
    assert (turn[0][2]) % (1 << 32) == total
    lines, status = counted()
    assert (lines.count(b"\n"), len(lines), status) == (40, 400, 7)


def test_a_short_storm(runtime_home: Path, tmp_path: Path) -> None:
    storm = Storm(tmp_path, runtime_home / "cache", 6, random.randrange(1 << 32))
    storm.run(20, workers=3)
    assert storm.tally["ended: exited"] > 3


@pytest.mark.soak
@pytest.mark.timeout(2 * 3600 + 3600)
def test_a_long_storm(runtime_home: Path, tmp_path: Path) -> None:
    seconds = float(os.environ.get("SOJOURN_STORM_SECONDS", "3600"))
    processes = int(os.environ.get("SOJOURN_STORM_PROCESSES", "200"))
    seed = int(os.environ.get("SOJOURN_SEED", random.randrange(1 << 32)))
    storm = Storm(tmp_path, runtime_home / "cache", processes, seed)
    try:
        storm.run(seconds)
    finally:
        print(f"SOJOURN_SEED={seed}: {dict(storm.tally)}, {len(storm.tracked)} processes")
