"""Gives memory that this OS process does not use any more back to the system.

The C library keeps what was freed while something small lies behind it, and a host that evicts many processes
keeps something small of each: without this some hundred kilobytes stayed for every one.
"""

from __future__ import annotations

import ctypes

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; others give back by themselves, or not


def give_back() -> None:
    """May take some milliseconds, in which other threads run."""
    if _trim is not None:
        _trim(0)
