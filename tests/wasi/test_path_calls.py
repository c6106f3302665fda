"""The calls that take a path, by tables. Errors are those of Linux, within what other hosts of WASI give."""

from __future__ import annotations

import pytest

from sojourn.vm.process.wasi.abi import Errno, FileType, Rights
from sojourn.vm.process.wasi.bundle_fs import BundleFileSystem
from sojourn.vm.process.wasi.descriptors import PATH_KEPT_BYTES_MAX
from sojourn.vm.process.wasi.outside import LimitReached

from .helpers import ALL_RIGHTS, Guest
from .test_bundle_fs import Text

CREAT, DIRECTORY, EXCL, TRUNC = 1, 2, 4, 8
FOLLOW = 1
READ = int(Rights.FD_READ)
WRITE = int(Rights.FD_WRITE)
OK = Errno.SUCCESS


def guest() -> Guest:
    g = Guest()
    g.make_file("file", b"content")
    g.mkdir("dir")
    g.mkdir("empty")
    g.make_file("dir/below", b"b")
    for target, name in (("file", "lf"), ("dir", "ld"), ("none", "dangling"), ("loop", "loop"), ("..", "up")):
        g.symlink(target, name)
    return g


@pytest.mark.parametrize(
    ("path", "oflags", "follow", "rights", "expected"),
    [
        ("file", 0, 0, READ, OK),
        ("file", CREAT, 0, READ, OK),
        ("file", CREAT | EXCL, 0, READ, Errno.EEXIST),
        ("file", EXCL, 0, READ, OK),
        ("file", DIRECTORY, 0, 0, Errno.ENOTDIR),
        ("file/", 0, 0, READ, Errno.ENOTDIR),
        ("file/", CREAT, 0, READ, Errno.ENOTDIR),
        ("file/x", CREAT, 0, READ, Errno.ENOTDIR),
        ("file/.", 0, 0, READ, Errno.ENOTDIR),
        ("none", 0, 0, READ, Errno.ENOENT),
        ("none", TRUNC, 0, WRITE, Errno.ENOENT),
        ("none", DIRECTORY, 0, 0, Errno.ENOENT),
        ("none/", CREAT, 0, READ, Errno.EISDIR),
        ("none/x", CREAT, 0, READ, Errno.ENOENT),
        ("new", CREAT, 0, 0, OK),
        ("new", CREAT | EXCL, FOLLOW, READ | WRITE, OK),
        ("dir", 0, 0, READ, OK),
        ("dir", DIRECTORY, 0, 0, OK),
        ("dir/", DIRECTORY, 0, 0, OK),
        ("dir/.", 0, 0, 0, OK),
        ("dir/..", 0, 0, 0, OK),
        ("dir", 0, 0, WRITE, Errno.EISDIR),
        ("dir", DIRECTORY, 0, READ | WRITE, Errno.EISDIR),
        ("dir", CREAT, 0, READ, Errno.EISDIR),
        ("dir", TRUNC, 0, READ, Errno.EISDIR),
        ("dir", CREAT | EXCL, 0, READ, Errno.EEXIST),
        (".", CREAT | EXCL, 0, READ, Errno.EEXIST),
        (".", 0, 0, WRITE, Errno.EISDIR),
        ("dir", DIRECTORY | CREAT, 0, 0, Errno.EINVAL),
        ("dir", DIRECTORY | TRUNC, 0, 0, Errno.EINVAL),
        ("lf", 0, 0, READ, Errno.ELOOP),
        ("lf", 0, FOLLOW, READ, OK),
        ("lf", CREAT, FOLLOW, READ, OK),
        ("lf", CREAT | EXCL, FOLLOW, READ, Errno.EEXIST),
        ("lf", CREAT, 0, READ, Errno.ELOOP),
        ("lf", DIRECTORY, FOLLOW, 0, Errno.ENOTDIR),
        ("lf/", 0, 0, READ, Errno.ENOTDIR),
        ("ld", DIRECTORY, 0, 0, Errno.ENOTDIR),
        ("ld", 0, 0, 0, Errno.ELOOP),
        ("ld", DIRECTORY, FOLLOW, 0, OK),
        ("ld/", DIRECTORY, 0, 0, OK),
        ("ld/below", 0, 0, READ, OK),
        ("dangling", 0, FOLLOW, READ, Errno.ENOENT),
        ("dangling", 0, 0, READ, Errno.ELOOP),
        ("dangling", DIRECTORY, 0, 0, Errno.ENOTDIR),
        ("dangling", CREAT, FOLLOW, READ, OK),
        ("dangling", CREAT | EXCL, FOLLOW, READ, Errno.EEXIST),
        ("loop", 0, FOLLOW, READ, Errno.ELOOP),
        ("loop", 0, 0, READ, Errno.ELOOP),
        ("up", 0, FOLLOW, 0, Errno.EPERM),
        ("up/x", 0, 0, 0, Errno.EPERM),
        ("/file", 0, 0, READ, Errno.EPERM),
        ("", 0, 0, READ, Errno.ENOENT),
        ("file\0", 0, 0, READ, Errno.EINVAL),
        ("file", 16, 0, READ, Errno.EINVAL),
        ("file", 0, 2, READ, Errno.EINVAL),
    ],
)
def test_open(path: str, oflags: int, follow: int, rights: int, expected: Errno) -> None:
    g = guest()
    assert g.try_open(path, oflags=oflags, follow=follow, rights=rights) == expected
    opened = sum(inode.opens for inode in g.tree.private.inodes.values())
    assert opened <= (2 if expected == OK else 1), "a handle was left open"


def test_open_creates_what_a_link_names() -> None:
    g = guest()
    g.write(g.open("dangling", oflags=CREAT, follow=FOLLOW), b"made")
    assert g.read(g.open("none")) == b"made"


def test_truncating_needs_no_right_to_write() -> None:
    g = guest()
    g.ok("fd_close", g.open("file", oflags=TRUNC, rights=0))
    assert g.stat("file")[4] == 0
    fd = g.open("dir/below", oflags=TRUNC, rights=READ)
    assert g.call("fd_write", fd, *g.vectors([1]), g.OUT) == Errno.EBADF


def test_open_checks_flags_and_pointers_before_it_acts() -> None:
    g = guest()
    assert g.try_open("new", oflags=CREAT, flags=32) == Errno.EINVAL
    size = len(g.memory.view)
    assert g.call("path_open", 3, 0, *g.path("new"), CREAT, 2, 0, 0, size - 3) == Errno.EFAULT
    assert g.call("path_open", 3, 0, size - 1, 2, CREAT, 2, 0, 0, g.OUT) == Errno.EFAULT
    assert g.call("path_filestat_get", 3, 0, *g.path("new"), g.OUT) == Errno.ENOENT


def test_open_relative_to_what_is_no_directory() -> None:
    g = guest()
    fd = g.open("file")
    assert g.try_open("x", fd=fd) == Errno.ENOTDIR
    assert g.try_open("x", fd=0) == Errno.ENOTDIR
    assert g.try_open("x", fd=77) == Errno.EBADF


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("new", OK),
        ("new/", OK),
        ("dir/new//", OK),
        ("dir", Errno.EEXIST),
        ("file", Errno.EEXIST),
        ("file/", Errno.EEXIST),
        ("lf", Errno.EEXIST),
        ("dangling", Errno.EEXIST),
        (".", Errno.EEXIST),
        ("dir/..", Errno.EEXIST),
        ("none/x", Errno.ENOENT),
        ("file/x", Errno.ENOTDIR),
        ("..", Errno.EPERM),
        ("/x", Errno.EPERM),
        ("", Errno.ENOENT),
        ("x" * 256, Errno.ENAMETOOLONG),
    ],
)
def test_create_directory(path: str, expected: Errno) -> None:
    g = guest()
    assert g.call("path_create_directory", 3, *g.path(path)) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("file", OK),
        ("lf", OK),
        ("ld", OK),
        ("dangling", OK),
        ("file/", Errno.ENOTDIR),
        ("lf/", Errno.ENOTDIR),
        ("ld/", Errno.ENOTDIR),
        ("dir", Errno.EISDIR),
        ("dir/", Errno.EISDIR),
        (".", Errno.EISDIR),
        ("dir/..", Errno.EISDIR),
        ("none", Errno.ENOENT),
        ("none/", Errno.ENOENT),
    ],
)
def test_unlink(path: str, expected: Errno) -> None:
    g = guest()
    assert g.call("path_unlink_file", 3, *g.path(path)) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("empty", OK),
        ("empty/", OK),
        ("dir", Errno.ENOTEMPTY),
        ("file", Errno.ENOTDIR),
        ("file/", Errno.ENOTDIR),
        ("ld", Errno.ENOTDIR),
        ("ld/", Errno.ENOTDIR),
        (".", Errno.EINVAL),
        ("empty/.", Errno.EINVAL),
        ("empty/..", Errno.ENOTEMPTY),
        ("none", Errno.ENOENT),
    ],
)
def test_remove_directory(path: str, expected: Errno) -> None:
    g = guest()
    assert g.call("path_remove_directory", 3, *g.path(path)) == expected


@pytest.mark.parametrize(
    ("target", "path", "expected"),
    [
        ("any/thing", "new", OK),
        ("any", "new/", Errno.ENOENT),
        ("any", "dir", Errno.EEXIST),
        ("any", "dir/", Errno.EEXIST),
        ("any", "file", Errno.EEXIST),
        ("any", "file/", Errno.ENOTDIR),
        ("any", "dangling", Errno.EEXIST),
        ("any", ".", Errno.EEXIST),
        ("/abs", "new", Errno.EPERM),
        ("/", "new", Errno.EPERM),
        ("", "new", Errno.ENOENT),
        ("a\0b", "new", Errno.EINVAL),
        ("x" * 4096, "new", Errno.ENAMETOOLONG),
    ],
)
def test_symlink(target: str, path: str, expected: Errno) -> None:
    g = guest()
    assert g.call("path_symlink", *g.path2(target), 3, *g.path(path)) == expected


@pytest.mark.parametrize(
    ("old", "new", "flags", "expected"),
    [
        ("file", "new", 0, OK),
        ("file", "dir/new", 0, OK),
        ("dangling", "new", 0, OK),
        ("loop", "new", 0, OK),
        ("file", "new", FOLLOW, Errno.EINVAL),
        ("file", "file", 0, Errno.EEXIST),
        ("file", "dir", 0, Errno.EEXIST),
        ("file", "dangling", 0, Errno.EEXIST),
        ("file", "dir/", 0, Errno.EEXIST),
        ("file", "new/", 0, Errno.ENOENT),
        ("file", ".", 0, Errno.EEXIST),
        ("file/", "new", 0, Errno.ENOTDIR),
        ("dir", "new", 0, Errno.EPERM),
        (".", "new", 0, Errno.EPERM),
        ("none", "new", 0, Errno.ENOENT),
        ("file", "none/new", 0, Errno.ENOENT),
    ],
)
def test_link(old: str, new: str, flags: int, expected: Errno) -> None:
    g = guest()
    assert g.call("path_link", 3, flags, *g.path(old), 3, *g.path2(new)) == expected
    if expected == OK:
        assert g.stat(old)[1] == g.stat(new)[1]
        assert g.stat(new)[3] == 2


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("file", "new", OK),
        ("dir/", "new", OK),
        ("dir", "new/", OK),
        ("dir/", "empty/", OK),
        ("lf", "new", OK),
        ("file", "dangling", OK),
        ("file", "new/", Errno.ENOTDIR),
        ("file/", "new", Errno.ENOTDIR),
        ("ld/", "new", Errno.ENOTDIR),
        ("none", "new", Errno.ENOENT),
        ("none/", "new", Errno.ENOENT),
        ("dir", "dir/in", Errno.EINVAL),
        ("empty", "dir", Errno.ENOTEMPTY),
        ("dir", "file", Errno.ENOTDIR),
        ("file", "empty", Errno.EISDIR),
        (".", "new", Errno.EBUSY),
        ("dir/..", "new", Errno.EBUSY),
        ("dir", ".", Errno.EBUSY),
        ("dir/.", "new", Errno.EBUSY),
        ("..", "new", Errno.EPERM),
    ],
)
def test_rename(old: str, new: str, expected: Errno) -> None:
    g = guest()
    assert g.call("path_rename", 3, *g.path(old), 3, *g.path2(new)) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("lf", b"file"),
        ("dangling", b"none"),
        ("ld/", Errno.EINVAL),
        ("file", Errno.EINVAL),
        ("dir", Errno.EINVAL),
        (".", Errno.EINVAL),
        ("none", Errno.ENOENT),
        ("lf/", Errno.ENOTDIR),
    ],
)
def test_readlink(path: str, expected: bytes | Errno) -> None:
    g = guest()
    errno = g.call("path_readlink", 3, *g.path(path), g.DATA, 100, g.OUT)
    if isinstance(expected, Errno):
        assert errno == expected
    else:
        assert (errno, g.get(g.DATA, g.u32())) == (OK, expected)


def test_readlink_into_a_small_buffer() -> None:
    g = guest()
    g.put(g.DATA, b"####")
    g.ok("path_readlink", 3, *g.path("lf"), g.DATA, 2, g.OUT)
    assert (g.u32(), g.get(g.DATA, 4)) == (2, b"fi##")


@pytest.mark.parametrize(
    ("path", "follow", "expected"),
    [
        ("file", 0, FileType.REGULAR_FILE),
        ("dir", FOLLOW, FileType.DIRECTORY),
        ("dir/", 0, FileType.DIRECTORY),
        (".", 0, FileType.DIRECTORY),
        ("lf", 0, FileType.SYMBOLIC_LINK),
        ("lf", FOLLOW, FileType.REGULAR_FILE),
        ("ld/", 0, FileType.DIRECTORY),
        ("dangling", 0, FileType.SYMBOLIC_LINK),
        ("dangling", FOLLOW, Errno.ENOENT),
        ("file/", 0, Errno.ENOTDIR),
        ("loop", FOLLOW, Errno.ELOOP),
        ("file", 2, Errno.EINVAL),
    ],
)
def test_filestat(path: str, follow: int, expected: FileType | Errno) -> None:
    g = guest()
    errno = g.call("path_filestat_get", 3, follow, *g.path(path), g.OUT)
    if isinstance(expected, Errno):
        assert errno == expected
    else:
        assert (errno, g.get(g.OUT + 16, 1)[0]) == (OK, expected)


def test_times_of_a_link_and_of_what_it_names() -> None:
    g = guest()
    g.ok("path_filestat_set_times", 3, 0, *g.path("lf"), 0, 111, 4)
    g.ok("path_filestat_set_times", 3, FOLLOW, *g.path("lf"), 0, 222, 4)
    assert (g.stat("lf")[6], g.stat("file")[6]) == (111, 222)


RIGHTS = {
    "path_create_directory": Rights.PATH_CREATE_DIRECTORY,
    "path_unlink_file": Rights.PATH_UNLINK_FILE,
    "path_remove_directory": Rights.PATH_REMOVE_DIRECTORY,
    "path_readlink": Rights.PATH_READLINK,
    "path_filestat_get": Rights.PATH_FILESTAT_GET,
    "path_filestat_set_times": Rights.PATH_FILESTAT_SET_TIMES,
    "path_symlink": Rights.PATH_SYMLINK,
    "path_open": Rights.PATH_OPEN,
    "path_rename": Rights.PATH_RENAME_SOURCE,
    "path_link": Rights.PATH_LINK_SOURCE,
    "rename to": Rights.PATH_RENAME_TARGET,
    "link to": Rights.PATH_LINK_TARGET,
}


@pytest.mark.parametrize("name", RIGHTS)
def test_each_right_is_needed(name: str) -> None:
    g = guest()
    less = g.open_directory(".", rights=ALL_RIGHTS & ~Rights.FD_WRITE & ~RIGHTS[name])
    path, path2 = g.path("file"), g.path2("q")
    args = {
        "path_readlink": (less, *path, g.DATA, 9, g.OUT),
        "path_filestat_get": (less, 0, *path, g.OUT),
        "path_filestat_set_times": (less, 0, *path, 0, 0, 0),
        "path_symlink": (*path2, less, *path),
        "path_open": (less, 0, *path, 0, 0, 0, 0, g.OUT),
        "path_rename": (less, *path, 3, *path2),
        "rename to": (3, *path, less, *path2),
        "path_link": (less, 0, *path, 3, *path2),
        "link to": (3, 0, *path, less, *path2),
    }.get(name, (less, *path))
    call = {"rename to": "path_rename", "link to": "path_link"}.get(name, name)
    assert g.call(call, *args) == Errno.ENOTCAPABLE


def test_moving_between_preopens_of_different_file_systems() -> None:
    base = Guest()
    fs = BundleFileSystem({"x": Text(b"1")}, 5)
    g = Guest(preopens=[(b"/a", base.tree), (b"/b", fs.root())])
    g.make_file("f")
    assert g.call("path_rename", 3, *g.path("f"), 4, *g.path2("g")) == Errno.EXDEV
    assert g.call("path_link", 4, 0, *g.path("x"), 3, *g.path2("x")) == Errno.EXDEV
    assert g.call("path_unlink_file", 4, *g.path("x")) == Errno.EROFS


def test_the_limit_on_bytes_in_files() -> None:
    g = Guest(file_bytes=4000)
    with pytest.raises(LimitReached) as caught:
        for number in range(100):
            g.mkdir(f"d{number}")
    assert caught.value.name == "file_bytes"
    with pytest.raises(LimitReached):
        g.symlink("x" * 4000, "long")
    assert all(inode.opens <= 1 for inode in g.tree.private.inodes.values())


def test_the_path_that_a_descriptor_keeps_has_a_largest_length() -> None:
    """A guest that goes down name by name must not make the host hold the sum of all paths."""
    g = Guest()
    name = b"d" * 200
    fd = 3
    for _ in range(PATH_KEPT_BYTES_MAX // 201):
        g.mkdir(name, fd=fd)
        below = g.open_directory(name, fd=fd)
        if fd != 3:
            g.ok("fd_close", fd)
        fd = below
    assert len(g.system.descriptors[fd].path) <= PATH_KEPT_BYTES_MAX
    g.mkdir(name, fd=fd)
    assert g.try_open(name, fd=fd, oflags=2, rights=0) == Errno.ENAMETOOLONG
