"""One call of a shipped function, as values: what it is, what it may use, its future."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from sojourn.functions.ship import Shipped
from sojourn.model.errors import LimitError


@dataclass(frozen=True)
class CallOptions:
    """How calls are made.

    Attributes:
        deadline_s: a call that has no result so long after ``submit`` fails with ``TimeoutError``, and its
            guest is ended. None: the limit on wall time only.
        fresh: a new sandbox for every call; otherwise one is kept and used again for the same function.
    """

    deadline_s: float | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise LimitError(f"deadline_s: {self.deadline_s!r} is not a time to wait", "Try: deadline_s=30")


class CallFuture(Future[Any]):
    """The result of a call. Besides what every future can: cancelling ends a call that runs already."""

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__()
        self._on_cancel = on_cancel
        self._settling = threading.Lock()

    def cancel(self) -> bool:
        """Take the call back: True unless it was done before. Its guest, if it has one, is ended."""
        cancelled = super().cancel()
        if cancelled:
            self._on_cancel()
        return cancelled

    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        """Give the future its result or error; nothing happens when it has one, or is cancelled."""
        with self._settling:
            try:
                if error is not None:
                    self.set_exception(error)
                else:
                    self.set_result(value)
            except (InvalidStateError, CancelledError):
                return


@dataclass(eq=False)
class Call:
    """A call on its way. ``args`` and ``kwargs`` are dropped as soon as they are encoded."""

    program: Shipped
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: CallOptions
    future: CallFuture
    deadline: float | None = None
    abandoned: bool = field(default=False)
