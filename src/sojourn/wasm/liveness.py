"""Which locals are live at each site: the classic backward analysis, over the events of a body.

A mask has bit ``i`` set when local ``i`` may be read before it is written. Structured control flow lets one
walk from the last event to the first do it all, because the target of a forward branch has been seen when
the branch is reached. Only the head of a loop has not: what is live there is guessed (nothing, at first),
and when the guess turns out too small the walk goes back to the end of that loop. Guesses only grow, so it
ends.

Inside of a ``try_table`` every instruction may branch to a catch clause, so what is live at the targets of
its clauses is live everywhere in it.
"""

from __future__ import annotations

from .body import (
    BLOCK,
    BR,
    BR_IF,
    BR_ON_NON_NULL,
    BR_ON_NULL,
    BR_TABLE,
    ELSE,
    END,
    IF,
    LOOP,
    RETURN,
    RETURN_CALL,
    RETURN_CALL_INDIRECT,
    RETURN_CALL_REF,
    THROW,
    THROW_REF,
    TRY_TABLE,
    UNREACHABLE,
    Event,
)

_LEAVES = frozenset(
    (UNREACHABLE, RETURN, THROW, THROW_REF, RETURN_CALL, RETURN_CALL_INDIRECT, RETURN_CALL_REF)
)
_BLOCKS = (BLOCK, TRY_TABLE)
_FORKS = frozenset((BR_IF, BR_ON_NULL, BR_ON_NON_NULL))


class _Frame:
    """A block around the point of the walk: what is live at its label, after it, and in its catch clauses."""

    __slots__ = ("after", "caught", "label", "other")

    def __init__(self, label: int, after: int, caught: int) -> None:
        self.label = label
        self.after = after
        self.other = after  # at the start of the else branch; without one, behind the block
        self.caught = caught  # of this and all blocks around it


def liveness(events: list[Event]) -> None:  # noqa: C901 - one loop over all events
    """Set ``live`` of every site: what is live when the function is entered again there."""
    guesses: dict[int, int] = {}
    frames: list[_Frame] = []
    live = 0
    position = len(events) - 1
    while position >= 0:
        event = events[position]
        kind = event.kind
        if kind == END:
            opener = event.opener
            outer = frames[-1].caught if frames else 0
            if opener is None or opener.kind < 0:
                live = 0
                frames.append(_Frame(0, 0, 0))
            elif opener.kind == LOOP:
                frames.append(_Frame(guesses.get(opener.close, 0), live, outer))
            elif opener.kind == TRY_TABLE:
                for label in opener.labels:
                    outer |= frames[-1 - label].label
                frames.append(_Frame(live, live, outer))
            else:
                frames.append(_Frame(live, live, outer))
        elif kind == BR:
            live = frames[-1 - event.labels[0]].label
        elif kind in _FORKS:
            live |= frames[-1 - event.labels[0]].label
        elif kind in _BLOCKS:
            frames.pop()
        elif kind == LOOP:
            if event.site >= 0:
                event.live = live
            frame = frames.pop()
            if live & ~frame.label:
                guesses[event.close] = live | frame.label
                position = event.close
                live = frame.after
                continue
        elif kind == IF:
            live |= frames.pop().other
        elif kind == ELSE:
            frame = frames[-1]
            frame.other, live = live, frame.after
        elif kind == BR_TABLE:
            live = 0
            for label in set(event.labels):
                live |= frames[-1 - label].label
        elif kind in _LEAVES:
            live = 0
        elif event.site >= 0:
            event.live = live
        live = event.use | live & ~event.define
        if frames:
            live |= frames[-1].caught
        position -= 1
