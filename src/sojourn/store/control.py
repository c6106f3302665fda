"""Requests to the OS process that runs a guest: kill it.

One FIFO for each process, ``processes/<pid>/control``. The owner holds it open; when it dies, however it
dies, a sender is told at once that nobody is there. A message is one line of JSON, at most
``MESSAGE_BYTES_MAX`` long, which the operating system never mixes with another's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from sojourn.model.errors import StoreError

from .files import translated

MESSAGE_BYTES_MAX = 512  # POSIX: a write of at most so many bytes into a pipe is not divided
_READ_BYTES = 64 << 10


class ControlReceiver:
    """The owner's end at ``path``, which is made. Readable (``fileno``, ``select``) when a message waits.

    Raises:
        StoreError: the disk is full, read-only or not ours to write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = b""
        with translated(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # of an owner that died
            os.mkfifo(path, 0o600)
            # For writing too: otherwise it would be at its end whenever no sender has it open.
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)

    def fileno(self) -> int:
        return self._fd

    def receive_nowait(self) -> list[dict[str, Any]]:
        """The messages that have come. What is no message is passed over: only this user can write here."""
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return []
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[: MESSAGE_BYTES_MAX + 1]
        return [message for line in lines if (message := _decode(line)) is not None]

    def close(self) -> None:
        """Stop listening and remove the FIFO. Closing twice does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(fd)

    def __enter__(self) -> ControlReceiver:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def send_control(path: Path, message: dict[str, Any]) -> bool:
    """Send a message to the owner of the FIFO at ``path``.

    Returns:
        False when there is no owner (any more).

    Raises:
        ValueError: the message is too long.
        StoreError: the owner takes no messages, or what lies there is not its FIFO.
    """
    line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    if len(line) > MESSAGE_BYTES_MAX:
        raise ValueError(f"a control message of {len(line)} bytes; the most is {MESSAGE_BYTES_MAX}")
    try:
        with translated(path):
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT, errno.ENOTDIR):
            return False
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISFIFO(status.st_mode) or status.st_uid != os.geteuid():
            raise StoreError(f"{path} is not the control FIFO of a process", f"Try: rm {path}")
        os.write(fd, line)
    except BrokenPipeError:
        return False
    except BlockingIOError:
        raise StoreError(
            f"the owner of {path.parent.name} does not answer", "Try: end its sojourn process with kill -9"
        ) from None
    finally:
        os.close(fd)
    return True


def _decode(line: bytes) -> dict[str, Any] | None:
    if len(line) > MESSAGE_BYTES_MAX:
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
