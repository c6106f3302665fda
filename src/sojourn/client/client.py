"""A client of the local host: functions as futures, and processes."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any

from sojourn.bundle.build import Include
from sojourn.model.errors import CodecError, LimitError
from sojourn.model.grants import DirectoryGrant, EnvironmentGrant, SecretGrant
from sojourn.model.limits import Limits
from sojourn.model.progress import Progress
from sojourn.store.home import Home
from sojourn.vm.process.monitor import ProcessMonitor, Service

from .calls import Call, CallFuture, CallOptions, Kind
from .functions import Functions
from .pool import Pool, Slot
from .process import VERB_TIMEOUT_S, Process
from .processes import Processes
from .sandbox import Sandbox

MAP_WINDOW = 256
IDLE_AFTER_S = 60.0


class Client:
    """Runs functions and processes in sandboxes on this machine. Thread-safe; a context manager.

    Args:
        home: where state is kept; None: ``$SOJOURN_HOME``, else the user's data directory.
        sandboxes: so many guests for functions at one time, at most; None: one for each processor.
        limits: of each guest.
        grants: directories that each guest sees.
        environment: variables of each guest.
        progress: told of slow things, such as compiling the runtime the first time.
        idle_after: seconds; a process that waits so long in one call (for input, for a time) is evicted. It
            costs disk and no memory then, and comes back by itself when that for which it waits has come; it
            cannot tell. None: never.

    Leaving the ``with`` block waits for the calls that were submitted (an exception in it cancels them), and
    ends the processes that were started or resumed here; those that were evicted by ``Process.evict`` stay
    suspended.
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
        idle_after: float | None = IDLE_AFTER_S,
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
        self._processes = Processes(self._home, self._monitor, progress, idle_after)

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

    def start(
        self,
        program: Path | str | None = None,
        *,
        code: str | None = None,
        module: str | None = None,
        args: Sequence[str] = (),
        grants: Sequence[DirectoryGrant | EnvironmentGrant | SecretGrant] | None = None,
        environment: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        stdin: bytes | None = None,
        include: Sequence[Include | Path | str] = (),
        name: str | None = None,
        use_image: bool = True,
        checkpoint_every: float | None = None,
        idle_after: float | EllipsisType | None = ...,
    ) -> Process:
        """Start a process; return when it runs. The first start on a machine may take a minute.

        Args:
            program: a path: a script, a directory or archive with a ``__main__.py``, a bundle that ``sojourn
                pack`` made, or a WebAssembly module for WASI.
            code, module: instead of it, as ``python -c`` and ``python -m`` take them.
            args: its arguments, without the program's name.
            grants, environment, limits: what it may touch and use; None: those of the client.
            stdin: all that it will ever read from its standard input; None: what ``Process.write`` gives.
            include: further files and directories, each a path or (path, name in the program).
            name: what people see; None: that of the program.
            use_image: False starts the interpreter cold.
            checkpoint_every: seconds between checkpoints, from which it goes on if this program dies.
            idle_after: see ``Client``; not given: that of the client.

        Raises:
            ProgramError: there is no such program, or it cannot run here.
            GrantError: a grant cannot be given.
            LimitError: a limit is below what a start takes.
            RuntimeUnavailableError: the Python runtime is missing or damaged.
        """
        return self._processes.start(
            program,
            code=code,
            module=module,
            args=args,
            grants=self._grants if grants is None else grants,
            environment=self._environment if environment is None else environment,
            limits=limits or self._limits,
            stdin=stdin,
            include=include,
            name=name,
            use_image=use_image,
            checkpoint_every=checkpoint_every,
            idle_after=self._processes.idle_after_s if isinstance(idle_after, EllipsisType) else idle_after,
        )

    def process(self, pid: str) -> Process:
        """A handle on the process whose pid begins so, whoever started it.

        Raises:
            UnknownProcessError: there is none, or there are several.
        """
        return self._processes.find(pid)

    def processes(self, *, ended: bool = False) -> list[Process]:
        """Handles on all processes of this home, the newest first; with ``ended`` also those that have
        ended."""
        return self._processes.all(ended=ended)

    def resume(
        self,
        target: Path | str,
        timeout: float | None = VERB_TIMEOUT_S,
        *,
        grants: Sequence[DirectoryGrant] = (),
        limits: Mapping[str, int | float] | None = None,
    ) -> Process:
        """Go on, here, with a suspended process, or with the one in a file that a checkpoint was written to.

        Args:
            target: its pid, or the path of the file.
            grants, limits: for a file that was written elsewhere: what it is given here of what it wants.

        Raises:
            UnknownProcessError: there is neither.
            ContextError: it cannot go on here.
            GrantError: a grant cannot be bound again.
            ProcessStateError: it has ended, or somebody else goes on with it.
            TimeoutError: it takes longer.
        """
        return self._processes.resume(target, timeout, grants, limits)

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
        """Wait for the calls that were submitted (or cancel them), and end all guests. Doing it twice does
        nothing."""
        try:
            self._pool.close(cancel=cancel)
        finally:
            self._processes.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(cancel=kind is not None)


def _result(future: CallFuture, end: float | None) -> Any:
    return future.result(None if end is None else max(0.0, end - time.monotonic()))
