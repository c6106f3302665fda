"""Progress on a terminal; nothing elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from sojourn.model.progress import Progress, Silent

SHOWN_AFTER_S = 1.0


class TerminalProgress:
    """A bar with the time left when it is known how long something takes, else a spinner.

    An estimate that turns out too short is said to be: the bar stays just short of its end.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._total: float | None = None
        self._done = 0.0

    def begin(self, what: str, total: float | None, estimate_s: float | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self.end()
        self._total, self._done = total, 0.0
        if estimate_s is not None and estimate_s < SHOWN_AFTER_S:
            return
        about = f" (about {estimate_s:.0f} s, once)" if estimate_s is not None and estimate_s >= 10 else ""
        known = [BarColumn(), TextColumn("{task.percentage:>3.0f}%")] if total is not None else []
        columns = [SpinnerColumn(), TextColumn("{task.description}"), *known, TimeElapsedColumn()]
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(what + about, total=total)
        self._bar.start()

    def advance(self, amount: float) -> None:
        if self._bar is None or self._total is None:
            return
        self._done += amount
        if self._done > 0.98 * self._total:
            self._bar.update(self._task, description="taking longer than estimated")
        self._bar.update(self._task, completed=min(self._done, 0.98 * self._total))

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def for_stderr(quiet: bool = False) -> Progress:
    return TerminalProgress() if sys.stderr.isatty() and not quiet else Silent()
