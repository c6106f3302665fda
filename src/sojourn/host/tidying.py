"""What nobody needs any more is removed when a host starts: checkpoints and programs that were left behind,
and compiled code beyond the largest size of the cache (``vm.process.cache``).

A host that dies between two steps leaves something without a record: the checkpoint of a fork that never
became a process, that of a process that ended, a program whose last process is gone. Others work in the same
home meanwhile, so each removal is decided while what it removes is locked, and by the table as it is then:

* a checkpoint is there before its process has a record (``EmbeddedHost.fork``), so one without a record is
  left alone until it is old;
* a process has a record before its program is kept (``Keeper``), so under the lock of the programs one
  without a process that has not ended is needed by nobody. A day goes by all the same: a table that was put
  aside may come back.
"""

from __future__ import annotations

import contextlib
import logging
import time

from sojourn.model.errors import SojournError, UnknownProcessError
from sojourn.store.home import Home
from sojourn.store.table import ProcessTable
from sojourn.vm.process.cache import bytes_max, trim

from .keeping import Keeper

EVERY_S = 3600.0
ORPHAN_S = 86400.0
_MARK = "tidied"
_log = logging.getLogger(__name__)


def tidy(home: Home, table: ProcessTable, keeper: Keeper) -> list[str]:
    """Remove what nobody needs, unless that was done a short time ago. Never fails: a host that cannot tidy
    can still run programs.

    Returns:
        The names of what was removed.
    """
    try:
        if not _due(home):
            return []
        return [*_checkpoints(table, keeper), *_programs(table, keeper), *trim(home, bytes_max())]
    except (SojournError, OSError) as error:
        _log.warning("what nobody needs was not removed: %s", error)
        return []


def _due(home: Home) -> bool:
    mark = home.tmp / _MARK
    with contextlib.suppress(FileNotFoundError):
        if 0 <= time.time() - mark.stat().st_mtime < EVERY_S:
            return False
    mark.touch()
    return True


def _checkpoints(table: ProcessTable, keeper: Keeper) -> list[str]:
    removed = []
    for pid in keeper.store.pids():

        def needed(pid: str = pid, *, old: bool) -> bool:
            try:
                return not table.get(pid).state.final
            except UnknownProcessError:
                return not old

        if keeper.store.remove_unless(pid, needed, ORPHAN_S):
            removed.append(pid)
    return removed


def _programs(table: ProcessTable, keeper: Keeper) -> list[str]:
    return keeper.remove_programs(lambda: {record.program for record in table.list(live=True)}, ORPHAN_S)
