"""The monitor of level ``process``: makes a virtual machine for a program and runs it on a thread.

Starting is in two steps, so that states never lie: ``prepare`` gets what is missing on this host (compiled
code, an image), which can take a minute the first time; ``start`` begins the process and returns at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sojourn.model.grants import DirectoryGrant
from sojourn.model.limits import Limits
from sojourn.model.program import Program
from sojourn.model.progress import Progress, Silent
from sojourn.model.states import Ending
from sojourn.store.home import Home

from .command import CommandRuntime
from .compiled import CompiledModules
from .engine import THREAD_STACK_BYTES, Instance
from .images import Image
from .runtime import PythonRuntime, PythonStart, Streams, python_start
from .virtual_machine import Usage, VirtualMachine

# Variables that packages read while they are imported: too late when the import is in the image.
_READ_AT_IMPORT = ("PYTHON", "MPL", "NPY_", "NUMPY_", "PANDAS_", "SCIPY_", "SKLEARN_", "OPENBLAS_", "TZ")
_stack_size_lock = threading.Lock()


@dataclass(frozen=True)
class Launch:
    """Everything that a start needs, as values.

    Attributes:
        argv: the arguments after the program.
        environment: granted variables and secrets together; never recorded.
        use_image: False starts the interpreter cold.
        identity: what the guest takes for its process number.
    """

    program: Program
    contents: Mapping[str, bytes]
    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    directories: tuple[DirectoryGrant, ...] = ()
    limits: Limits = field(default_factory=Limits)
    use_image: bool = True
    identity: int = 1


class RunningProcess:
    """A guest on its thread. All methods may be called from any thread."""

    def __init__(self, machine: VirtualMachine, image: str | None) -> None:
        self.image = image
        self._machine = machine
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ending: Ending | None = None

    def wait(self, timeout_s: float | None = None) -> Ending | None:
        """How it ended, or None when it has not after ``timeout_s``."""
        return self._ending if self._ended.wait(timeout_s) else None

    def kill(self, reason: str) -> None:
        """End it: a computing guest stops within a few ticks of the engine, a waiting one at once."""
        with self._lock:
            if self._ending is None:
                self._machine.kill(reason)

    def usage(self) -> Usage:
        """What it has used; final once it has ended."""
        return self._machine.usage()

    def begin(self, enter: Callable[[Instance], int | None]) -> None:
        """Start the guest's thread, with the stack that the engine may use."""
        thread = threading.Thread(target=self._run, args=(enter,), name="sojourn-guest", daemon=True)
        with _stack_size_lock:
            before = threading.stack_size(THREAD_STACK_BYTES)
            try:
                thread.start()
            finally:
                threading.stack_size(before)

    def _run(self, enter: Callable[[Instance], int | None]) -> None:
        ending = self._machine.run(enter)
        with self._lock:
            self._ending = ending
        self._machine.close()
        self._ended.set()


class ProcessMonitor:
    """Runs programs in process VMs. One for each home and operating-system process; thread-safe."""

    def __init__(self, home: Home, *, progress: Progress | None = None) -> None:
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

    def prepare(self, launch: Launch) -> None:
        """Get what is missing on this host.

        Raises:
            ModuleError, RuntimeUnavailableError: it cannot be had.
        """
        if launch.program.entry.kind == "wasm":
            self._command(launch)
        else:
            self._image(launch)

    def start(self, launch: Launch, streams: Streams) -> RunningProcess:
        """Begin a process and return at once.

        Raises:
            ModuleError, RuntimeUnavailableError: as ``prepare``, when that was not called.
        """
        if launch.program.entry.kind == "wasm":
            command = self._command(launch)
            machine = command.start(launch, streams)
            process, enter = RunningProcess(machine, None), command.enter
        else:
            runtime, image = self.python(), self._image(launch)
            machine = runtime.start(image, launch.limits, streams, launch.contents, launch.directories)
            process = RunningProcess(machine, image.info.digest if image else None)
            enter = runtime.entry(_python_start(launch), image)
        process.begin(enter)
        return process

    def _image(self, launch: Launch) -> Image | None:
        runtime = self.python()
        if not launch.use_image:
            return None
        early = any(name.startswith(_READ_AT_IMPORT) for name in launch.environment)
        return runtime.image(() if early else launch.program.imports)
