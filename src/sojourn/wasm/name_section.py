"""The names of functions in a module, as tools write them for whoever reads a backtrace."""

from __future__ import annotations

from collections.abc import Callable

from .binary import MalformedModuleError, Module, Reader, SectionId, uleb

_SECTION = b"\x04name"
_FUNCTIONS = 1  # the subsection


def keep_names(module: Module, wanted: Callable[[int], bool]) -> None:
    """Leave the names of some functions and no others: engines keep what they are given, and a large module
    has megabytes of them. A section that is not well formed is left out, for it means nothing."""
    sections: list[tuple[int, bytes | memoryview]] = []
    for number, payload in module.sections:
        if number == SectionId.CUSTOM and bytes(payload[: len(_SECTION)]) == _SECTION:
            try:
                sections.append((number, _SECTION + _kept(bytes(payload[len(_SECTION) :]), wanted)))
            except MalformedModuleError:
                continue
        else:
            sections.append((number, payload))
    module.sections = sections


def _kept(data: bytes, wanted: Callable[[int], bool]) -> bytes:
    reader = Reader(data)
    while reader.pos < len(data):
        kind, size = reader.byte(), reader.count()
        if kind == _FUNCTIONS:
            entries = _entries(Reader(data, reader.pos, reader.pos + size), wanted)
            found = uleb(len(entries)) + b"".join(entries)
            return bytes([_FUNCTIONS]) + uleb(len(found)) + found
        reader.skip(size)
    return b""


def _entries(reader: Reader, wanted: Callable[[int], bool]) -> list[bytes]:
    data, entries = bytes(reader.data), []
    for _ in range(reader.count()):
        start = reader.pos
        function, size = reader.uleb(), reader.count()
        reader.skip(size)
        if wanted(function):
            entries.append(data[start : reader.pos])
    return entries
