"""The calls that take a path.

Each resolves its path to a directory and one name (``resolve.py``), then does one operation there. What a
trailing slash, ``.`` or ``..`` at the end means for an operation is decided here, as Linux decides it.
"""

from __future__ import annotations

from typing import cast

from .abi import SYMLINK_FOLLOW, Errno, FdFlags, FileType, OFlags, Rights
from .calls_fd import FdCalls
from .descriptors import PATH_KEPT_BYTES_MAX, Descriptor, SharedDirectory
from .kernel import U32, syscall
from .resolve import Target, resolve
from .vfs import PATH_BYTES_MAX, Directory, File, Symlink, WasiError

# Plain integers: arithmetic with flag types costs microseconds.
FILE_RIGHTS = int(
    Rights.FD_DATASYNC
    | Rights.FD_READ
    | Rights.FD_SEEK
    | Rights.FD_FDSTAT_SET_FLAGS
    | Rights.FD_SYNC
    | Rights.FD_TELL
    | Rights.FD_WRITE
    | Rights.FD_ADVISE
    | Rights.FD_ALLOCATE
    | Rights.FD_FILESTAT_GET
    | Rights.FD_FILESTAT_SET_SIZE
    | Rights.FD_FILESTAT_SET_TIMES
    | Rights.POLL_FD_READWRITE
)
DIRECTORY_RIGHTS = int(
    Rights.FD_DATASYNC
    | Rights.FD_FDSTAT_SET_FLAGS
    | Rights.FD_SYNC
    | Rights.PATH_CREATE_DIRECTORY
    | Rights.PATH_CREATE_FILE
    | Rights.PATH_LINK_SOURCE
    | Rights.PATH_LINK_TARGET
    | Rights.PATH_OPEN
    | Rights.FD_READDIR
    | Rights.PATH_READLINK
    | Rights.PATH_RENAME_SOURCE
    | Rights.PATH_RENAME_TARGET
    | Rights.PATH_FILESTAT_GET
    | Rights.PATH_FILESTAT_SET_SIZE
    | Rights.PATH_FILESTAT_SET_TIMES
    | Rights.FD_FILESTAT_GET
    | Rights.FD_FILESTAT_SET_TIMES
    | Rights.PATH_SYMLINK
    | Rights.PATH_REMOVE_DIRECTORY
    | Rights.PATH_UNLINK_FILE
)
_READ, _WRITE = int(Rights.FD_READ), int(Rights.FD_WRITE)
_CREAT, _DIRECTORY = int(OFlags.CREAT), int(OFlags.DIRECTORY)
_EXCL, _TRUNC = int(OFlags.EXCL), int(OFlags.TRUNC)
_OFLAGS_ALL = sum(OFlags)
_FDFLAGS_ALL = sum(FdFlags)


class PathCalls(FdCalls):
    @syscall
    def path_open(
        self,
        fd: int,
        lookup_flags: int,
        path: int,
        length: int,
        oflags: int,
        rights: int,
        inheriting: int,
        fdflags: int,
        result: int,
    ) -> None:
        if lookup_flags & ~SYMLINK_FOLLOW or oflags & ~_OFLAGS_ALL or fdflags & ~_FDFLAGS_ALL:
            raise WasiError(Errno.EINVAL)
        parent = self._may_open(fd, oflags)
        name, out = self.path(path, length), self.span(result, 4)
        self._table.need_room()
        exclusive = bool(oflags & _CREAT and oflags & _EXCL)
        follow = bool(lookup_flags & SYMLINK_FOLLOW) and not exclusive
        made = Descriptor(rights & parent.inheriting, inheriting & parent.inheriting, flags=fdflags, path=b"")
        with resolve(parent.directory, name, follow=follow, slash_follows=not exclusive) as target:
            made.path = _join(parent.path, target)
            self._open_target(parent, target, made, oflags)
        U32.pack_into(out, 0, self._table.add(made))

    def _may_open(self, fd: int, oflags: int) -> Descriptor:
        parent = self._at(fd, Rights.PATH_OPEN)
        if oflags & _CREAT and not parent.rights & Rights.PATH_CREATE_FILE:
            raise WasiError(Errno.ENOTCAPABLE)
        if oflags & _TRUNC and not parent.rights & Rights.PATH_FILESTAT_SET_SIZE:
            raise WasiError(Errno.EPERM)
        if oflags & _DIRECTORY and oflags & ~_DIRECTORY:
            raise WasiError(Errno.EINVAL)
        return parent

    def _open_target(self, parent: Descriptor, target: Target, made: Descriptor, oflags: int) -> None:
        """Open what ``target`` leads to, a file or a directory, and give the handle to ``made``."""
        node = target.find_or_none()
        if node is None:
            if not oflags & _CREAT:
                raise WasiError(Errno.ENOENT)
            if target.slash:
                raise WasiError(Errno.EISDIR)
        elif oflags & _CREAT and oflags & _EXCL:
            raise WasiError(Errno.EEXIST)
        elif node.filetype == FileType.DIRECTORY:
            if oflags & (_CREAT | _TRUNC) or made.rights & _WRITE:
                raise WasiError(Errno.EISDIR)
            made.rights &= DIRECTORY_RIGHTS
            made.hold(_directory(parent, target))
            return
        elif oflags & _DIRECTORY:
            raise WasiError(Errno.ENOTDIR)
        elif node.filetype == FileType.SYMBOLIC_LINK:
            raise WasiError(Errno.ELOOP)
        made.rights &= FILE_RIGHTS
        made.file = _open_file(target, made.rights, oflags)

    @syscall
    def path_create_directory(self, fd: int, path: int, length: int) -> None:
        directory = self._at(fd, Rights.PATH_CREATE_DIRECTORY).directory
        with resolve(directory, self.path(path, length), follow=False, slash_follows=False) as target:
            target.directory.mkdir(_new_name(target))

    @syscall
    def path_symlink(self, old: int, old_length: int, fd: int, new: int, new_length: int) -> None:
        directory = self._at(fd, Rights.PATH_SYMLINK).directory
        text = self.path(old, old_length)
        _check_link_text(text)
        with resolve(directory, self.path(new, new_length), follow=False, slash_follows=False) as target:
            name = _new_name(target)
            if target.slash:
                target.find()  # ENOENT, ENOTDIR
                raise WasiError(Errno.EEXIST)
            target.directory.symlink(name, text)

    @syscall
    def path_link(
        self, fd: int, lookup_flags: int, old: int, old_length: int, to_fd: int, new: int, new_length: int
    ) -> None:
        if lookup_flags:  # links to what a symbolic link names are refused, as by other hosts
            raise WasiError(Errno.EINVAL)
        source = self._at(fd, Rights.PATH_LINK_SOURCE).directory
        sink = self._at(to_fd, Rights.PATH_LINK_TARGET).directory
        old_path, new_path = self.path(old, old_length), self.path(new, new_length)
        with (
            resolve(source, old_path, follow=False) as target,
            resolve(sink, new_path, follow=False, slash_follows=False) as place,
        ):
            node = target.find()
            name = _new_name(place)
            if node.filetype == FileType.DIRECTORY:
                raise WasiError(Errno.EPERM)
            if place.slash:
                place.find()
                raise WasiError(Errno.EEXIST)
            if node.filesystem is not place.directory.filesystem:
                raise WasiError(Errno.EXDEV)
            place.directory.link(name, node)

    @syscall
    def path_rename(self, fd: int, old: int, old_length: int, to_fd: int, new: int, new_length: int) -> None:
        source = self._at(fd, Rights.PATH_RENAME_SOURCE).directory
        sink = self._at(to_fd, Rights.PATH_RENAME_TARGET).directory
        old_path, new_path = self.path(old, old_length), self.path(new, new_length)
        with (
            resolve(source, old_path, follow=False, slash_follows=False) as target,
            resolve(sink, new_path, follow=False, slash_follows=False) as place,
        ):
            if target.name is None or place.name is None:
                raise WasiError(Errno.EBUSY)
            if target.slash or place.slash:
                target.slash = True
                target.find()
            if target.directory.filesystem is not place.directory.filesystem:
                raise WasiError(Errno.EXDEV)
            target.directory.rename(target.name, place.directory, place.name)

    @syscall
    def path_unlink_file(self, fd: int, path: int, length: int) -> None:
        directory = self._at(fd, Rights.PATH_UNLINK_FILE).directory
        with resolve(directory, self.path(path, length), follow=False, slash_follows=False) as target:
            if target.name is None:
                raise WasiError(Errno.EISDIR)
            if target.slash:
                target.find()  # ENOENT, ENOTDIR
                raise WasiError(Errno.EISDIR)
            target.directory.unlink(target.name)

    @syscall
    def path_remove_directory(self, fd: int, path: int, length: int) -> None:
        directory = self._at(fd, Rights.PATH_REMOVE_DIRECTORY).directory
        with resolve(directory, self.path(path, length), follow=False, slash_follows=False) as target:
            if target.name is None:
                raise WasiError(Errno.ENOTEMPTY if target.dots else Errno.EINVAL)
            target.directory.rmdir(target.name)

    @syscall
    def path_readlink(
        self, fd: int, path: int, length: int, buffer: int, buffer_length: int, used: int
    ) -> None:
        directory = self._at(fd, Rights.PATH_READLINK).directory
        with resolve(directory, self.path(path, length), follow=False) as target:
            node = target.find()
            if node.filetype != FileType.SYMBOLIC_LINK:
                raise WasiError(Errno.EINVAL)
            text = cast(Symlink, node).readlink()[:buffer_length]
        out, result = self.span(buffer, buffer_length), self.span(used, 4)
        out[: len(text)] = text
        U32.pack_into(result, 0, len(text))

    @syscall
    def path_filestat_get(self, fd: int, lookup_flags: int, path: int, length: int, result: int) -> None:
        directory = self._at(fd, Rights.PATH_FILESTAT_GET).directory
        follow = _follow(lookup_flags)
        out = self.span(result, 64)
        with resolve(directory, self.path(path, length), follow=follow) as target:
            node = target.find()
            self.put_filestat(out, node, node.filetype)

    @syscall
    def path_filestat_set_times(
        self, fd: int, lookup_flags: int, path: int, length: int, atim: int, mtim: int, flags: int
    ) -> None:
        directory = self._at(fd, Rights.PATH_FILESTAT_SET_TIMES).directory
        follow = _follow(lookup_flags)
        times = self.times(atim, mtim, flags)
        with resolve(directory, self.path(path, length), follow=follow) as target:
            target.find().set_times(*times)

    def _at(self, fd: int, rights: int) -> Descriptor:
        """The directory descriptor ``fd``.

        Raises:
            WasiError: ``EBADF``, ``ENOTDIR``, ``ENOTCAPABLE``.
        """
        descriptor = self.descriptor(fd)
        if descriptor.shared is None:
            raise WasiError(Errno.ENOTDIR)
        return self.descriptor(fd, rights)


def _directory(parent: Descriptor, target: Target) -> SharedDirectory:
    if target.is_start:
        assert parent.shared is not None
        return parent.shared
    return SharedDirectory(cast(Directory, target.take()))


def _open_file(target: Target, rights: int, oflags: int) -> File:
    assert target.name is not None
    truncate = bool(oflags & _TRUNC)
    write = bool(rights & _WRITE) or truncate
    return target.directory.open(
        target.name,
        read=bool(rights & _READ) or not write,
        write=write,
        create=bool(oflags & _CREAT),
        exclusive=bool(oflags & _EXCL),
        truncate=truncate,
    )


def _new_name(target: Target) -> bytes:
    """The name to make; ``.`` and ``..`` always exist already."""
    if target.name is None:
        raise WasiError(Errno.EEXIST)
    return target.name


def _check_link_text(text: bytes) -> None:
    if not text:
        raise WasiError(Errno.ENOENT)
    if len(text) >= PATH_BYTES_MAX:
        raise WasiError(Errno.ENAMETOOLONG)
    if b"\0" in text:
        raise WasiError(Errno.EINVAL)
    if text.startswith(b"/"):
        raise WasiError(Errno.EPERM)


def _follow(lookup_flags: int) -> bool:
    if lookup_flags & ~SYMLINK_FOLLOW:
        raise WasiError(Errno.EINVAL)
    return bool(lookup_flags)


def _join(start: bytes, target: Target) -> bytes:
    parts = [*target.parts, *([] if target.name is None else [target.name])]
    joined = b"/".join([start.rstrip(b"/"), *parts]) or b"/"
    if len(joined) > PATH_KEPT_BYTES_MAX:
        raise WasiError(Errno.ENAMETOOLONG)
    return joined
