"""Small modules for tests, written as text. wasmtime's assembler is only used by tests."""

from __future__ import annotations

from functools import cache

import wasmtime


@cache
def wat(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))
