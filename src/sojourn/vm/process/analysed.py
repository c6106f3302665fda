"""The analyses (``sojourn.wasm.analysis``) of modules that are known beforehand.

Finding one takes a look at all of a module's code, seconds for the Python runtime, and the first line of a
program on a fresh machine would wait for them. ``analysed.json``, which ``scripts/record_analysis.py``
writes, has that of the runtime: it is as much part of this package as the code that made it, and worth
nothing with any other version of that code.
"""

from __future__ import annotations

import json
import zlib
from base64 import b85decode, b85encode
from functools import cache
from pathlib import Path
from typing import Any

import msgpack

from sojourn.wasm.analysis import Analysis

from .preparing import VERSION

FILE = Path(__file__).with_name("analysed.json")


@cache
def analysis_of(digest: str) -> Analysis | None:
    """The analysis of the marked module (``preparing.prepare``) with ``digest``, if it is known."""
    found: dict[str, Any] = json.loads(FILE.read_bytes()).get(digest, {})
    if found.get("version") != VERSION:
        return None
    return Analysis.of(msgpack.unpackb(zlib.decompress(b85decode(found["analysis"]))))


def as_recorded(digest: str, analysis: Analysis) -> str:
    """The content of the file in which ``analysis_of`` finds one."""
    data = zlib.compress(msgpack.packb(analysis.plain()), 9)
    entry = {"version": VERSION, "analysis": b85encode(data).decode()}
    return json.dumps({digest: entry}, indent=1) + "\n"
