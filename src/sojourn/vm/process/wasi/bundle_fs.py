"""A read-only file system over named contents: the files of a program, the standard library.

Directories are implied by the names. A content is read once, when it is first needed, and kept: an
interpreter opens its library archive hundreds of times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, Protocol

from sojourn.model.errors import BundleError

from .abi import Errno, FileType
from .checking import damaged
from .vfs import NAME_BYTES_MAX, Directory, Entry, File, Node, Stat, WasiError

MTIME_NS = 315_532_800 * 10**9  # 1980-01-01: the earliest time that a zip archive can hold


class Content(Protocol):
    """The bytes of one file."""

    @property
    def size(self) -> int: ...

    def read(self) -> bytes | memoryview:
        """All of it, ``size`` bytes; read-only when a memoryview."""
        ...


class BundleFileSystem:
    """Files of ``contents``, keyed by path: ``{"a/b.txt": content}``. Nothing in it can be changed.

    Args:
        device: its ``filestat.dev``.
        mtime_ns: the one time that every object shows.

    Raises:
        BundleError: a path is absolute, has an empty, ``.`` or ``..`` part, NUL, a part that is too long,
            or one path runs through another's file.
    """

    def __init__(self, contents: Mapping[str, Content], device: int, mtime_ns: int = MTIME_NS) -> None:
        self._device = device
        self.mtime_ns = mtime_ns
        self._ino = 0
        self._root = _Folder(self._next_ino(), b"")
        for path in sorted(contents):
            self._add(path, contents[path])

    @property
    def device(self) -> int:
        return self._device

    @property
    def writable(self) -> bool:
        return False

    def root(self) -> BundleDirectory:
        return BundleDirectory(self, self._root)

    def path_of(self, node: Node) -> bytes:
        assert isinstance(node, BundleNode)
        return node.path

    def close(self) -> None:
        """Let go of the contents. Handles that are still open keep theirs."""
        self._root = _Folder(1, b"")

    def _add(self, path: str, content: Content) -> None:
        *parents, name = _parts(path)
        folder = self._root
        for part in parents:
            below = folder.names.get(part)
            if below is None:
                below = folder.names[part] = _Folder(self._next_ino(), _below(folder, part))
            if not isinstance(below, _Folder):
                raise BundleError(f"bundle: {path!r} runs through a file")
            folder = below
        if name in folder.names:
            raise BundleError(f"bundle: {path!r} is both a file and a directory")
        folder.names[name] = _Document(self._next_ino(), _below(folder, name), content)

    def _next_ino(self) -> int:
        self._ino += 1
        return self._ino


def _parts(path: str) -> list[bytes]:
    parts = path.encode("utf-8", "surrogateescape").split(b"/")
    for part in parts:
        if part in (b"", b".", b"..") or b"\0" in part or len(part) > NAME_BYTES_MAX:
            raise BundleError(f"bundle: {path!r} is not a path inside a bundle")
    return parts


class _Document:
    filetype = FileType.REGULAR_FILE

    def __init__(self, ino: int, path: bytes, content: Content) -> None:
        self.ino = ino
        self.path = path
        self.size = content.size
        self._content = content
        self._data: memoryview | None = None

    def data(self) -> memoryview:
        if self._data is None:
            self._data = memoryview(self._content.read()).toreadonly()
        return self._data


class _Folder:
    filetype = FileType.DIRECTORY
    size = 0

    def __init__(self, ino: int, path: bytes) -> None:
        self.ino = ino
        self.path = path
        self.names: dict[bytes, _Folder | _Document] = {}


def _below(folder: _Folder, name: bytes) -> bytes:
    return folder.path + b"/" + name if folder.path else name


class BundleNode:
    """A handle; closing it frees nothing, since the file system holds everything."""

    def __init__(self, filesystem: BundleFileSystem, item: _Folder | _Document) -> None:
        self._fs = filesystem
        self._item = item

    @property
    def filetype(self) -> FileType:
        return self._item.filetype

    @property
    def filesystem(self) -> BundleFileSystem:
        return self._fs

    @property
    def path(self) -> bytes:
        """From the root of the bundle."""
        return self._item.path

    def identity(self) -> int:
        return self._item.ino

    def stat(self) -> Stat:
        item, time = self._item, self._fs.mtime_ns
        return Stat(item.filetype, item.ino, item.size, 1, time, time, time)

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        _refuse()

    def sync(self, data_only: bool) -> None:
        """Nothing can be unwritten."""

    def close(self) -> None: ...


class BundleFile(BundleNode):
    _item: _Document

    def pread(self, size: int, offset: int) -> bytes | memoryview:
        return self._item.data()[offset : offset + size]

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        _refuse()

    def append(self, data: bytes | memoryview) -> int:
        _refuse()

    def truncate(self, size: int) -> None:
        _refuse()

    def allocate(self, offset: int, length: int) -> None:
        _refuse()


class BundleDirectory(BundleNode):
    _item: _Folder

    def lookup(self, name: bytes) -> Node:
        item = self._item.names.get(name)
        if item is None:
            raise WasiError(Errno.ENOENT)
        return BundleDirectory(self._fs, item) if isinstance(item, _Folder) else BundleFile(self._fs, item)

    def open(
        self,
        name: bytes,
        *,
        read: bool,
        write: bool,
        create: bool,
        exclusive: bool,
        truncate: bool,
    ) -> File:
        item = self._item.names.get(name)
        if item is None:
            raise WasiError(Errno.EROFS if create else Errno.ENOENT)
        if create and exclusive:
            raise WasiError(Errno.EEXIST)
        if isinstance(item, _Folder):
            raise WasiError(Errno.EISDIR)
        if write or truncate:
            _refuse()
        return BundleFile(self._fs, item)

    def entries(self, cookie: int) -> Iterator[Entry]:
        for at, (name, item) in enumerate(list(self._item.names.items())[cookie:], cookie + 1):
            yield Entry(at, item.ino, item.filetype, name)

    def save_listing(self) -> None:
        """A cookie says all: what is in a bundle never changes."""

    def restore_listing(self, state: Any) -> None:
        raise damaged("a listing of a directory that needs none")

    def mkdir(self, name: bytes) -> None:
        self._refuse_new(name)

    def symlink(self, name: bytes, target: bytes) -> None:
        self._refuse_new(name)

    def link(self, name: bytes, target: Node) -> None:
        if target.filesystem is not self._fs:
            raise WasiError(Errno.EXDEV)
        self._refuse_new(name)

    def rmdir(self, name: bytes) -> None:
        self._refuse_old(name)

    def unlink(self, name: bytes) -> None:
        self._refuse_old(name)

    def rename(self, name: bytes, to: Directory, to_name: bytes) -> None:
        if to.filesystem is not self._fs:
            raise WasiError(Errno.EXDEV)
        self._refuse_old(name)

    def _refuse_new(self, name: bytes) -> NoReturn:
        raise WasiError(Errno.EEXIST if name in self._item.names else Errno.EROFS)

    def _refuse_old(self, name: bytes) -> NoReturn:
        raise WasiError(Errno.EROFS if name in self._item.names else Errno.ENOENT)


def _refuse() -> NoReturn:
    raise WasiError(Errno.EROFS)
