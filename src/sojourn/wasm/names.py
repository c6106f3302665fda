"""The names that a module's *name* section gives its functions: for people, and to find functions by.

Nothing depends on them in a running module, so a module without the section has none, which is no error.
"""

from __future__ import annotations

from collections.abc import Iterator

from .binary import Module, Reader, SectionId

_FUNCTION_NAMES = 1


def function_names(module: Module) -> Iterator[tuple[int, bytes]]:
    """The index of each function that has a name, and the name as it stands there: UTF-8, if it is valid.

    Raises:
        MalformedModuleError: the name section cannot be read.
    """
    for number, payload in module.sections:
        if number != SectionId.CUSTOM:
            continue
        reader = Reader(payload)
        if reader.name() == "name":
            yield from _names(reader)
            return


def _names(reader: Reader) -> Iterator[tuple[int, bytes]]:
    while reader.pos < reader.end:
        kind, size = reader.byte(), reader.uleb()
        if kind != _FUNCTION_NAMES:
            reader.skip(size)
            continue
        for _ in range(reader.count()):
            number, length = reader.uleb(), reader.uleb()
            start = reader.pos
            reader.skip(length)
            yield number, bytes(reader.data[start : reader.pos])
        return
