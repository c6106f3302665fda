"""One call of a shipped function, as values: what it is, what it may use, its future."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, NamedTuple

from sojourn.functions.ship import Shipped
from sojourn.functions.wire import Message
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
        with self._settling:
            if self.cancelled():
                return True
            cancelled = super().cancel()
            if cancelled:  # tell those who wait in concurrent.futures.wait: nobody else ever would
                self.set_running_or_notify_cancel()
        if cancelled:
            self._on_cancel()
        return cancelled

    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        """Give the future its result or error; nothing happens when it has one, or is cancelled."""
        try:
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(value)
        except (InvalidStateError, CancelledError):
            return


class Kind(NamedTuple):
    """Calls of one kind can be made in one sandbox, one after the other.

    Attributes:
        digest: of the program.
        imports: modules that the sandbox's image holds.
        fresh: not 0 for a call that shares its sandbox with no other.
    """

    digest: str
    imports: tuple[str, ...]
    fresh: int = 0


@dataclass(eq=False)
class Call:
    """A call on its way.

    Attributes:
        value: the encoded arguments, a copy of its own; taken out as they are sent.
        deadline: when it must be done, on the monotonic clock.
    """

    program: Shipped
    kind: Kind
    value: Message | None
    size_bytes: int
    options: CallOptions
    future: CallFuture
    deadline: float | None = None
    submitted_s: float = 0.0
