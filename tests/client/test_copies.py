"""A large array costs no more than three copies, the caller's own included: measured, not argued."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.copies import measure

pytestmark = pytest.mark.runtime
# The rest of the process may grow by this much while it is measured.
ELSEWHERE = 0.1


def test_an_array_of_100_mb_exists_at_most_three_times(runtime_home: Path) -> None:
    found = measure(runtime_home, 100_000_000)
    assert set(found) == {"argument", "result", "argument and result"}
    assert all(1.9 <= copies <= 3 + ELSEWHERE for copies in found.values()), found
    assert found["result"] <= 2 + ELSEWHERE
