"""Path resolution: what each form of path means, that it leaves no handle open and cannot leave."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.vm.process.wasi.abi import Errno, FileType
from sojourn.vm.process.wasi.memory_fs import MemoryDirectory, MemoryFileSystem
from sojourn.vm.process.wasi.outside import ByteQuota
from sojourn.vm.process.wasi.resolve import COMPONENTS_MAX, DEPTH_MAX, resolve
from sojourn.vm.process.wasi.vfs import PATH_BYTES_MAX, SYMLINKS_MAX, Node, WasiError

from .test_memory_fs import create


def make() -> tuple[MemoryFileSystem, MemoryDirectory]:
    """outside, start/{file, dir/{below, nested/}, links...}; the walk starts in ``start``."""
    fs = MemoryFileSystem(ByteQuota("file_bytes", 1 << 24), lambda: 1)
    root = fs.root()
    create(root, b"outside").close()
    root.mkdir(b"start")
    start: Any = root.lookup(b"start")
    root.close()
    create(start, b"file").close()
    start.mkdir(b"dir")
    below = start.lookup(b"dir")
    create(below, b"below").close()
    below.mkdir(b"nested")
    below.symlink(b"up", b"../file")
    below.symlink(b"out", b"../../outside")
    below.close()
    for name, text in {
        b"to-file": b"file",
        b"to-dir": b"dir",
        b"to-dir-slash": b"dir/",
        b"to-file-slash": b"file/",
        b"twice": b"to-dir/up",
        b"dangling": b"nothing",
        b"loop": b"loop",
        b"ping": b"pong",
        b"pong": b"ping",
        b"absolute": b"/file",
        b"escape": b"..",
        b"escape2": b"dir/../../outside",
        b"dot": b".",
    }.items():
        start.symlink(name, text)
    return fs, start


def walk(path: bytes, *, follow: bool = True, slash_follows: bool = True) -> str:
    """Where ``path`` leads, as text: the names from the start, what is there; or the error's name."""
    fs, start = make()
    try:
        with resolve(start, path, follow=follow, slash_follows=slash_follows) as target:
            node = target.find_or_none()
            kind = "nothing" if node is None else FileType(node.filetype).name
            parts = [*target.parts, *([] if target.name is None else [target.name])]
            return "/".join(part.decode() for part in parts) + f" {kind}"
    except WasiError as error:
        return error.errno.name
    finally:
        start.close()
        assert all(inode.opens == 0 for inode in fs.inodes.values()), "a handle was left open"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"file", "file REGULAR_FILE"),
        (b"dir", "dir DIRECTORY"),
        (b"dir/", "dir DIRECTORY"),
        (b"dir///", "dir DIRECTORY"),
        (b"dir/.", "dir DIRECTORY"),
        (b"dir/..", " DIRECTORY"),
        (b".", " DIRECTORY"),
        (b"./", " DIRECTORY"),
        (b"dir/.//nested/../../dir/nested/../..///./file", "file REGULAR_FILE"),
        (b"dir/below", "dir/below REGULAR_FILE"),
        (b"missing", "missing nothing"),
        (b"missing/", "missing nothing"),
        (b"missing/x", "ENOENT"),
        (b"missing/..", "ENOENT"),
        (b"file/", "ENOTDIR"),
        (b"file//", "ENOTDIR"),
        (b"file/.", "ENOTDIR"),
        (b"file/..", "ENOTDIR"),
        (b"file/x", "ENOTDIR"),
        (b"", "ENOENT"),
        (b"/", "EPERM"),
        (b"/file", "EPERM"),
        (b"..", "EPERM"),
        (b"../start/file", "EPERM"),
        (b"dir/../..", "EPERM"),
        (b"dir/nested/../../../start/file", "EPERM"),
        (b"file\0", "EINVAL"),
        (b"fi\0le", "EINVAL"),
        (b"x" * 255, "x" * 255 + " nothing"),
        (b"x" * 256, "ENAMETOOLONG"),
        (b"dir/" + b"x" * 256 + b"/..", "ENAMETOOLONG"),
        (b"./" * (PATH_BYTES_MAX // 2), "ENAMETOOLONG"),
        (b"to-file", "file REGULAR_FILE"),
        (b"to-file/", "ENOTDIR"),
        (b"to-dir", "dir DIRECTORY"),
        (b"to-dir/below", "dir/below REGULAR_FILE"),
        (b"to-dir/..", " DIRECTORY"),
        (b"to-dir-slash", "dir DIRECTORY"),
        (b"to-dir-slash/below", "dir/below REGULAR_FILE"),
        (b"to-file-slash", "ENOTDIR"),
        (b"twice", "file REGULAR_FILE"),
        (b"dangling", "nothing nothing"),
        (b"dangling/x", "ENOENT"),
        (b"loop", "ELOOP"),
        (b"ping/x", "ELOOP"),
        (b"absolute", "EPERM"),
        (b"absolute/x", "EPERM"),
        (b"escape", "EPERM"),
        (b"escape/outside", "EPERM"),
        (b"escape2", "EPERM"),
        (b"dir/out", "EPERM"),
        (b"dot", " DIRECTORY"),
        (b"dot/dot/file", "file REGULAR_FILE"),
    ],
)
def test_following(path: bytes, expected: str) -> None:
    assert walk(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"to-file", "to-file SYMBOLIC_LINK"),
        (b"absolute", "absolute SYMBOLIC_LINK"),
        (b"loop", "loop SYMBOLIC_LINK"),
        (b"to-dir/below", "dir/below REGULAR_FILE"),
        (b"to-dir/up", "dir/up SYMBOLIC_LINK"),
        (b"to-dir/", "dir DIRECTORY"),
        (b"to-file/", "ENOTDIR"),
        (b"file/", "ENOTDIR"),
        (b"escape/", "EPERM"),
    ],
)
def test_not_following_the_last(path: bytes, expected: str) -> None:
    assert walk(path, follow=False) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"to-dir/", "ENOTDIR"),
        (b"dir/", "dir DIRECTORY"),
        (b"dangling/", "ENOTDIR"),
        (b"new/", "new nothing"),
    ],
)
def test_a_name_to_be_made_or_removed_is_not_followed(path: bytes, expected: str) -> None:
    assert walk(path, follow=False, slash_follows=False) == expected


def test_as_many_links_as_allowed() -> None:
    _, start = make()
    previous = b"file"
    for number in range(SYMLINKS_MAX + 1):
        start.symlink(b"s%d" % number, previous)
        previous = b"s%d" % number
    with resolve(start, b"s%d" % (SYMLINKS_MAX - 1), follow=True) as target:
        assert target.name == b"file"
    with pytest.raises(WasiError) as caught:
        resolve(start, b"s%d" % SYMLINKS_MAX, follow=True)
    assert caught.value.errno == Errno.ELOOP


def test_links_that_multiply_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    _, start = make()
    lookups = 0
    lookup = MemoryDirectory.lookup

    def counting(self: MemoryDirectory, name: bytes) -> Node:
        nonlocal lookups
        lookups += 1
        return lookup(self, name)

    monkeypatch.setattr(MemoryDirectory, "lookup", counting)
    for number in range(20):
        start.symlink(b"n%d" % number, b"dir/../" * 500 + (b"n%d" % (number + 1)))
    with pytest.raises(WasiError) as caught:
        resolve(start, b"n0", follow=True)
    assert caught.value.errno == Errno.ELOOP
    assert lookups <= COMPONENTS_MAX


def test_a_path_too_deep_leaves_nothing_open() -> None:
    fs = MemoryFileSystem(ByteQuota("file_bytes", 1 << 24), lambda: 1)
    start = at = fs.root()
    for _ in range(DEPTH_MAX + 2):
        at.mkdir(b"d")
        below: Any = at.lookup(b"d")
        if at is not start:
            at.close()
        at = below
    at.close()
    with resolve(start, b"d/" * DEPTH_MAX + b"x", follow=True) as target:
        assert len(target.parts) == DEPTH_MAX
    with pytest.raises(WasiError) as caught:
        resolve(start, b"d/" * (DEPTH_MAX + 1) + b"x", follow=True)
    assert caught.value.errno == Errno.ENAMETOOLONG
    assert [inode.opens for inode in fs.inodes.values() if inode.opens] == [1]


NAMES = st.sampled_from([b"a", b"b", b"c", b"l", b"m"])
STEPS = st.one_of(NAMES, st.sampled_from([b"..", b".", b"", b"..", b"l", b"m"]))
PATHS = st.lists(STEPS, min_size=1, max_size=7).map(b"/".join)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.lists(NAMES, max_size=3), st.one_of(st.none(), PATHS)), max_size=12),
    PATHS,
    st.booleans(),
    st.booleans(),
)
def test_no_path_leaves_or_leaks(
    objects: list[tuple[list[bytes], bytes | None]], path: bytes, follow: bool, slash_follows: bool
) -> None:
    """Random trees full of links: what is found is below the start, and nothing stays open."""
    fs = MemoryFileSystem(ByteQuota("file_bytes", 1 << 24), lambda: 1)
    root = fs.root()
    root.mkdir(b"jail")
    create(root, b"a").close()
    start: Any = root.lookup(b"jail")
    root.close()
    for where, text in objects:
        plant(start, where, text)
    inside = reachable(fs, start.ino)
    try:
        with resolve(start, path, follow=follow, slash_follows=slash_follows) as target:
            assert target.directory.identity() in inside
            node = target.find_or_none()
            assert node is None or node.identity() in inside
            if node is not None:
                assert by_names(fs, start.ino, [*target.parts, target.name]) == node.identity()
            if node is not None and not target.is_start and node.filetype == FileType.DIRECTORY:
                target.take().close()
    except WasiError:
        pass
    start.close()
    assert all(inode.opens == 0 for inode in fs.inodes.values())


def plant(start: Any, where: list[bytes], text: bytes | None) -> None:
    at = start
    for name in where:
        if at.child(name) is None:
            if name is where[-1] and text is not None:
                at.symlink(name, text)
            else:
                at.mkdir(name)
        below = at.lookup(name)
        if at is not start:
            at.close()
        if below.filetype != FileType.DIRECTORY:
            below.close()
            return
        at = below
    if at is not start:
        at.close()


def reachable(fs: MemoryFileSystem, ino: int) -> set[int]:
    found = {ino}
    for below, _ in getattr(fs.inodes[ino], "names", {}).values():
        found |= reachable(fs, below)
    return found


def by_names(fs: MemoryFileSystem, ino: int, parts: list[bytes | None]) -> int:
    for name in parts:
        if name is not None:
            ino = fs.inodes[ino].names[name][0]  # type: ignore[attr-defined]
    return ino
