"""A client of the local host: functions as futures."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sojourn.model.errors import CodecError, LimitError
from sojourn.model.grants import DirectoryGrant
from sojourn.model.limits import Limits
from sojourn.model.progress import Progress
from sojourn.store.home import Home
from sojourn.vm.process.monitor import ProcessMonitor, Service

from .calls import Call, CallFuture, CallOptions, Kind
from .functions import Functions
from .pool import Pool, Slot
from .sandbox import Sandbox

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
        self._functions = Functions(lambda: self._monitor.python().artifacts.modules)
        self._fresh = itertools.count(1)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CallFuture:
        """Call ``function`` in a sandbox; return a future at once. The arguments may be changed after that.

        It waits while a great many calls, or a GiB of arguments, wait for a sandbox.

        Raises:
            FunctionError: the function, or the class of an argument, cannot be shipped.

        The future fails with ``GuestError`` when the function raises, ``CodecError`` when a value cannot
        cross, ``TimeoutError`` after the function's deadline, ``ProcessFailedError`` when its guest ends.
        """
        options = getattr(function, "options", None)
        return self._submit(
            function, options if isinstance(options, CallOptions) else CallOptions(), args, kwargs
        )

    def map(
        self, function: Callable[..., Any], /, *iterables: Iterable[Any], timeout: float | None = None
    ) -> Iterator[Any]:
        """Call ``function`` for each group of arguments; yield the results in order.

        The first calls are made at once; a window of them is kept under way, so the iterables may be
        endless. When the iterator is closed, or raises, the calls under way are cancelled.

        Args:
            timeout: seconds from now until the last result; then ``TimeoutError``.

        Raises:
            FunctionError: the function cannot be shipped.
        """
        end = None if timeout is None else time.monotonic() + timeout
        results = self._map(function, iterables, end)
        next(results)  # fills the window
        return results

    def _map(
        self, function: Callable[..., Any], iterables: tuple[Iterable[Any], ...], end: float | None
    ) -> Iterator[Any]:
        under_way: deque[CallFuture] = deque()
        groups = zip(*iterables, strict=False)
        try:
            self._functions.ship(function)
            under_way.extend(self.submit(function, *args) for args in itertools.islice(groups, MAP_WINDOW))
            yield None
            while under_way:
                result = _result(
                    under_way[0], end
                )  # stays there until it is known, to be cancelled if it is not
                under_way.popleft()
                yield result
                under_way.extend(self.submit(function, *args) for args in itertools.islice(groups, 1))
        finally:
            for future in under_way:
                future.cancel()

    def _submit(
        self,
        function: Callable[..., Any],
        options: CallOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> CallFuture:
        future = CallFuture(lambda: self._pool.abandon(call, "its call was cancelled"))
        try:
            program, imports, value = self._functions.prepare(function, args, kwargs)
        except CodecError as error:
            future.settle(error=error)
            return future
        kind = Kind(program.digest, imports, next(self._fresh) if options.fresh else 0)
        deadline = None if options.deadline_s is None else time.monotonic() + options.deadline_s
        call = Call(program, kind, value, value.size_bytes, options, future, deadline)
        self._pool.submit(call)
        return future

    def _make(self, slot: Slot) -> Sandbox:
        service = Service(slot.kind.imports, self._environment, self._grants, self._limits)
        return Sandbox(self._monitor, service, slot)

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
