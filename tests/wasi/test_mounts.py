"""The tree of mounts, through the system calls and directly."""

from __future__ import annotations

import pytest

from sojourn.model.errors import GrantError
from sojourn.vm.process.wasi.abi import Errno, FileType
from sojourn.vm.process.wasi.bundle_fs import BundleFileSystem
from sojourn.vm.process.wasi.memory_fs import MemoryFileSystem
from sojourn.vm.process.wasi.outside import ByteQuota
from sojourn.vm.process.wasi.vfs import WasiError

from .helpers import Guest
from .test_bundle_fs import Text


def bundle(device: int = 7) -> BundleFileSystem:
    return BundleFileSystem({"x.py": Text(b"code"), "sub/y": Text(b"deep")}, device)


def scratch(device: int = 8) -> MemoryFileSystem:
    return MemoryFileSystem(ByteQuota("file_bytes", 1 << 20), lambda: 5, device)


def guest() -> Guest:
    """/app: a bundle; /data/in: another, writable; /lib/z.zip: one file; /own/f: private."""
    made = Guest()
    made.tree.mount_directory("/app", bundle())
    made.tree.mount_directory("/data/in/", scratch())
    made.tree.mount_file("/lib/z.zip", BundleFileSystem({"any": Text(b"zip!")}, 9), b"any")
    made.mkdir("own")
    made.make_file("own/f", b"mine")
    return made


def test_a_handle_on_a_directory_of_the_tree() -> None:
    made = Guest()
    made.tree.mount_directory("/data/in", scratch())
    made.make_file("file")
    for path, device in (("/", 1), ("/data", 1), ("/data/in", 8)):
        directory = made.tree.directory(path)
        assert directory.filesystem.device == device
        directory.close()
    for path, errno in (("/file", Errno.ENOTDIR), ("/none", Errno.ENOENT), ("/file/x", Errno.ENOTDIR)):
        with pytest.raises(WasiError) as caught:
            made.tree.directory(path)
        assert caught.value.errno == errno


def test_what_is_mounted_is_found() -> None:
    g = guest()
    assert g.read(g.open("app/x.py", rights=2)) == b"code"
    assert g.read(g.open("app/sub/../../lib/./z.zip", rights=2)) == b"zip!"
    assert g.read(g.open("data/in/../../own/f", rights=2)) == b"mine"
    g.make_file("data/in/new", b"kept")
    assert g.stat("data/in/new")[0] == 8
    assert [g.stat(path)[0] for path in (".", "app", "lib", "lib/z.zip")] == [1, 7, 1, 9]
    assert g.try_open("app/../..") == Errno.EPERM


def test_a_directory_descriptor_in_a_mount_goes_on_there() -> None:
    g = guest()
    app = g.open_directory("app")
    assert g.read(g.open("sub/y", fd=app, rights=2)) == b"deep"
    assert g.try_open("..", fd=app, rights=0) == Errno.EPERM
    data = g.open_directory("data")
    assert g.readdir(g.open_directory("in", fd=data))[0][3] == b"."


def test_listings_show_the_types_and_numbers_of_what_is_mounted() -> None:
    g = guest()
    for place in (".", "lib", "data"):
        for _, ino, kind, name in g.readdir(g.open_directory(place)):
            if name not in (b".", b".."):
                status = g.stat(place.encode() + b"/" + name)
                assert (status[1], status[2]) == (ino, kind)
    kinds = {name: kind for _, _, kind, name in g.readdir(g.open_directory("lib"))}
    assert kinds[b"z.zip"] == FileType.REGULAR_FILE


@pytest.mark.parametrize(
    ("name", "paths", "expected"),
    [
        ("path_remove_directory", ["app"], Errno.EBUSY),
        ("path_remove_directory", ["data"], Errno.ENOTEMPTY),
        ("path_remove_directory", ["data/in/"], Errno.EBUSY),
        ("path_unlink_file", ["lib/z.zip"], Errno.EBUSY),
        ("path_create_directory", ["app"], Errno.EEXIST),
        ("path_create_directory", ["app/new"], Errno.EROFS),
        ("path_rename", ["app", "b"], Errno.EBUSY),
        ("path_rename", ["own", "app"], Errno.EBUSY),
        ("path_rename", ["own/f", "lib/z.zip"], Errno.EBUSY),
        ("path_rename", ["lib/z.zip", "q"], Errno.EBUSY),
        ("path_rename", ["own/f", "data/in/f"], Errno.EXDEV),
        ("path_rename", ["app/x.py", "own/x"], Errno.EXDEV),
        ("path_link", ["own/f", "data/in/f"], Errno.EXDEV),
        ("path_link", ["lib/z.zip", "own/z"], Errno.EXDEV),
        ("path_link", ["own/f", "app/z"], Errno.EXDEV),
        ("path_link", ["own", "own2"], Errno.EPERM),
        ("path_link", ["own/f", "lib/z.zip"], Errno.EEXIST),
    ],
)
def test_mount_points_stay(name: str, paths: list[str], expected: Errno) -> None:
    g = guest()
    if name == "path_rename":
        errno = g.call(name, 3, *g.path(paths[0]), 3, *g.path2(paths[1]))
    elif name == "path_link":
        errno = g.call(name, 3, 0, *g.path(paths[0]), 3, *g.path2(paths[1]))
    else:
        errno = g.call(name, 3, *g.path(paths[0]))
    assert errno == expected
    assert g.read(g.open("app/x.py", rights=2)) == b"code"


def test_a_mount_follows_a_renamed_parent() -> None:
    g = guest()
    g.make_file("data/in/f", b"there")
    g.ok("path_rename", 3, *g.path("data"), 3, *g.path2("moved"))
    assert g.read(g.open("moved/in/f", rights=2)) == b"there"
    g.ok("path_rename", 3, *g.path("own/f"), 3, *g.path2("own/g"))


def test_opening_a_mounted_file() -> None:
    g = guest()
    assert g.try_open("lib/z.zip", oflags=1 | 4) == Errno.EEXIST
    assert g.try_open("lib/z.zip", oflags=8, rights=2) == Errno.EROFS
    assert g.try_open("lib/z.zip") == Errno.EROFS
    assert g.try_open("lib/z.zip/x") == Errno.ENOTDIR
    assert g.try_open("app", oflags=1 | 4) == Errno.EEXIST
    assert g.read(g.open("lib/z.zip", oflags=1, rights=2)) == b"zip!"
    writable = scratch()
    writable.root().open(b"f", read=True, write=True, create=True, exclusive=True, truncate=False)
    g.tree.mount_file("/granted", writable, b"f")
    g.write(g.open("granted"), b"written")
    assert g.stat("granted")[4] == 7
    assert g.stat("granted")[0] == 8


@pytest.mark.parametrize(
    "path", ["/app/deeper", "/app", "/lib/z.zip/x", "/lib/z.zip", "relative", "/", "/a/../b"]
)
def test_bad_places(path: str) -> None:
    g = guest()
    with pytest.raises(GrantError):
        g.tree.mount_directory(path, bundle())


def test_bad_places_for_files_and_directories() -> None:
    g = guest()
    for path in ("/own", "/own/f", "/data"):
        with pytest.raises(GrantError):
            g.tree.mount_file(path, bundle(), b"x.py")
        with pytest.raises(GrantError):
            g.tree.mount_directory(path, bundle())
    with pytest.raises(GrantError):
        g.tree.make_directory("/app/x")
    g.tree.make_directory("/tmp/a/b")
    assert g.stat("tmp/a/b")[2] == FileType.DIRECTORY
    g.tree.mount_directory("/tmp/a/b", bundle())
    assert g.stat("tmp/a/b/x.py")[4] == 4


def test_no_handle_is_left_open() -> None:
    g = guest()
    g.readdir(g.open_directory("."))
    g.system.close()
    private = g.tree.private
    assert all(inode.opens == 0 for inode in private.inodes.values())
    g.tree.close()


def test_a_file_system_over_the_root() -> None:
    tree = guest().tree
    over = scratch()
    tree.mount_root(over)
    with pytest.raises(GrantError):
        tree.mount_root(scratch())
    g = Guest(preopens=[(b"/", tree)])
    g.make_file("f", b"x")
    assert g.stat("f")[0] == 8
    assert g.try_open("own/f") == Errno.ENOENT
    assert g.try_open("..", rights=0) == Errno.EPERM
    tree.close()
    assert over.inodes == {}
