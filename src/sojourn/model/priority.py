"""How a process's share of the processors compares to others'.

Only shares: a process of high priority gets four times the processor time of a normal one while both want it,
and all of it while nobody else does. None is ever kept from running.
"""

from __future__ import annotations

from enum import StrEnum

from .errors import UsageError


class Priority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def weight(self) -> int:
        """Its share in comparison to others'."""
        return _WEIGHTS[self]


_WEIGHTS = {Priority.LOW: 1, Priority.NORMAL: 4, Priority.HIGH: 16}


def parse_priority(text: str) -> Priority:
    """
    Raises:
        UsageError: there is no such priority.
    """
    try:
        return Priority(text)
    except ValueError:
        names = ", ".join(Priority)
        raise UsageError(f"there is no priority {text!r}", f"Try: one of {names}") from None
