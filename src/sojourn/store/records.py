"""A process as the process table holds it, and the names of processes.

Plain data: knows no database. A pid is lower-case base32 (no 0, 1, 8, 9) of five random bytes: eight
characters that can be read aloud, and short for a person who may type any prefix that is unique.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sojourn.model.states import Ending, State

PID_BYTES = 5
PID_CHARACTERS = 8


@dataclass(frozen=True)
class ProcessRecord:
    """One process.

    Attributes:
        pid: its name, for ever.
        name: what a person sees, such as ``prog.py``.
        program: digest of the program.
        state: where it is in its life.
        created_s, started_s, ended_s: seconds since 1970; None for what has not happened.
        host_id: which host owns it; None while no host does.
        os_pid: the operating system's process that runs it.
        epoch: counts its owners; what an earlier owner does is refused.
        ending: how it ended, once it has.
        limits: ``Limits.to_dict``.
        grants: each grant's ``to_dict``, which never holds a secret's value.
        args: its arguments, without the program's name.
        image: digest of the image that it started from, if it did.
        output_bytes: how much it has written to stdout and stderr together.
        cpu_s, memory_bytes: what it had used when it was last looked at.
    """

    pid: str
    name: str
    program: str
    state: State = State.QUEUED
    created_s: float = 0.0
    started_s: float | None = None
    ended_s: float | None = None
    host_id: str | None = None
    os_pid: int | None = None
    epoch: int = 1
    ending: Ending | None = None
    limits: dict[str, Any] = field(default_factory=dict)
    grants: list[dict[str, Any]] = field(default_factory=list)
    args: list[str] = field(default_factory=list)
    image: str | None = None
    output_bytes: int = 0
    cpu_s: float = 0.0
    memory_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``: plain values only."""
        value = dict(vars(self))
        value["state"] = str(self.state)
        value["ending"] = self.ending.to_dict() if self.ending else None
        return value


def new_pid(rng: Callable[[int], bytes]) -> str:
    """A new name for a process. ``rng(n)`` gives n random bytes, such as ``os.urandom``."""
    return base64.b32encode(rng(PID_BYTES)).decode("ascii").lower()


def could_be_pid(text: str) -> bool:
    """Whether ``text`` could be a pid or the beginning of one."""
    return 0 < len(text) <= PID_CHARACTERS and set(text) <= set("abcdefghijklmnopqrstuvwxyz234567")
