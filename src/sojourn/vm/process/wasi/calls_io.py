"""Reading, writing and moving about in files and streams."""

from __future__ import annotations

from .abi import Errno, FdFlags, Rights
from .descriptors import Descriptor
from .kernel import OFFSET_MAX, U32, U64, Kernel, scatter, signed64, syscall
from .outside import LimitReached, Sink, Source
from .vfs import File, WasiError

_READ = int(Rights.FD_READ)
_WRITE = int(Rights.FD_WRITE)
_APPEND = int(FdFlags.APPEND)
_SYNC = int(FdFlags.SYNC)
_SYNCED = int(FdFlags.DSYNC | FdFlags.SYNC)
_NONBLOCK = int(FdFlags.NONBLOCK)
_STREAM_BYTES_MAX = 1 << 24
_SEEK = int(Rights.FD_SEEK)
_TELL = int(Rights.FD_TELL)
_ADVICES = 6


class IoCalls(Kernel):
    def fd_write(self, fd: int, vectors: int, count: int, written: int) -> int:
        # The hottest call there is: no decorator, no enums.
        try:
            descriptor = self._open.get(fd)
            if descriptor is None or not descriptor.rights & _WRITE:
                return Errno.EBADF.value
            data = self.gather(vectors, count)
            result = self.span(written, 4)
            sink = descriptor.sink
            if sink is not None:
                size = self._write_stream(descriptor, sink, data)
            else:
                size = self._write_file(descriptor, data)
            U32.pack_into(result, 0, size)
            return 0
        except WasiError as error:
            return error.errno.value

    def _write_stream(self, descriptor: Descriptor, sink: Sink, data: memoryview) -> int:
        size = len(data)
        if not size:
            return 0
        if not descriptor.counted:
            return sink.write(data) or self._write_waiting(descriptor, sink, data)
        output = self._output
        if size <= output.left:
            size = sink.write(data) or self._write_waiting(descriptor, sink, data)
            output.used += size
            return size
        return self._write_last(descriptor, sink, data)

    def _write_waiting(self, descriptor: Descriptor, sink: Sink, data: memoryview) -> int:
        """The sink has no room: wait for it, as long as the process may."""
        size = 0
        while not size:
            if descriptor.flags & _NONBLOCK:
                raise WasiError(Errno.EAGAIN)
            self._outside.wait((), None, (sink,))
            size = sink.write(data)
        return size

    def _write_last(self, descriptor: Descriptor, sink: Sink, data: memoryview) -> int:
        """More than the limit allows: write what it does, then end."""
        data = data[: self._output.left]
        done = 0
        while done < len(data):
            size = sink.write(data[done:])
            if not size and done:
                return done  # a guest may be left while it waits, and would then write this part again
            size = size or self._write_waiting(descriptor, sink, data)
            self._output.used += size
            done += size
        raise LimitReached(self._output.name)

    def _write_file(self, descriptor: Descriptor, data: memoryview) -> int:
        file = _file(descriptor)
        size = len(data)
        if not size:
            return 0  # does not move to the end, either
        if descriptor.flags & _APPEND:
            descriptor.offset = file.append(data)
        else:
            if descriptor.offset + size > OFFSET_MAX:
                raise WasiError(Errno.EFBIG)
            size = file.pwrite(data, descriptor.offset)
            descriptor.offset += size
        if descriptor.flags & _SYNCED:
            file.sync(data_only=not descriptor.flags & _SYNC)
        return size

    def fd_read(self, fd: int, vectors: int, count: int, read: int) -> int:
        try:
            descriptor = self._open.get(fd)
            if descriptor is None or not descriptor.rights & _READ:
                return Errno.EBADF.value
            parts = self.parts(vectors, count)
            result = self.span(read, 4)
            size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
            if not size:
                data: bytes | memoryview = b""
            elif descriptor.source is not None:
                data = self._read_stream(descriptor, descriptor.source, size)
            else:
                data = _file(descriptor).pread(size, descriptor.offset)
                descriptor.offset += len(data)
            U32.pack_into(result, 0, scatter(data, parts) if data else 0)
            return 0
        except WasiError as error:
            return error.errno.value

    def _read_stream(self, descriptor: Descriptor, source: Source, size: int) -> bytes | memoryview:
        ahead = descriptor.pending
        if ahead is not None:
            descriptor.pending = ahead[size:] or None
            return ahead[:size]
        size = min(size, _STREAM_BYTES_MAX)
        while (data := source.read_nowait(size)) is None:
            if descriptor.flags & _NONBLOCK:
                raise WasiError(Errno.EAGAIN)
            self._outside.wait((source,), None)
        return data

    @syscall
    def fd_pread(self, fd: int, vectors: int, count: int, offset: int, read: int) -> None:
        file = _file(self.descriptor(fd, _READ))
        parts = self.parts(vectors, count)
        result = self.span(read, 4)
        if offset > OFFSET_MAX:
            raise WasiError(Errno.EINVAL)
        size = sum(map(len, parts))
        data = file.pread(size, offset) if size else b""
        U32.pack_into(result, 0, scatter(data, parts) if data else 0)

    @syscall
    def fd_pwrite(self, fd: int, vectors: int, count: int, offset: int, written: int) -> None:
        descriptor = self.descriptor(fd, _WRITE)
        file = _file(descriptor)
        data = self.gather(vectors, count)
        result = self.span(written, 4)
        if offset > OFFSET_MAX:
            raise WasiError(Errno.EINVAL)
        if offset + len(data) > OFFSET_MAX:
            raise WasiError(Errno.EFBIG)
        size = file.pwrite(data, offset)
        if descriptor.flags & _SYNCED:
            file.sync(data_only=not descriptor.flags & _SYNC)
        U32.pack_into(result, 0, size)

    @syscall
    def fd_seek(self, fd: int, offset: int, whence: int, result: int) -> None:
        descriptor = self.descriptor(fd)
        delta = signed64(offset)
        if whence > 2:
            raise WasiError(Errno.EINVAL)
        file = _seekable(descriptor)
        telling = delta == 0 and whence == 1
        if not descriptor.rights & (_SEEK | (_TELL if telling else 0)):
            raise WasiError(Errno.ENOTCAPABLE)
        out = self.span(result, 8)
        base = (0, descriptor.offset)[whence] if whence < 2 else file.stat().size
        if base + delta < 0:
            raise WasiError(Errno.EINVAL)
        if base + delta > OFFSET_MAX:
            raise WasiError(Errno.EOVERFLOW)
        descriptor.offset = base + delta
        U64.pack_into(out, 0, descriptor.offset)

    @syscall
    def fd_tell(self, fd: int, result: int) -> None:
        descriptor = self.descriptor(fd)
        _seekable(descriptor)
        if not descriptor.rights & (_SEEK | _TELL):
            raise WasiError(Errno.ENOTCAPABLE)
        U64.pack_into(self.span(result, 8), 0, descriptor.offset)

    @syscall
    def fd_advise(self, fd: int, offset: int, length: int, advice: int) -> None:
        descriptor = self.descriptor(fd)
        _seekable(descriptor)
        self.descriptor(fd, Rights.FD_ADVISE)
        if advice >= _ADVICES or offset + length > OFFSET_MAX:
            raise WasiError(Errno.EINVAL)

    @syscall
    def fd_allocate(self, fd: int, offset: int, length: int) -> None:
        descriptor = self.descriptor(fd)
        file = _seekable(descriptor)
        if not descriptor.rights & _WRITE:
            raise WasiError(Errno.EBADF)
        self.descriptor(fd, Rights.FD_ALLOCATE)
        if length == 0 or offset > OFFSET_MAX:
            raise WasiError(Errno.EINVAL)
        if offset + length > OFFSET_MAX:
            raise WasiError(Errno.EFBIG)
        file.allocate(offset, length)

    @syscall
    def fd_filestat_set_size(self, fd: int, size: int) -> None:
        descriptor = self.descriptor(fd)
        if descriptor.file is None or not descriptor.rights & _WRITE:
            raise WasiError(Errno.EINVAL)
        self.descriptor(fd, Rights.FD_FILESTAT_SET_SIZE)
        if size > OFFSET_MAX:
            raise WasiError(Errno.EINVAL)
        descriptor.file.truncate(size)

    @syscall
    def fd_sync(self, fd: int) -> None:
        self._sync(self.descriptor(fd), Rights.FD_SYNC, data_only=False)

    @syscall
    def fd_datasync(self, fd: int) -> None:
        self._sync(self.descriptor(fd), Rights.FD_DATASYNC | Rights.FD_SYNC, data_only=True)

    def _sync(self, descriptor: Descriptor, rights: int, data_only: bool) -> None:
        if descriptor.file is None and descriptor.shared is None:
            raise WasiError(Errno.EINVAL)
        if not descriptor.rights & rights:
            raise WasiError(Errno.ENOTCAPABLE)
        (descriptor.file or descriptor.directory).sync(data_only)


def _file(descriptor: Descriptor) -> File:
    """The file behind a descriptor that may be read or written."""
    if descriptor.file is None:
        raise WasiError(Errno.EBADF if descriptor.shared is not None else Errno.ESPIPE)
    return descriptor.file


_seekable = _file
