"""The private file system: against a model, and the rules that a model does not show."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sojourn.vm.process.wasi.abi import Errno, FileType
from sojourn.vm.process.wasi.memory_fs import (
    ENTRY_BYTES,
    FILE_BYTES_MAX,
    INODE_BYTES,
    MemoryDirectory,
    MemoryFileSystem,
)
from sojourn.vm.process.wasi.outside import ByteQuota, LimitReached
from sojourn.vm.process.wasi.sparse import CHUNK_COST_BYTES, SparseBytes
from sojourn.vm.process.wasi.vfs import Directory, File, WasiError

NEW = INODE_BYTES + ENTRY_BYTES + 1  # a new object with a name of one byte


def make(most: int = 1 << 30) -> tuple[MemoryFileSystem, ByteQuota]:
    quota = ByteQuota("file_bytes", most)
    clock = iter(range(1, 10**9))
    return MemoryFileSystem(quota, lambda: next(clock)), quota


def create(directory: Directory, name: bytes, data: bytes = b"") -> File:
    file = directory.open(name, read=True, write=True, create=True, exclusive=False, truncate=False)
    if data:
        file.pwrite(data, 0)
    return file


def errno_of(function: Any, *args: Any, **options: Any) -> Errno:
    with pytest.raises(WasiError) as caught:
        function(*args, **options)
    return caught.value.errno


def names(directory: Directory) -> list[bytes]:
    return [entry.name for entry in directory.entries(0)]


def test_everything_that_is_freed_is_given_back() -> None:
    fs, quota = make()
    root = fs.root()
    before = quota.used
    create(root, b"f", b"x" * 1000).close()
    root.symlink(b"l", b"target")
    root.mkdir(b"d")
    handle = root.lookup(b"f")
    root.link(b"g", handle)
    handle.close()
    assert quota.used > before + 1000
    for name in (b"f", b"g", b"l"):
        root.unlink(name)
    root.rmdir(b"d")
    assert quota.used == before
    assert list(fs.inodes) == [1]


def test_empty_files_and_names_cost() -> None:
    fs, quota = make(INODE_BYTES + 10 * NEW)
    root = fs.root()
    for number in range(10):
        create(root, b"%d" % number).close()
    with pytest.raises(LimitReached) as caught:
        create(root, b"x")
    assert caught.value.name == "file_bytes"
    assert len(names(root)) == 10
    assert quota.left == 0


def test_holes_cost_nothing_and_what_is_held_is_charged_before_it_is_made() -> None:
    fs, quota = make(1 << 20)
    file = create(fs.root(), b"f")
    with pytest.raises(LimitReached):
        file.allocate(1 << 39, 5)
    with pytest.raises(LimitReached):
        file.pwrite(bytes(1 << 20), 1 << 39)
    assert file.stat().size == 0
    before = quota.used
    file.truncate(1 << 39)
    file.pwrite(b"x", 1 << 39)
    assert quota.used == before + 1 + CHUNK_COST_BYTES
    assert file.stat().size == (1 << 39) + 1
    file.truncate(0)
    assert quota.used == before


def test_a_file_has_a_largest_size() -> None:
    fs, _ = make(1 << 60)
    file = create(fs.root(), b"f")
    assert errno_of(file.pwrite, b"x", FILE_BYTES_MAX) == Errno.EFBIG
    assert errno_of(file.truncate, FILE_BYTES_MAX + 1) == Errno.EFBIG


def test_gaps_read_as_zeros() -> None:
    fs, _ = make()
    file = create(fs.root(), b"f", b"ab")
    file.pwrite(b"z", (3 << 20) + 1)
    assert file.pread(3, 0) == b"ab\0"
    assert file.pread(10, 3 << 20) == b"\0z"
    assert file.pread(10, 1 << 40) == b""
    assert file.pwrite(b"", 1 << 40) == 0
    assert file.stat().size == (3 << 20) + 2


def test_an_unlinked_file_lives_until_it_is_closed() -> None:
    fs, quota = make()
    root = fs.root()
    before = quota.used
    file = create(root, b"f", b"data")
    other = root.lookup(b"f")
    root.unlink(b"f")
    assert file.stat().nlink == 0
    assert file.pread(10, 0) == b"data"
    file.close()
    file.close()
    assert errno_of(root.link, b"g", other) == Errno.ENOENT
    assert quota.used > before
    other.close()
    assert quota.used == before


def test_a_removed_directory_stays_open_but_takes_nothing() -> None:
    fs, _ = make()
    root = fs.root()
    root.mkdir(b"d")
    held = root.lookup(b"d")
    assert isinstance(held, MemoryDirectory)
    root.rmdir(b"d")
    assert names(held) == []
    assert errno_of(held.mkdir, b"x") == Errno.ENOENT
    assert errno_of(create, held, b"x") == Errno.ENOENT
    assert errno_of(held.symlink, b"x", b"y") == Errno.ENOENT
    create(root, b"f").close()
    assert errno_of(root.rename, b"f", held, b"f") == Errno.ENOENT
    held.close()


def test_a_handle_for_lookup_neither_reads_nor_writes() -> None:
    fs, _ = make()
    root = fs.root()
    create(root, b"f", b"x").close()
    handle: Any = root.lookup(b"f")
    assert errno_of(handle.pread, 1, 0) == Errno.EBADF
    assert errno_of(handle.pwrite, b"x", 0) == Errno.EBADF
    assert errno_of(handle.truncate, 0) == Errno.EBADF


def tree() -> tuple[MemoryFileSystem, MemoryDirectory]:
    """/file, /other, /link -> file, /empty/, /full/below, /full/deep/"""
    fs, _ = make()
    root = fs.root()
    create(root, b"file", b"1").close()
    create(root, b"other", b"22").close()
    root.symlink(b"link", b"file")
    root.mkdir(b"empty")
    root.mkdir(b"full")
    full: Any = root.lookup(b"full")
    create(full, b"below").close()
    full.mkdir(b"deep")
    full.close()
    return fs, root


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"file", b"new", None),
        (b"file", b"other", None),
        (b"file", b"file", None),
        (b"file", b"link", None),
        (b"link", b"file", None),
        (b"empty", b"new", None),
        (b"full", b"empty", None),
        (b"full", b"full", None),
        (b"missing", b"new", Errno.ENOENT),
        (b"missing", b"file", Errno.ENOENT),
        (b"file", b"empty", Errno.EISDIR),
        (b"link", b"empty", Errno.EISDIR),
        (b"empty", b"file", Errno.ENOTDIR),
        (b"empty", b"link", Errno.ENOTDIR),
        (b"empty", b"full", Errno.ENOTEMPTY),
    ],
)
def test_rename_in_one_directory(old: bytes, new: bytes, expected: Errno | None) -> None:
    fs, root = tree()
    before = sorted(names(root))
    if expected is None:
        ino = root.child(old)
        root.rename(old, root, new)
        assert root.child(new) == ino
        assert sorted(names(root)) == sorted(({*before} - {old}) | {new})
    else:
        assert errno_of(root.rename, old, root, new) == expected
        assert sorted(names(root)) == before
    check_links(fs)


def test_rename_between_directories() -> None:
    fs, root = tree()
    full: Any = root.lookup(b"full")
    deep: Any = full.lookup(b"deep")
    assert errno_of(root.rename, b"full", deep, b"x") == Errno.EINVAL
    assert errno_of(root.rename, b"full", full, b"x") == Errno.EINVAL
    assert errno_of(full.rename, b"deep", root, b"full") == Errno.ENOTEMPTY
    full.rename(b"deep", root, b"moved")
    root.rename(b"full", deep, b"x")
    assert names(deep) == [b"x"]
    check_links(fs)
    other = make()[0].root()
    assert errno_of(root.rename, b"file", other, b"x") == Errno.EXDEV
    assert errno_of(other.link, b"x", root.lookup(b"file")) == Errno.EXDEV


def test_rename_over_another_name_of_the_same_file_does_nothing() -> None:
    fs, root = tree()
    root.link(b"second", root.lookup(b"file"))
    root.rename(b"file", root, b"second")
    assert {b"file", b"second"} <= set(names(root))
    check_links(fs)


@pytest.mark.parametrize(
    ("method", "name", "expected"),
    [
        ("unlink", b"empty", Errno.EISDIR),
        ("unlink", b"missing", Errno.ENOENT),
        ("rmdir", b"file", Errno.ENOTDIR),
        ("rmdir", b"link", Errno.ENOTDIR),
        ("rmdir", b"full", Errno.ENOTEMPTY),
        ("rmdir", b"missing", Errno.ENOENT),
        ("mkdir", b"file", Errno.EEXIST),
        ("lookup", b"missing", Errno.ENOENT),
    ],
)
def test_refusals(method: str, name: bytes, expected: Errno) -> None:
    _, root = tree()
    assert errno_of(getattr(root, method), name) == expected


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (b"link", {}, Errno.ELOOP),
        (b"link", {"create": True}, Errno.ELOOP),
        (b"link", {"create": True, "exclusive": True}, Errno.EEXIST),
        (b"file", {"create": True, "exclusive": True}, Errno.EEXIST),
        (b"empty", {}, Errno.EISDIR),
        (b"empty", {"create": True}, Errno.EISDIR),
        (b"missing", {}, Errno.ENOENT),
    ],
)
def test_open_refusals(name: bytes, options: dict[str, bool], expected: Errno) -> None:
    _, root = tree()
    how = {"read": True, "write": True, "create": False, "exclusive": False, "truncate": False, **options}
    assert errno_of(root.open, name, **how) == expected


def test_link_refuses_directories_and_taken_names() -> None:
    _, root = tree()
    assert errno_of(root.link, b"x", root.lookup(b"empty")) == Errno.EPERM
    assert errno_of(root.link, b"other", root.lookup(b"file")) == Errno.EEXIST


def test_a_listing_survives_changes_in_between() -> None:
    fs, _ = make()
    root = fs.root()
    for number in range(500):
        create(root, b"%03d" % number).close()
    seen = []
    cookie, turn = 0, 0
    while True:
        batch = [entry for _, entry in zip(range(7), root.entries(cookie), strict=False)]
        if not batch:
            break
        seen += [entry.name for entry in batch]
        cookie = batch[-1].cookie
        for name in seen[-3:]:  # remove what was seen, make what is new
            root.unlink(name)
        if turn < 50:
            create(root, b"new%d" % turn).close()
        turn += 1
    stayed = {b"%03d" % number for number in range(500)}
    assert stayed <= set(seen)
    assert len(seen) == len(set(seen))


def test_making_and_removing_names_does_not_pile_up() -> None:
    fs, _ = make()
    root = fs.root()
    for _ in range(2000):
        create(root, b"f").close()
        root.unlink(b"f")
    inode: Any = fs.inodes[1]
    assert len(inode.order) < 100


def test_directories_count_their_links() -> None:
    fs, root = tree()
    assert root.stat().nlink == 4
    assert root.lookup(b"empty").stat().nlink == 2
    check_links(fs)


def check_links(fs: MemoryFileSystem) -> None:
    """The counts of links are those of the names, and the quota is the sum of what is held."""
    counts = {1: 2}
    held = 0
    for inode in fs.inodes.values():
        held += INODE_BYTES + len(getattr(inode, "target", b""))
        held += getattr(inode, "data", SparseBytes()).held
        for name, (ino, _) in getattr(inode, "names", {}).items():
            held += ENTRY_BYTES + len(name)
            directory = hasattr(fs.inodes[ino], "names")
            counts[ino] = counts.get(ino, 0) + (2 if directory else 1)
            if directory:
                counts[inode.ino] = counts.get(inode.ino, 0) + 1
                assert fs.inodes[ino].parent == inode.ino  # type: ignore[attr-defined]
    assert counts == {ino: inode.nlink for ino, inode in fs.inodes.items()}
    assert isinstance(fs.quota, ByteQuota)
    assert held == fs.quota.used


NAMES = st.sampled_from([b"a", b"b", b"c", b"dd"])
PATHS = st.lists(NAMES, max_size=2).map(tuple)
FULL_PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)


class Model(RuleBasedStateMachine):
    """The file system against a dict from path to content (a list shared by hard links) or None for a
    directory."""

    def __init__(self) -> None:
        super().__init__()
        self.fs, self.quota = make(1 << 24)
        self.model: dict[tuple[bytes, ...], Any] = {(): None}

    def directory(self, path: tuple[bytes, ...]) -> MemoryDirectory | None:
        at: Any = self.fs.root()
        for name in path:
            try:
                below = at.lookup(name)
            except WasiError:
                return None
            finally:
                at.close()
            if below.filetype != FileType.DIRECTORY:
                below.close()
                return None
            at = below
        return at

    def both(self, path: tuple[bytes, ...], expected: Errno | None, action: Any) -> bool:
        """Do ``action`` in the parent of ``path``; it must fail exactly as expected."""
        parent = self.directory(path[:-1])
        is_directory = self.model.get(path[:-1], 0) is None
        assert (parent is not None) == is_directory
        if parent is None:
            return False
        try:
            action(parent)
            errno = None
        except WasiError as error:
            errno = error.errno
        parent.close()
        assert errno == expected
        return errno is None

    def below(self, path: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
        return [other for other in self.model if other[: len(path)] == path and other != path]

    @rule(path=FULL_PATHS)
    def mkdir(self, path: tuple[bytes, ...]) -> None:
        expected = Errno.EEXIST if path in self.model else None
        if self.both(path, expected, lambda parent: parent.mkdir(path[-1])):
            self.model[path] = None

    @rule(path=FULL_PATHS, data=st.binary(max_size=8), offset=st.integers(0, 12))
    def write(self, path: tuple[bytes, ...], data: bytes, offset: int) -> None:
        def action(parent: MemoryDirectory) -> None:
            file = create(parent, path[-1])
            file.pwrite(data, offset)
            file.close()

        old = self.model.get(path, [b""])
        if self.both(path, Errno.EISDIR if old is None else None, action):
            held = self.model.setdefault(path, [b""])
            if data:
                held[0] = held[0].ljust(offset, b"\0")
                held[0] = held[0][:offset] + data + held[0][offset + len(data) :]

    @rule(path=FULL_PATHS, size=st.integers(0, 20))
    def truncate(self, path: tuple[bytes, ...], size: int) -> None:
        def action(parent: MemoryDirectory) -> None:
            file = parent.open(
                path[-1], read=False, write=True, create=False, exclusive=False, truncate=False
            )
            file.truncate(size)
            file.close()

        expected = Errno.ENOENT if path not in self.model else None
        if path in self.model and self.model[path] is None:
            expected = Errno.EISDIR
        if self.both(path, expected, action):
            held = self.model[path]
            held[0] = held[0][:size].ljust(size, b"\0")

    @rule(path=FULL_PATHS)
    def remove(self, path: tuple[bytes, ...]) -> None:
        if path not in self.model:
            self.both(path, Errno.ENOENT, lambda parent: parent.unlink(path[-1]))
        elif self.model[path] is None:
            expected = Errno.ENOTEMPTY if self.below(path) else None
            if self.both(path, expected, lambda parent: parent.rmdir(path[-1])):
                del self.model[path]
        elif self.both(path, None, lambda parent: parent.unlink(path[-1])):
            del self.model[path]

    @rule(old=FULL_PATHS, new=FULL_PATHS)
    def link(self, old: tuple[bytes, ...], new: tuple[bytes, ...]) -> None:
        if old not in self.model or self.model.get(new[:-1], 0) is not None:
            return
        source = self.directory(old[:-1])
        assert source is not None
        node = source.lookup(old[-1])
        expected = Errno.EPERM if self.model[old] is None else Errno.EEXIST if new in self.model else None
        if self.both(new, expected, lambda parent: parent.link(new[-1], node)):
            self.model[new] = self.model[old]
        node.close()
        source.close()

    @precondition(lambda self: len(self.model) > 1)
    @rule(data=st.data(), new=FULL_PATHS)
    def rename(self, data: st.DataObject, new: tuple[bytes, ...]) -> None:
        old = data.draw(st.sampled_from(sorted(path for path in self.model if path)))
        if self.model.get(new[:-1], 0) is not None:
            return
        to = self.directory(new[:-1])
        assert to is not None
        expected = self.rename_expected(old, new)
        if self.both(old, expected, lambda parent: parent.rename(old[-1], to, new[-1])):
            self.rename_model(old, new)
        to.close()

    def rename_expected(self, old: tuple[bytes, ...], new: tuple[bytes, ...]) -> Errno | None:
        moved = self.model[old]
        if moved is None and new[: len(old)] == old and new != old:
            return Errno.EINVAL
        if new not in self.model or new == old:
            return None
        replaced = self.model[new]
        if old[: len(new)] == new:  # a directory that it lies in
            return Errno.ENOTEMPTY
        if replaced is None:
            if moved is not None:
                return Errno.EISDIR
            return Errno.ENOTEMPTY if self.below(new) else None
        return Errno.ENOTDIR if moved is None else None

    def rename_model(self, old: tuple[bytes, ...], new: tuple[bytes, ...]) -> None:
        moved = self.model[old]
        if old == new or (moved is not None and self.model.get(new) is moved):
            return
        for path in [old, *self.below(old)]:
            self.model[new + path[len(old) :]] = self.model.pop(path)

    @invariant()
    def same(self) -> None:
        for path, held in self.model.items():
            if held is None:
                directory = self.directory(path)
                assert directory is not None
                expected = {other[-1] for other in self.model if other and other[:-1] == path}
                assert set(names(directory)) == expected
                directory.close()
            else:
                parent = self.directory(path[:-1])
                assert parent is not None
                file = parent.open(
                    path[-1], read=True, write=False, create=False, exclusive=False, truncate=False
                )
                assert file.pread(1000, 0) == held[0]
                file.close()
                parent.close()
        check_links(self.fs)
        assert all(inode.opens == 0 for inode in self.fs.inodes.values())


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_closing_the_file_system_forgets_everything() -> None:
    fs, root = tree()
    fs.close()
    assert fs.inodes == {}
    with contextlib.suppress(WasiError):
        root.close()
