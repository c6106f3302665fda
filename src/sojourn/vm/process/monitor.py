"""The monitor of level ``process``: makes a virtual machine for a program and runs it on a thread.

Starting is in two steps, so that states never lie: ``prepare`` gets what is missing on this host (compiled
code, an image), which can take a minute the first time; ``start`` begins the process and returns at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sojourn.context import Base, BaseKind, Context
from sojourn.model.errors import ContextError
from sojourn.model.grants import DirectoryGrant
from sojourn.model.limits import Limits
from sojourn.model.priority import Priority
from sojourn.model.program import SITE_PREFIX, STDIN, Program
from sojourn.model.progress import Progress, Silent
from sojourn.model.states import Ending, State
from sojourn.store.checkpoints import Stored
from sojourn.store.home import Home

from .command import Command
from .compiled import CompiledModules
from .engine import THREAD_STACK_BYTES, Instance
from .images import Image
from .room import raise_descriptors, room
from .runtime import PROGRAM_FOLDER, PythonRuntime, PythonStart
from .snapshots import put
from .streams import Streams
from .virtual_machine import Usage, VirtualMachine

# Variables that packages read while they are imported: too late when the import is in the image.
_READ_AT_IMPORT = ("PYTHON", "MPL", "NPY_", "NUMPY_", "PANDAS_", "SCIPY_", "SKLEARN_", "OPENBLAS_", "TZ")
_stack_size_lock = threading.Lock()
SUSPENDED = Ending(State.SUSPENDED, reason="suspended")  # of one life, not of the process
T = TypeVar("T")


@dataclass(frozen=True)
class Launch:
    """Everything that a start needs, as values.

    Attributes:
        argv: the arguments after the program.
        environment: granted variables and secrets together; never recorded.
        use_image: False starts the interpreter cold.
        identity: what the guest takes for its process number.
        priority: its share of the processors.
        waited_ns: how long it lay evicted while it waited; only for one that goes on.
    """

    program: Program
    contents: Mapping[str, bytes]
    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    directories: tuple[DirectoryGrant, ...] = ()
    limits: Limits = field(default_factory=Limits)
    use_image: bool = True
    identity: int = 1
    priority: Priority = Priority.NORMAL
    waited_ns: int = 0


@dataclass(frozen=True)
class Service:
    """A process that serves functions: what it may use.

    Attributes:
        imports: modules that its image shall hold.
    """

    imports: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    directories: tuple[DirectoryGrant, ...] = ()
    limits: Limits = field(default_factory=Limits)
    identity: int = 1


class RunningProcess:
    """A guest on its thread. All methods may be called from any thread."""

    def __init__(self, machine: VirtualMachine, image: str | None) -> None:
        self.image = image
        self._machine = machine
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ending: Ending | None = None
        self._orders: list[_Order[Any]] = []

    def wait(self, timeout_s: float | None = None) -> Ending | None:
        """How it ended, or None when it has not after ``timeout_s``."""
        return self._ending if self._ended.wait(timeout_s) else None

    def kill(self, reason: str) -> None:
        """End it, at once: the guest polls."""
        with self._lock:
            if self._ending is None:
                self._machine.kill(reason)

    def usage(self) -> Usage:
        """What it has used; final once it has ended."""
        return self._machine.usage()

    def wake(self) -> None:
        """One of its sources has something."""
        with self._lock:
            if self._ending is None:
                self._machine.surroundings.wake()

    def when_idle(self, after_s: float, call: Callable[[], object]) -> None:
        """Have ``call`` called, on the guest's thread, whenever it has waited ``after_s`` in one call."""
        with self._lock:
            if self._ending is None:
                self._machine.surroundings.when_idle(after_s, call)

    def at_rest(self, work: Callable[[VirtualMachine], T], *, stop: bool) -> Future[T]:
        """Have the guest left in the middle, and do ``work`` on its machine while it stands still.

        Args:
            work: called on the guest's thread; what it returns or raises is the future's.
            stop: the process then ends here, suspended, if ``work`` succeeded. Otherwise it goes on.

        Returns:
            A future, cancelled when the process ended first.
        """
        order = _Order(work, stop)
        with self._lock:
            if self._ending is None:
                self._orders.append(order)
                self._machine.suspend()
            else:
                order.future.cancel()
        return order.future

    def begin(
        self,
        enter: Callable[[Instance], int | None] | None,
        ended: Callable[[Ending], None] = lambda ending: None,
    ) -> None:
        """Start the guest's thread, with the stack that the engine may use.

        Args:
            enter: what the machine runs; None when it goes on with what it was restored to.
            ended: called on the guest's thread at the end, before ``wait`` returns.

        Raises:
            HostFullError: the system gives no more threads. The machine is closed then.
        """
        thread = threading.Thread(target=self._run, args=(enter, ended), name="sojourn-guest", daemon=True)
        with _stack_size_lock:
            before = threading.stack_size(THREAD_STACK_BYTES)
            try:
                with room():
                    thread.start()
            except BaseException:
                self._machine.close()
                raise
            finally:
                threading.stack_size(before)

    def _run(self, enter: Callable[[Instance], int | None] | None, ended: Callable[[Ending], None]) -> None:
        ending = self._machine.go_on() if enter is None else self._machine.run(enter)
        while ending is None:
            ending = SUSPENDED if self._obey() else self._machine.go_on()
        with self._lock:
            self._ending = ending
            orders, self._orders = self._orders, []
        for order in orders:
            order.future.cancel()
        self._machine.close()
        try:
            ended(ending)
        finally:
            self._ended.set()

    def _obey(self) -> bool:
        """Do what was asked for while the guest stands still; whether it is to stay so."""
        stop = False
        while True:
            with self._lock:
                if not self._orders:
                    self._machine.stay()
                    return stop
                order = self._orders.pop(0)
            if order.future.set_running_or_notify_cancel():
                try:
                    order.future.set_result(order.work(self._machine))
                    stop = stop or order.stop
                except BaseException as error:  # noqa: BLE001 - it is the future's
                    order.future.set_exception(error)


@dataclass
class _Order(Generic[T]):
    """Something to be done while a guest stands still."""

    work: Callable[[VirtualMachine], T]
    stop: bool
    future: Future[T] = field(default_factory=Future)


class ProcessMonitor:
    """Runs programs in process VMs. One for each home and operating-system process; thread-safe."""

    def __init__(self, home: Home, *, progress: Progress | None = None) -> None:
        raise_descriptors()
        self._home = home
        self._progress = progress or Silent()
        self._modules = CompiledModules(home, self._progress)
        self._python: PythonRuntime | None = None
        self._python_lock = threading.Lock()

    def python(self) -> PythonRuntime:
        """The Python runtime, compiled when that was never done here."""
        with self._python_lock:
            if self._python is None:
                self._python = PythonRuntime(self._home, self._modules, self._progress)
            return self._python

    def prepare(self, launch: Launch, context: Context | None = None) -> None:
        """Get what is missing on this host, for a start or to go on with ``context``.

        Raises:
            ModuleError, RuntimeUnavailableError: it cannot be had.
            ContextError: the image that the context was made over is not here.
        """
        if launch.program.entry.kind == "wasm":
            self._command(launch)
        elif context is not None:
            self._image_of(self.python(), context)
            self.python().expect(launch.program.imports)
        else:
            self._image(launch)

    def start(
        self, launch: Launch, streams: Streams, ended: Callable[[Ending], None] = lambda ending: None
    ) -> RunningProcess:
        """Begin a process and return at once; ``ended`` is called on the guest's thread when it has ended.

        Raises:
            ModuleError, RuntimeUnavailableError: as ``prepare``, when that was not called.
        """
        if launch.program.entry.kind == "wasm":
            command = self._command(launch)
            files = _files_beside(launch)
            machine = command.start(
                launch.argv, launch.environment, launch.limits, streams, files, launch.directories
            )
            machine.share_by(launch.priority.weight)
            process = RunningProcess(machine, None)
            process.begin(command.enter, ended)
        else:
            runtime, image = self.python(), self._image(launch)
            machine = runtime.start(image, launch.limits, streams, launch.contents, launch.directories)
            machine.entered_cold = image is None
            machine.share_by(launch.priority.weight)
            process = RunningProcess(machine, image.info.digest if image else None)
            process.begin(runtime.entry(_python_start(launch), image), ended)
        return process

    def resume(
        self,
        launch: Launch,
        stored: Stored,
        streams: Streams,
        ended: Callable[[Ending], None] = lambda ending: None,
    ) -> RunningProcess:
        """Go on with a stored context, as ``start`` begins a process. ``launch`` has the grants to bind
        again.

        Raises:
            ContextError: it cannot go on here; nothing of it has run.
            GrantError: a grant cannot be bound again.
        """
        context = stored.context
        if launch.program.entry.kind == "wasm":
            files = _files_beside(launch)
            machine = self._command(launch).start(
                launch.argv, launch.environment, launch.limits, streams, files, launch.directories, context
            )
            image = None
        else:
            runtime = self.python()
            image = self._image_of(runtime, context)
            machine = runtime.start(
                image, launch.limits, streams, launch.contents, launch.directories, context
            )
        try:
            put(machine, stored, None if image is None else image.view(), launch.identity)
            machine.surroundings.let_pass(launch.waited_ns)
        except BaseException:
            machine.close()
            raise
        machine.share_by(launch.priority.weight)
        process = RunningProcess(machine, image.info.digest if image else None)
        process.begin(None, ended)
        return process

    def _image_of(self, runtime: PythonRuntime, context: Context) -> Image | None:
        base = context.memories[0].base if context.memories else Base()
        if base.kind is not BaseKind.IMAGE:
            return None
        image = runtime.find_image(base.digest)
        if image is None:
            raise ContextError(
                f"the image {base.digest[:12]} that it was started from is not here",
                "Try: a checkpoint written with -o, which needs no image",
            )
        return image

    def serve(self, service: Service, streams: Streams, ended: Callable[[Ending], None]) -> RunningProcess:
        """Begin a process that answers requests: ``streams.extra`` are where it reads and writes them."""
        runtime = self.python()
        image = runtime.image(service.imports)
        machine = runtime.start(image, service.limits, streams, grants=service.directories)
        start = PythonStart(
            kind="serve",
            target="",
            argv=("",),
            path_first=("",),
            environment=service.environment,
            identity=service.identity,
            descriptors=machine.system.extra_numbers,
        )
        process = RunningProcess(machine, image.info.digest)
        process.begin(runtime.entry(start, image), ended)
        return process

    def _image(self, launch: Launch) -> Image | None:
        runtime = self.python()
        if not launch.use_image:
            return None
        early = any(name.startswith(_READ_AT_IMPORT) for name in launch.environment)
        return runtime.image(() if early else launch.program.imports)

    def _command(self, launch: Launch) -> Command:
        target = launch.program.entry.target
        code = launch.contents[target]
        digest = next(file.digest for file in launch.program.files if file.name == target)
        return Command(self._modules, target, digest, code)


def _files_beside(launch: Launch) -> dict[str, bytes]:
    """The files of a command but its module."""
    return {name: data for name, data in launch.contents.items() if name != launch.program.entry.target}


def _python_start(launch: Launch) -> PythonStart:
    """What the interpreter is told, for each kind of entry; ``sys.argv`` and ``sys.path`` as ``python`` sets
    them, with the program's folder where the script's would be."""
    entry = launch.program.entry
    kind, target, name = entry.kind, entry.target, "<string>"
    first: tuple[str, ...] = ("", PROGRAM_FOLDER)
    if kind == "script" and target == STDIN:
        kind, name, argv0 = "code", STDIN, "-"
        target = launch.contents[entry.target].decode("utf-8-sig")
    elif kind == "script":
        target = argv0 = f"{PROGRAM_FOLDER}/{target}"
        first = (target.rpartition("/")[0],)
    else:
        argv0 = "-c" if kind == "code" else "-m"
    return PythonStart(
        kind=kind,
        target=target,
        argv=(argv0, *launch.argv),
        path_first=first,
        path_last=(f"{PROGRAM_FOLDER}/{SITE_PREFIX.rstrip('/')}",) if launch.program.dependencies else (),
        environment=launch.environment,
        identity=launch.identity,
        name=name,
    )
