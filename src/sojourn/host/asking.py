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

from sojourn.model.errors import ProcessFailedError, ProcessStateError, SojournError
from sojourn.store.checkpoints import Saved
from sojourn.store.control import send_control
from sojourn.store.files import write_atomic
from sojourn.store.home import Home

ANSWER_TIMEOUT_S = 600.0
_POLL_S = 0.005
_TOKEN = re.compile(r"[0-9a-f]{16}")


def request_kill(home: Home, pid: str, reason: str) -> bool:
    """Ask the OS process that runs ``pid`` to end it; False when there is none."""
    return send_control(home.processes / pid / "control", {"request": "kill", "reason": reason})


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
    if not send_control(home.processes / pid / "control", request):
        raise ProcessStateError(f"no host runs process {pid}", "Try: sojourn ps --all")
    deadline_s = time.monotonic() + timeout_s
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise ProcessFailedError(f"the host of {pid} did not answer within {timeout_s:g} s")
        if not (home.processes / pid / "control").exists() and not path.exists():
            raise ProcessFailedError(f"process {pid} ended before it could be stored")
        time.sleep(_POLL_S)
    reply = json.loads(path.read_bytes())
    path.unlink(missing_ok=True)
    if "digest" not in reply:
        raise ProcessFailedError(reply["error"], reply.get("hint", ""))
    return str(reply["digest"])


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
        reply = {"error": error.message, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - the asker must hear of it
        reply = {"error": f"internal error: {error!r}"}
    if os.path.isdir(path.parent):  # noqa: PTH112
        write_atomic(path, json.dumps(reply).encode())
