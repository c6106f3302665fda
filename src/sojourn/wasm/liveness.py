"""Which locals are live at each site: the classic backward analysis, over the events of a body.

A mask has bit ``i`` set when local ``i`` may be read before it is written. Structured control flow lets one
walk from the last event to the first do it all, because the target of a forward branch has been seen when
the branch is reached. Only the head of a loop has not: what is live there is guessed (nothing, at first),
and when a guess turns out too small the walk goes back to the end of the outermost loop. Guesses only grow,
so it ends; after two or three turns, as code is. Code made to need as many turns as its loops are deep is
cut short after ``TURNS_MAX``: then everything is taken to be live at the heads of these loops, which is safe,
because to save a value that nobody reads is only a waste.

Inside of a ``try_table`` every instruction may branch to a catch clause, so what is live at the targets of
its clauses is live everywhere in it.
"""

from __future__ import annotations

from .binary import UnsupportedFeatureError
from .events import (
    BLOCK,
    BR,
    BR_IF,
    BR_ON_CAST,
    BR_ON_CAST_FAIL,
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
_FORKS = frozenset((BR_IF, BR_ON_NULL, BR_ON_NON_NULL, BR_ON_CAST, BR_ON_CAST_FAIL))


class _Frame:
    """A block around the point of the walk: what is live at its label, after it, and in its catch clauses."""

    __slots__ = ("after", "caught", "label", "other")

    def __init__(self, label: int, after: int, caught: int) -> None:
        self.label = label
        self.after = after
        self.other = after  # at the start of the else branch; without one, behind the block
        self.caught = caught  # of this and all blocks around it


TURNS_MAX = 24  # of the walk over one outermost loop


def liveness(events: list[Event], everything: int) -> None:  # noqa: C901 - one loop over all events
    """Set ``live`` of every site: what is live when the function is entered again there.

    Args:
        everything: the locals that may always be saved: those whose type has a first value.

    Raises:
        UnsupportedFeatureError: it would take too long to find what is live of the others.
    """
    guesses: dict[int, int] = {}
    frames: list[_Frame] = []
    live = depth = turns = 0
    grown = False
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
                depth += 1
                guess = guesses.get(position, 0)
                frames.append(_Frame(guess | everything if turns > TURNS_MAX else guess, live, outer))
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
                grown = True
            depth -= 1
            if depth == 0:
                turns += 1
                if turns > 4 * TURNS_MAX:
                    raise UnsupportedFeatureError("locals that are never null in very deep loops")
                if grown:
                    grown = False
                    position, live = event.close, frame.after
                    continue
                turns = 0
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
