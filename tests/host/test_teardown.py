"""The tests' own teardown: a home in which processes were left is one in which none is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.host.embedded import EmbeddedHost
from sojourn.model.states import State
from sojourn.store.home import Home
from sojourn.store.table import ProcessTable

from ..conftest import SHARED, end_all
from .living import request, waiting


@pytest.mark.engine
def test_what_runs_is_suspended_or_was_lost_is_ended(home: Home, tmp_path: Path) -> None:
    asked = request(tmp_path / "programs")
    with EmbeddedHost(home) as host, waiting(host, asked) as suspended, waiting(host, asked) as running:
        host.checkpoint(suspended, stop=True).result(30)
        end_all(home)
        assert running.wait(0) is not None
    with ProcessTable.open(home) as table:
        assert {record.state for record in table.list()} == {State.KILLED}
    assert not list(home.checkpoints.iterdir())


def test_the_home_of_a_session_shares_what_takes_long_and_nothing_else(runtime_home: Path) -> None:
    links = {path.name for path in runtime_home.iterdir() if path.is_symlink()}
    assert links == set(SHARED)
    assert not {"checkpoints", "processes", "bundles", "hosts"} & links
