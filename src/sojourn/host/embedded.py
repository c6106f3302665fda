"""The embedded host: runs guests in this operating-system process, and tells all others of it.

Each process has a record in the table, whose state is what is true now; a log of its output; and a FIFO
through which other OS processes of the same user may ask to end it. All of that outlives this OS process; if
it dies, its guests are recorded as ``lost`` by whoever looks next.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sojourn.model.errors import (
    ContextError,
    ProcessStateError,
    SojournError,
    StoreError,
    UnknownProcessError,
)
from sojourn.model.grants import DirectoryGrant
from sojourn.model.progress import Progress
from sojourn.model.states import Ending, State
from sojourn.store.checkpoints import Saved, Stored
from sojourn.store.control import ControlReceiver
from sojourn.store.home import Home
from sojourn.store.hosts import Hosts
from sojourn.store.output import STDERR, STDOUT, OutputWriter, Place, cut_output
from sojourn.store.records import ProcessRecord
from sojourn.store.table import ProcessTable
from sojourn.vm.process.monitor import Launch, ProcessMonitor, RunningProcess
from sojourn.vm.process.streams import Streams
from sojourn.vm.process.virtual_machine import Usage, VirtualMachine
from sojourn.vm.process.wasi.outside import Sink, Source

from .asking import answer, reply_path
from .binding import bind_again
from .hosted import Away, HostedProcess, NotWaiting, once_recorded
from .keeping import Keeper
from .requests import LaunchRequest
from .secrets import find_secret
from .status import INTERRUPTED
from .streams import LoggedSink
from .tidying import tidy
from .timers import Timers
from .watching import Watcher

KEPT_MAX = 1000  # so many ended processes are remembered, with their output
KEPT_BYTES_MAX = 4 << 30  # and so much output of theirs, or a thousand floods would fill the disk
IDENTITY_MAX = 1 << 22
STORE_PAUSE_S = 0.2  # between two checkpoints at least: a program that goes on may first need some code made
_STORE_SHARE = 5  # and so many times as long as the last one took
_log = logging.getLogger(__name__)


class EmbeddedHost:
    """Runs guests in this OS process. A context manager; leaving it ends what still runs.

    Raises:
        StoreError: the home cannot be used.
    """

    def __init__(
        self,
        home: Home,
        *,
        monitor: ProcessMonitor | None = None,
        progress: Progress | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.monitor = monitor or ProcessMonitor(home, progress=progress)
        self._environ = os.environ if environ is None else environ
        self._table = ProcessTable.open(home)
        hosts = Hosts(home)
        self._presence = hosts.register()
        self.keeper = Keeper(home)
        hosts.reap(self._table)
        self._forget(self._table.prune(keep_newest=KEPT_MAX))
        if sum(_log_bytes(folder) for folder in home.processes.iterdir()) > KEPT_BYTES_MAX:
            self._forget(self._table.prune(keep_newest=self._affordable()))
        tidy(home, self._table, self.keeper)
        self._watcher = Watcher(self._on_checkpoint)
        self.timers = Timers()
        self._processes: set[HostedProcess] = set()
        self._lock = threading.Lock()

    @property
    def host_id(self) -> str:
        return self._presence.host_id

    @property
    def table(self) -> ProcessTable:
        return self._table

    def record(self, pid: str) -> ProcessRecord:
        """Raises ``UnknownProcessError`` when there is no process of exactly this pid."""
        return self._table.get(pid)

    def look_for_dead_hosts(self) -> None:
        """Record what ran in hosts that died."""
        Hosts(self.home).reap(self._table)

    def _affordable(self) -> int:
        """How many of the newest ended processes have output of at most ``KEPT_BYTES_MAX`` together."""
        total = 0
        ended = self._table.list(live=False)
        for count, record in enumerate(ended):
            total += _log_bytes(self.home.processes / record.pid)
            if total > KEPT_BYTES_MAX:
                return count
        return len(ended)

    def _forget(self, pids: tuple[str, ...]) -> None:
        for pid in pids:
            shutil.rmtree(self.home.processes / pid, ignore_errors=True)
            self.keeper.store.remove(pid)

    def launch(
        self,
        request: LaunchRequest,
        *,
        stdin: Source,
        stdout: Sink,
        stderr: Sink,
        written: Callable[[], object] = lambda: None,
    ) -> HostedProcess:
        """Begin a process; return when it runs. Getting what is missing here may take a minute.

        Args:
            written: called whenever it has written something, on its thread.

        Raises:
            SojournError: it cannot be started; its record then says why.
        """
        process = HostedProcess(self._record(request), request)
        with ExitStack() as undo:
            try:
                launch = self._launch(process)
                streams = self._attached(process, (stdin, stdout, stderr), written, undo)
                self._table.transition(process.pid, State.QUEUED, State.FETCHING)
                self.monitor.prepare(launch)
                self._table.transition(process.pid, State.FETCHING, State.STARTING)
                return self._begin(
                    process, undo, lambda ended: self.monitor.start(launch, streams, ended), State.STARTING
                )
            except BaseException as error:
                self._end_or_warn(process.pid, _not_started(error), None)
                raise

    def resume(
        self,
        pid: str,
        *,
        stdin: Source,
        stdout: Sink,
        stderr: Sink,
        written: Callable[[], object] = lambda: None,
        away: Away | None = None,
    ) -> HostedProcess:
        """Go on with a suspended process from its last checkpoint; return when it runs.

        Args:
            written: called whenever it has written something, on its thread.
            away: what this host knows of it, if it was here before.

        Raises:
            ContextError: it cannot go on here. Nothing of it has run, and it stays suspended.
            GrantError: a grant cannot be bound again.
            ProcessStateError: it is not suspended.
        """
        record = self._table.get(pid)
        if away is not None and away.epoch != record.epoch:
            away = None  # it has run elsewhere since
        stored = self._last(pid, away) if record.state is State.SUSPENDED else None
        if record.state is not State.SUSPENDED or stored is None:
            raise ProcessStateError(
                f"process {pid} is {record.state}, and cannot be resumed",
                "Try: sojourn ps --all; only suspended processes can be resumed",
            )
        with ExitStack() as undo:
            undo.callback(stored.close)
            request = self.keeper.request_of(stored.context)
            process = HostedProcess(pid, request, record.epoch + 1)
            line = process.line
            line.sequence, line.previous = stored.context.sequence + 1, stored
            waited_ns = self.keeper.waited_ns(stored.context)
            if away is not None and away.waiting:
                waited_ns = time.monotonic_ns() - away.since_ns  # by a clock that nobody sets
            launch = replace(self._launch(process), waited_ns=waited_ns)
            self.monitor.prepare(launch, stored.context)
            claimed = self._table.transition(
                *(pid, State.SUSPENDED, State.RUNNING),
                of_epoch=record.epoch,
                epoch=process.epoch,
                host_id=self._presence.host_id,
                os_pid=os.getpid(),
                started_s=record.started_s or time.time(),
            )
            if claimed is None:
                raise ProcessStateError(f"process {pid} is being resumed by somebody else", "Try: sojourn ps")
            try:
                place = None if away is None else away.place
                streams = self._attached(
                    process, (stdin, stdout, stderr), written, undo, stored.context.output_bytes, place
                )
                return self._begin(
                    process, undo, lambda ended: self.monitor.resume(launch, stored, streams, ended), None
                )
            except BaseException:
                self._table.transition(
                    pid, State.RUNNING, State.SUSPENDED, of_epoch=process.epoch, host_id=None, os_pid=None
                )
                raise

    def _last(self, pid: str, away: Away | None) -> Stored | None:
        """The last checkpoint of a process: the one that we know of, if it is whole."""
        if away is not None:
            with suppress(ContextError, UnknownProcessError):
                return self.keeper.store.load(pid, away.checkpoint)
        return self.keeper.store.latest(pid)

    def adopt(
        self,
        path: Path,
        grants: Sequence[DirectoryGrant] = (),
        limits: Mapping[str, int | float] | None = None,
    ) -> str:
        """Make a process of a checkpoint in a file, suspended here; return its pid.

        Args:
            grants, limits: what it is given here (``binding.bind_again``).

        Raises:
            ContextError: the file cannot be used.
            GrantError, LimitError: it wants what it was not given.
        """
        with self.keeper.store.open_file(path) as stored:
            stored.verify()  # before there is a process that could never go on
            known = self.keeper.origins.knows(stored.digest)
            wanted = self.keeper.request_of(stored.context)
            request = bind_again(wanted, path.name, known=known, grants=grants, limits=limits)
            return self._forked(stored, request)

    def fork_running(
        self, process: HostedProcess, count: int = 1, timeout_s: float | None = None
    ) -> list[str]:
        """Make new processes, suspended, that go on where this one is now. It goes on itself, and stands
        still only until the first of them is stored.

        Raises:
            CancelledError: this life of it ended first.
            TimeoutError: it could not be left in time.
            SojournError: it cannot be stored.
        """
        pid = self._table.unused_pid()
        saved = process.at_rest(lambda machine: self.keeper.save_fork(process.line, machine, pid), stop=False)
        try:
            saved.result(timeout_s)
        except TimeoutError:
            saved.cancel()
            saved.add_done_callback(lambda _: self.keeper.store.remove(pid))
            raise TimeoutError(f"process {process.pid} could not be left in time") from None
        self._record(process.request, State.SUSPENDED, pid)
        return [pid, *(self.fork(pid, count - 1) if count > 1 else ())]

    def fork(self, pid: str, count: int = 1) -> list[str]:
        """Make new processes, suspended, that go on where the last checkpoint of ``pid`` was made.

        Raises:
            ProcessStateError: it has no checkpoint.
        """
        stored = self.keeper.store.latest(pid)
        if stored is None:
            raise ProcessStateError(f"process {pid} has no checkpoint", f"Try: sojourn checkpoint {pid}")
        with stored:
            request = self.keeper.request_of(stored.context)
            made = [self._forked(stored, request) for _ in range(count)]
            self.keeper.keep_program(request)  # the process that it was kept for may have ended meanwhile
            return made

    def _forked(self, stored: Stored, request: LaunchRequest) -> str:
        """A new process, suspended, that goes on from a checkpoint. There is no record without one."""
        pid = self._table.unused_pid()
        self.keeper.fork(stored, pid, request)
        self._record(request, State.SUSPENDED, pid)
        return pid

    def checkpoint(self, process: HostedProcess, *, stop: bool = False) -> Future[Saved]:
        """Store a running process; ``stop`` leaves it suspended, its memory freed (*evict*). The future is
        done when others can see that: whoever hears of it may resume the process at once."""
        saved = process.at_rest(lambda machine: self.keeper.save(process.line, machine, last=stop), stop=stop)
        return once_recorded(process, saved) if stop else saved

    def evict_waiting(self, process: HostedProcess) -> Future[Saved]:
        """As ``checkpoint`` with ``stop``, but only if the guest still waits, for what this host can notice
        while it is not there: a clock, and sources that say when they have something.

        The future fails with ``NotWaiting`` otherwise; the process then goes on.
        """

        def save(machine: VirtualMachine) -> Saved:
            waits = machine.surroundings.waits
            if waits is None or waits.sinks or not all(hasattr(item, "woken") for item in waits.sources):
                raise NotWaiting
            saved = self.keeper.save(process.line, machine, waiting=True, last=True)
            process.left, process.left_ns = waits, machine.surroundings.monotonic_ns()
            return saved

        return once_recorded(process, process.at_rest(save, stop=True))

    def store_every(
        self, process: HostedProcess, every_s: float, failed: Callable[[SojournError], object]
    ) -> None:
        """Store a process so often, as long as this life of it lasts; not so often that it would come to
        nothing else.

        Args:
            failed: told when it could not be; the next time it is tried again.
        """

        def store() -> None:
            if not process.recorded.done():
                begun_s = time.monotonic()
                self.checkpoint(process).add_done_callback(lambda saved: done(saved, begun_s))

        def done(saved: Future[Saved], begun_s: float) -> None:
            error = None if saved.cancelled() else saved.exception()
            if isinstance(error, SojournError):
                failed(error)
            now_s = time.monotonic()
            again(now_s + max(every_s, STORE_PAUSE_S, _STORE_SHARE * (now_s - begun_s)))

        def again(due_s: float) -> None:
            if not process.recorded.done():
                self.timers.add(due_s, store)

        again(time.monotonic() + every_s)

    def _on_checkpoint(self, process: HostedProcess, message: dict[str, Any]) -> None:
        """Another operating-system process asks for a checkpoint; the answer goes into a file."""
        path = reply_path(self.home, process.pid, str(message.get("token", "")))
        future = self.checkpoint(process, stop=bool(message.get("stop")))
        future.add_done_callback(lambda done: answer(path, done))

    def _launch(self, process: HostedProcess) -> Launch:
        request = process.request
        environment = {grant.name: grant.value for grant in request.environment}
        environment |= {grant.name: find_secret(grant, self._environ, self.home) for grant in request.secrets}
        identity = 1 + int.from_bytes(hashlib.sha256(process.pid.encode()).digest()[:3]) % IDENTITY_MAX
        return Launch(
            request.program,
            request.contents,
            request.args,
            environment,
            request.directories,
            request.limits,
            request.use_image,
            identity,
            request.priority,
        )

    def _record(self, request: LaunchRequest, state: State = State.QUEUED, pid: str | None = None) -> str:
        pid = pid or self._table.unused_pid()
        owned = state is not State.SUSPENDED
        record = ProcessRecord(
            pid=pid,
            name=request.name,
            program=request.program.digest,
            state=state,
            created_s=time.time(),
            host_id=self._presence.host_id if owned else None,
            os_pid=os.getpid() if owned else None,
            limits=request.limits.to_dict(),
            grants=request.grants(),
            args=list(request.args),
        )
        self._table.insert(record)
        return pid

    def _attached(
        self,
        process: HostedProcess,
        streams: tuple[Source, Sink, Sink],
        written: Callable[[], object],
        undo: ExitStack,
        output_bytes: int | None = None,
        place: Place | None = None,
    ) -> Streams:
        """The streams of a process, into its log as well, and its ear for requests from elsewhere.

        Args:
            output_bytes: how much output the process had written where it goes on; what is in the log beyond
                that it will write again. The log of a fork, or of one from a file, begins there.
            place: where its log ends, if that is known.
        """
        folder = self.home.processes / process.pid
        path = _made(folder) / "output"
        if output_bytes is not None and place is None:
            cut_output(path, output_bytes)
        log = undo.enter_context(OutputWriter(path, begin=output_bytes or 0, place=place, written=written))
        process.line.log = log
        control = ControlReceiver(folder / "control")
        self._watcher.add(control, process)
        undo.callback(self._watcher.remove, control)
        stdin, stdout, stderr = streams
        return Streams(stdin, LoggedSink(stdout, log, STDOUT), LoggedSink(stderr, log, STDERR))

    def _begin(
        self,
        process: HostedProcess,
        undo: ExitStack,
        start: Callable[[Callable[[Ending], None]], RunningProcess],
        before: State | None,
    ) -> HostedProcess:
        """Start the guest; ``before`` is the state to leave for ``running``, None when it is that already."""
        pid = process.pid
        recorded = threading.Event()  # the end must not overtake the record of the start
        cleanup = undo.pop_all()

        def ended(ending: Ending) -> None:
            recorded.wait()
            with suppress(StoreError):  # a log that cannot be written any more; the ending still can
                cleanup.close()
            process.line.close()
            if ending.state is State.SUSPENDED:
                process.away = self._away(process)
            self._end_or_warn(pid, ending, process.usage())
            with self._lock:
                self._processes.discard(process)
            process.recorded.set_result(ending)

        try:
            with self._lock:
                self._processes.add(process)
            running = start(ended)
        except BaseException:
            with self._lock:
                self._processes.discard(process)
            cleanup.close()
            raise
        process.started(running)
        if before is not None:
            self._table.transition(pid, before, State.RUNNING, started_s=time.time(), image=running.image)
        recorded.set()
        return process

    def _away(self, process: HostedProcess) -> Away:
        assert process.line.log is not None
        now_ns, left = time.monotonic_ns(), process.left
        due_s = None
        if left is not None and left.until_ns is not None:
            due_s = (now_ns + left.until_ns - process.left_ns) / 1e9
        reads = left is None or bool(left.sources)
        return Away(
            *(process.epoch, left is not None, reads, now_ns, due_s),
            *(process.line.log.place, process.line.last),
        )

    def _end_or_warn(self, pid: str, ending: Ending, usage: Usage | None) -> None:
        """Record the end. When that cannot be (a full disk), the process counts as lost once we are gone."""
        try:
            self._end(pid, ending, usage)
        except StoreError as error:
            _log.warning("the end of process %s could not be recorded: %s", pid, error.message)

    def _end(self, pid: str, ending: Ending, usage: Usage | None) -> None:
        """Record the end, once."""
        used = usage or Usage()
        record = self._table.get(pid)
        if record.state.final:
            return
        if ending.state is State.SUSPENDED:
            self._table.transition(
                *(pid, State.RUNNING, State.SUSPENDED),
                host_id=None,
                os_pid=None,
                cpu_s=used.cpu_seconds,
                memory_bytes=used.memory_bytes,
                output_bytes=used.output_bytes,
            )
            return
        if record.state is not State.RUNNING and ending.state is State.EXITED:
            raise RuntimeError(f"a process that is {record.state} cannot exit")
        self._table.transition(
            pid,
            record.state,
            ending.state,
            ending=ending,
            ended_s=time.time(),
            cpu_s=used.cpu_seconds,
            memory_bytes=used.memory_bytes,
            output_bytes=used.output_bytes,
        )
        self.keeper.store.remove(pid)  # nothing goes on from there any more

    def close(self) -> None:
        """End what still runs, and let go of everything."""
        with self._lock:
            left = list(self._processes)
        for process in left:
            process.kill("its host is closing")
        for process in left:
            process.wait(10)
        self.timers.close()
        self._watcher.close()
        self._presence.close()
        self._table.close()

    def __enter__(self) -> EmbeddedHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _not_started(error: BaseException) -> Ending:
    """How a process ended that never ran."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return Ending(State.KILLED, reason=INTERRUPTED)
    reason = str(error) if isinstance(error, SojournError) else f"internal error: {error!r}"
    return Ending(State.FAILED, reason=reason.partition("\n")[0])


def _log_bytes(folder: Path) -> int:
    try:
        return (folder / "output").stat().st_size
    except OSError:  # no output, or another host forgets it now
        return 0


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
