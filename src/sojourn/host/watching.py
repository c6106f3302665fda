"""Hears what other operating-system processes ask of the processes of this host."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sojourn.store.control import ControlReceiver
from sojourn.vm.process.surroundings import ready

from .hosted import HostedProcess


class Watcher:
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
