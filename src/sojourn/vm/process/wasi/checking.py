"""Checks for saved states: they arrive from another machine, and may say anything.

Each function gives the value when it is what it must be, and raises ``ContextError`` otherwise. Types are
matched exactly (a bool is no number), so that nothing behaves unlike what was checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sojourn.model.errors import ContextError, DamagedContextError

U64_MAX = (1 << 64) - 1
VALUE_BYTES_MAX = 16 << 20  # of one value of bytes in a state; what is longer is cut into pieces
PIECES_MAX = 1 << 20
_SHOWN = 80


def damaged(what: str) -> ContextError:
    return DamagedContextError(
        f"the context is damaged: {what}", "Try: another copy of it, or an older checkpoint of the process"
    )


def fields(value: Any, names: Sequence[str], what: str) -> Mapping[str, Any]:
    """A dict with exactly these keys."""
    if type(value) is not dict or set(value) != set(names):
        raise damaged(f"{what} does not have the fields {', '.join(names)}")
    return value


def number(value: Any, what: str, most: int = U64_MAX, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= most:
        raise damaged(f"{what} is {_shown(value)}")
    return value


def flag(value: Any, what: str) -> bool:
    if type(value) is not bool:
        raise damaged(f"{what} is {_shown(value)}")
    return value


def text(value: Any, what: str, most: int) -> str:
    if type(value) is not str or len(value) > most:
        raise damaged(f"{what} is {_shown(value)}")
    return value


def raw(value: Any, what: str, most: int = VALUE_BYTES_MAX) -> bytes:
    if type(value) is not bytes or len(value) > most:
        raise damaged(f"{what} is {_shown(value)}")
    return value


def items(value: Any, what: str, most: int) -> list[Any]:
    """A list of at most ``most`` items."""
    if type(value) is not list or len(value) > most:
        raise damaged(f"{what} is no list of at most {most:,} items")
    return value


def pieces(value: Any, what: str) -> list[bytes]:
    """What ``cut`` gave."""
    return [raw(piece, what) for piece in items(value, what, PIECES_MAX)]


def cut(data: bytes | bytearray) -> list[bytes]:
    """``data`` in values that are not too long."""
    view = memoryview(data)
    return [bytes(view[at : at + VALUE_BYTES_MAX]) for at in range(0, len(data), VALUE_BYTES_MAX)]


def gathered(parts: Iterator[bytes | bytearray]) -> list[bytes]:
    """``parts``, none of which is too long itself, one behind the other in few values. Each byte is copied
    once: there may be hundreds of megabytes."""
    done: list[bytes] = []
    held: list[bytes | bytearray] = []
    size = 0
    for part in parts:
        if held and size + len(part) > VALUE_BYTES_MAX:
            done.append(b"".join(held))
            held, size = [], 0
        held.append(part)
        size += len(part)
    return [*done, b"".join(held)] if held else done


class Reader:
    """Reads what ``gathered`` gave, in any portions."""

    def __init__(self, parts: Sequence[bytes], what: str) -> None:
        self._parts = [memoryview(part) for part in reversed(parts)]
        self._what = what

    def take(self, size: int) -> bytearray:
        taken = bytearray()
        while len(taken) < size:
            if not self._parts:
                raise damaged(f"{self._what}: cut off")
            part = self._parts.pop()
            missing = size - len(taken)
            taken += part[:missing]
            if len(part) > missing:
                self._parts.append(part[missing:])
        return taken

    def end(self) -> None:
        """There must be nothing left."""
        if any(len(part) for part in self._parts):
            raise damaged(f"{self._what}: more than there should be")


def _shown(value: Any) -> str:
    if type(value) in (bytes, str, list, dict):
        return f"a {type(value).__name__} of {len(value):,}"
    return repr(value)[:_SHOWN] if type(value) in (int, bool, float, type(None)) else type(value).__name__
