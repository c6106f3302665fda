"""A sandbox that serves functions: one guest, one stream of requests, one of replies.

Both ends of the streams are memory of ours, and are served on the guest's own thread: its read takes the next
call, its write settles the future. So a call costs no thread of its own, and the conversation needs no lock.
"""

from __future__ import annotations

import codecs
import io
import select
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol, TextIO

from sojourn.functions.assembler import Assembler
from sojourn.functions.protocol import Connection, Event, Raised, Refused, Returned
from sojourn.functions.wire import MESSAGE_BYTES_MAX, Message
from sojourn.model.errors import CodecError, ProcessFailedError, SojournError
from sojourn.model.states import Ending
from sojourn.vm.process.monitor import ProcessMonitor, RunningProcess, Service
from sojourn.vm.process.streams import Given, Receiver, Streams
from sojourn.vm.process.surroundings import ready

from .calls import Call

WORN_CHECK_S = 0.1
# A pipe that is ready has room for PIPE_BUF bytes; no encoding makes more than four of a byte of UTF-8.
_PIECE_BYTES = select.PIPE_BUF // 4


class Source(Protocol):
    """Where a sandbox's calls come from, and who is told of them; all on the guest's thread."""

    def take(self) -> Call | None: ...
    def answered(self, worn: bool) -> None: ...
    def ended(self, error: SojournError) -> None: ...


class Sandbox:
    """Started at once; its guest then makes one call of ``source`` after the other."""

    def __init__(self, monitor: ProcessMonitor, service: Service, source: Source) -> None:
        self._source = source
        self._connection = Connection()
        # No value of the guest's can be larger than the guest.
        self._assembler = Assembler(min(MESSAGE_BYTES_MAX, service.limits.memory_bytes))
        self._call: Call | None = None
        self._fault: CodecError | None = None
        self._limits = service.limits
        self._worn_check_s = time.monotonic() + WORN_CHECK_S
        streams = Streams(
            Given(),
            Forwarded(sys.stdout),
            Forwarded(sys.stderr),
            (Requests(self._next), Receiver(self._take)),
        )
        self._process: RunningProcess | None = None
        self._process = monitor.serve(service, streams, self._on_end)

    def _next(self) -> list[Message] | None:
        """What to send for the next call; None when there is none now."""
        call = self._source.take()
        if call is None:
            return None
        self._call = call
        value, call.value = call.value, None  # a copy of large arguments lives only until they are sent
        assert value is not None
        return self._connection.call(call.program, value)[1]

    def _take(self, data: memoryview) -> None:
        if self._fault is not None:  # after nonsense nothing can be known to be a message
            raise BrokenPipeError(str(self._fault))
        try:
            for message in self._assembler.feed(data):
                event = self._connection.receive(message)
                if event is not None:
                    self._settle(event)
        except CodecError as error:
            self._fault = error
            self.kill(f"it broke the protocol: {error.message}")
            raise BrokenPipeError(str(error)) from error

    def _settle(self, event: Event) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        # First the pool, then the caller: whose next call then finds this sandbox about to be free.
        self._source.answered(self._is_worn())
        if isinstance(event, Returned):
            call.future.settle(event.value)
        elif isinstance(event, Raised | Refused):
            call.future.settle(error=event.error)

    def _is_worn(self) -> bool:
        """Whether it has used so much of its limits that the next call should get a new one."""
        now = time.monotonic()
        if now < self._worn_check_s or self._process is None:
            return False
        self._worn_check_s = now + WORN_CHECK_S
        usage, limits = self._process.usage(), self._limits
        return (
            usage.cpu_seconds > limits.cpu_seconds / 2
            or usage.wall_seconds > limits.wall_seconds / 2
            or usage.output_bytes > limits.output_bytes / 2
            or usage.host_calls > limits.host_calls / 2
        )

    def _on_end(self, ending: Ending) -> None:
        self._source.ended(self._fault or _failure(ending))

    def wake(self) -> None:
        """``source`` may have a call, or its end: ask it again."""
        if self._process is not None:
            self._process.wake()

    def kill(self, reason: str) -> None:
        if self._process is not None:  # None only while it is being made, when its guest has just begun
            self._process.kill(reason)

    def join(self, timeout_s: float) -> bool:
        return self._process is None or self._process.wait(timeout_s) is not None


class Requests:
    """The source that the guest reads its requests from: asks for more when all has been read."""

    tty = False

    def __init__(self, next_messages: Callable[[], list[Message] | None]) -> None:
        self._next = next_messages
        self._left: deque[memoryview] = deque()
        self._at_end = False

    def read_nowait(self, size: int) -> bytes | memoryview | None:
        if not self._left and not self._at_end:
            try:
                messages = self._next()
            except EOFError:
                self._at_end = True
            else:
                if messages is None:
                    return None
                self._left.extend(memoryview(part) for message in messages for part in message.parts())
        if not self._left:
            return b""
        first = self._left.popleft()
        if len(first) > size:
            self._left.appendleft(first[size:])
        return first[:size]


def _failure(ending: Ending) -> ProcessFailedError:
    reason = ending.reason or f"it exited with status {ending.exit_code}"
    return ProcessFailedError(f"the function's process ended without a result: {reason}")


class Forwarded:
    """A sink that passes a guest's text on to a stream of this program; None: it has none.

    The stream may be a pipe that nobody reads at the moment. The guest must not wait in *our* write then,
    where nothing could end it: we take no more than there is room for, and it waits where it can be killed.
    """

    tty = False

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a write may end within a character
        # Streams of other kinds (a notebook's) write elsewhere than to the descriptor that they name.
        if isinstance(stream, io.TextIOWrapper):
            with suppress(ValueError, OSError):
                self.fileno = partial(int, stream.fileno())  # stays what it is when the stream is closed

    def write(self, data: memoryview) -> int:
        try:
            if hasattr(self, "fileno"):
                if not ready([], 0, writers=[self.fileno()]):
                    return 0
                data = data[:_PIECE_BYTES]
            if self._stream is not None:
                self._stream.write(self._decoder.decode(bytes(data)))
                self._stream.flush()
        except (ValueError, OSError):  # closed, or nobody reads it: the function's result matters more
            return len(data)
        return len(data)
