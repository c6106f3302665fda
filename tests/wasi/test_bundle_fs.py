"""The read-only file system over a bundle's contents."""

from __future__ import annotations

from typing import Any

import pytest

from sojourn.model.errors import BundleError
from sojourn.vm.process.wasi.abi import Errno, FileType
from sojourn.vm.process.wasi.bundle_fs import BundleFileSystem
from sojourn.vm.process.wasi.vfs import WasiError

HOW = {"read": True, "write": False, "create": False, "exclusive": False, "truncate": False}


class Text:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self) -> bytes:
        self.reads += 1
        return self.data


def make() -> BundleFileSystem:
    return BundleFileSystem({"a.txt": Text(b"one"), "d/e/f.txt": Text(b"three"), "d/b": Text(b"")}, 9)


def test_directories_are_implied() -> None:
    fs = make()
    root = fs.root()
    assert [(entry.name, entry.filetype) for entry in root.entries(0)] == [
        (b"a.txt", FileType.REGULAR_FILE),
        (b"d", FileType.DIRECTORY),
    ]
    below: Any = root.lookup(b"d")
    assert [entry.name for entry in below.entries(0)] == [b"b", b"e"]
    assert [entry.name for entry in below.entries(1)] == [b"e"]
    assert [entry.name for entry in below.entries(1 << 64)] == []
    assert below.lookup(b"e").lookup(b"f.txt").stat().size == 5
    assert (fs.device, fs.writable) == (9, False)


def test_numbers_of_entries_are_those_of_stat() -> None:
    root = make().root()
    for entry in root.entries(0):
        assert root.lookup(entry.name).stat().ino == entry.ino


def test_a_content_is_read_once() -> None:
    text = Text(b"hello")
    fs = BundleFileSystem({"f": text}, 2)
    for _ in range(3):
        file = fs.root().open(b"f", **HOW)
        assert bytes(file.pread(3, 1)) == b"ell"
        assert bytes(file.pread(3, 99)) == b""
        file.close()
    assert text.reads == 1


@pytest.mark.parametrize(
    ("method", "args", "expected"),
    [
        ("mkdir", (b"new",), Errno.EROFS),
        ("mkdir", (b"d",), Errno.EEXIST),
        ("symlink", (b"new", b"x"), Errno.EROFS),
        ("unlink", (b"a.txt",), Errno.EROFS),
        ("unlink", (b"no",), Errno.ENOENT),
        ("rmdir", (b"d",), Errno.EROFS),
        ("lookup", (b"no",), Errno.ENOENT),
        ("set_times", (1, 1), Errno.EROFS),
    ],
)
def test_nothing_can_be_changed(method: str, args: tuple[Any, ...], expected: Errno) -> None:
    with pytest.raises(WasiError) as caught:
        getattr(make().root(), method)(*args)
    assert caught.value.errno == expected


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (b"a.txt", {"write": True}, Errno.EROFS),
        (b"a.txt", {"truncate": True}, Errno.EROFS),
        (b"a.txt", {"create": True, "exclusive": True}, Errno.EEXIST),
        (b"new", {"create": True}, Errno.EROFS),
        (b"new", {}, Errno.ENOENT),
        (b"d", {}, Errno.EISDIR),
    ],
)
def test_open_refusals(name: bytes, options: dict[str, bool], expected: Errno) -> None:
    with pytest.raises(WasiError) as caught:
        make().root().open(name, **{**HOW, **options})
    assert caught.value.errno == expected


def test_creating_what_exists_opens_it() -> None:
    file = make().root().open(b"a.txt", **{**HOW, "create": True})
    assert bytes(file.pread(10, 0)) == b"one"
    with pytest.raises(WasiError):
        file.pwrite(b"x", 0)


@pytest.mark.parametrize(
    "paths", [["/a"], ["a/../b"], ["."], [""], ["a//b"], ["a/"], ["a\0b"], ["x" * 256], ["a", "a/b"]]
)
def test_bad_paths(paths: list[str]) -> None:
    with pytest.raises(BundleError):
        BundleFileSystem({path: Text(b"") for path in paths}, 1)
