"""What can be asked of and done to a descriptor as such: attributes, rights, listing, renumbering."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from .abi import Errno, FdFlags, FileType, Rights
from .descriptors import Descriptor
from .kernel import U32, Kernel, syscall
from .vfs import Entry, Node, Stat, WasiError

_FDSTAT = struct.Struct("<BxHxxxxQQ")
_FILESTAT = struct.Struct("<QQBxxxxxxxQQQQQ")
_DIRENT = struct.Struct("<QQIBxxx")
_PRESTAT = struct.Struct("<BxxxI")
_FDFLAGS_ALL = sum(FdFlags)
_ATIM, _ATIM_NOW, _MTIM, _MTIM_NOW = 1, 2, 4, 8
_DOTS = 2  # "." and ".." come before what the file system lists
_U64_MASK = (1 << 64) - 1


class FdCalls(Kernel):
    @syscall
    def fd_close(self, fd: int) -> None:
        self._table.close(fd)

    @syscall
    def fd_renumber(self, fd: int, to: int) -> None:
        self._table.renumber(fd, to)

    @syscall
    def fd_fdstat_get(self, fd: int, result: int) -> None:
        descriptor = self.descriptor(fd)
        _FDSTAT.pack_into(
            self.span(result, 24),
            0,
            _filetype(descriptor),
            descriptor.flags,
            descriptor.rights,
            descriptor.inheriting,
        )

    @syscall
    def fd_fdstat_set_flags(self, fd: int, flags: int) -> None:
        descriptor = self.descriptor(fd, Rights.FD_FDSTAT_SET_FLAGS)
        if flags & ~_FDFLAGS_ALL:
            raise WasiError(Errno.EINVAL)
        descriptor.flags = flags

    @syscall
    def fd_fdstat_set_rights(self, fd: int, rights: int, inheriting: int) -> None:
        descriptor = self.descriptor(fd)
        if rights & ~descriptor.rights or inheriting & ~descriptor.inheriting:
            raise WasiError(Errno.ENOTCAPABLE)
        descriptor.rights = rights
        descriptor.inheriting = inheriting

    @syscall
    def fd_filestat_get(self, fd: int, result: int) -> None:
        descriptor = self.descriptor(fd, Rights.FD_FILESTAT_GET)
        self.put_filestat(self.span(result, 64), descriptor.node(), _filetype(descriptor))

    def put_filestat(self, out: memoryview, node: Node | None, filetype: FileType) -> None:
        """Write the attributes of ``node``; those of a stream of type ``filetype`` when it is None."""
        device = 0 if node is None else node.filesystem.device
        stat = Stat(filetype, 0, 0, 1, 0, 0, 0) if node is None else node.stat()
        _FILESTAT.pack_into(
            out,
            0,
            device & _U64_MASK,
            stat.ino & _U64_MASK,
            stat.filetype,
            stat.nlink & _U64_MASK,
            stat.size & _U64_MASK,
            *(max(0, time) & _U64_MASK for time in (stat.atim, stat.mtim, stat.ctim)),
        )

    @syscall
    def fd_filestat_set_times(self, fd: int, atim: int, mtim: int, flags: int) -> None:
        node = self.descriptor(fd, Rights.FD_FILESTAT_SET_TIMES).node()
        if node is None:
            raise WasiError(Errno.EBADF)
        node.set_times(*self.times(atim, mtim, flags))

    def times(self, atim: int, mtim: int, flags: int) -> tuple[int | None, int | None]:
        """The access and modification time that ``fstflags`` ask for; None: as it is."""
        both = _ATIM | _ATIM_NOW, _MTIM | _MTIM_NOW
        if flags & ~(both[0] | both[1]) or any(flags & pair == pair for pair in both):
            raise WasiError(Errno.EINVAL)
        now = self._outside.realtime_ns() if flags & (_ATIM_NOW | _MTIM_NOW) else 0
        return (
            atim if flags & _ATIM else now if flags & _ATIM_NOW else None,
            mtim if flags & _MTIM else now if flags & _MTIM_NOW else None,
        )

    @syscall
    def fd_prestat_get(self, fd: int, result: int) -> None:
        _PRESTAT.pack_into(self.span(result, 8), 0, 0, len(self._preopen(fd)))

    @syscall
    def fd_prestat_dir_name(self, fd: int, path: int, length: int) -> None:
        name = self._preopen(fd)
        if length < len(name):
            raise WasiError(Errno.ENAMETOOLONG)
        self.span(path, len(name))[:] = name

    def _preopen(self, fd: int) -> bytes:
        # EBADF whatever it is instead: the C library looks for preopens until it sees that.
        name = self.descriptor(fd).preopen
        if name is None:
            raise WasiError(Errno.EBADF)
        return name

    @syscall
    def fd_readdir(self, fd: int, buffer: int, length: int, cookie: int, used: int) -> None:
        descriptor = self.descriptor(fd)
        directory = descriptor.directory
        self.descriptor(fd, Rights.FD_READDIR)
        out = self.span(buffer, length)
        result = self.span(used, 4)
        at = 0
        for entry in _listing(directory.stat().ino, directory.entries, cookie) if length else ():
            header = _DIRENT.pack(
                entry.cookie & _U64_MASK, entry.ino & _U64_MASK, len(entry.name), entry.filetype
            )
            data = (header + entry.name)[: length - at]
            out[at : at + len(data)] = data
            at += len(data)
            if at == length:
                break
        U32.pack_into(result, 0, at)


def _listing(ino: int, entries: Callable[[int], Iterator[Entry]], cookie: int) -> Iterator[Entry]:
    """All entries after ``cookie``, ``.`` and ``..`` first, with the cookies that the guest sees."""
    for number, name in ((1, b"."), (2, b"..")):
        if cookie < number:
            yield Entry(number, ino, FileType.DIRECTORY, name)
    for entry in entries(max(0, cookie - _DOTS)):
        yield Entry(entry.cookie + _DOTS, entry.ino, entry.filetype, entry.name)


def _filetype(descriptor: Descriptor) -> FileType:
    """A pipe has no type of its own; a terminal must be a character device, or ``isatty`` fails."""
    node = descriptor.node()
    if node is not None:
        return node.filetype
    return FileType.CHARACTER_DEVICE if descriptor.tty else FileType.UNKNOWN
