"""What a client knows of the functions it was given: their programs, and what calls of them need.

A function is looked at once. Its program grows with the arguments: a class that only an argument is of is
shipped along, and the packages that arguments are of (numpy, pandas) belong into the image of the sandbox.
Both are remembered for the function, so that its calls remain of one kind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sojourn.functions.codec import Registry, encode
from sojourn.functions.ship import Shipped, ship
from sojourn.functions.wire import Message
from sojourn.model.errors import FunctionError

FUNCTIONS_MAX = 1_000
_GROWTHS_MAX = 100


@dataclass(frozen=True)
class _Known:
    """A function, held so that its id stays its own, and what its calls were found to need."""

    function: Callable[..., Any]
    program: Shipped
    classes: tuple[type, ...] = ()
    imports: tuple[str, ...] = ()


class Functions:
    """Programs of functions. Thread-safe.

    Args:
        available: gives the top-level modules that the guest has beyond the standard library.
    """

    def __init__(self, available: Callable[[], frozenset[str]]) -> None:
        self._available = available
        self._known: dict[int, _Known] = {}
        self._lock = threading.Lock()

    def ship(self, function: Callable[..., Any]) -> Shipped:
        """The program of ``function``.

        Raises:
            FunctionError: it cannot be shipped.
        """
        return self._find(function).program

    def prepare(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Shipped, tuple[str, ...], Message]:
        """What a call needs: its program, the modules its image shall hold, its arguments as a copy.

        Raises:
            FunctionError: the function, or the class of an argument, cannot be shipped.
            CodecError: an argument cannot cross.
        """
        known = self._find(function)
        value = [list(args), kwargs if type(kwargs) is dict else dict(kwargs)]
        for _ in range(_GROWTHS_MAX):  # a class that is shipped may hold the next that is not
            registry = Registry(known.program.classes, collect=True)
            message = encode(value, registry)
            if not registry.wanted and registry.packages.issubset(known.imports):
                return known.program, known.imports, _copied(message)
            known = self._grown(known, registry)
        raise FunctionError(
            "the classes of the arguments change while they are looked at", "Pass plain values."
        )

    def _find(self, function: Callable[..., Any]) -> _Known:
        with self._lock:
            known = self._known.get(id(function))
        if known is None:
            program = ship(function, self._available())
            known = self._remember(_Known(function, program, (), program.imports))
        return known

    def _grown(self, known: _Known, registry: Registry) -> _Known:
        classes = (*known.classes, *registry.wanted.values())
        program = ship(known.function, self._available(), classes) if registry.wanted else known.program
        missing = [name for name in registry.wanted if name not in program.classes]
        if missing:
            raise FunctionError(
                f"the class {missing[0].replace(':', '.')} of an argument cannot be shipped",
                "Define it at the top level of a module, or pass plain values.",
            )
        imports = tuple(sorted({*known.imports, *program.imports, *registry.packages}))
        return self._remember(_Known(known.function, program, classes, imports))

    def _remember(self, known: _Known) -> _Known:
        with self._lock:
            if len(self._known) >= FUNCTIONS_MAX:
                self._known.clear()
            self._known[id(known.function)] = known
        return known


def _copied(message: Message) -> Message:
    """The caller may change its arrays as soon as it has the future. What nobody can change is not copied."""
    buffers = [view if isinstance(view.obj, bytes) else memoryview(bytes(view)) for view in message.buffers]
    return Message(message.header, buffers)
