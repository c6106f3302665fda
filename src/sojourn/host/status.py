"""The exit status of ``sojourn run``, for every way in which a process can end (docs/processes.md)."""

from __future__ import annotations

from sojourn.model.states import Ending, State

INTERRUPTED = "interrupted"  # the reason of a kill by Ctrl-C
CLOSED = "its output is closed"  # the reason of a kill because nobody reads any more
LIMIT, TRAP, KILLED, BY_INTERRUPT, BY_CLOSED_PIPE, LOST = 125, 134, 137, 130, 141, 1


def exit_status(ending: Ending) -> int:
    if ending.state is State.EXITED:
        return ending.exit_code or 0
    if ending.state is State.KILLED:
        return {INTERRUPTED: BY_INTERRUPT, CLOSED: BY_CLOSED_PIPE}.get(ending.reason, KILLED)
    if ending.state is State.LOST:
        return LOST
    return LIMIT if ending.limit is not None else TRAP
