"""Reads scripts of the WebAssembly specification's test-suite (``.wast``): their commands, as plain lists.

A script is a sequence of S-expressions. A list is a ``Form``, a string literal ``bytes``, all else ``str``.
A form knows where in the text it lies, because modules are assembled from their text.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(rb'\s+|;;[^\n]*|\(;|"(?:[^"\\]|\\.)*"|[()]|[^\s()";]+|;', re.DOTALL)
_ESCAPE = re.compile(rb"\\(u\{[0-9a-fA-F_]+\}|[0-9a-fA-F]{2}|.)", re.DOTALL)
_PLAIN = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b'"': b'"', b"'": b"'", b"\\": b"\\"}


@dataclass
class Form:
    """A list, and its extent in the text."""

    items: list[Any]
    start: int
    end: int = 0

    @property
    def head(self) -> str:
        return self.items[0] if self.items and isinstance(self.items[0], str) else ""


def read(text: bytes) -> list[Form]:
    """All top-level forms."""
    stack: list[Form] = [Form([], 0)]
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ValueError(f"no token at {position}")
        token = found[0]
        if token == b"(;":
            position = _comment_end(text, position)
            continue
        if token == b"(":
            stack.append(Form([], position))
        elif token == b")":
            form = stack.pop()
            form.end = found.end()
            stack[-1].items.append(form)
        elif token[:1] == b'"':
            stack[-1].items.append(_string(token[1:-1]))
        elif not token.isspace() and token[:2] != b";;":
            stack[-1].items.append(token.decode())
        position = found.end()
    return [item for item in stack[0].items if isinstance(item, Form)]


def _comment_end(text: bytes, position: int) -> int:
    depth = 0
    for found in re.compile(rb"\(;|;\)").finditer(text, position):
        depth += 1 if found[0] == b"(;" else -1
        if depth == 0:
            return found.end()
    raise ValueError("a comment without an end")


def _string(raw: bytes) -> bytes:
    def one(found: re.Match[bytes]) -> bytes:
        what = found[1]
        if what in _PLAIN:
            return _PLAIN[what]
        if what[:2] == b"u{":
            return chr(int(what[2:-1].replace(b"_", b""), 16)).encode()
        return bytes([int(what, 16)])

    return _ESCAPE.sub(one, raw)


# -- values: what a call takes and gives, as bits -------------------------------------------------------


def bits(form: Form) -> tuple[str, Any]:
    """A constant as (type, bits): an unsigned number, or for references their text."""
    kind, _, what = form.head.partition(".")
    items = form.items[1:]
    if what == "bits":
        return kind, int(items[0], 16)
    if kind in ("i32", "i64"):
        return kind, int(items[0].replace("_", ""), 0 if "x" in items[0] else 10) & (1 << int(kind[1:])) - 1
    if kind in ("f32", "f64"):
        return kind, float_bits(items[0], int(kind[1:]))
    if kind == "v128":
        return kind, _vector_bits(items)
    return "ref", (what, *items)


def _vector_bits(items: list[str]) -> int | None:
    shape, lanes = items[0], items[1:]
    size = 128 // int(shape.split("x")[1])
    value = 0
    for place, lane in enumerate(lanes):
        if shape[0] == "f":
            part = float_bits(lane, size)
            if part is None:
                return None
        else:
            part = int(lane.replace("_", ""), 0 if "x" in lane else 10) & (1 << size) - 1
        value |= part << place * size
    return value


def float_bits(text: str, size: int) -> int | None:
    """The bits of a floating-point literal; None for a class of NaNs."""
    text = text.replace("_", "")
    if text in ("nan:canonical", "nan:arithmetic"):
        return None
    sign = 1 << size - 1 if text[0] == "-" else 0
    body = text.lstrip("+-")
    fraction = 23 if size == 32 else 52
    if body.startswith("nan"):
        payload = int(body[4:], 16) if ":" in body else 1 << fraction - 1
        return sign | ((1 << size - 1 - fraction) - 1) << fraction | payload
    value = float("inf") if body == "inf" else float.fromhex(body) if "x" in body else float(body)
    packed = struct.pack("<f" if size == 32 else "<d", value)
    return sign | int.from_bytes(packed, "little")
