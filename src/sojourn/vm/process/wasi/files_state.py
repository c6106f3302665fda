"""The private file system as plain data, and back.

A guest may make hundreds of thousands of files, so inodes, names and chunks are packed records, not a value
for each field. The contents lie one behind the other, in the order of the chunks' records; a hole is a chunk
that is not there. All that is in the table of inodes is saved: what a name leads to, and what was unlinked
but is still open.

What is read was written by anybody. It is taken only when it is a file system that the calls could have
made: every name in its place, counts that agree, one way from the root to each directory.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from .checking import U64_MAX, Reader, cut, damaged, fields, gathered, number, pieces
from .memory_fs import (
    ENTRY_BYTES,
    FILE_BYTES_MAX,
    INODE_BYTES,
    ROOT_INO,
    DirectoryInode,
    FileInode,
    Inode,
    MemoryFileSystem,
    SymlinkInode,
)
from .sparse import CHUNK_BYTES, CHUNK_COST_BYTES
from .vfs import NAME_BYTES_MAX, PATH_BYTES_MAX

_FIELDS = ("next_ino", "inodes", "names", "targets", "chunks", "data")
_INODE = struct.Struct("<QBQQQQQQ")  # number, kind, links, three times, and two of its kind:
# a file's size and number of chunks; a directory's parent and next cookie; the length of a link's text
_NAME = struct.Struct("<QQQB")  # directory, inode, cookie, length; the name follows
_CHUNK = struct.Struct("<QI")  # number in its file, bytes
_FILE, _DIRECTORY, _SYMLINK = range(3)
_COUNT_MAX = 1 << 62


def save_files(fs: MemoryFileSystem) -> dict[str, Any]:
    """All of ``fs`` but what it was given (clock, quota, device number)."""
    inodes = list(fs.inodes.values())
    files = [inode for inode in inodes if isinstance(inode, FileInode)]
    chunks = [sorted(file.data.chunks.items()) for file in files]
    return {
        "next_ino": fs.next_ino,
        "inodes": cut(b"".join(map(_inode_record, inodes))),
        "names": gathered(_name_records(inodes)),
        "targets": gathered(inode.target for inode in inodes if isinstance(inode, SymlinkInode)),
        "chunks": cut(b"".join(_CHUNK.pack(n, len(data)) for file in chunks for n, data in file)),
        "data": gathered(data for file in chunks for _, data in file),
    }


def _inode_record(inode: Inode) -> bytes:
    if isinstance(inode, FileInode):
        kind, first, second = _FILE, inode.data.size, len(inode.data.chunks)
    elif isinstance(inode, DirectoryInode):
        kind, first, second = _DIRECTORY, inode.parent, inode.next_cookie
    else:
        assert isinstance(inode, SymlinkInode)
        kind, first, second = _SYMLINK, len(inode.target), 0
    times = (min(max(0, time), U64_MAX) for time in (inode.atim, inode.mtim, inode.ctim))
    return _INODE.pack(inode.ino, kind, inode.nlink, *times, first, second)


def _name_records(inodes: Iterable[Inode]) -> Iterator[bytes]:
    for inode in inodes:
        if isinstance(inode, DirectoryInode):
            for name, (ino, cookie) in inode.names.items():
                yield _NAME.pack(inode.ino, ino, cookie, len(name)) + name


def restore_files(state: Any, fs: MemoryFileSystem) -> int:
    """Make ``fs`` what was saved, whatever it was. Charges nothing; handles are attached afterwards.

    Returns:
        The bytes that it holds, as its quota counts them.

    Raises:
        ContextError: the state is no file system.
    """
    saved = fields(state, _FIELDS, "the private file system")
    next_ino = number(saved["next_ino"], "the next inode number", _COUNT_MAX, ROOT_INO + 1)
    loading = _Loading(next_ino, Reader(pieces(saved["targets"], "link texts"), "link texts"))
    loading.inodes_from(pieces(saved["inodes"], "the inodes"))
    loading.contents_from(pieces(saved["chunks"], "the chunks"), pieces(saved["data"], "the contents"))
    loading.names_from(b"".join(pieces(saved["names"], "the names")))
    _check_tree(loading.inodes)
    fs.inodes.clear()
    fs.inodes.update(loading.inodes)
    fs.next_ino = next_ino
    return loading.held


class _Loading:
    """Inodes being made of a state; ``held`` is what they cost."""

    def __init__(self, next_ino: int, targets: Reader) -> None:
        self.inodes: dict[int, Inode] = {}
        self.held = 0
        self._next_ino = next_ino
        self._targets = targets
        self._counts: list[tuple[FileInode, int]] = []  # each file, and how many chunks it has

    def inodes_from(self, parts: list[bytes]) -> None:
        data = b"".join(parts)
        if len(data) % _INODE.size:
            raise damaged("an inode is cut off")
        for ino, kind, *rest in _INODE.iter_unpack(data):
            if not ROOT_INO <= ino < self._next_ino or ino in self.inodes:
                raise damaged(f"there is an inode {ino}")
            self.inodes[ino] = self._inode(ino, kind, *rest)
            self.held += INODE_BYTES
        self._targets.end()

    def _inode(
        self, ino: int, kind: int, links: int, atim: int, mtim: int, ctim: int, first: int, second: int
    ) -> Inode:
        if kind == _FILE:
            file = FileInode(ino, atim, mtim, ctim, links)
            file.data.size = number(first, "the size of a file", FILE_BYTES_MAX)
            self._counts.append((file, second))
            return file
        if kind == _DIRECTORY:
            number(second, "a cookie", _COUNT_MAX, 1)
            return DirectoryInode(ino, atim, mtim, ctim, links, parent=first, next_cookie=second)
        if kind != _SYMLINK or second:
            raise damaged(f"inode {ino} is of no known kind")
        target = bytes(self._targets.take(number(first, "the length of a link", PATH_BYTES_MAX - 1, 1)))
        if b"\0" in target or target.startswith(b"/"):
            raise damaged(f"inode {ino} is a link that cannot be")
        self.held += len(target)
        return SymlinkInode(ino, atim, mtim, ctim, links, target=target)

    def contents_from(self, chunks: list[bytes], data: list[bytes]) -> None:
        records = b"".join(chunks)
        if len(records) != _CHUNK.size * sum(count for _, count in self._counts):
            raise damaged("there are other chunks than the files have")
        record = _CHUNK.iter_unpack(records)
        reader = Reader(data, "the contents of files")
        for file, count in self._counts:
            last = -1
            for _ in range(count):
                at, length = next(record)
                end = at * CHUNK_BYTES + length
                if not last < at or not 0 < length <= CHUNK_BYTES or end > file.data.size:
                    raise damaged(f"a chunk of the file {file.ino} is not inside it")
                last = at
                file.data.chunks[at] = reader.take(length)
                file.data.held += length + CHUNK_COST_BYTES
            self.held += file.data.held
        reader.end()

    def names_from(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if at + _NAME.size > len(data):
                raise damaged("a name is cut off")
            parent, ino, cookie, length = _NAME.unpack_from(data, at)
            at += _NAME.size
            name = data[at : at + length]
            at += length
            if len(name) != length:
                raise damaged("a name is cut off")
            self._bind(parent, ino, cookie, name)
            self.held += ENTRY_BYTES + length
        for inode in self.inodes.values():
            if isinstance(inode, DirectoryInode):
                inode.order.sort()
                if any(one[0] == two[0] for one, two in zip(inode.order, inode.order[1:], strict=False)):
                    raise damaged(f"two names in the directory {inode.ino} have one cookie")

    def _bind(self, parent: int, ino: int, cookie: int, name: bytes) -> None:
        directory = self.inodes.get(parent)
        if not isinstance(directory, DirectoryInode) or ino not in self.inodes or ino == ROOT_INO:
            raise damaged("a name leads from or to what is not there")
        plain = 0 < len(name) <= NAME_BYTES_MAX and name not in (b".", b"..") and not {0, 0x2F} & set(name)
        if not plain or name in directory.names or not 0 < cookie < directory.next_cookie:
            raise damaged(f"the directory {parent} has a name that cannot be")
        directory.names[name] = (ino, cookie)
        directory.order.append((cookie, name))


def _check_tree(inodes: dict[int, Inode]) -> None:
    """Links are counted rightly, and one way leads from the root to each directory that is not removed."""
    root = inodes.get(ROOT_INO)
    if not isinstance(root, DirectoryInode):
        raise damaged("there is no root directory")
    directories = [inode for inode in inodes.values() if isinstance(inode, DirectoryInode)]
    names = Counter(ino for directory in directories for ino, _ in directory.names.values())
    for inode in inodes.values():
        links = names[inode.ino]
        if isinstance(inode, DirectoryInode):
            if links > 1 or (inode.names and not links and inode is not root):
                raise damaged(f"the directory {inode.ino} is in no place, or in two")
            below = sum(isinstance(inodes[ino], DirectoryInode) for ino, _ in inode.names.values())
            links = 2 + below if links or inode is root else 0
        if inode.nlink != links:
            raise damaged(f"inode {inode.ino} has {links} links, not {inode.nlink}")
    reached = _reached(inodes, root)
    if reached != sum(1 for directory in directories if directory.nlink):
        raise damaged("a directory lies inside itself")


def _reached(inodes: dict[int, Inode], root: DirectoryInode) -> int:
    """How many directories can be reached; each has one name at most, so each is met once."""
    waiting, count = [root], 0
    while waiting:
        at = waiting.pop()
        count += 1
        for ino, _ in at.names.values():
            below = inodes[ino]
            if isinstance(below, DirectoryInode):
                if below.parent != at.ino:
                    raise damaged(f"the directory {ino} does not know where it is")
                waiting.append(below)
    return count
