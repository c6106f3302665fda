"""A sandbox that serves functions: one guest, one stream of requests, one of replies.

Requests are put into memory that the guest's reads are served from; replies are taken apart on the guest's
own thread, inside its write, and settle their futures there. So a call costs no thread of its own.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TextIO

from sojourn.functions.assembler import Assembler
from sojourn.functions.protocol import Closed, Connection, Raised, Refused, Returned
from sojourn.model.errors import CodecError, ProcessFailedError
from sojourn.model.states import Ending
from sojourn.vm.process.monitor import ProcessMonitor, Service
from sojourn.vm.process.streams import Feed, Given, Receiver, Streams

from .calls import Call


class Sandbox:
    """Started at once; ``calls`` are those sent and not answered, in the order they were sent.

    Args:
        answered: called after each reply, on the guest's thread.
        ended: called once, when the guest has ended, with the calls that were sent and never begun; the
            one that was being executed has failed.
    """

    def __init__(
        self,
        monitor: ProcessMonitor,
        service: Service,
        answered: Callable[[Sandbox], None],
        ended: Callable[[Sandbox, list[Call]], None],
    ) -> None:
        self.calls: dict[int, Call] = {}
        self.alive = True
        self._answered = answered
        self._ended = ended
        self._connection = Connection()
        self._assembler = Assembler()
        self._lock = threading.Lock()
        self._fault: CodecError | None = None
        self._requests = Feed()
        streams = Streams(
            Given(),
            Forwarded(sys.stdout),
            Forwarded(sys.stderr),
            (self._requests, Receiver(self._take)),
        )
        self._limits = service.limits
        self._process = monitor.serve(service, streams, self._on_end)
        self._requests.woken = self._process.wake

    def send(self, call: Call) -> bool:
        """Send a call's request, or settle the call when its arguments cannot be sent. False when the guest
        has ended: the call must then be made elsewhere."""
        try:
            with self._lock:
                if not self.alive:
                    return False
                number, messages = self._connection.call(call.program, call.args, call.kwargs)
                # The caller may change its arrays as soon as it has the future: so they are copied here.
                parts = [bytes(part) for message in messages for part in message.parts()]
                self.calls[number] = call
            self._requests.put(*parts)
        except CodecError as error:
            call.future.settle(error=error)
            self._answered(self)
        except BrokenPipeError:
            return True  # the guest has just ended; _on_end has the call
        return True

    def _take(self, data: memoryview) -> None:
        try:
            for message in self._assembler.feed(data):
                with self._lock:
                    event = self._connection.receive(message)
                    call = (
                        None if event is None or isinstance(event, Closed) else self.calls.pop(event.number)
                    )
                if isinstance(event, Returned) and call is not None:
                    call.future.settle(event.value)
                elif isinstance(event, Raised | Refused) and call is not None:
                    call.future.settle(error=event.error)
                if call is not None:
                    self._answered(self)
        except CodecError as error:
            self._fault = error
            raise BrokenPipeError(str(error)) from error

    def _on_end(self, ending: Ending) -> None:
        self._requests.close()
        with self._lock:
            self.alive = False
            calls, self.calls = list(self.calls.values()), {}
        for begun in calls[:1]:
            begun.future.settle(error=self._fault or _failure(ending))
        self._ended(self, calls[1:])

    def worn(self) -> bool:
        """Whether it has used so much of its limits that the next call should get a new one. Only on the
        guest's thread."""
        usage, limits = self._process.usage(), self._limits
        return (
            usage.cpu_seconds > limits.cpu_seconds / 2
            or usage.wall_seconds > limits.wall_seconds / 2
            or usage.output_bytes > limits.output_bytes / 2
            or usage.host_calls > limits.host_calls / 2
        )

    def forget(self) -> None:
        """The open calls are somebody else's now."""
        with self._lock:
            self.calls = {}

    def kill(self, reason: str) -> None:
        self._process.kill(reason)

    def close(self) -> None:
        """Let the guest end by itself: it sees the end of its requests."""
        self._requests.close()

    def join(self, timeout_s: float) -> bool:
        return self._process.wait(timeout_s) is not None


def _failure(ending: Ending) -> ProcessFailedError:
    reason = ending.reason or f"it exited with status {ending.exit_code}"
    return ProcessFailedError(f"the function's process ended without a result: {reason}")


class Forwarded:
    """A sink that passes a guest's text on to a stream of this program."""

    tty = False

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, data: memoryview) -> int:
        try:
            self._stream.write(str(data, "utf-8", "replace"))
            self._stream.flush()
        except (ValueError, OSError):  # closed, or nobody reads it: the function's result matters more
            return len(data)
        return len(data)
