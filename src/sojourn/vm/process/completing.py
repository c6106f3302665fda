"""Compiles the whole interpreter in the background, once, after a first program ran with parts of it.

Split, the interpreter starts at once but its calls between parts go through stubs, and what was never called
has yet to be compiled. So an OS process of its own (``python -m`` this module), detached and of a priority
at which it runs when nothing else would, compiles it whole. Starts use that as soon as it lies in the cache.
A lock sees to it that there is one such process for a home; it ends when it is done, when the home is gone,
and for good after ``ATTEMPTS_MAX`` attempts that came to nothing. ``SOJOURN_COMPLETE=0`` says never to begin
one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from sojourn.model.errors import SojournError
from sojourn.model.progress import Silent
from sojourn.store.home import Home

from .artifacts import find_python

VARIABLE = "SOJOURN_COMPLETE"
ATTEMPTS_MAX = 3
_NICE = 19
_LOOK_S = 1.0
# Set before anything of ours is imported, so that not even that takes time from the program that just began.
_IDLY = """
import os, sys
if hasattr(os, "SCHED_IDLE"):
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.execv(sys.argv[1], sys.argv[1:])
"""


def begin(home: Home) -> None:
    """Begin it, unless it is not wanted or was tried too often. Never fails: it only saves time."""
    if os.environ.get(VARIABLE) == "0" or attempts(home) >= ATTEMPTS_MAX or not sys.executable:
        return
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with suppress(OSError):
        process = subprocess.Popen(
            [sys.executable, "-ISc", _IDLY, sys.executable, "-m", __name__, str(home.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=home.path,
            env=environment,
            start_new_session=True,
        )
        threading.Thread(target=process.wait, name="sojourn-completing", daemon=True).start()


def attempts(home: Home) -> int:
    """How often it was begun and did not come to its end."""
    try:
        return len(_attempts_file(home).read_bytes())
    except OSError:
        return 0


def _attempts_file(home: Home) -> Path:
    return home.cache / "completing.attempts"


def main(path: Path) -> None:
    """Be that process."""
    os.nice(_NICE)
    threading.Thread(target=_end_with, args=(path,), daemon=True).start()
    from .compiled import CompiledModules

    home = Home.open(path)
    artifacts = find_python()
    modules = CompiledModules(home, Silent())

    def read() -> bytes:
        with _attempts_file(home).open("ab") as file:
            file.write(b".")
        return artifacts.read_module()

    with suppress(SojournError):
        if modules.complete(artifacts.module_digest, read, "CPython"):
            _attempts_file(home).unlink(missing_ok=True)


def _end_with(path: Path) -> None:
    """End this process, and with it its workers, when the home is gone."""
    while path.is_dir():
        time.sleep(_LOOK_S)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
