"""Several connections to one process table, in this OS process and in others, as hosts have them."""

from __future__ import annotations

import stat
import subprocess
import sys

import pytest

from sojourn.model.errors import StoreError
from sojourn.store.home import Home
from sojourn.store.records import ProcessRecord
from sojourn.store.table import ProcessTable

_OTHER = """
import sys
from pathlib import Path
from sojourn.store.home import Home
from sojourn.store.records import ProcessRecord
from sojourn.store.table import ProcessTable
with ProcessTable.open(Home.open(Path(sys.argv[1]))) as table:
    table.insert(ProcessRecord("other", "other", "sha256:p"))
"""


def test_a_second_connection_here_does_not_take_the_locks_of_the_first_away(home: Home) -> None:
    """The system drops all locks of an OS process on a file when it closes any descriptor of it. Another OS
    process then takes itself for the last to use the table, and removes its journal under us."""
    with ProcessTable.open(home) as table:
        table.insert(ProcessRecord("first", "first", "sha256:p"))
        with ProcessTable.open(home) as second:
            assert second.get("first").name == "first"
        subprocess.run([sys.executable, "-c", _OTHER, str(home.path)], check=True, timeout=60)
        assert home.database.with_name("processes.db-wal").exists()
        table.insert(ProcessRecord("last", "last", "sha256:p"))
        assert {record.pid for record in table.list()} == {"first", "other", "last"}


def test_the_table_is_made_for_its_owner_alone_and_is_no_link(home: Home) -> None:
    ProcessTable.open(home).close()
    assert stat.S_IMODE(home.database.stat().st_mode) == 0o600
    home.database.rename(home.path / "elsewhere")
    home.database.symlink_to(home.path / "elsewhere")
    with pytest.raises(StoreError):
        ProcessTable.open(home)
    home.database.unlink()
    home.database.mkdir()
    with pytest.raises(StoreError):
        ProcessTable.open(home)
