"""How long work tells whoever waits for it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what is going on. ``begin`` may be called again without ``end``: the newer replaces the older.

    Amounts and totals are in one unit of the caller's choice; ``total`` is None when it is not known.
    """

    def begin(self, what: str, total: float | None, estimate_s: float | None) -> None: ...

    def advance(self, amount: float) -> None: ...

    def end(self) -> None: ...


class Silent:
    """Shows nothing."""

    def begin(self, what: str, total: float | None, estimate_s: float | None) -> None:
        return

    def advance(self, amount: float) -> None:
        return

    def end(self) -> None:
        return
