"""Which OS processes are running guests now, and what becomes of the guests of one that died.

Each holds a lock on its own file ``hosts/<host_id>`` for as long as it lives. The operating system lets go
of it however the process ends, so a dead host is known by its lock being free: no heartbeat, no clock, no
number of an OS process that might be somebody else's by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sojourn.model.states import Ending, State

from .checkpoints import Checkpoints
from .files import TEMPORARY_SUFFIX, translated
from .home import Home
from .records import ProcessRecord, could_be_pid, new_pid
from .table import ProcessTable

LOST_REASON = "the process that ran it ended without saying so"


@dataclass
class HostPresence:
    """Says that this OS process is a host, until ``close``. A context manager."""

    host_id: str
    _path: Path
    _descriptor: int

    def close(self) -> None:
        """Stop being a host. Closing twice does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            os.close(descriptor)

    def __enter__(self) -> HostPresence:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Hosts:
    """The hosts of one home."""

    def __init__(self, home: Home) -> None:
        self._folder = home.hosts
        self._checkpoints = Checkpoints(home.checkpoints)

    def register(self, rng: Callable[[int], bytes] = os.urandom) -> HostPresence:
        """Become a host.

        Raises:
            StoreError: the disk is full, read-only or not ours to write.
        """
        host_id = new_pid(rng)
        path = self._folder / host_id
        aside = self._folder / f".{host_id}{TEMPORARY_SUFFIX}"
        with translated(path):
            descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(descriptor, json.dumps({"os_pid": os.getpid(), "started_s": time.time()}).encode())
                aside.rename(path)  # nobody sees it but locked
            except BaseException:
                os.close(descriptor)
                aside.unlink(missing_ok=True)
                raise
        return HostPresence(host_id, path, descriptor)

    def alive(self, host_id: str) -> bool:
        """Whether that host's OS process still runs."""
        descriptor = self._open(host_id)
        if descriptor is None:
            return False
        try:
            return not _free(descriptor)
        finally:
            os.close(descriptor)

    def reap(self, table: ProcessTable, now_s: float | None = None) -> list[ProcessRecord]:
        """Record what ran in hosts that died: suspended with a checkpoint, else lost; forget those hosts.

        Returns:
            The records that this call changed.
        """
        dead = {record.host_id for record in table.list(live=True)} - {None}
        dead = {host_id for host_id in dead if host_id and not self.alive(host_id)}
        lost = []
        for record in table.list(live=True) if dead else []:
            if record.host_id in dead:
                changed = _lose(table, record, time.time() if now_s is None else now_s, self._checkpoints)
                lost += [changed] if changed else []
        self._forget_dead()
        return lost

    def _forget_dead(self) -> None:
        for path in self._folder.iterdir():
            descriptor = self._open(path.name)
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    if _free(descriptor):
                        path.unlink()
                os.close(descriptor)

    def _open(self, host_id: str) -> int | None:
        if not could_be_pid(host_id):
            return None
        try:
            return os.open(self._folder / host_id, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None


def _free(descriptor: int) -> bool:
    """Whether nobody holds the lock. A shared lock, so that two who ask at once do not see each other."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lose(
    table: ProcessTable, record: ProcessRecord, now_s: float, checkpoints: Checkpoints
) -> ProcessRecord | None:
    """None when somebody else has changed it meanwhile."""
    if record.state is State.RUNNING and checkpoints.all(record.pid):
        return table.transition(
            record.pid, State.RUNNING, State.SUSPENDED, of_epoch=record.epoch, host_id=None, os_pid=None
        )
    ending = Ending(State.LOST, reason=LOST_REASON)
    return table.transition(
        record.pid, record.state, State.LOST, of_epoch=record.epoch, ending=ending, ended_s=now_s
    )
