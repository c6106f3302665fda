"""Live values to source text: what a name's value looks like as an expression in the shipped module.

Pure. Numbers, text and containers of them become literals; classes, functions and modules inside them
become references, which ``refer`` supplies; anything else the codec knows is left to ``carry``.
"""

from __future__ import annotations

import enum
import functools
import math
import types
from collections.abc import Callable
from io import IOBase
from typing import Any

from sojourn.model.errors import FunctionError

LITERAL_CHARACTERS_MAX = 65_536
CARRIED_BYTES_MAX = 1 << 20
_DEPTH_MAX = 50

Refer = Callable[[Any], str]


class NotLiteralError(Exception):
    """The value has no literal form; the codec may still carry it."""


def literal(value: Any, refer: Refer, depth: int = 0) -> str:
    """An expression that makes ``value`` again.

    Args:
        refer: gives the name of a class, function or module in the shipped module.

    Raises:
        NotLiteralError: there is none.
    """
    if depth > _DEPTH_MAX:
        raise NotLiteralError
    kind = type(value)
    if kind in _REPR:
        return repr(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if kind in _BRACKETS:
        return _BRACKETS[kind](value, lambda item: literal(item, refer, depth + 1))
    if isinstance(value, enum.Enum) and value.name in kind.__members__:
        return f"{refer(kind)}.{value.name}"
    if kind is functools.partial:
        return _partial(value, refer, depth)
    if isinstance(value, _REFERRED):
        return refer(value)
    raise NotLiteralError


def _items(values: Any, text: Callable[[Any], str]) -> str:
    return ", ".join(map(text, values))


def _set(values: set[Any], text: Callable[[Any], str]) -> str:
    # Sorted, so that one program has one digest whatever the order of a set is today.
    return "{" + ", ".join(sorted(map(text, values))) + "}" if values else "set()"


def _frozenset(values: frozenset[Any], text: Callable[[Any], str]) -> str:
    return f"frozenset({_set(set(values), text) if values else ''})"


def _dict(values: dict[Any, Any], text: Callable[[Any], str]) -> str:
    return "{" + ", ".join(f"{text(key)}: {text(value)}" for key, value in values.items()) + "}"


def _partial(value: functools.partial[Any], refer: Refer, depth: int) -> str:
    named = [f"{name}={literal(item, refer, depth + 1)}" for name, item in value.keywords.items()]
    parts = [literal(item, refer, depth + 1) for item in (value.func, *value.args)]
    return f"{refer(functools.partial)}({', '.join([*parts, *named])})"


_REPR = {type(None), bool, int, str, bytes, range, type(...), slice}
_REFERRED = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
_BRACKETS: dict[type, Callable[[Any, Callable[[Any], str]], str]] = {
    list: lambda values, text: f"[{_items(values, text)}]",
    tuple: lambda values, text: f"({_items(values, text)}{',' if len(values) == 1 else ''})",
    dict: _dict,
    set: _set,
    frozenset: _frozenset,
    complex: lambda value, text: f"complex({text(value.real)}, {text(value.imag)})",
}

# By the names of their modules where the module is none that a pure part should load.
_LIVE_MODULES: dict[str, tuple[str, str]] = {
    "_thread": ("a lock", "Leave it out: every call runs alone in its guest."),
    "threading": ("a thread or a lock", "Leave it out: every call runs alone in its guest."),
    "socket": ("a socket", "A guest has no sockets: pass in the data instead."),
}
_LIVE: list[tuple[tuple[type, ...], str, str]] = [
    ((IOBase,), "an open file", "Open the file inside the function, and grant its directory."),
    ((types.GeneratorType, types.AsyncGeneratorType), "a generator", "Pass list(...) of it."),
    ((types.CoroutineType,), "a coroutine", "Await it first and pass the result."),
    (
        (types.MethodType, types.BuiltinMethodType),
        "a method of a live object",
        "Ship a function that takes the object's data and makes the object itself.",
    ),
]


def refusal(what: str, value: Any) -> FunctionError:
    """The error for a value that cannot be shipped.

    Args:
        what: who uses which name, and where.
    """
    for kinds, description, hint in _LIVE:
        if isinstance(value, kinds):
            return FunctionError(f"{what}, which is {description} and cannot be shipped", hint)
    kind = type(value)
    if kind.__module__ in _LIVE_MODULES:
        description, hint = _LIVE_MODULES[kind.__module__]
        return FunctionError(f"{what}, which is {description} and cannot be shipped", hint)
    return FunctionError(
        f"{what}, which is a live {kind.__module__}.{kind.__qualname__} and cannot be shipped",
        "Make it inside the function, or pass plain values as arguments.",
    )


def refuse_registered(value: Any, where: str) -> None:
    """Refuse what ``functools.singledispatch`` made of several functions: no name leads to them."""
    kinds = getattr(value, "registry", None)
    if hasattr(value, "dispatch") and isinstance(kinds, types.MappingProxyType) and len(kinds) > 1:
        raise FunctionError(
            f"{where}, whose implementations were registered one by one and cannot be found from it",
            "Put it into a module of its own and import that: modules are shipped whole.",
        )
