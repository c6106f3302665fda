"""The decorator: a function that can be called here, and sent to a sandbox."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar, overload

from .calls import CallFuture, CallOptions
from .client import Client

P = ParamSpec("P")
R = TypeVar("R")

_default: list[Client] = []
_default_lock = threading.Lock()


def default_client() -> Client:
    """The client that decorated functions use: made on first use, over the user's home."""
    with _default_lock:
        if not _default:
            _default.append(Client())
        return _default[0]


class Function(Generic[P, R]):
    """A function of the user's. Calling it runs it here, as if it had not been decorated.

    ``submit`` and ``map`` run it in a sandbox of the default client; any client takes it as well.
    """

    def __init__(self, function: Callable[P, R], options: CallOptions) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self.options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__wrapped__(*args, **kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> CallFuture:
        """Call it in a sandbox; a future of the result."""
        return default_client().submit(self, *args, **kwargs)

    def map(self, *iterables: Iterable[Any], timeout: float | None = None) -> Iterator[Any]:
        """Call it in sandboxes for each group of arguments; results in order."""
        return default_client().map(self, *iterables, timeout=timeout)


@overload
def function(target: Callable[P, R], /) -> Function[P, R]: ...
@overload
def function(
    *, deadline_s: float | None = None, fresh: bool = False
) -> Callable[[Callable[P, R]], Function[P, R]]: ...
def function(
    target: Callable[..., Any] | None = None, /, *, deadline_s: float | None = None, fresh: bool = False
) -> Any:
    """Mark a function as one to be sent to a sandbox.

    Used bare or with options::

        @sojourn.function
        def spectrum(x): ...

        @sojourn.function(deadline_s=5, fresh=True)
        def untrusted(text): ...

    Args:
        deadline_s: a call without a result after so many seconds fails with ``TimeoutError``.
        fresh: every call gets a new sandbox.
    """
    options = CallOptions(deadline_s, fresh)
    return Function(target, options) if target is not None else lambda f: Function(f, options)
