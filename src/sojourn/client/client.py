"""A client of the local host: functions as futures."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sojourn.functions.ship import Shipped, ship
from sojourn.model.errors import LimitError
from sojourn.model.grants import DirectoryGrant
from sojourn.model.limits import Limits
from sojourn.model.progress import Progress
from sojourn.store.home import Home
from sojourn.vm.process.monitor import ProcessMonitor, Service

from .calls import Call, CallFuture, CallOptions
from .pool import Pool
from .sandbox import Sandbox

SHIPPED_MAX = 1000
MAP_WINDOW = 256


class Client:
    """Runs functions in sandboxes on this machine. Thread-safe; a context manager.

    Args:
        home: where state is kept; None: ``$SOJOURN_HOME``, else the user's data directory.
        sandboxes: so many guests at one time, at most; None: one for each processor.
        limits: of each guest.
        grants: directories that each guest sees.
        environment: variables of each guest.
        progress: told of slow things, such as compiling the runtime the first time.

    Leaving the ``with`` block waits for what was submitted; an exception in it cancels that.
    """

    def __init__(
        self,
        home: Path | str | None = None,
        *,
        sandboxes: int | None = None,
        limits: Limits | None = None,
        grants: Sequence[DirectoryGrant] = (),
        environment: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        if sandboxes is not None and sandboxes < 1:
            raise LimitError(f"sandboxes: {sandboxes} guests can do nothing", "Try: sandboxes=1 or more")
        self._home = Home.open(None if home is None else Path(home))
        self._limits = limits or Limits()
        self._grants = tuple(grants)
        self._environment = dict(environment or {})
        self._monitor = ProcessMonitor(self._home, progress=progress)
        self._pool = Pool(self._make, sandboxes or os.cpu_count() or 1)
        self._shipped: dict[int, tuple[Callable[..., Any], Shipped]] = {}
        self._lock = threading.Lock()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CallFuture:
        """Call ``function`` in a sandbox; return a future at once.

        Raises:
            FunctionError: the function cannot be shipped.

        The future fails with ``GuestError`` when the function raises, ``CodecError`` when a value cannot
        cross, ``TimeoutError`` after the function's deadline, ``ProcessFailedError`` when its guest ends.
        """
        options = getattr(function, "options", None)
        call = self._call(
            function, options if isinstance(options, CallOptions) else CallOptions(), args, kwargs
        )
        self._pool.submit(call)
        return call.future

    def map(
        self, function: Callable[..., Any], /, *iterables: Iterable[Any], timeout: float | None = None
    ) -> Iterator[Any]:
        """Call ``function`` for each group of arguments; yield the results in order.

        A window of calls is kept under way, so the iterables may be endless.

        Args:
            timeout: seconds from now until the last result; then ``TimeoutError``.
        """
        end = None if timeout is None else time.monotonic() + timeout
        under_way: deque[CallFuture] = deque()
        try:
            for args in zip(*iterables, strict=False):
                under_way.append(self.submit(function, *args))
                if len(under_way) >= MAP_WINDOW:
                    yield _result(under_way.popleft(), end)
            while under_way:
                yield _result(under_way.popleft(), end)
        finally:
            for future in under_way:
                future.cancel()

    def _call(
        self,
        function: Callable[..., Any],
        options: CallOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Call:
        future = CallFuture(lambda: self._pool.abandon(call, "its call was cancelled"))
        deadline = None if options.deadline_s is None else time.monotonic() + options.deadline_s
        call = Call(self._ship(function), args, kwargs, options, future, deadline)
        return call

    def _ship(self, function: Callable[..., Any]) -> Shipped:
        """The function as a program, remembered: a function that is called often is looked at once."""
        with self._lock:
            known = self._shipped.get(id(function))
        if known is not None:
            return known[1]
        shipped = ship(function, self._monitor.python().artifacts.modules)
        with self._lock:
            if len(self._shipped) >= SHIPPED_MAX:
                self._shipped.clear()
            self._shipped[id(function)] = function, shipped  # holding it keeps its id its own
        return shipped

    def _make(
        self,
        call: Call,
        answered: Callable[[Sandbox], None],
        ended: Callable[[Sandbox, list[Call]], None],
    ) -> Sandbox:
        service = Service(call.program.imports, self._environment, self._grants, self._limits)
        return Sandbox(self._monitor, service, answered, ended)

    def close(self, *, cancel: bool = False) -> None:
        """Wait for what was submitted (or cancel it), and end all guests. Doing it twice does nothing."""
        self._pool.close(cancel=cancel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(cancel=kind is not None)


def _result(future: CallFuture, end: float | None) -> Any:
    return future.result(None if end is None else max(0.0, end - time.monotonic()))
