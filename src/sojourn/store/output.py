"""The output log of a process: what it wrote to stdout and stderr, in order, with times.

Knows nothing of processes; a log is one file. Theory of operation: the file is a sequence of frames, each a
header (checksum, payload length, time, offset) and a payload of chunks, each a number (its length and its
stream) and its bytes. *Offset* means everywhere: how many bytes of output, of both streams together, come
before. It is what a reader gives to go on where it stopped, so that each byte is seen exactly once.

Invariants:

- Frames are only added, and their offsets only grow. Where one begins later than the last ended, output is
  missing: a fork has what it wrote itself, and what came before is in its parent's log.
- A writer that died can leave a torn one at the end: readers stop before it, the
  next writer cuts it off. A write that fails part way is cut off at once.
- What waits to be written is bounded by ``PENDING_BYTES_MAX`` and by ``LINGER_S`` seconds. Small writes are
  gathered into one frame, so a log is never more than a small multiple of the output in it.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import translated

STDOUT, STDERR = 1, 2
PENDING_BYTES_MAX = 64 << 10
PAYLOAD_BYTES_MAX = 256 << 10
LINGER_S = 0.02
_CHUNK_BYTES = 64 << 10
_HEADER = struct.Struct("<IIQQ")  # checksum of all that follows, payload length, time, offset


@dataclass(frozen=True)
class Output:
    """A piece of output.

    Attributes:
        stream: ``STDOUT`` or ``STDERR``.
        offset: bytes of output before it.
        time_ns: when it was written, since 1970, within ``LINGER_S``.
    """

    stream: int
    offset: int
    time_ns: int
    data: bytes

    @property
    def next_offset(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True)
class Place:
    """A place between two frames of a log: bytes before it in the file, and bytes of output before it."""

    position: int = 0
    offset: int = 0


class OutputWriter:
    """Adds to the log at ``path``, made when it is not there. One writer at a time; safe for its threads.

    Args:
        begin: the offset of what is written next, if the log ends before; what lies between is missing.
        place: where it ends, if that is known: the log need not be read then. Believed only if the file ends
            there.
        written: called after each ``write``, on the writer's thread; what it reads may need a ``flush``.

    Raises:
        StoreError: (any method) the disk is full, read-only or not ours to write.
    """

    def __init__(
        self,
        path: Path,
        *,
        begin: int = 0,
        now_ns: Callable[[], int] = time.time_ns,
        linger_s: float = LINGER_S,
        place: Place | None = None,
        written: Callable[[], object] = lambda: None,
    ) -> None:
        self._path = path
        self._now_ns = now_ns
        self._linger_s = linger_s
        self._written = written
        self._lock = threading.Lock()
        self._pending = bytearray()
        self._timer: threading.Timer | None = None
        self._failure: Exception | None = None
        with translated(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(path, flags, 0o600)
            try:
                if place is not None and os.fstat(self._fd).st_size == place.position:
                    self._end, end_offset = place.position, place.offset
                else:
                    self._end, end_offset = _whole(path)
                    os.ftruncate(self._fd, self._end)
                self._offset = max(begin, end_offset)
            except BaseException:
                os.close(self._fd)
                raise
        self._frame_offset = self._offset

    @property
    def offset(self) -> int:
        """Bytes of output so far, those that wait included."""
        return self._offset

    @property
    def place(self) -> Place:
        """Where the log ends; take it after ``flush`` or ``close``."""
        return Place(self._end, self._frame_offset)

    def write(self, stream: int, data: bytes | bytearray | memoryview) -> None:
        """Add output. It is in the file within ``linger_s`` seconds, or after ``flush``."""
        if stream not in (STDOUT, STDERR):
            raise ValueError(f"there is no output stream {stream}")
        view = memoryview(data).cast("B")
        with self._lock:
            self._need_open()
            for start in range(0, len(view), _CHUNK_BYTES):
                self._add(stream, view[start : start + _CHUNK_BYTES])
            if self._pending and not self._linger_s:
                self._put()
            elif self._pending and self._timer is None:
                self._timer = threading.Timer(self._linger_s, self._put_later)
                self._timer.daemon = True
                self._timer.start()
        self._written()

    def flush(self) -> None:
        """Put everything into the file, where readers see it."""
        with self._lock:
            self._need_open()
            self._put()

    def close(self) -> None:
        """Flush and let go. Closing twice does nothing."""
        with self._lock:
            if self._fd < 0:
                return
            timer, self._timer = self._timer, None
            try:
                self.raise_failure()
                self._put()
            finally:
                os.close(self._fd)
                self._fd = -1
                if timer is not None:
                    timer.cancel()

    def __enter__(self) -> OutputWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _need_open(self) -> None:
        if self._fd < 0:
            raise ValueError("the output log is closed")
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise what went wrong while nobody was looking, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _add(self, stream: int, chunk: memoryview) -> None:
        _put_number(self._pending, len(chunk) << 1 | stream - 1)
        self._pending += chunk
        self._offset += len(chunk)
        if len(self._pending) >= PENDING_BYTES_MAX:
            self._put()

    def _put_later(self) -> None:
        with self._lock:
            self._timer = None
            if self._fd < 0 or self._failure is not None:
                return
            with contextlib.suppress(Exception):  # kept: whoever writes next is told
                self._put()

    def _put(self) -> None:
        """Write one frame of what waits."""
        if not self._pending:
            return
        rest = _HEADER.pack(0, len(self._pending), self._now_ns(), self._frame_offset)[4:] + self._pending
        try:
            with translated(self._path):
                self._write_at_end(zlib.crc32(rest).to_bytes(4, "little") + rest)
        except Exception as error:
            self._failure = error
            raise
        finally:
            self._pending.clear()
        self._frame_offset = self._offset

    def _write_at_end(self, frame: bytes) -> None:
        done = 0
        try:
            while done < len(frame):
                done += os.pwrite(self._fd, frame[done:], self._end + done)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise
        self._end += done


def read_output(path: Path, start: int = 0) -> Iterator[Output]:
    """The output in the log from offset ``start`` on, as far as it is whole. No log: none."""
    with contextlib.closing(_Reader(path, start)) as reader:
        yield from reader.available()


class Cursor:
    """A place in a log, from where on somebody reads. Holds nothing open between two readings.

    A process that went on from a checkpoint may have cut off what was read already. What it writes until it
    comes there again is the same, and is passed over.
    """

    __slots__ = ("_path", "_place", "_seen")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = Place()
        self._seen = 0

    def read(self) -> list[Output]:
        """What is new, as far as it is in whole frames."""
        with contextlib.closing(_Reader(self._path, self._seen)) as reader:
            size = reader.size()
            if size >= self._place.position:
                reader.position, reader.offset = self._place.position, self._place.offset
            found = list(reader.available())
            is_here = bool(found) and found[0].offset == self._seen
            if not is_here and size > self._place.position > 0:  # no frame of ours begins there any more
                reader.rewind(self._seen)
                found = list(reader.available())
            self._place = Place(reader.position, reader.offset)
        if found:
            self._seen = found[-1].next_offset
        return found


def follow_output(
    path: Path, start: int, ended: Callable[[], bool], wait: Callable[[], object]
) -> Iterator[Output]:
    """The output from ``start`` on, and what is added, until the process has ended.

    Args:
        ended: whether the writer is done; asked before each look, so that nothing is missed.
        wait: called when there is nothing new; returns when it is time to look again.
    """
    with contextlib.closing(_Reader(path, start)) as reader:
        while True:
            last = ended()
            yield from reader.available()
            if last:
                return
            wait()


def cut_output(path: Path, size: int) -> None:
    """Forget all output beyond the first ``size`` bytes: a process that goes on from there writes it again.

    Raises:
        StoreError: the log cannot be written.
    """
    position = 0
    with contextlib.closing(_Reader(path, 0)) as reader:
        while True:
            frame = reader.frame()
            if frame is None:
                return  # there is no more than that
            chunks, begin = list(_chunks(frame[1])), reader.offset
            reader.offset += sum(len(chunk) for _, chunk in chunks)
            if reader.offset > size:
                break
            position = reader.position
    with translated(path):
        os.truncate(path, position)
    with OutputWriter(path, begin=begin) as writer:
        for stream, chunk in chunks:
            writer.write(stream, chunk[: max(0, size - writer.offset)])


class _Reader:
    """Reads frames from where it is. ``available`` can be asked again when there may be more."""

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        self._wanted = start
        self._fd: int | None = None
        self._last = 0, b""  # where the last frame lay, and its header
        self.position = 0  # of the next frame in the file
        self.offset = 0  # of its output

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def rewind(self, start: int) -> None:
        """Begin again, to give what comes from offset ``start`` on."""
        self._wanted = start
        self.position = self.offset = 0

    def size(self) -> int:
        """How long the file is now; 0 when there is none."""
        fd = self._open()
        return 0 if fd is None else os.fstat(fd).st_size

    def available(self) -> Iterator[Output]:
        self._look_back()
        while (frame := self.frame()) is not None:
            time_ns, payload = frame
            for stream, chunk in _chunks(payload):
                begin, self.offset = self.offset, self.offset + len(chunk)
                if self.offset > self._wanted:
                    skipped = max(0, self._wanted - begin)
                    self._wanted = self.offset
                    yield Output(stream, begin + skipped, time_ns, bytes(chunk[skipped:]))

    def _look_back(self) -> None:
        """Begin again when what was read last is not there any more: it was cut off (``cut_output``). What
        was given already is not given again."""
        position, header = self._last
        if header and self._fd is not None and os.pread(self._fd, len(header), position) != header:
            self.position = self.offset = 0
            self._last = 0, b""

    def frame(self) -> tuple[int, memoryview] | None:
        """The next frame if it is whole; ``offset`` is then that of its first byte."""
        fd = self._open()
        if fd is None:
            return None
        header = os.pread(fd, _HEADER.size, self.position)
        if len(header) < _HEADER.size:
            return None
        checksum, length, time_ns, offset = _HEADER.unpack(header)
        if not 0 < length <= PAYLOAD_BYTES_MAX or offset < self.offset:
            return None
        payload = os.pread(fd, length, self.position + _HEADER.size)
        if len(payload) < length or zlib.crc32(payload, zlib.crc32(header[4:])) != checksum:
            return None
        self._last = self.position, header
        self.offset = offset
        self.position += _HEADER.size + length
        return time_ns, memoryview(payload)

    def _open(self) -> int | None:
        if self._fd is None:
            with contextlib.suppress(FileNotFoundError), translated(self._path):
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        return self._fd


def _whole(path: Path) -> tuple[int, int]:
    """Where the last whole frame ends, in the file and in output."""
    with contextlib.closing(_Reader(path, 0)) as reader:
        for _ in reader.available():
            pass
        return reader.position, reader.offset


def _put_number(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _chunks(payload: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Stream and bytes of each chunk. What a checksum vouches for was made by ``_add``; still nothing is
    read beyond the payload."""
    at = 0
    while at < len(payload):
        value = shift = 0
        more = True
        while more and at < len(payload) and shift < 64:
            value |= (payload[at] & 0x7F) << shift
            more = payload[at] > 0x7F
            shift += 7
            at += 1
        length = value >> 1
        yield (value & 1) + 1, payload[at : at + length]
        at += length
