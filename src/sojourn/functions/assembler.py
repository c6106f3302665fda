"""Messages out of bytes as they come, for a reader that is called instead of calling.

The host's side of a guest's stream runs on the guest's own thread, inside its system call, and may not wait
for more: it takes what there is. Form and bounds are those of ``wire``.
"""

from __future__ import annotations

from collections.abc import Generator

from .wire import MESSAGE_BYTES_MAX, PRELUDE, Message, allocate, parse_prelude, parse_table, prelude_view

Steps = Generator[memoryview, None, Message]


class Assembler:
    """Feed it bytes; it gives messages. A byte is copied once, to where it stays.

    Args:
        bytes_max: most bytes of all buffers of a message together.
    """

    def __init__(self, bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._steps = _steps(bytes_max)
        self._room = next(self._steps)
        self._at_start = True

    def feed(self, data: memoryview) -> list[Message]:
        """The messages that ``data`` completes.

        Raises:
            CodecError: this is no message. Nothing more can be fed then.
        """
        complete = []
        while len(data):
            if self._at_start and (whole := _small(data)) is not None:
                complete.append(whole[0])
                data = data[whole[1] :]
                continue
            self._at_start = False
            size = min(len(self._room), len(data))
            self._room[:size] = data[:size]
            self._room, data = self._room[size:], data[size:]
            while not len(self._room):  # also passes over empty buffers
                try:
                    self._room = next(self._steps)
                except StopIteration as end:
                    complete.append(end.value)
                    self._steps = _steps(self._bytes_max)
                    self._room = next(self._steps)
                    self._at_start = True
        return complete


def _small(data: memoryview) -> tuple[Message, int] | None:
    """The message at the start of ``data`` and its size, if all of it is there and it has no buffers: the
    common case, without the steps. None otherwise."""
    if len(data) < PRELUDE.size:
        return None
    length, count = parse_prelude(data[: PRELUDE.size])
    size = PRELUDE.size + length
    return None if count or len(data) < size else (Message(bytes(data[PRELUDE.size : size])), size)


def _steps(bytes_max: int) -> Steps:
    """Yield each piece of memory to fill, in order; return the message."""
    prelude = prelude_view()
    yield prelude
    header_length, count = parse_prelude(prelude)
    table = allocate(8 * count)
    yield table
    lengths = parse_table(table, bytes_max)
    header = allocate(header_length)
    yield header
    buffers = []
    for length in lengths:
        buffers.append(allocate(length))
        yield buffers[-1]
    return Message(bytes(header), buffers)
