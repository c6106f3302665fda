"""Descriptors as such: numbers, rights, attributes, listings, preopens, limits."""

from __future__ import annotations

import struct

import pytest

from sojourn.vm.process.wasi.abi import Errno, FileType, Rights
from sojourn.vm.process.wasi.outside import LimitReached

from .helpers import ALL_RIGHTS, NOW_NS, FakeSource, Guest

ATIM, ATIM_NOW, MTIM, MTIM_NOW = 1, 2, 4, 8
U64 = (1 << 64) - 1


def test_the_lowest_free_number_is_taken() -> None:
    g = Guest()
    numbers = [g.open("f", oflags=1) for _ in range(4)]
    assert numbers == [4, 5, 6, 7]
    for fd in (6, 4):
        g.ok("fd_close", fd)
    assert [g.open("f") for _ in range(3)] == [4, 6, 8]
    g.ok("fd_close", 0)
    assert g.open("f") == 0


def test_closing_twice() -> None:
    g = Guest()
    fd = g.open("f", oflags=1)
    g.ok("fd_close", fd)
    assert g.call("fd_close", fd) == Errno.EBADF
    assert g.call("fd_close", 0xFFFFFFFF) == Errno.EBADF


def test_renumber() -> None:
    g = Guest()
    a, b = g.open("a", oflags=1), g.open("b", oflags=1)
    g.write(a, b"data")
    g.ok("fd_renumber", a, b)
    assert g.call("fd_close", a) == Errno.EBADF
    assert g.seek(b, 0, 1) == 4
    assert g.call("fd_renumber", b, a) == Errno.EBADF
    assert g.call("fd_renumber", 99, b) == Errno.EBADF
    g.ok("fd_renumber", b, b)
    assert g.open("c", oflags=1) == a
    g.ok("fd_renumber", b, 3)
    assert g.call("fd_prestat_get", 3, g.OUT) == Errno.EBADF
    g.ok("fd_renumber", 1, 3)
    g.write(3, b"to stdout")
    assert g.system.output_bytes == 9


def test_renumber_closes_what_it_replaces() -> None:
    g = Guest()
    a, b = g.open("a", oflags=1), g.open("b", oflags=1)
    g.ok("path_unlink_file", 3, *g.path("b"))
    g.ok("fd_renumber", a, b)
    assert len(g.tree.private.inodes) == 2


def test_the_limit_on_descriptors() -> None:
    g = Guest(descriptors_max=8)
    g.make_file("f")
    for _ in range(4):
        g.open("f")
    with pytest.raises(LimitReached) as caught:
        g.call("path_open", 3, 0, *g.path("new"), 1, 2, 0, 0, g.OUT)
    assert caught.value.name == "descriptors"
    assert g.call("path_filestat_get", 3, 0, *g.path("new"), g.OUT) == Errno.ENOENT
    g.ok("fd_close", 7)
    assert g.open("f") == 7
    assert sum(inode.opens for inode in g.tree.private.inodes.values()) == 5


def test_too_few_descriptors_for_the_start() -> None:
    with pytest.raises(LimitReached):
        Guest(descriptors_max=4, extra=[FakeSource()])


def test_rights_only_shrink() -> None:
    g = Guest()
    fd = g.open("f", oflags=1, rights=Rights.FD_READ | Rights.FD_WRITE | Rights.FD_SEEK)
    _, _, rights, inheriting = g.fdstat(fd)
    assert g.call("fd_fdstat_set_rights", fd, rights | Rights.FD_SYNC, inheriting) == Errno.ENOTCAPABLE
    assert g.call("fd_fdstat_set_rights", fd, rights, U64) == Errno.ENOTCAPABLE
    g.ok("fd_fdstat_set_rights", fd, Rights.FD_SEEK, 0)
    assert g.fdstat(fd)[2:] == (Rights.FD_SEEK, 0)
    assert g.call("fd_read", fd, *g.vectors([1]), g.OUT) == Errno.EBADF
    assert g.call("fd_fdstat_set_rights", fd, rights, 0) == Errno.ENOTCAPABLE


def test_rights_are_inherited_and_fit_the_kind() -> None:
    g = Guest()
    g.mkdir("d")
    _, _, base, inheriting = g.fdstat(3)
    assert inheriting & base == base
    assert not base & (Rights.FD_READ | Rights.FD_WRITE | Rights.FD_SEEK | Rights.FD_FILESTAT_SET_SIZE)
    narrow = Rights.FD_READ | Rights.PATH_OPEN | Rights.FD_SEEK
    fd = g.open_directory("d", rights=Rights.FD_SEEK | Rights.PATH_OPEN, inheriting=narrow)
    assert g.fdstat(fd) == (FileType.DIRECTORY, 0, Rights.PATH_OPEN, narrow)
    g.make_file("d/f", b"x")
    inner = g.open("f", fd=fd, rights=ALL_RIGHTS, inheriting=ALL_RIGHTS)
    assert g.fdstat(inner)[2:] == (Rights.FD_READ | Rights.FD_SEEK, narrow)
    assert g.call("fd_write", inner, *g.vectors([1]), g.OUT) == Errno.EBADF
    assert g.try_open("new", fd=fd, oflags=1) == Errno.ENOTCAPABLE
    assert g.try_open("f", fd=fd, oflags=8) == Errno.EPERM
    for name in ("path_create_directory", "path_unlink_file", "path_remove_directory"):
        assert g.call(name, fd, *g.path("f")) == Errno.ENOTCAPABLE
    assert g.call("fd_readdir", fd, g.DATA, 100, 0, g.OUT) == Errno.ENOTCAPABLE
    assert g.call("fd_filestat_get", fd, g.OUT) == Errno.ENOTCAPABLE


def test_opening_the_directory_itself() -> None:
    g = Guest()
    _, _, base, inheriting = g.fdstat(3)
    again = g.open(".", oflags=2, rights=base, inheriting=inheriting)
    assert g.fdstat(again)[2:] == (base, inheriting)
    assert g.try_open(".", oflags=2, rights=Rights.FD_READ | Rights.FD_WRITE) == Errno.EISDIR
    third = g.open(".", oflags=2, fd=again, rights=Rights.FD_READ)
    g.ok("fd_close", 3)
    g.ok("fd_close", third)
    assert g.tree.private.inodes[1].opens == 1, "the handle they share is still open"
    g.make_file("f", b"x", fd=again)
    assert g.call("fd_prestat_get", again, g.OUT) == Errno.EBADF
    g.ok("fd_close", again)
    assert all(inode.opens == 0 for inode in g.tree.private.inodes.values())


def test_fdstat_flags() -> None:
    g = Guest()
    fd = g.open("f", oflags=1, flags=1 | 16, rights=ALL_RIGHTS)
    assert g.fdstat(fd)[:2] == (FileType.REGULAR_FILE, 17)
    g.ok("fd_fdstat_set_flags", fd, 4)
    assert g.fdstat(fd)[1] == 4
    assert g.call("fd_fdstat_set_flags", fd, 32) == Errno.EINVAL
    assert g.fdstat(fd)[1] == 4


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0, (NOW_NS, NOW_NS)),
        (ATIM, (11, NOW_NS)),
        (MTIM, (NOW_NS, 22)),
        (ATIM | MTIM, (11, 22)),
        (ATIM_NOW | MTIM, (NOW_NS + 5, 22)),
        (ATIM | MTIM_NOW, (11, NOW_NS + 5)),
        (ATIM | ATIM_NOW, None),
        (MTIM | MTIM_NOW, None),
        (16, None),
    ],
)
def test_set_times(flags: int, expected: tuple[int, int] | None) -> None:
    g = Guest()
    fd = g.open("f", oflags=1, rights=ALL_RIGHTS)
    g.outside.now_ns += 5
    by_fd = g.call("fd_filestat_set_times", fd, 11, 22, flags)
    by_path = g.call("path_filestat_set_times", 3, 0, *g.path("f"), 11, 22, flags)
    if expected is None:
        assert (by_fd, by_path) == (Errno.EINVAL, Errno.EINVAL)
        assert g.fstat(fd)[5:7] == (NOW_NS, NOW_NS)
    else:
        assert (by_fd, by_path) == (Errno.SUCCESS, Errno.SUCCESS)
        assert g.fstat(fd)[5:7] == expected


def test_times_as_large_as_can_be_said() -> None:
    g = Guest()
    fd = g.open("f", oflags=1, rights=ALL_RIGHTS)
    g.ok("fd_filestat_set_times", fd, U64, U64, ATIM | MTIM)
    assert g.fstat(fd)[5:7] == (U64, U64)


def test_filestat_of_files_and_directories() -> None:
    g = Guest()
    g.make_file("f", b"12345")
    fd = g.open("f", rights=ALL_RIGHTS)
    assert g.fstat(fd) == g.stat("f")
    assert g.stat("f")[2:5] == (FileType.REGULAR_FILE, 1, 5)
    assert g.fstat(3)[2] == FileType.DIRECTORY
    assert g.fstat(3)[1] != g.stat("f")[1]


# -- preopens --


def test_preopens_tell_their_names() -> None:
    g = Guest()
    g.ok("fd_prestat_get", 3, g.OUT)
    assert struct.unpack("<B3xI", g.get(g.OUT, 8)) == (0, 1)
    g.put(g.DATA, b"####")
    g.ok("fd_prestat_dir_name", 3, g.DATA, 4)
    assert g.get(g.DATA, 4) == b"/###"
    assert g.call("fd_prestat_dir_name", 3, g.DATA, 0) == Errno.ENAMETOOLONG
    for fd in (0, 1, 2, 4, 99):
        assert g.call("fd_prestat_get", fd, g.OUT) == Errno.EBADF
        assert g.call("fd_prestat_dir_name", fd, g.DATA, 4) == Errno.EBADF
    g.ok("fd_close", 3)
    assert g.call("fd_prestat_get", 3, g.OUT) == Errno.EBADF


def test_several_preopens_in_order() -> None:
    base = Guest()
    base.mkdir("a")
    g = Guest(preopens=[(b"/a", base.tree.root()), (b".", base.tree)], extra=[FakeSource(b"x")])
    assert g.stat("a", fd=4)[2] == FileType.DIRECTORY
    assert g.system.extra_numbers == (5,)
    g.make_file("a/f", fd=4)
    assert g.system.descriptors[g.open_directory("a", fd=4)].path == b"./a"


# -- listings --


def test_an_empty_directory_lists_itself_and_its_parent() -> None:
    g = Guest()
    ino = g.fstat(3)[1]
    assert [entry[2:] for entry in g.readdir(3)] == [(FileType.DIRECTORY, b"."), (FileType.DIRECTORY, b"..")]
    assert g.readdir(3)[0][1] == ino
    assert g.readdir(3, cookie=2) == []
    assert [entry[3] for entry in g.readdir(3, cookie=1)] == [b".."]


@pytest.mark.parametrize("size", [24 + 7, 64, 100, 256, 4096])
def test_listing_in_pieces(size: int) -> None:
    g = Guest()
    expected = {b".", b".."}
    for number in range(60):
        name = b"file%03d" % number
        g.make_file(name[:7])
        expected.add(name[:7])
    seen = []
    cookie = 0
    while True:
        batch = g.readdir(3, size, cookie)
        seen += [name for _, _, _, name in batch]
        used = g.u32()
        assert used <= size
        if used < size:
            break
        assert batch, "the buffer holds one entry at least"
        cookie = batch[-1][0]
    assert len(seen) == len(set(seen))
    assert set(seen) == expected


def test_a_listing_fills_the_buffer_with_part_of_an_entry() -> None:
    g = Guest()
    for size in range(51):
        g.put(g.DATA, b"\xee" * 60)
        g.ok("fd_readdir", 3, g.DATA, size, 0, g.OUT)
        assert g.u32() == min(size, 51)
        assert g.get(g.DATA + size, 4) == b"\xee" * 4
    assert g.call("fd_readdir", 3, g.DATA, 0xFFFFFFFF, 0, g.OUT) == Errno.EFAULT
    assert g.readdir(3, cookie=U64) == []
