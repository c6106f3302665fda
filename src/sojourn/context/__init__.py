"""The process context and its stored form. Knows no engine, no file, no clock.

``values`` says what a context is, ``memory`` how linear memories are compared and set up, ``pack`` how their
chunks are stored, ``plain`` how plain data becomes bytes, ``format`` how all of it becomes one file and back.
"""

from .format import FORMAT, Decoded, check_transform, decode, encode
from .memory import CHUNK_BYTES, PAGE_BYTES, Base, BaseKind, Kind, Memory, compare
from .values import Context, Global, Table

__all__ = [
    "CHUNK_BYTES",
    "FORMAT",
    "PAGE_BYTES",
    "Base",
    "BaseKind",
    "Context",
    "Decoded",
    "Global",
    "Kind",
    "Memory",
    "Table",
    "check_transform",
    "compare",
    "decode",
    "encode",
]
