"""Fakes for the virtual system calls: a clock that only moves when told, streams, a guest's memory."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from sojourn.vm.process.wasi.abi import Errno, Rights
from sojourn.vm.process.wasi.memory_fs import MemoryFileSystem
from sojourn.vm.process.wasi.mounts import MountTree
from sojourn.vm.process.wasi.outside import ByteQuota, Sink, Source, Stopped
from sojourn.vm.process.wasi.system import System

NOW_NS = 1_700_000_000 * 10**9
ALL_RIGHTS = (1 << 30) - 1
RW = Rights.FD_READ | Rights.FD_WRITE | Rights.FD_SEEK | Rights.FD_TELL


class FakeOutside:
    """An ``Outside`` under a virtual clock: waiting moves the clock, nothing sleeps.

    ``on_wait`` is called in each wait and may feed a source; a wait that could never end raises
    ``Stopped``.
    """

    def __init__(self) -> None:
        self.now_ns = NOW_NS
        self.started_ns = 1_000
        self.waits: list[int | None] = []
        self.on_wait: Callable[[], None] | None = None
        self._random = 0

    def realtime_ns(self) -> int:
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns - NOW_NS + self.started_ns

    def cpu_ns(self) -> int:
        return 77

    def resolution_ns(self) -> int:
        return 1

    def random(self, size: int) -> bytes:
        self._random += 1
        return bytes((self._random + at) % 251 + 1 for at in range(size))

    def wait(self, sources: Sequence[Source], timeout_ns: int | None, sinks: Sequence[Sink] = ()) -> None:
        self.waits.append(timeout_ns)
        if self.on_wait is not None:
            self.on_wait()
        elif timeout_ns is None:
            raise Stopped("nothing will ever happen")
        if timeout_ns is not None:
            self.now_ns += timeout_ns


class FakeSource:
    """Gives ``chunks`` in turn; None means nothing yet. At their end: the end."""

    def __init__(self, *chunks: bytes | None, tty: bool = False) -> None:
        self.chunks = list(chunks)
        self.tty = tty

    def read_nowait(self, size: int) -> bytes | None:
        if not self.chunks:
            return b""
        chunk = self.chunks.pop(0)
        if chunk is not None and len(chunk) > size:
            self.chunks.insert(0, chunk[size:])
            chunk = chunk[:size]
        return chunk


class FakeSink:
    """Keeps what is written; takes at most ``most`` bytes a time."""

    def __init__(self, most: int = 1 << 62, tty: bool = False) -> None:
        self.data = bytearray()
        self.most = most
        self.tty = tty

    def write(self, data: memoryview) -> int:
        taken = data[: self.most]
        self.data += taken
        return len(taken)


class FakeMemory:
    """A guest's memory that can grow; ``view`` is stale until ``refresh``, as with a real engine."""

    def __init__(self, size: int = 1 << 16) -> None:
        self._data = bytearray(size)
        self.view = memoryview(self._data)

    def grow(self, size: int) -> None:
        self._data = bytearray(self._data) + bytearray(size)

    def refresh(self) -> memoryview:
        self.view = memoryview(self._data)
        return self.view


class Guest:
    """A ``System`` with a guest's memory: calls functions as a program would.

    Paths and data are put at fixed places: ``call`` gives the errno, the others check it is 0.
    """

    PATH, PATH2, OUT, VECTORS, DATA = 1024, 8192, 256, 512, 16384

    def __init__(
        self,
        *,
        preopens: Sequence[Any] | None = None,
        stdin: Source | None = None,
        stdout: Sink | None = None,
        extra: Sequence[Any] = (),
        args: Sequence[bytes] = (b"prog",),
        environ: Sequence[tuple[bytes, bytes]] = (),
        descriptors_max: int = 64,
        output_bytes: int = 1 << 20,
        file_bytes: int = 1 << 24,
        memory_bytes: int = 1 << 17,
    ) -> None:
        self.outside = FakeOutside()
        self.files = ByteQuota("file_bytes", file_bytes)
        self.tree = MountTree(MemoryFileSystem(self.files, self.outside.realtime_ns))
        self.memory = FakeMemory(memory_bytes)
        self.stdin = stdin or FakeSource()
        self.stdout = stdout or FakeSink()
        self.stderr = FakeSink()
        self.system = System(
            self.outside,
            self.memory,
            args=args,
            environ=environ,
            preopens=[(b"/", self.tree)] if preopens is None else preopens,
            stdin=self.stdin,
            stdout=self.stdout,
            stderr=self.stderr,
            descriptors_max=descriptors_max,
            output=ByteQuota("output_bytes", output_bytes),
            extra=extra,
        )

    def call(self, name: str, *args: int) -> Errno:
        unsigned = [int(arg) & ((1 << 64) - 1) for arg in args]
        return Errno(getattr(self.system, name)(*unsigned))

    def ok(self, name: str, *args: int) -> None:
        errno = self.call(name, *args)
        assert errno == Errno.SUCCESS, f"{name}: {errno.name}"

    def put(self, at: int, data: bytes) -> tuple[int, int]:
        self.memory.view[at : at + len(data)] = data
        return at, len(data)

    def get(self, at: int, size: int) -> bytes:
        return bytes(self.memory.view[at : at + size])

    def u32(self, at: int = OUT) -> int:
        return int.from_bytes(self.get(at, 4), "little")

    def u64(self, at: int = OUT) -> int:
        return int.from_bytes(self.get(at, 8), "little")

    def path(self, path: str | bytes) -> tuple[int, int]:
        return self.put(self.PATH, path.encode() if isinstance(path, str) else path)

    def path2(self, path: str | bytes) -> tuple[int, int]:
        return self.put(self.PATH2, path.encode() if isinstance(path, str) else path)

    def try_open(
        self,
        path: str | bytes,
        *,
        fd: int = 3,
        follow: int = 0,
        oflags: int = 0,
        rights: int = RW,
        inheriting: int = ALL_RIGHTS,
        flags: int = 0,
    ) -> Errno:
        return self.call(
            "path_open", fd, follow, *self.path(path), oflags, rights, inheriting, flags, self.OUT
        )

    def open(self, path: str | bytes, **options: int) -> int:
        errno = self.try_open(path, **options)
        assert errno == Errno.SUCCESS, f"path_open {path!r}: {errno.name}"
        return self.u32()

    def open_directory(self, path: str | bytes, **options: int) -> int:
        return self.open(path, **{"oflags": 2, "rights": ALL_RIGHTS & ~Rights.FD_WRITE, **options})

    def vectors(self, sizes: Sequence[int]) -> tuple[int, int]:
        """Buffers of these sizes, one behind the other from ``DATA`` on."""
        at = self.DATA
        packed = b""
        for size in sizes:
            packed += struct.pack("<II", at, size)
            at += size
        self.put(self.VECTORS, packed)
        return self.VECTORS, len(sizes)

    def write(self, fd: int, data: bytes) -> int:
        self.put(self.DATA, data)
        self.ok("fd_write", fd, *self.vectors([len(data)]), self.OUT)
        return self.u32()

    def read(self, fd: int, size: int = 4096) -> bytes:
        self.ok("fd_read", fd, *self.vectors([size]), self.OUT)
        return self.get(self.DATA, self.u32())

    def seek(self, fd: int, offset: int, whence: int = 0) -> int:
        self.ok("fd_seek", fd, offset, whence, self.OUT)
        return self.u64()

    def make_file(self, path: str | bytes, data: bytes = b"", fd: int = 3) -> None:
        made = self.open(path, fd=fd, oflags=1)
        if data:
            self.write(made, data)
        self.ok("fd_close", made)

    def mkdir(self, path: str | bytes, fd: int = 3) -> None:
        self.ok("path_create_directory", fd, *self.path(path))

    def symlink(self, target: str | bytes, path: str | bytes, fd: int = 3) -> None:
        self.ok("path_symlink", *self.path2(target), fd, *self.path(path))

    def stat(self, path: str | bytes, *, fd: int = 3, follow: int = 0) -> tuple[int, ...]:
        """dev, ino, type, nlink, size, atim, mtim, ctim."""
        self.ok("path_filestat_get", fd, follow, *self.path(path), self.OUT)
        return self._filestat()

    def fstat(self, fd: int) -> tuple[int, ...]:
        self.ok("fd_filestat_get", fd, self.OUT)
        return self._filestat()

    def _filestat(self) -> tuple[int, ...]:
        return struct.unpack("<QQB7xQQQQQ", self.get(self.OUT, 64))

    def fdstat(self, fd: int) -> tuple[int, int, int, int]:
        """type, flags, rights, inheriting."""
        self.ok("fd_fdstat_get", fd, self.OUT)
        return struct.unpack("<BxHxxxxQQ", self.get(self.OUT, 24))

    def readdir(self, fd: int, size: int = 4096, cookie: int = 0) -> list[tuple[int, int, int, bytes]]:
        """The whole entries that fit into ``size`` bytes: cookie, ino, type, name."""
        self.ok("fd_readdir", fd, self.DATA, size, cookie, self.OUT)
        data = self.get(self.DATA, self.u32())
        found = []
        while len(data) >= 24:
            after, ino, length, kind = struct.unpack_from("<QQIB", data)
            if len(data) < 24 + length:
                break
            found.append((after, ino, kind, data[24 : 24 + length]))
            data = data[24 + length :]
        return found
