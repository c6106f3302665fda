"""Interleaved measurements: every subject once per round, medians over rounds, ratios to one of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Subject = Callable[[], float]


@dataclass
class Table:
    """One table of results: for each row (a program, or one row) a number for each subject.

    Attributes:
        better: ``"less"`` for times, ``"more"`` for rates.
        reference: the subject that ratios are to.
        values: row to subject to all measurements.
        notes: what was not measured, and why.
    """

    title: str
    unit: str
    better: str
    reference: str
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def measure(self, row: str, subjects: dict[str, Subject], rounds: int) -> None:
        """Measure all ``subjects`` ``rounds`` times, in turn; one unmeasured round goes before."""
        alive = dict(subjects)
        for number in range(rounds + 1):
            for name, subject in list(alive.items()):
                try:
                    value = subject()
                except Exception as error:  # noqa: BLE001 - a peer that fails is a result, and is reported
                    self.notes.append(f"{name}, {row}: {type(error).__name__}: {str(error)[:200]}")
                    del alive[name]
                    continue
                if number:
                    self.values.setdefault(row, {}).setdefault(name, []).append(value)

    def subjects(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.values.values() for name in row))

    def median(self, row: str, subject: str) -> float | None:
        found = self.values.get(row, {}).get(subject)
        return statistics.median(found) if found else None

    def ratio(self, row: str, subject: str) -> float | None:
        """How many times the reference's number this one is."""
        value, base = self.median(row, subject), self.median(row, self.reference)
        return None if value is None or not base else value / base

    def geometric_mean(self, subject: str) -> float | None:
        ratios = self._ratios(subject)
        return statistics.geometric_mean(ratios) if ratios else None

    def worst(self, subject: str) -> float | None:
        """The ratio in the row where this one does worst."""
        ratios = self._ratios(subject)
        return (max if self.better == "less" else min)(ratios) if ratios else None

    def _ratios(self, subject: str) -> list[float]:
        return [r for row in self.values if (r := self.ratio(row, subject)) is not None]


def timed(body: Callable[[], object]) -> float:
    """Milliseconds that ``body`` takes."""
    begun = time.perf_counter()
    body()
    return (time.perf_counter() - begun) * 1e3


def rate(body: Callable[[int], object], count: int) -> float:
    """Calls a second, when ``body(count)`` makes ``count`` of them."""
    begun = time.perf_counter()
    body(count)
    return count / (time.perf_counter() - begun)
