"""The limits of a process: what it may use, at most.

Every limit has a default and a name; the name is what the end state of a process says when the limit
ended it. ``LIMITS`` describes them once, for the command line, the documentation and the checks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import LimitError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_NAME_SHOWN = 40
_LARGE = 1e16  # above this a float is not exact, and nobody reads the digits


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one process. See ``LIMITS`` for the meaning of each field.

    Raises:
        LimitError: a value is not a positive number, or is too large to mean anything.
    """

    memory_bytes: int = GIB
    cpu_seconds: float = 3600.0
    wall_seconds: float = 86400.0
    output_bytes: int = GIB
    descriptors: int = 1024
    file_bytes: int = 256 * MIB
    host_calls: int = 1_000_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            spec = LIMITS[field.name]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or (spec.unit != "s" and value != int(value)):
                raise LimitError(
                    f"{spec.name}: {value!r} is not a valid limit", f"Try: {spec.flag} {spec.example}"
                )
            if value < spec.least or value > spec.most:
                side, bound = (
                    ("below the least", spec.least) if value < spec.least else ("above the most", spec.most)
                )
                raise LimitError(
                    f"{spec.name}: {spec.amount(value)} is {side} possible, {spec.amount(bound)}",
                    f"Try: {spec.flag} {spec.example}",
                )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Limits:
        unknown = {str(name)[:_NAME_SHOWN] for name in set(value) - set(LIMITS)}  # it may come from anywhere
        if unknown:
            raise LimitError(
                f"no such limit: {', '.join(sorted(unknown))}", f"There are: {', '.join(LIMITS)}"
            )
        return cls(**value)


@dataclass(frozen=True)
class LimitSpec:
    """One limit: field name, command-line flag, unit (``B``, ``s`` or ``count``), bounds and meaning."""

    name: str
    flag: str
    unit: str
    least: float
    most: float
    example: str
    meaning: str

    def amount(self, value: float) -> str:
        """Such as ``"1,048,576 B"``, ``"0.5 s"``, ``"64"``: to the last digit, for a person to compare."""
        unit = "" if self.unit == "count" else f" {self.unit}"
        whole = abs(value) < _LARGE and value == int(value)
        return (f"{value:,.0f}" if whole else f"{value:,g}") + unit


LIMITS: dict[str, LimitSpec] = {
    spec.name: spec
    for spec in (
        LimitSpec("memory_bytes", "--memory", "B", 64 * KIB, 4 * GIB, "512M", "linear memory of the guest"),
        LimitSpec("cpu_seconds", "--cpu", "s", 0.001, 1e9, "60s", "processor time, host calls included"),
        LimitSpec(
            "wall_seconds",
            "--wall",
            "s",
            0.001,
            1e9,
            "10m",
            "time on the clock since the start, but for the time that it is suspended",
        ),
        LimitSpec(
            "output_bytes", "--output", "B", 1, 1 << 50, "10M", "bytes written to stdout and stderr together"
        ),
        LimitSpec("descriptors", "--descriptors", "count", 8, 1 << 20, "64", "open descriptors at one time"),
        LimitSpec(
            "file_bytes",
            "--files",
            "B",
            1,
            1 << 50,
            "100M",
            "bytes held in the private file system, and written to grants",
        ),
        LimitSpec(
            "host_calls", "--host-calls", "count", 1, 1 << 62, "1000000", "calls from the guest into the host"
        ),
    )
}

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1 << 40}
_TIME_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_limit(name: str, text: str) -> int | float:
    """Read what a person types for the limit ``name``: ``512M``, ``1.5s``, ``10m``, ``64``.

    Raises:
        LimitError: the text is not of the limit's unit.
    """
    spec = LIMITS[name]
    value = _parse(spec.flag, spec.unit, text, spec.example)
    return value if spec.unit == "s" else int(value)


def parse_time(flag: str, text: str, example: str) -> float:
    """Read a duration that a person types for ``flag``, in seconds: ``1.5s``, ``10m``. It is above zero.

    Raises:
        LimitError: the text is no such duration.
    """
    value = _parse(flag, "s", text, example)
    if value <= 0:
        raise LimitError(f"{flag}: {text!r} is not above zero", f"Try: {flag} {example}")
    return value


def parse_size(flag: str, text: str, example: str) -> int:
    """Read a size that a person types for ``flag``, in bytes: ``512M``, ``8G``.

    Raises:
        LimitError: the text is no such size.
    """
    return int(_parse(flag, "B", text, example))


def _parse(flag: str, unit: str, text: str, example: str) -> float:
    pattern, units = (_TIME, _TIME_UNITS) if unit == "s" else (_SIZE, _SIZE_UNITS)
    match = pattern.fullmatch(text.strip())
    if match is None:
        raise LimitError(f"{flag}: {text!r} is not a {_KIND[unit]}", f"Try: {flag} {example}")
    suffix = match[2] or ""
    value = float(match[1]) * units[suffix.lower() if unit == "s" else suffix.upper()]
    if not math.isfinite(value):
        raise LimitError(f"{flag}: a number of {len(text)} digits is no limit", f"Try: {flag} {example}")
    return value


_KIND = {"B": "size", "s": "duration", "count": "number"}
