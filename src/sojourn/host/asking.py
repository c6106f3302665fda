"""Asking the host of a process for something, from another operating-system process of the same user.

A request goes through the process's control FIFO; what came of it is in a file that the host writes, whole,
under a name that the asker chose.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path

from sojourn.model import errors
from sojourn.model.errors import ProcessFailedError, ProcessStateError, SojournError
from sojourn.model.states import Ending, State
from sojourn.store.checkpoints import Checkpoints, Saved
from sojourn.store.control import send_control
from sojourn.store.files import write_atomic
from sojourn.store.home import Home
from sojourn.store.hosts import Hosts
from sojourn.store.records import ProcessRecord
from sojourn.store.table import ProcessTable

ANSWER_TIMEOUT_S = 600.0
REACH_TIMEOUT_S = 10.0
END_TIMEOUT_S = 10.0
_POLL_S = 0.005
_LOOK_S = 0.25  # how often an asker looks whether the host still lives
_GRACE_S = 2.0
_REACH_POLL_S = 0.05
_TOKEN = re.compile(r"[0-9a-f]{16}")


def request_kill(home: Home, pid: str, reason: str) -> bool:
    """Ask the OS process that runs ``pid`` to end it; False when there is none."""
    return _reach(home, pid, {"request": "kill", "reason": reason})


def end_process(
    home: Home, table: ProcessTable, pid: str, reason: str, timeout_s: float = END_TIMEOUT_S
) -> State:
    """End a process, whoever runs it and whether or not anybody does; the state in which it ended.

    Raises:
        ProcessFailedError: its host did not end it within ``timeout_s``.
    """
    if not request_kill(home, pid, reason):
        Hosts(home).reap(table)
    deadline_s = time.monotonic() + timeout_s
    while not (record := table.get(pid)).state.final:
        if (
            record.state is State.SUSPENDED
        ):  # no host that could be asked, or it suspended the process instead
            end_suspended(home, table, pid, reason)
            continue
        if time.monotonic() > deadline_s:
            raise ProcessFailedError(
                f"the process {pid} has not ended within {timeout_s:g} s", f"Try: kill -9 {record.os_pid}"
            )
        time.sleep(_REACH_POLL_S)
    return record.state


def end_suspended(home: Home, table: ProcessTable, pid: str, reason: str) -> bool:
    """End a process that no host runs, and drop its checkpoints; False when it is not suspended (any more).

    Raises:
        StoreError: the store cannot be written.
    """
    ending = Ending(State.KILLED, reason=reason)
    ended = table.transition(pid, State.SUSPENDED, State.KILLED, ending=ending, ended_s=time.time())
    if ended is not None:
        Checkpoints(home.checkpoints).remove(pid)
    return ended is not None


def _reach(home: Home, pid: str, message: dict[str, object]) -> bool:
    """Send a request to the host of a process; False when no host runs it.

    A host that has just taken the process over may not listen yet.
    """
    deadline_s = time.monotonic() + REACH_TIMEOUT_S
    while not send_control(home.processes / pid / "control", message):
        if not _served(home, pid) or time.monotonic() > deadline_s:
            return False
        time.sleep(_REACH_POLL_S)
    return True


def _served(home: Home, pid: str) -> bool:
    """Whether a host that lives runs the process."""
    with ProcessTable.open(home) as table:
        record = table.get(pid)
    return record.state is State.RUNNING and record.host_id is not None and Hosts(home).alive(record.host_id)


def _await(home: Home, pid: str, path: Path, timeout_s: float) -> None:
    """Wait for an answer."""
    now_s = time.monotonic()
    deadline_s, look_s, served = now_s + timeout_s, now_s + _LOOK_S, True
    while not path.exists():
        now_s = time.monotonic()
        if now_s > deadline_s:
            raise ProcessFailedError(
                f"the host of {pid} did not answer within {timeout_s:g} s"
                if served
                else f"process {pid} ended before it could be stored"
            )
        if served and now_s > look_s:
            look_s = now_s + _LOOK_S
            served = _served(home, pid)
            if not served:  # the answer may be on its way
                deadline_s = now_s + _GRACE_S
        time.sleep(_POLL_S)


def request_checkpoint(home: Home, pid: str, *, stop: bool, timeout_s: float = ANSWER_TIMEOUT_S) -> str:
    """Have a running process stored by its host; return the digest of the checkpoint.

    Args:
        stop: the process is then suspended, its memory freed.

    Raises:
        ProcessStateError: no host runs it.
        ProcessFailedError: the host could not do it, or the process ended first; the message says why.
    """
    token = secrets.token_hex(8)
    path = reply_path(home, pid, token)
    request = {"request": "checkpoint", "stop": stop, "token": token}
    if not _reach(home, pid, request):
        raise ProcessStateError(f"no host runs process {pid}", "Try: sojourn ps --all")
    _await(home, pid, path, timeout_s)
    reply = json.loads(path.read_bytes())
    path.unlink(missing_ok=True)
    if "digest" not in reply:
        raise _error(reply)
    return str(reply["digest"])


def find_process(home: Home, table: ProcessTable, prefix: str) -> ProcessRecord:
    """The process that begins with what a person typed, as it is now.

    Raises:
        UnknownProcessError: none does, or several do.
    """
    Hosts(home).reap(table)
    return table.get(table.resolve(prefix))


def store_now(
    home: Home, table: ProcessTable, pid: str, *, stop: bool, timeout_s: float = ANSWER_TIMEOUT_S
) -> str:
    """The digest of a checkpoint of a process as it is now, which another host may run.

    Raises:
        ProcessStateError: it has ended, or never ran.
        ProcessFailedError: its host could not store it; the message says why.
    """
    record = table.get(pid)
    if record.state is State.RUNNING:
        try:
            return request_checkpoint(home, pid, stop=stop, timeout_s=timeout_s)
        except (ProcessFailedError, ProcessStateError):
            record = table.get(pid)  # its host may have evicted it at this very moment
            if record.state is not State.SUSPENDED:
                raise
    if record.state is State.SUSPENDED:
        stored = Checkpoints(home.checkpoints).latest(pid)
        if stored is not None:
            with stored:
                return stored.digest
    raise ProcessStateError(f"process {pid} is {record.state}: there is nothing to store", "Try: sojourn ps")


def _error(reply: dict[str, str]) -> SojournError:
    """The error that a host answered with, of the type that it was."""
    kind = getattr(errors, reply.get("type", ""), None)
    if not (isinstance(kind, type) and issubclass(kind, SojournError)) or kind is errors.GuestError:
        kind = ProcessFailedError
    return kind(reply["error"], reply.get("hint", ""))


def reply_path(home: Home, pid: str, token: str) -> Path:
    """Where the answer to a request goes; a token that is none of ours leads nowhere."""
    name = token if _TOKEN.fullmatch(token) else "none"
    return home.processes / pid / f"reply-{name}"


def answer(path: Path, done: Future[Saved]) -> None:
    """Write what came of a request."""
    try:
        reply = {"digest": done.result().digest}
    except CancelledError:
        reply = {"error": "the process ended before it could be stored"}
    except SojournError as error:
        reply = {"error": error.message, "hint": error.hint, "type": type(error).__name__}
    except Exception as error:  # noqa: BLE001 - the asker must hear of it
        reply = {"error": f"internal error: {error!r}"}
    if os.path.isdir(path.parent):  # noqa: PTH112
        write_atomic(path, json.dumps(reply).encode())
