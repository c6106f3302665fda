"""Room for processes in one operating-system process: the system limits descriptors, threads and mappings.

A process takes two descriptors and one for each directory granted, a thread, and about eight mappings of
memory.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sojourn.model.errors import HostFullError, ModuleError

_MAPPINGS_MAX = Path("/proc/sys/vm/max_map_count")
_NO_MEMORY = "os error 12"  # in the engine's words
_NO_THREAD = "can't start new thread"  # in Python's


def raise_descriptors() -> None:
    """Use as many descriptors as this user may: shells allow 1,024 at first, for the sake of old programs."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            with suppress(ValueError, OSError):  # a system that has a lower limit of its own
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def room() -> Iterator[None]:
    """Tell the system's refusals apart from everything else that can go wrong.

    Raises:
        HostFullError: the system gives no more; the hint names the limit to raise.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise HostFullError(
                "no more files can be open at one time in this operating-system process",
                "Try: fewer processes at one time, or a higher ulimit -n (LimitNOFILE= of a systemd unit)",
            ) from error
        if error.errno == errno.ENFILE:
            raise HostFullError(
                "no more files can be open on this machine", "Try: sysctl fs.file-max, or fewer processes"
            ) from error
        if error.errno == errno.ENOMEM:
            raise _no_memory() from error
        raise
    except RuntimeError as error:
        if _NO_THREAD not in str(error):
            raise
        raise HostFullError(
            "the system gives no more threads",
            "Try: fewer processes at one time, or a higher ulimit -u, sysctl kernel.pid_max, or pids.max of "
            "the control group",
        ) from error
    except ModuleError as error:
        if _NO_MEMORY not in str(error):
            raise
        raise _no_memory() from error


def _no_memory() -> HostFullError:
    with suppress(OSError, ValueError):
        most = int(_MAPPINGS_MAX.read_text())
        with Path(f"/proc/{os.getpid()}/maps").open("rb") as file:
            used = sum(1 for _ in file)
        if used > most * 0.9:
            return HostFullError(
                f"this operating-system process has {used:,} mappings of memory, of {most:,}",
                f"Try: sysctl -w vm.max_map_count={4 * most}, or fewer processes at one time",
            )
    return HostFullError(
        "the system gives no more memory",
        "Try: fewer processes at one time, a higher ulimit -v, or more memory",
    )
