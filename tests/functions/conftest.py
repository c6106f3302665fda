"""Fixtures for the tests of shipped functions and their values."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from guest_process import Guest


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest process with numpy and pandas, one for the test file."""
    found = Guest(tmp_path_factory.mktemp("guest"))
    yield found
    found.close()
    assert found.process.returncode == 0
