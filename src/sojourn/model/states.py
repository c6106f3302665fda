"""The process state machine, as data.

A process is in exactly one state at every instant. ``TRANSITIONS`` is the whole machine: what is not
in it cannot happen, and ``advance`` raises when asked. The host, the client and the command line all
use this one table; ``docs/processes.md`` draws its diagram from it.

    queued -> fetching -> starting -> running <-> suspended -> moving -> running (elsewhere)
    any state that is not final may end in failed, killed or lost; running may end in exited.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    QUEUED = "queued"
    FETCHING = "fetching"
    STARTING = "starting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    MOVING = "moving"
    EXITED = "exited"
    FAILED = "failed"
    KILLED = "killed"
    LOST = "lost"

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


_ENDS = {State.FAILED, State.KILLED, State.LOST}

TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.FETCHING, State.STARTING} | _ENDS),
    State.FETCHING: frozenset({State.STARTING} | _ENDS),
    State.STARTING: frozenset({State.RUNNING} | _ENDS),
    State.RUNNING: frozenset({State.SUSPENDED, State.EXITED} | _ENDS),
    State.SUSPENDED: frozenset({State.RUNNING, State.MOVING} | _ENDS),
    State.MOVING: frozenset({State.RUNNING, State.SUSPENDED} | _ENDS),
    State.EXITED: frozenset(),
    State.FAILED: frozenset(),
    State.KILLED: frozenset(),
    State.LOST: frozenset(),
}


def advance(current: State, target: State) -> State:
    """Return ``target`` when the table allows it; raise ``ValueError`` otherwise (our bug, not a user's)."""
    if target not in TRANSITIONS[current]:
        raise ValueError(f"a process cannot go from {current} to {target}")
    return target


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        state: one of the final states.
        exit_code: the program's own exit status, 0 to 255; None when it did not exit by itself.
        limit: the name of the limit that ended it (a field of ``Limits``), or None.
        reason: one line for a person; empty for an ordinary exit.
    """

    state: State
    exit_code: int | None = None
    limit: str | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "state": str(self.state),
            "exit_code": self.exit_code,
            "limit": self.limit,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Ending:
        return cls(State(value["state"]), value["exit_code"], value["limit"], value["reason"])
