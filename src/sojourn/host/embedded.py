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
from pathlib import Path
from typing import Any, TypeVar

from sojourn.model.errors import ProcessStateError, SojournError, StoreError
from sojourn.model.grants import DirectoryGrant
from sojourn.model.progress import Progress
from sojourn.model.states import Ending, State
from sojourn.store.checkpoints import Saved, Stored
from sojourn.store.control import ControlReceiver
from sojourn.store.home import Home
from sojourn.store.hosts import Hosts
from sojourn.store.output import STDERR, STDOUT, OutputWriter, cut_output
from sojourn.store.records import ProcessRecord
from sojourn.store.table import ProcessTable
from sojourn.vm.process.monitor import Launch, ProcessMonitor, RunningProcess
from sojourn.vm.process.streams import Streams
from sojourn.vm.process.surroundings import ready
from sojourn.vm.process.virtual_machine import Usage, VirtualMachine
from sojourn.vm.process.wasi.outside import Sink, Source

from .asking import answer, reply_path
from .binding import bind_again
from .keeping import Keeper, Line
from .requests import LaunchRequest
from .secrets import find_secret
from .status import INTERRUPTED
from .streams import LoggedSink
from .tidying import tidy

KEPT_MAX = 1000  # so many ended processes are remembered, with their output
KEPT_BYTES_MAX = 4 << 30  # and so much output of theirs, or a thousand floods would fill the disk
IDENTITY_MAX = 1 << 22
T = TypeVar("T")
_log = logging.getLogger(__name__)


class HostedProcess:
    """A process of this host. All methods may be called from any thread."""

    def __init__(self, pid: str, request: LaunchRequest, epoch: int = 1) -> None:
        self.pid = pid
        self.request = request
        self.epoch = epoch
        self.line = Line(pid, request, epoch)
        self.recorded: Future[None] = Future()  # done once the table says how this life of it ended
        self._running: RunningProcess | None = None
        self._killed: str | None = None
        self._early: list[Callable[[RunningProcess], None]] = []  # asked for before it ran
        self._lock = threading.Lock()

    def started(self, running: RunningProcess) -> None:
        with self._lock:
            self._running = running
            if self._killed is not None:
                running.kill(self._killed)
            early, self._early = self._early, []
        for ask in early:
            ask(running)

    def wait(self, timeout_s: float | None = None) -> Ending | None:
        """How it ended, or None when it has not after ``timeout_s``."""
        assert self._running is not None  # launch returns it started
        return self._running.wait(timeout_s)

    def at_rest(self, work: Callable[[VirtualMachine], T], *, stop: bool) -> Future[T]:
        """Do something while the guest stands still (``RunningProcess.at_rest``), as soon as it runs."""
        with self._lock:
            running = self._running
            if running is None:
                later: Future[T] = Future()
                self._early.append(lambda now: _pass_on(now.at_rest(work, stop=stop), later))
                return later
        return running.at_rest(work, stop=stop)

    def kill(self, reason: str) -> None:
        with self._lock:
            self._killed = self._killed or reason
            if self._running is not None:
                self._running.kill(reason)

    def usage(self) -> Usage:
        assert self._running is not None
        return self._running.usage()


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
        self._watcher = _Watcher(self._on_checkpoint)
        self._processes: set[HostedProcess] = set()
        self._lock = threading.Lock()

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

    def launch(self, request: LaunchRequest, *, stdin: Source, stdout: Sink, stderr: Sink) -> HostedProcess:
        """Begin a process; return when it runs. Getting what is missing here may take a minute.

        Raises:
            SojournError: it cannot be started; its record then says why.
        """
        process = HostedProcess(self._record(request), request)
        with ExitStack() as undo:
            try:
                launch = self._launch(process)
                streams = self._attached(process, (stdin, stdout, stderr), undo)
                self._table.transition(process.pid, State.QUEUED, State.FETCHING)
                self.monitor.prepare(launch)
                self._table.transition(process.pid, State.FETCHING, State.STARTING)
                return self._begin(
                    process, undo, lambda ended: self.monitor.start(launch, streams, ended), State.STARTING
                )
            except BaseException as error:
                self._end_or_warn(process.pid, _not_started(error), None)
                raise

    def resume(self, pid: str, *, stdin: Source, stdout: Sink, stderr: Sink) -> HostedProcess:
        """Go on with a suspended process from its last checkpoint; return when it runs.

        Raises:
            ContextError: it cannot go on here. Nothing of it has run, and it stays suspended.
            GrantError: a grant cannot be bound again.
            ProcessStateError: it is not suspended.
        """
        record = self._table.get(pid)
        stored = self.keeper.store.latest(pid)
        if record.state is not State.SUSPENDED or stored is None:
            raise ProcessStateError(
                f"process {pid} is {record.state}, and cannot be resumed",
                "Try: sojourn ps --all; only suspended processes can be resumed",
            )
        with stored, ExitStack() as undo:
            request = self.keeper.request_of(stored.context)
            process = HostedProcess(pid, request, record.epoch + 1)
            process.line.sequence = stored.context.sequence + 1
            launch = self._launch(process)
            self.monitor.prepare(launch, resuming=True)
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
                streams = self._attached(process, (stdin, stdout, stderr), undo, stored.context.output_bytes)
                return self._begin(
                    process, undo, lambda ended: self.monitor.resume(launch, stored, streams, ended), None
                )
            except BaseException:
                self._table.transition(
                    pid, State.RUNNING, State.SUSPENDED, of_epoch=process.epoch, host_id=None, os_pid=None
                )
                raise

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
        saved = process.at_rest(lambda machine: self.keeper.save(process.line, machine), stop=stop)
        return _once_recorded(process, saved) if stop else saved

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
        undo: ExitStack,
        output_bytes: int | None = None,
    ) -> Streams:
        """The streams of a process, into its log as well, and its ear for requests from elsewhere.

        Args:
            output_bytes: how much output the process had written where it goes on; what is in the log beyond
                that it will write again. The log of a fork, or of one from a file, begins there.
        """
        folder = self.home.processes / process.pid
        path = _made(folder) / "output"
        if output_bytes is not None:
            cut_output(path, output_bytes)
        log = undo.enter_context(OutputWriter(path, begin=output_bytes or 0))
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
            self._end_or_warn(pid, ending, process.usage())
            with self._lock:
                self._processes.discard(process)
            process.recorded.set_result(None)

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


def _pass_on(inner: Future[T], outer: Future[T]) -> None:
    """Let ``outer`` become what ``inner`` becomes."""

    def done(inner: Future[T]) -> None:
        if inner.cancelled():
            outer.cancel()
        elif (error := inner.exception()) is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())

    inner.add_done_callback(done)


def _once_recorded(process: HostedProcess, saved: Future[Saved]) -> Future[Saved]:
    """What ``saved`` becomes; if that is a checkpoint, not before the process is recorded as suspended."""
    outer: Future[Saved] = Future()

    def done(saved: Future[Saved]) -> None:
        if saved.cancelled() or saved.exception() is not None:
            _pass_on(saved, outer)
        else:
            process.recorded.add_done_callback(lambda _: _pass_on(saved, outer))

    saved.add_done_callback(done)
    return outer


def _log_bytes(folder: Path) -> int:
    try:
        return (folder / "output").stat().st_size
    except OSError:  # no output, or another host forgets it now
        return 0


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


class _Watcher:
    """One thread that reads the control FIFOs of all processes of this host."""

    def __init__(self, checkpoint: Callable[[HostedProcess, dict[str, Any]], None]) -> None:
        self._checkpoint = checkpoint
        self._receivers: dict[ControlReceiver, HostedProcess] = {}
        self._lock = threading.Lock()
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, receiver: ControlReceiver, process: HostedProcess) -> None:
        with self._lock:
            self._receivers[receiver] = process
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="sojourn-control", daemon=True)
                self._thread.start()
        self._wake()

    def remove(self, receiver: ControlReceiver) -> None:
        with self._lock:
            self._receivers.pop(receiver, None)
            receiver.close()
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError, OSError):
            os.write(self._wake_out, b"\0")

    def _watch(self) -> None:
        while not self._closed:
            with self._lock:
                numbers = {receiver.fileno() for receiver in self._receivers} - {-1}
            found = ready([self._wake_in, *numbers], None)
            if self._wake_in in found:
                os.read(self._wake_in, 4096)
            self._handle(found)

    def _handle(self, ready: set[int]) -> None:
        with self._lock:
            messages = [
                (process, message)
                for receiver, process in self._receivers.items()
                if receiver.fileno() in ready
                for message in receiver.receive_nowait()
            ]
        for process, message in messages:
            if message.get("request") == "kill":
                process.kill(str(message.get("reason", "killed"))[:200])
            elif message.get("request") == "checkpoint":
                self._checkpoint(process, message)

    def close(self) -> None:
        self._closed = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
        os.close(self._wake_in)
        os.close(self._wake_out)
