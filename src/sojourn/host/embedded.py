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
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sojourn.model.errors import SojournError, StoreError
from sojourn.model.grants import DirectoryGrant, EnvironmentGrant, Grant, SecretGrant
from sojourn.model.limits import Limits
from sojourn.model.program import Program
from sojourn.model.progress import Progress
from sojourn.model.states import Ending, State
from sojourn.store.control import ControlReceiver, send_control
from sojourn.store.home import Home
from sojourn.store.hosts import Hosts
from sojourn.store.output import STDERR, STDOUT, OutputWriter
from sojourn.store.records import ProcessRecord
from sojourn.store.table import ProcessTable
from sojourn.vm.process.monitor import Launch, ProcessMonitor, RunningProcess
from sojourn.vm.process.streams import Streams
from sojourn.vm.process.surroundings import ready
from sojourn.vm.process.virtual_machine import Usage
from sojourn.vm.process.wasi.outside import Sink, Source

from .secrets import find_secret
from .streams import LoggedSink

KEPT_MAX = 1000  # so many ended processes are remembered, with their output
KEPT_BYTES_MAX = 4 << 30  # and so much output of theirs, or a thousand floods would fill the disk
IDENTITY_MAX = 1 << 22
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LaunchRequest:
    """What a process shall be: a program, arguments, grants, limits."""

    program: Program
    contents: Mapping[str, bytes]
    name: str
    args: tuple[str, ...] = ()
    directories: tuple[DirectoryGrant, ...] = ()
    environment: tuple[EnvironmentGrant, ...] = ()
    secrets: tuple[SecretGrant, ...] = ()
    limits: Limits = field(default_factory=Limits)
    use_image: bool = True

    def grants(self) -> list[dict[str, object]]:
        """The grants as they are recorded: a secret by its name only."""
        grants: tuple[Grant, ...] = (*self.directories, *self.environment, *self.secrets)
        return [grant.to_dict() for grant in grants]


class HostedProcess:
    """A process of this host. All methods may be called from any thread."""

    def __init__(self, pid: str) -> None:
        self.pid = pid
        self._running: RunningProcess | None = None
        self._killed: str | None = None
        self._lock = threading.Lock()

    def started(self, running: RunningProcess) -> None:
        with self._lock:
            self._running = running
            if self._killed is not None:
                running.kill(self._killed)

    def wait(self, timeout_s: float | None = None) -> Ending | None:
        """How it ended, or None when it has not after ``timeout_s``."""
        assert self._running is not None  # launch returns it started
        return self._running.wait(timeout_s)

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
        hosts.reap(self._table)
        self._forget(self._table.prune(keep_newest=KEPT_MAX))
        if sum(_log_bytes(folder) for folder in home.processes.iterdir()) > KEPT_BYTES_MAX:
            self._forget(self._table.prune(keep_newest=self._affordable()))
        self._watcher = _Watcher()
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

    def launch(self, request: LaunchRequest, *, stdin: Source, stdout: Sink, stderr: Sink) -> HostedProcess:
        """Begin a process; return when it runs. Getting what is missing here may take a minute.

        Raises:
            SojournError: it cannot be started; its record then says why.
        """
        environment = {grant.name: grant.value for grant in request.environment}
        environment |= {grant.name: find_secret(grant, self._environ, self.home) for grant in request.secrets}
        process = HostedProcess(self._record(request))
        identity = 1 + int.from_bytes(hashlib.sha256(process.pid.encode()).digest()[:3]) % IDENTITY_MAX
        launch = Launch(
            request.program,
            request.contents,
            request.args,
            environment,
            request.directories,
            request.limits,
            request.use_image,
            identity,
        )
        with ExitStack() as undo:
            try:
                return self._start(process, launch, (stdin, stdout, stderr), undo)
            except BaseException as error:
                reason = str(error) if isinstance(error, SojournError) else f"internal error: {error!r}"
                self._end_or_warn(process.pid, Ending(State.FAILED, reason=reason.partition("\n")[0]), None)
                raise

    def _record(self, request: LaunchRequest) -> str:
        pid = self._table.unused_pid()
        record = ProcessRecord(
            pid=pid,
            name=request.name,
            program=request.program.digest,
            created_s=time.time(),
            host_id=self._presence.host_id,
            os_pid=os.getpid(),
            limits=request.limits.to_dict(),
            grants=request.grants(),
            args=list(request.args),
        )
        self._table.insert(record)
        return pid

    def _start(
        self, process: HostedProcess, launch: Launch, streams: tuple[Source, Sink, Sink], undo: ExitStack
    ) -> HostedProcess:
        pid = process.pid
        folder = self.home.processes / pid
        log = undo.enter_context(OutputWriter(_made(folder) / "output"))
        control = ControlReceiver(folder / "control")
        self._watcher.add(control, process)
        undo.callback(self._watcher.remove, control)
        self._table.transition(pid, State.QUEUED, State.FETCHING)
        self.monitor.prepare(launch)
        self._table.transition(pid, State.FETCHING, State.STARTING)
        stdin, stdout, stderr = streams
        logged = Streams(stdin, LoggedSink(stdout, log, STDOUT), LoggedSink(stderr, log, STDERR))
        recorded = threading.Event()  # the end must not overtake the record of the start
        cleanup = undo.pop_all()

        def ended(ending: Ending) -> None:
            recorded.wait()
            with suppress(StoreError):  # a log that cannot be written any more; the ending still can
                cleanup.close()
            self._end_or_warn(pid, ending, process.usage())
            with self._lock:
                self._processes.discard(process)

        try:
            with self._lock:
                self._processes.add(process)
            running = self.monitor.start(launch, logged, ended)
        except BaseException:
            with self._lock:
                self._processes.discard(process)
            cleanup.close()
            raise
        process.started(running)
        self._table.transition(pid, State.STARTING, State.RUNNING, started_s=time.time(), image=running.image)
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


def _log_bytes(folder: Path) -> int:
    try:
        return (folder / "output").stat().st_size
    except OSError:  # no output, or another host forgets it now
        return 0


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def request_kill(home: Home, pid: str, reason: str) -> bool:
    """Ask the OS process that runs ``pid`` to end it; False when there is none."""
    return send_control(home.processes / pid / "control", {"request": "kill", "reason": reason})


class _Watcher:
    """One thread that reads the control FIFOs of all processes of this host."""

    def __init__(self) -> None:
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

    def close(self) -> None:
        self._closed = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
        os.close(self._wake_in)
        os.close(self._wake_out)
