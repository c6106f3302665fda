"""Sojourn: run unmodified programs in a virtual machine that trusts nothing, where they should run.

The names listed in ``__all__`` are the public interface; everything else may change. They are
loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.calls import CallFuture, CallOptions
    from .client.client import Client
    from .client.function import Function, function
    from .client.process import Process, ProcessOutput
    from .model.errors import (
        CodecError,
        FunctionError,
        GrantError,
        GuestError,
        LimitError,
        ProcessFailedError,
        SojournError,
    )
    from .model.grants import DirectoryGrant, EnvironmentGrant, SecretGrant
    from .model.limits import Limits
    from .model.states import Ending, State

__version__ = "0.1.0"

_WHERE = {
    **dict.fromkeys(("CallFuture", "CallOptions"), "client.calls"),
    "Client": "client.client",
    **dict.fromkeys(("Function", "function"), "client.function"),
    **dict.fromkeys(("Process", "ProcessOutput"), "client.process"),
    **dict.fromkeys(
        ("CodecError", "FunctionError", "GrantError", "GuestError", "LimitError"), "model.errors"
    ),
    **dict.fromkeys(("ProcessFailedError", "SojournError"), "model.errors"),
    **dict.fromkeys(("DirectoryGrant", "EnvironmentGrant", "SecretGrant"), "model.grants"),
    "Limits": "model.limits",
    **dict.fromkeys(("Ending", "State"), "model.states"),
}

__all__ = [
    "CallFuture",
    "CallOptions",
    "Client",
    "CodecError",
    "DirectoryGrant",
    "Ending",
    "EnvironmentGrant",
    "Function",
    "FunctionError",
    "GrantError",
    "GuestError",
    "LimitError",
    "Limits",
    "Process",
    "ProcessFailedError",
    "ProcessOutput",
    "SecretGrant",
    "SojournError",
    "State",
    "function",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'sojourn' has no attribute {name!r}")
    value = getattr(import_module(f"sojourn.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
