"""The recorded analysis of the Python runtime is that which this code makes."""

from __future__ import annotations

import json

import pytest

from sojourn.vm.process import analysed
from sojourn.vm.process.analysed import analysis_of, as_recorded
from sojourn.vm.process.artifacts import find_python
from sojourn.vm.process.preparing import VERSION, suspends
from sojourn.wasm import base, instrument

AGAIN = "run scripts/record_analysis.py (ten seconds) and commit what it writes"


def test_it_is_of_this_version_and_runtime() -> None:
    (entry,) = json.loads(analysed.FILE.read_bytes()).items()
    assert entry[1]["version"] == VERSION, AGAIN
    assert entry[0] == find_python().module_digest, AGAIN


def test_one_of_another_version_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis_of.cache_clear()
    digest = find_python().module_digest
    assert analysis_of("sha256:another") is None
    analysis = analysis_of(digest)
    assert analysis is not None
    assert json.loads(as_recorded(digest, analysis)) == json.loads(analysed.FILE.read_bytes())
    analysis_of.cache_clear()
    monkeypatch.setattr(analysed, "VERSION", "0.0")
    assert analysis_of(digest) is None
    analysis_of.cache_clear()


@pytest.mark.runtime
def test_it_is_what_the_code_makes_now() -> None:
    artifacts = find_python()
    marked = instrument(artifacts.read_module()).code
    assert base.analysis_of(marked, suspends) == analysis_of(artifacts.module_digest), AGAIN
