"""A process in the foreground: waits for its end, with the terminal's signals."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import click

from sojourn.host.status import exit_status
from sojourn.model.errors import SojournError
from sojourn.model.states import Ending, State

if TYPE_CHECKING:
    from sojourn.host.embedded import EmbeddedHost
    from sojourn.host.hosted import HostedProcess

_POLL_S = 0.2
_PATIENCE_S = 2.0  # a process that was told to end has this long before asking again ends us
SUSPENDED_STATUS = 148  # as a shell has it for a program that Ctrl-Z stopped


def attend(
    host: EmbeddedHost,
    process: HostedProcess,
    signals: Signals,
    *,
    quiet: bool,
    as_json: bool,
    checkpoint_every_s: float | None = None,
) -> int:
    """Wait for the end of a process, and tell how it ended; the exit status for us.

    Args:
        checkpoint_every_s: store it so often.
    """
    signals.watch(process.kill, lambda: _suspend(host, process))
    if checkpoint_every_s is not None:
        host.store_every(process, checkpoint_every_s, _complain)
    ending = None
    while ending is None:
        ending = process.wait(_POLL_S)
    if not quiet:
        _tell(process.pid, ending, as_json, vars(process.usage()))
    if ending.state is State.SUSPENDED:
        return SUSPENDED_STATUS
    status = exit_status(ending)
    if status == 141:
        _die_quietly()
    return status


def _suspend(host: EmbeddedHost, process: HostedProcess) -> None:
    def done(future: Future[Any]) -> None:
        if not future.cancelled():
            _complain(future.exception())

    host.checkpoint(process, stop=True).add_done_callback(done)


def _complain(error: BaseException | None) -> None:
    if isinstance(error, SojournError):
        click.echo(f"{click.style('warning:', fg='yellow', bold=True)} not stored: {error}", err=True)


def _tell(pid: str, ending: Ending, as_json: bool, usage: dict[str, Any]) -> None:
    if ending.state is State.SUSPENDED and not as_json:
        click.echo(f"{pid} is suspended; go on with: sojourn resume {pid}", err=True)
    elif as_json:
        click.echo(json.dumps({"pid": pid, **ending.to_dict(), "usage": usage}), err=True)
    elif ending.state is not State.EXITED and ending.reason not in ("interrupted", "its output is closed"):
        click.echo(f"{click.style('error:', fg='red', bold=True)} {ending.reason}", err=True)


def _die_quietly() -> None:
    """Nobody reads our output: let nothing try to flush it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class Signals:
    """While it is entered, the signals that end a program end the guest, and we then end in order."""

    def __init__(self) -> None:
        self._kill: Callable[[str], None] | None = None
        self._suspend: Callable[[], None] = lambda: None
        self._reason: str | None = None
        self._asked_s = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._on_signal)
        self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, lambda *_: self._suspend())
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._kill is None:  # it is being started: that ends in order, and so do we
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        if self._reason is None:
            self._end("interrupted" if number == signal.SIGINT else f"signal {signal.Signals(number).name}")
        elif time.monotonic() - self._asked_s > _PATIENCE_S:
            os._exit(128 + number)

    def output_closed(self) -> None:
        self._end("its output is closed")

    def _end(self, reason: str) -> None:
        self._reason, self._asked_s = reason, time.monotonic()
        if self._kill is not None:
            self._kill(reason)

    def watch(self, kill: Callable[[str], None], suspend: Callable[[], None]) -> None:
        """What to do from now on: Ctrl-C ends the guest, Ctrl-Z suspends it."""
        self._kill, self._suspend = kill, suspend
        if self._reason is not None:
            kill(self._reason)
