"""What every writable file system must do. A test module derives from ``Conformance`` and gives ``fs``.

The rules are those of POSIX as ``wasi/vfs.py`` words them; each adapter runs the same tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from sojourn.vm.process.wasi.abi import Errno, FileType
from sojourn.vm.process.wasi.vfs import Directory, File, FileSystem, Symlink, WasiError


def errno_of(function: Callable[..., object], *args: Any, **options: Any) -> Errno:
    with pytest.raises(WasiError) as caught:
        function(*args, **options)
    return caught.value.errno


def open_file(
    directory: Directory,
    name: bytes,
    *,
    read: bool = True,
    write: bool = True,
    create: bool = False,
    exclusive: bool = False,
    truncate: bool = False,
) -> File:
    return directory.open(name, read=read, write=write, create=create, exclusive=exclusive, truncate=truncate)


def put(directory: Directory, name: bytes, data: bytes = b"") -> None:
    file = open_file(directory, name, create=True, truncate=True)
    if data:
        assert file.pwrite(data, 0) == len(data)
    file.close()


def get(directory: Directory, name: bytes) -> bytes:
    file = open_file(directory, name, write=False)
    try:
        return bytes(file.pread(1 << 20, 0))
    finally:
        file.close()


def enter(directory: Directory, name: bytes) -> Directory:
    node = directory.lookup(name)
    assert node.filetype == FileType.DIRECTORY
    return cast(Directory, node)


def names(directory: Directory) -> list[bytes]:
    return sorted(entry.name for entry in directory.entries(0))


class Conformance:
    """Derive, and give a fixture ``fs``: an empty writable file system."""

    @pytest.fixture
    def root(self, fs: FileSystem) -> Directory:
        return fs.root()

    def test_a_new_file_is_empty_and_there(self, root: Directory) -> None:
        put(root, b"f")
        node = root.lookup(b"f")
        assert node.filetype == FileType.REGULAR_FILE
        stat = node.stat()
        assert (stat.filetype, stat.size, stat.nlink) == (FileType.REGULAR_FILE, 0, 1)
        assert names(root) == [b"f"]
        node.close()

    def test_what_is_written_is_read(self, root: Directory) -> None:
        file = open_file(root, b"f", create=True)
        assert file.pwrite(b"hello", 0) == 5
        assert file.pwrite(memoryview(b"J"), 0) == 1
        assert bytes(file.pread(100, 0)) == b"Jello"
        assert bytes(file.pread(2, 3)) == b"lo"
        assert bytes(file.pread(2, 5)) == b""
        assert bytes(file.pread(2, 1 << 40)) == b""
        assert bytes(file.pread(0, 0)) == b""
        assert file.stat().size == 5
        file.close()

    def test_a_gap_reads_as_zeros(self, root: Directory) -> None:
        file = open_file(root, b"f", create=True)
        file.pwrite(b"x", 3)
        assert bytes(file.pread(10, 0)) == b"\0\0\0x"
        file.close()

    def test_writing_nothing_changes_nothing(self, root: Directory) -> None:
        file = open_file(root, b"f", create=True)
        file.pwrite(b"text", 0)
        file.set_times(5, 6)
        assert file.pwrite(b"", 1 << 62) == 0
        assert file.append(b"") == 4
        stat = file.stat()
        assert (stat.size, stat.mtim) == (4, 6)
        file.close()

    def test_far_beyond_the_end_there_is_nothing(self, root: Directory) -> None:
        file = open_file(root, b"f", create=True)
        for offset in (1 << 62, (1 << 63) - 2, (1 << 63) - 1):
            assert file.pread(100, offset) == b""
        file.close()

    def test_append_goes_to_the_end_and_pwrite_to_its_place(self, root: Directory) -> None:
        first, second = open_file(root, b"f", create=True), open_file(root, b"f")
        assert first.append(b"ab") == 2
        assert second.append(b"cd") == 4
        assert first.pwrite(b"X", 0) == 1
        assert first.append(b"ef") == 6
        assert bytes(second.pread(10, 0)) == b"Xbcdef"
        first.close()
        second.close()

    def test_truncate_and_allocate(self, root: Directory) -> None:
        file = open_file(root, b"f", create=True)
        file.pwrite(b"hello", 0)
        file.truncate(2)
        file.truncate(4)
        assert bytes(file.pread(10, 0)) == b"he\0\0"
        file.allocate(2, 6)
        assert file.stat().size == 8
        file.allocate(0, 1)
        assert file.stat().size == 8
        file.sync(True)
        file.sync(False)
        file.close()

    def test_open_with_truncate(self, root: Directory) -> None:
        put(root, b"f", b"content")
        open_file(root, b"f", truncate=True).close()
        assert get(root, b"f") == b""

    def test_create_keeps_what_is_there_unless_exclusive(self, root: Directory) -> None:
        put(root, b"f", b"content")
        open_file(root, b"f", create=True).close()
        assert get(root, b"f") == b"content"
        assert errno_of(open_file, root, b"f", create=True, exclusive=True) == Errno.EEXIST

    def test_what_cannot_be_opened(self, root: Directory) -> None:
        root.mkdir(b"d")
        root.symlink(b"l", b"d")
        assert errno_of(open_file, root, b"none") == Errno.ENOENT
        assert errno_of(open_file, root, b"d", write=False) == Errno.EISDIR
        assert errno_of(open_file, root, b"l", write=False) == Errno.ELOOP
        assert errno_of(open_file, root, b"l", create=True) == Errno.ELOOP
        assert errno_of(open_file, root, b"l", create=True, exclusive=True) == Errno.EEXIST
        assert errno_of(root.lookup, b"none") == Errno.ENOENT

    def test_modes_of_opening_hold(self, root: Directory) -> None:
        put(root, b"f", b"content")
        reader, writer = open_file(root, b"f", write=False), open_file(root, b"f", read=False)
        assert errno_of(reader.pwrite, b"x", 0) == Errno.EBADF
        assert errno_of(reader.append, b"x") == Errno.EBADF
        assert errno_of(reader.truncate, 0) in (Errno.EBADF, Errno.EINVAL)
        assert errno_of(writer.pread, 1, 0) == Errno.EBADF
        looked_up = cast(File, root.lookup(b"f"))
        assert errno_of(looked_up.pread, 1, 0) == Errno.EBADF
        assert errno_of(looked_up.pwrite, b"x", 0) == Errno.EBADF
        for node in (reader, writer, looked_up):
            node.close()
        assert get(root, b"f") == b"content"

    def test_an_unlinked_file_lives_while_it_is_open(self, root: Directory) -> None:
        file = open_file(root, b"f", create=True)
        root.unlink(b"f")
        file.pwrite(b"still here", 0)
        assert bytes(file.pread(5, 6)) == b"here"
        assert file.stat().nlink == 0
        assert names(root) == []
        file.close()

    def test_directories_nest(self, root: Directory) -> None:
        root.mkdir(b"a")
        inner = enter(root, b"a")
        inner.mkdir(b"b")
        put(inner, b"f", b"1")
        assert names(inner) == [b"b", b"f"]
        assert inner.stat().filetype == FileType.DIRECTORY
        assert errno_of(root.mkdir, b"a") == Errno.EEXIST
        assert errno_of(root.rmdir, b"a") == Errno.ENOTEMPTY
        assert errno_of(root.unlink, b"a") in (Errno.EISDIR, Errno.EPERM)
        inner.unlink(b"f")
        inner.rmdir(b"b")
        root.rmdir(b"a")
        assert errno_of(inner.mkdir, b"late") == Errno.ENOENT
        assert errno_of(open_file, inner, b"late", create=True) == Errno.ENOENT
        inner.close()
        assert names(root) == []

    def test_what_cannot_be_removed(self, root: Directory) -> None:
        put(root, b"f")
        assert errno_of(root.rmdir, b"f") == Errno.ENOTDIR
        assert errno_of(root.rmdir, b"none") == Errno.ENOENT
        assert errno_of(root.unlink, b"none") == Errno.ENOENT

    def test_symbolic_links_are_text(self, root: Directory) -> None:
        root.symlink(b"l", b"../../outside\xff")
        node = root.lookup(b"l")
        assert node.filetype == FileType.SYMBOLIC_LINK
        assert cast(Symlink, node).readlink() == b"../../outside\xff"
        assert node.stat().size == len(b"../../outside\xff")
        node.close()
        assert errno_of(root.symlink, b"l", b"x") == Errno.EEXIST
        root.unlink(b"l")
        assert names(root) == []

    def test_hard_links_are_one_file(self, root: Directory) -> None:
        put(root, b"f", b"1")
        node = root.lookup(b"f")
        root.link(b"g", node)
        other = root.lookup(b"g")
        assert node.identity() == other.identity()
        assert other.stat().nlink == 2
        assert node.stat().ino == other.stat().ino
        assert errno_of(root.link, b"g", node) == Errno.EEXIST
        node.close()
        other.close()
        put(root, b"g", b"changed")
        root.unlink(b"g")
        assert get(root, b"f") == b"changed"

    def test_no_hard_link_to_a_directory(self, root: Directory) -> None:
        root.mkdir(b"d")
        node = root.lookup(b"d")
        assert errno_of(root.link, b"e", node) == Errno.EPERM
        node.close()

    def test_rename_moves_and_replaces(self, root: Directory) -> None:
        root.mkdir(b"d")
        inner = enter(root, b"d")
        put(root, b"f", b"new")
        put(inner, b"g", b"old")
        root.rename(b"f", inner, b"g")
        assert (names(root), names(inner)) == ([b"d"], [b"g"])
        assert get(inner, b"g") == b"new"
        inner.rename(b"g", inner, b"g")
        assert get(inner, b"g") == b"new"
        inner.close()

    def test_what_cannot_be_renamed(self, root: Directory) -> None:
        for name in (b"d", b"e"):
            root.mkdir(name)
        inner = enter(root, b"d")
        put(root, b"f")
        put(inner, b"g")
        assert errno_of(root.rename, b"none", root, b"x") == Errno.ENOENT
        assert errno_of(root.rename, b"d", inner, b"x") == Errno.EINVAL
        assert errno_of(root.rename, b"e", root, b"d") == Errno.ENOTEMPTY
        assert errno_of(root.rename, b"f", root, b"d") == Errno.EISDIR
        assert errno_of(root.rename, b"d", root, b"f") == Errno.ENOTDIR
        root.rename(b"d", root, b"e")  # replaces an empty one
        assert names(root) == [b"e", b"f"]
        inner.close()

    def test_nothing_takes_the_place_of_what_it_lies_in(self, root: Directory) -> None:
        root.mkdir(b"d")
        below = enter(root, b"d")
        below.mkdir(b"sub")
        put(below, b"f")
        for name in (b"f", b"sub"):
            assert errno_of(below.rename, name, root, b"d") == Errno.ENOTEMPTY
        assert names(below) == [b"f", b"sub"]
        below.close()

    def test_times(self, root: Directory) -> None:
        put(root, b"f")
        root.mkdir(b"d")
        root.symlink(b"l", b"nowhere")
        for name in (b"f", b"d", b"l"):
            node = root.lookup(name)
            node.set_times(1_000_000_001, 2_000_000_002)
            node.set_times(None, 3_000_000_003)
            stat = node.stat()
            assert (stat.atim, stat.mtim) == (1_000_000_001, 3_000_000_003)
            node.close()
        file = open_file(root, b"f")
        file.set_times(5_000_000_000, None)
        assert (file.stat().atim, file.stat().mtim) == (5_000_000_000, 3_000_000_003)
        file.close()

    def test_a_listing_says_what_things_are(self, root: Directory) -> None:
        put(root, b"f")
        root.mkdir(b"d")
        root.symlink(b"l", b"f")
        found = {entry.name: entry for entry in root.entries(0)}
        assert {name: entry.filetype for name, entry in found.items()} == {
            b"f": FileType.REGULAR_FILE,
            b"d": FileType.DIRECTORY,
            b"l": FileType.SYMBOLIC_LINK,
        }
        for name, entry in found.items():
            node = root.lookup(name)
            assert node.stat().ino == entry.ino
            node.close()

    def test_a_listing_goes_on_from_any_cookie(self, root: Directory) -> None:
        for number in range(50):
            put(root, b"f%d" % number)
        everything = list(root.entries(0))
        assert len({entry.name for entry in everything}) == 50
        for at in (0, 1, 17, 48):
            rest = list(root.entries(everything[at].cookie))
            assert [entry.name for entry in rest] == [entry.name for entry in everything[at + 1 :]]
        assert list(root.entries(everything[-1].cookie)) == []
        assert list(root.entries((1 << 64) - 1)) == []

    def test_a_listing_neither_repeats_nor_skips_while_names_change(self, root: Directory) -> None:
        for number in range(40):
            put(root, b"f%02d" % number)
        seen: list[bytes] = []
        cookie = 0
        while batch := [entry for _, entry in zip(range(7), root.entries(cookie), strict=False)]:
            seen += [entry.name for entry in batch]
            cookie = batch[-1].cookie
            root.unlink(batch[0].name)
            if len(seen) < 40:  # a listing may show what is made meanwhile, so without end it has none
                put(root, b"new%d" % len(seen))
        kept = [name for name in seen if name.startswith(b"f")]
        assert sorted(kept) == [b"f%02d" % number for number in range(40)]
        assert len(seen) == len(set(seen))

    def test_handles_are_the_object_whatever_its_name(self, root: Directory) -> None:
        root.mkdir(b"d")
        inner = enter(root, b"d")
        root.rename(b"d", root, b"e")
        put(inner, b"f", b"1")
        again = enter(root, b"e")
        assert again.identity() == inner.identity()
        assert get(again, b"f") == b"1"
        inner.close()
        again.close()

    def test_closing_twice_does_nothing(self, root: Directory) -> None:
        put(root, b"f")
        root.symlink(b"l", b"f")
        root.mkdir(b"d")
        for node in (open_file(root, b"f"), *(root.lookup(name) for name in (b"f", b"l", b"d")), root):
            node.close()
            node.close()
