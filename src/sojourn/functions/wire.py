"""Framing: one message is a small header and any number of large buffers beside it.

Runs unchanged on the host and inside the guest (see ``GUEST_FILES`` in ``codec``), so it imports
only the standard library. It knows nothing of what header and buffers mean, and does no I/O of its
own: reading goes through the ``readinto`` it is given, writing is the caller's (``Message.parts``).

On the wire, little-endian::

    magic "SJV1" | u32 header length | u32 buffer count | u32 zero | u64 length of each buffer
    header | buffer | buffer | …

Between a client and a guest the header is an envelope: u8 kind (an index of ``KINDS``) | u64 number |
u32 length of the facts | facts | the header of a value. So plain, because a guest opens one for each call.

Invariants: every length is checked against the reader's bounds before anything is allocated for it;
a buffer is allocated once, and memory a peer only *claims* is never touched.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

try:
    from sojourn.model.errors import CodecError as CodecError  # the codec's other files take it from here
except ImportError:  # inside the guest there is no sojourn

    class CodecError(Exception):  # type: ignore[no-redef]
        """A value that cannot cross the boundary of the virtual machine, or bytes that are no value."""

        def __init__(self, message: str, hint: str = "") -> None:
            super().__init__(message)
            self.message = message
            self.hint = hint


MAGIC = b"SJV1"
KINDS = ("load", "call", "exit", "loaded", "returned", "raised", "refused", "bye")
ENVELOPE = struct.Struct("<BQI")
PRELUDE = struct.Struct("<4sIII")
HEADER_BYTES_MAX = 64 << 20
BUFFERS_MAX = 1 << 16
MESSAGE_BYTES_MAX = 2 << 30
# Above this a buffer is mapped, not allocated: pages come into being as data arrives.
_MAPPED_BYTES_MIN = 1 << 20

ReadInto = Callable[[memoryview], "int | None"]


@dataclass
class Message:
    """A header and the buffers that travel beside it, not copied into it."""

    header: bytes
    buffers: list[memoryview] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """The bytes the message takes on the wire."""
        prelude = PRELUDE.size + 8 * len(self.buffers)
        return prelude + len(self.header) + sum(buffer.nbytes for buffer in self.buffers)

    def parts(self) -> list[bytes | memoryview]:
        """What to write, in order. The buffers are the sender's own memory: write before changing it.

        Raises:
            CodecError: the message is larger than any reader accepts.
        """
        lengths = [buffer.nbytes for buffer in self.buffers]
        _check_header_length(len(self.header))
        _check_lengths(lengths, MESSAGE_BYTES_MAX)
        prelude = PRELUDE.pack(MAGIC, len(self.header), len(lengths), 0)
        first = prelude + struct.pack(f"<{len(lengths)}Q", *lengths) + self.header
        return [first, *(buffer for buffer in self.buffers if buffer.nbytes)]


def _check_header_length(length_bytes: int) -> None:
    if length_bytes > HEADER_BYTES_MAX:
        raise CodecError(
            f"a value with {length_bytes:,} bytes outside its arrays is too large (at most "
            f"{HEADER_BYTES_MAX:,})",
            "Pass large data as a numpy array, a data frame, or one bytes object.",
        )


def _check_lengths(lengths: list[int], bytes_max: int) -> None:
    if len(lengths) > BUFFERS_MAX:
        raise CodecError(
            f"a value with {len(lengths):,} large parts is too large (at most {BUFFERS_MAX:,})",
            "Put the parts into one array, or send them in several calls.",
        )
    total = sum(lengths)
    if total > bytes_max:
        raise CodecError(
            f"a value of {total:,} bytes is too large (at most {bytes_max:,})",
            "Send it in several calls, or grant the directory that holds the data.",
        )


def seal(kind: str, number: int, facts: bytes = b"", value: Message | None = None) -> Message:
    """An envelope around a value, whose buffers become the message's."""
    envelope = ENVELOPE.pack(KINDS.index(kind), number, len(facts)) + facts
    return Message(envelope) if value is None else Message(envelope + value.header, value.buffers)


def unseal(message: Message) -> tuple[str, int, bytes, bytes]:
    """The kind, number, facts and value header of a message.

    Raises:
        CodecError: it has another form.
    """
    header = message.header
    if len(header) < ENVELOPE.size:
        raise CodecError("not a message: it is too short")
    kind, number, facts_length = ENVELOPE.unpack_from(header)
    end = ENVELOPE.size + facts_length
    if kind >= len(KINDS) or end > len(header):
        raise CodecError("not a message: its parts are not those of one")
    return KINDS[kind], number, header[ENVELOPE.size : end], header[end:]


def read_message(readinto: ReadInto, bytes_max: int = MESSAGE_BYTES_MAX) -> Message | None:
    """Read one message; None at a clean end of the stream.

    Args:
        readinto: fills (part of) a writable view and returns the number of bytes, 0 at the end;
            blocking, such as ``io.RawIOBase.readinto``.
        bytes_max: most bytes of all buffers together.

    Raises:
        CodecError: not a message, one that is too large, or one that ends early.
    """
    prelude = prelude_view()
    if not _fill(readinto, prelude, end_allowed=True):
        return None
    header_length, count = parse_prelude(prelude)
    lengths = parse_table(_read(readinto, 8 * count), bytes_max) if count else []
    header = bytes(_read(readinto, header_length))
    return Message(header, [_read(readinto, length) for length in lengths])


def prelude_view() -> memoryview:
    """Room for what every message begins with."""
    return memoryview(bytearray(PRELUDE.size))


def parse_prelude(prelude: memoryview) -> tuple[int, int]:
    """The length of the header in bytes, and the number of buffers.

    Raises:
        CodecError: not a message, or one with too much in it.
    """
    magic, header_length, count, zero = PRELUDE.unpack(prelude)
    if magic != MAGIC or zero:
        raise CodecError("not a Sojourn message", "The two ends speak different versions, or share a stream.")
    _check_header_length(header_length)
    if count > BUFFERS_MAX:
        raise CodecError(f"a message claims {count:,} buffers (at most {BUFFERS_MAX:,})")
    return header_length, count


def parse_table(table: memoryview, bytes_max: int) -> list[int]:
    """The length of each buffer in bytes.

    Raises:
        CodecError: they are too large together.
    """
    lengths = list(struct.unpack(f"<{len(table) // 8}Q", table))
    _check_lengths(lengths, bytes_max)
    return lengths


def _read(readinto: ReadInto, length_bytes: int) -> memoryview:
    view = allocate(length_bytes)
    _fill(readinto, view)
    return view


def allocate(length_bytes: int) -> memoryview:
    """Memory for a buffer; what the peer only claims takes none until it is written."""
    if length_bytes >= _MAPPED_BYTES_MIN and sys.platform != "wasi":  # there the sender is the trusted host
        try:
            return memoryview(mmap.mmap(-1, length_bytes))
        except (OSError, ValueError, OverflowError) as error:
            raise CodecError(f"no memory for a value of {length_bytes:,} bytes") from error
    return memoryview(bytearray(length_bytes))


def _fill(readinto: ReadInto, view: memoryview, end_allowed: bool = False) -> bool:
    """Fill ``view``; False when the stream ended before its first byte and that is allowed."""
    done = 0
    while done < view.nbytes:
        count = readinto(view[done:])
        if not count:
            if end_allowed and done == 0:
                return False
            raise CodecError("the stream ended in the middle of a message", "The other side has ended.")
        done += count
    return True
