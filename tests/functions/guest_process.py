"""A guest for tests: the real guest files on another interpreter, at the other end of two pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from sojourn.functions.codec import Registry, encode
from sojourn.functions.protocol import Connection, Raised, Refused, Returned
from sojourn.functions.ship import Shipped, ship
from sojourn.functions.wire import Message, read_message
from sojourn.vm.process.guest import function_server_files

_START = """
import sys
sys.path.insert(0, {path!r})
from sojourn_guest.serve import serve
serve({fd_in}, {fd_out})
"""
AVAILABLE = frozenset({"numpy", "pandas"})


class Guest:
    """A guest process. ``isolated`` leaves out all installed packages, as the sandbox does."""

    def __init__(self, folder: Path, python: str = sys.executable, isolated: bool = False) -> None:
        for name, content in function_server_files().items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        fd_in, write = os.pipe()
        read, fd_out = os.pipe()
        code = _START.format(path=str(folder), fd_in=fd_in, fd_out=fd_out)
        flags = ["-I", "-S"] if isolated else ["-I"]
        self.process = subprocess.Popen(
            [python, *flags, "-c", code],
            pass_fds=(fd_in, fd_out),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        os.close(fd_in)
        os.close(fd_out)
        self.requests = os.fdopen(write, "wb", buffering=0)
        self.replies = os.fdopen(read, "rb", buffering=0)
        self.connection = Connection()

    def send(self, message: Message) -> None:
        for part in message.parts():
            view = memoryview(part)
            while view:
                view = view[self.requests.write(view) :]

    def reply(self) -> Message:
        message = read_message(self.replies.readinto)
        assert message is not None, self.process.communicate()
        return message

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        program = function if isinstance(function, Shipped) else ship(function, AVAILABLE)
        value = encode([list(args), kwargs], Registry(program.classes))
        number, messages = self.connection.call(program, value)
        for message in messages:
            self.send(message)
        event = None
        while event is None:
            event = self.connection.receive(self.reply())
        assert event.number == number
        match event:
            case Returned(value=value):
                return value
            case Raised(error=error) | Refused(error=error):
                raise error
        raise AssertionError(event)

    def close(self) -> tuple[bytes, bytes]:
        """End the guest; what it wrote to its standard output and error."""
        if not self.requests.closed:
            self.requests.close()
        out, err = self.process.communicate(timeout=60)
        self.replies.close()
        return out, err
