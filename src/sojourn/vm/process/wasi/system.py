"""The operating system that one guest sees: all functions of WASI preview 1 over one state.

``System`` has a method for each name in ``abi.SIGNATURES``. They take what the guest passed, as unsigned
integers, and return an errno; whatever the guest passes, they raise nothing but ``ProcessExit``,
``LimitReached`` and ``Stopped``.

The descriptors at the start are 0, 1 and 2 (stdin, stdout, stderr), then the preopened directories, then
the extra streams; a warm start relies on that order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .abi import Errno, Rights
from .calls_io import IoCalls
from .calls_path import DIRECTORY_RIGHTS, FILE_RIGHTS, PathCalls
from .descriptors import Descriptor, DescriptorTable, SharedDirectory
from .kernel import U32, U64, GuestMemory, syscall
from .mounts import MountTree
from .outside import ByteQuota, Outside, ProcessExit, Sink, Source
from .poll import PollCalls
from .vfs import Directory, WasiError

STANDARD_STREAMS = ("stdin", "stdout", "stderr")
COUNTED_STREAMS = ("stdout", "stderr")
RANDOM_BYTES_MAX = 1 << 26
_RANDOM_CHUNK_BYTES = 1 << 20
_REALTIME, _MONOTONIC, _PROCESS_CPU, _THREAD_CPU = range(4)
_SIGNALS = 31
_STREAM_RIGHTS = Rights.FD_FDSTAT_SET_FLAGS | Rights.FD_FILESTAT_GET | Rights.POLL_FD_READWRITE
Preopen = tuple[bytes, Directory | MountTree]


class System(IoCalls, PathCalls, PollCalls):
    """One guest's system.

    Args:
        outside: clocks, randomness, waiting.
        memory: the guest's memory, if it exists already; see ``attach_memory``.
        args: the arguments, the program's name first, without NUL.
        environ: names and values.
        secrets: those names whose values are never saved.
        preopens: the name the guest is told, and the directory. A directory handle belongs to the system
            from here on; a mount tree stays the caller's, and must be closed after the system.
        output: counts what is written to stdout and stderr.
        descriptors_max: as many may be open at one time, those at the start included.
        extra: streams beyond stdin, stdout and stderr; ``extra_numbers`` are their descriptors.

    Raises:
        LimitReached: there are fewer descriptors allowed than opened at the start.
    """

    def __init__(
        self,
        outside: Outside,
        memory: GuestMemory | None = None,
        *,
        args: Sequence[bytes],
        environ: Sequence[tuple[bytes, bytes]],
        preopens: Sequence[Preopen],
        stdin: Source,
        stdout: Sink,
        stderr: Sink,
        descriptors_max: int,
        output: ByteQuota,
        extra: Sequence[Source | Sink] = (),
        secrets: Collection[bytes] = (),
    ) -> None:
        super().__init__(outside, output, descriptors_max)
        self.secrets = frozenset(secrets)
        self.set_texts(args, environ)
        self.streams: dict[str, Source | Sink] = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        self.streams |= {f"extra {number}": stream for number, stream in enumerate(extra)}
        self.preopened = [
            (name, place.filesystem) for name, place in preopens if not isinstance(place, MountTree)
        ]
        if memory is not None:
            self.attach_memory(memory)
        try:
            for role in STANDARD_STREAMS:
                self._add_stream(role)
            for name, place in preopens:
                self._add_preopen(name, place)
            self.extra_numbers = tuple(
                self._add_stream(role) for role in self.streams if role not in STANDARD_STREAMS
            )
        except BaseException:
            self.close()
            raise

    def _add_stream(self, role: str) -> int:
        self._table.need_room()
        return self._table.add(stream_descriptor(role, self.streams[role]))

    def _add_preopen(self, name: bytes, place: Directory | MountTree) -> None:
        self._table.need_room()
        self._table.add(_preopen(name, place.root() if isinstance(place, MountTree) else place))

    def attach_memory(self, memory: GuestMemory) -> None:
        """Work on this memory from now on; until then, every pointer is bad."""
        self._memory = memory

    @property
    def output_bytes(self) -> int:
        """What was written to stdout and stderr so far."""
        return self._output.used

    @property
    def output(self) -> ByteQuota:
        return self._output

    @property
    def table(self) -> DescriptorTable:
        return self._table

    @property
    def descriptors(self) -> dict[int, Descriptor]:
        """The open descriptors by number."""
        return self._table.entries

    def set_texts(self, args: Sequence[bytes], environ: Sequence[tuple[bytes, bytes]]) -> None:
        """The guest's arguments and environment are these."""
        self.args, self.environ = tuple(args), tuple(environ)
        self._args = [arg + b"\0" for arg in args]
        self._environ = [name + b"=" + value + b"\0" for name, value in environ]
        assert all(text.count(b"\0") == 1 for text in self._args + self._environ)

    def close(self) -> None:
        """Close every handle. Doing it twice does nothing."""
        self._table.close_all()

    # -- arguments and environment --

    @syscall
    def args_sizes_get(self, count: int, size: int) -> None:
        self._put_sizes(self._args, count, size)

    @syscall
    def args_get(self, pointers: int, buffer: int) -> None:
        self._put_texts(self._args, pointers, buffer)

    @syscall
    def environ_sizes_get(self, count: int, size: int) -> None:
        self._put_sizes(self._environ, count, size)

    @syscall
    def environ_get(self, pointers: int, buffer: int) -> None:
        self._put_texts(self._environ, pointers, buffer)

    def _put_sizes(self, texts: list[bytes], count: int, size: int) -> None:
        count_out, size_out = self.span(count, 4), self.span(size, 4)
        U32.pack_into(count_out, 0, len(texts))
        U32.pack_into(size_out, 0, sum(map(len, texts)))

    def _put_texts(self, texts: list[bytes], pointers: int, buffer: int) -> None:
        joined = b"".join(texts)
        pointers_out, out = self.span(pointers, 4 * len(texts)), self.span(buffer, len(joined))
        out[:] = joined
        at = buffer
        for index, text in enumerate(texts):
            U32.pack_into(pointers_out, 4 * index, at)
            at += len(text)

    # -- clocks and randomness --

    @syscall
    def clock_res_get(self, clock: int, result: int) -> None:
        if clock > _THREAD_CPU:
            raise WasiError(Errno.EINVAL)
        U64.pack_into(self.span(result, 8), 0, self._outside.resolution_ns())

    @syscall
    def clock_time_get(self, clock: int, _precision: int, result: int) -> None:
        out = self.span(result, 8)
        if clock == _MONOTONIC:
            now = self._outside.monotonic_ns()
        elif clock == _REALTIME:
            now = self._outside.realtime_ns()
        elif clock in (_PROCESS_CPU, _THREAD_CPU):
            now = self._outside.cpu_ns()
        else:
            raise WasiError(Errno.EINVAL)
        U64.pack_into(out, 0, now)

    @syscall
    def random_get(self, buffer: int, length: int) -> None:
        if length > RANDOM_BYTES_MAX:
            raise WasiError(Errno.EINVAL)
        out = self.span(buffer, length)
        for at in range(0, length, _RANDOM_CHUNK_BYTES):
            piece = out[at : at + _RANDOM_CHUNK_BYTES]
            piece[:] = self._outside.random(len(piece))

    # -- the end, and signals --

    def proc_exit(self, code: int) -> int:
        raise ProcessExit(code)

    @syscall
    def proc_raise(self, signal: int) -> None:
        raise WasiError(Errno.EINVAL if signal >= _SIGNALS else Errno.ENOSYS)

    # -- sockets: there are none --

    @syscall
    def sock_accept(self, fd: int, _flags: int, _result: int) -> None:
        self._refuse_socket(fd)

    @syscall
    def sock_recv(
        self, fd: int, _vectors: int, _count: int, _flags: int, _size: int, _out_flags: int
    ) -> None:
        self._refuse_socket(fd)

    @syscall
    def sock_send(self, fd: int, _vectors: int, _count: int, _flags: int, _size: int) -> None:
        self._refuse_socket(fd)

    @syscall
    def sock_shutdown(self, fd: int, _how: int) -> None:
        self._refuse_socket(fd)

    def _refuse_socket(self, fd: int) -> None:
        # A directory is no descriptor to read, write or shut down at all: EBADF, as everywhere.
        if self.descriptor(fd).shared is not None:
            raise WasiError(Errno.EBADF)
        raise WasiError(Errno.ENOTSOCK)


def stream_descriptor(role: str, stream: Source | Sink) -> Descriptor:
    """A descriptor on one of the process's streams."""
    source = hasattr(stream, "read_nowait")
    rights = _STREAM_RIGHTS | (Rights.FD_READ if source else Rights.FD_WRITE)
    descriptor = Descriptor(int(rights), 0)
    descriptor.role = role
    descriptor.counted = role in COUNTED_STREAMS
    if source:
        descriptor.source = stream  # type: ignore[assignment]
    else:
        descriptor.sink = stream  # type: ignore[assignment]
    return descriptor


def _preopen(name: bytes, directory: Directory) -> Descriptor:
    descriptor = Descriptor(int(DIRECTORY_RIGHTS), int(DIRECTORY_RIGHTS | FILE_RIGHTS), path=name)
    descriptor.preopen = name
    descriptor.hold(SharedDirectory(directory))
    return descriptor
