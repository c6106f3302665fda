"""A hostile guest, and hostile others in the same directory: nothing outside is ever reached."""

from __future__ import annotations

import gc
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from sojourn.vm.process.hostcalls import ERRNO
from sojourn.vm.process.hostdir import NAME_COST_BYTES, HostDirectory, HostFileSystem
from sojourn.vm.process.hostlist import Snapshots
from sojourn.vm.process.wasi.abi import Errno, FileType
from sojourn.vm.process.wasi.outside import ByteQuota, LimitReached
from sojourn.vm.process.wasi.resolve import resolve
from sojourn.vm.process.wasi.vfs import Directory, File, Symlink, WasiError
from tests.fs_conformance import enter, errno_of, get, names, open_file, put

SECRET = b"the host's secret"
ROUNDS = 3000
DEADLINE_S = 60.0  # how long a race may take to be seen from both sides


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(SECRET)
    return folder


@pytest.fixture
def granted(tmp_path: Path, outside: Path) -> Path:
    folder = tmp_path / "granted"
    folder.mkdir()
    return folder


def host(path: Path, *, writable: bool = True, quota: int = 1 << 30, **options: Any) -> HostFileSystem:
    return HostFileSystem(
        str(path), writable=writable, device=9, quota=ByteQuota("file_bytes", quota), **options
    )


@pytest.fixture
def fs(granted: Path) -> Iterator[HostFileSystem]:
    fs = host(granted)
    yield fs
    fs.close()


@contextmanager
def meanwhile(change: Callable[[], object]) -> Iterator[None]:
    """Do ``change`` again and again in another thread while the body runs."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            with suppress(OSError):
                change()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def rounds(seen: Callable[[], bool]) -> Iterator[None]:
    """At least ``ROUNDS`` rounds, and on a busy machine more, until ``seen``: an attack that never met
    what it races with shows nothing."""
    deadline = time.monotonic() + DEADLINE_S
    count = 0
    while count < ROUNDS or (not seen() and time.monotonic() < deadline):
        yield
        count += 1


def inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def descriptors() -> int:
    gc.collect()  # handles that earlier tests dropped are closed now, not in the middle
    return len(list(Path("/proc/self/fd").iterdir()))


# names


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/etc", b"../x", b"a\0b"])
def test_names_that_are_no_plain_names_are_refused(fs: HostFileSystem, name: bytes) -> None:
    root = fs.root()
    put(root, b"f")
    node = root.lookup(b"f")
    calls: list[Callable[[], object]] = [
        lambda: root.lookup(name),
        lambda: open_file(root, name, write=False),
        lambda: open_file(root, name, create=True),
        lambda: root.mkdir(name),
        lambda: root.rmdir(name),
        lambda: root.unlink(name),
        lambda: root.symlink(name, b"x"),
        lambda: root.link(name, node),
        lambda: root.rename(name, root, b"x"),
        lambda: root.rename(b"f", root, name),
    ]
    assert [errno_of(call) for call in calls] == [Errno.EINVAL] * len(calls)
    assert names(root) == [b"f"]


def test_a_name_that_is_too_long(fs: HostFileSystem) -> None:
    assert errno_of(fs.root().mkdir, b"x" * 256) == Errno.ENAMETOOLONG


def test_any_byte_but_slash_and_nul_can_be_in_a_name(fs: HostFileSystem) -> None:
    root = fs.root()
    put(root, b"\xff\xfe\n", b"1")
    assert names(root) == [b"\xff\xfe\n"]
    assert get(root, b"\xff\xfe\n") == b"1"


# links


def test_links_out_are_text_only(fs: HostFileSystem, granted: Path, outside: Path) -> None:
    (granted / "file").symlink_to(outside / "secret")
    (granted / "folder").symlink_to(outside)
    root = fs.root()
    for name in (b"file", b"folder"):
        node = root.lookup(name)
        assert node.filetype == FileType.SYMBOLIC_LINK
        assert cast(Symlink, node).readlink().startswith(b"/")
        assert errno_of(open_file, root, name, write=False) == Errno.ELOOP
        assert errno_of(open_file, root, name, create=True, truncate=True) == Errno.ELOOP
    before = (outside / "secret").stat()
    link = root.lookup(b"file")
    link.set_times(1, 1)
    root.link(b"hard", link)
    assert stat.S_ISLNK((granted / "hard").lstat().st_mode)
    root.rename(b"hard", root, b"folder")
    after = (outside / "secret").stat()
    assert (before.st_mtime_ns, before.st_nlink) == (after.st_mtime_ns, after.st_nlink)
    assert inside(outside) == ["secret"]


def test_a_file_swapped_with_a_link_is_never_read_through(
    fs: HostFileSystem, granted: Path, outside: Path
) -> None:
    (granted / "real").write_bytes(b"inside")
    (granted / "link").symlink_to(outside / "secret")

    def swap() -> None:
        (granted / "real").replace(granted / "x")
        (granted / "link").replace(granted / "real")
        (granted / "real").replace(granted / "link")
        (granted / "x").replace(granted / "real")

    root = fs.root()
    outcomes: set[object] = set()
    with meanwhile(swap):
        for _ in rounds(lambda: b"inside" in outcomes):
            try:
                outcomes.add(get(root, b"real"))
            except WasiError as error:
                outcomes.add(error.errno)
    assert SECRET not in outcomes
    assert outcomes <= {b"inside", Errno.ELOOP, Errno.ENOENT, Errno.EAGAIN}
    assert b"inside" in outcomes


def test_a_file_swapped_with_a_link_is_never_written_through(
    fs: HostFileSystem, granted: Path, outside: Path
) -> None:
    def swap() -> None:
        (granted / "t").symlink_to(outside / "secret")
        (granted / "t").replace(granted / "f")
        (granted / "f").unlink()

    root = fs.root()
    with meanwhile(swap):
        for _ in range(ROUNDS):
            with suppress(WasiError):
                put(root, b"f", b"overwritten!!!!!!!")
            with suppress(WasiError):
                node = root.lookup(b"f")
                node.set_times(1, 1)
                node.close()
    status = (outside / "secret").stat()
    assert (outside / "secret").read_bytes() == SECRET
    assert status.st_mtime_ns != 1
    assert inside(outside) == ["secret"]


def test_a_directory_swapped_with_a_link_is_never_entered(
    fs: HostFileSystem, granted: Path, outside: Path
) -> None:
    (granted / "d").mkdir()
    (granted / "d" / "secret").write_bytes(b"inside")
    (granted / "l").symlink_to(outside)

    def swap() -> None:
        (granted / "d").rename(granted / "x")
        (granted / "l").rename(granted / "d")
        (granted / "d").rename(granted / "l")
        (granted / "x").rename(granted / "d")

    root = fs.root()
    seen: set[object] = set()
    before = descriptors()
    with meanwhile(swap):
        for _ in rounds(lambda: b"inside" in seen):
            try:
                with resolve(root, b"d/secret", follow=True) as target:
                    assert target.name is not None
                    seen.add(get(target.directory, target.name))
                with resolve(root, b"d/made", follow=True) as target:
                    assert target.name is not None
                    put(target.directory, target.name)
            except WasiError as error:
                seen.add(error.errno)
    assert SECRET not in seen
    assert b"inside" in seen
    assert inside(outside) == ["secret"]
    assert descriptors() == before


def test_a_directory_moved_out_leads_nowhere_but_back(
    fs: HostFileSystem, granted: Path, outside: Path
) -> None:
    (granted / "a" / "b").mkdir(parents=True)
    root = fs.root()
    a = enter(root, b"a")
    with resolve(a, b"b", follow=True) as target:
        below = target.take()
    (granted / "a" / "b").rename(outside / "b")
    # Going up from what has moved is going back along handles, never to the new parent.
    with resolve(cast(Directory, below), b".", follow=True) as target:
        assert errno_of(target.pop) == Errno.EPERM
    with pytest.raises(WasiError), resolve(cast(Directory, below), b"../secret", follow=True):
        pass
    assert errno_of(cast(Directory, below).lookup, b"..") == Errno.EINVAL


# what is no file


@pytest.fixture
def odd(granted: Path) -> Iterator[Path]:
    os.mkfifo(granted / "fifo")
    server = socket.socket(socket.AF_UNIX)
    here = os.open(granted, os.O_RDONLY)
    server.bind(f"/proc/self/fd/{here}/socket")
    yield granted
    server.close()
    os.close(here)


@pytest.mark.parametrize("name", [b"fifo", b"socket"])
@pytest.mark.parametrize(("read", "write"), [(True, False), (False, True), (True, True)])
def test_fifos_and_sockets_are_seen_but_not_opened(
    fs: HostFileSystem, odd: Path, name: bytes, read: bool, write: bool
) -> None:
    root = fs.root()
    assert errno_of(open_file, root, name, read=read, write=write) == Errno.ENXIO
    assert errno_of(open_file, root, name, create=True, truncate=True) == Errno.ENXIO
    node = root.lookup(name)
    assert node.filetype in (FileType.UNKNOWN, FileType.SOCKET_STREAM)
    assert errno_of(root.link, b"other", node) == Errno.EPERM
    types = {entry.name: entry.filetype for entry in root.entries(0)}
    assert types == {b"fifo": FileType.UNKNOWN, b"socket": FileType.SOCKET_STREAM}


def test_a_fifo_put_in_the_place_of_a_file_blocks_nobody(fs: HostFileSystem, granted: Path) -> None:
    (granted / "real").write_bytes(b"inside")
    os.mkfifo(granted / "pipe")

    def swap() -> None:
        for first, second in (("real", "x"), ("pipe", "real"), ("real", "pipe"), ("x", "real")):
            (granted / first).rename(granted / second)

    root = fs.root()
    before = descriptors()
    with meanwhile(swap):
        for _ in range(ROUNDS):
            with suppress(WasiError):
                assert get(root, b"real") == b"inside"
    assert descriptors() == before


def test_devices_are_not_opened(granted: Path) -> None:
    try:
        os.mknod(granted / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make devices")
    fs = host(granted)
    root = fs.root()
    assert root.lookup(b"null").filetype == FileType.CHARACTER_DEVICE
    assert errno_of(open_file, root, b"null", write=False) == Errno.EACCES
    assert errno_of(open_file, root, b"null") == Errno.EACCES
    assert errno_of(root.link, b"copy", root.lookup(b"null")) == Errno.EPERM
    fs.close()


# rights


def test_a_read_only_grant_takes_no_change(granted: Path) -> None:
    (granted / "f").write_bytes(b"content")
    (granted / "d").mkdir()
    (granted / "l").symlink_to("f")
    fs = host(granted, writable=False)
    root = fs.root()
    node = root.lookup(b"f")
    reader = open_file(root, b"f", write=False)
    before = [(granted / name).lstat() for name in ("f", "d", "l", ".")]
    calls: list[Callable[[], object]] = [
        lambda: open_file(root, b"f"),
        lambda: open_file(root, b"f", read=False),
        lambda: open_file(root, b"f", write=False, truncate=True),
        lambda: open_file(root, b"new", write=False, create=True),
        lambda: open_file(root, b"new", create=True, exclusive=True),
        lambda: root.mkdir(b"new"),
        lambda: root.rmdir(b"d"),
        lambda: root.unlink(b"f"),
        lambda: root.symlink(b"new", b"f"),
        lambda: root.link(b"new", node),
        lambda: root.rename(b"f", root, b"new"),
        lambda: node.set_times(1, 1),
        lambda: root.set_times(1, 1),
        lambda: reader.set_times(1, 1),
        lambda: root.lookup(b"l").set_times(1, 1),
        lambda: enter(root, b"d").mkdir(b"new"),
    ]
    assert [errno_of(call) for call in calls] == [Errno.EROFS] * len(calls)
    assert errno_of(reader.pwrite, b"x", 0) == Errno.EBADF
    assert errno_of(reader.truncate, 0) == Errno.EBADF
    assert errno_of(reader.allocate, 0, 10) == Errno.EBADF
    after = [(granted / name).lstat() for name in ("f", "d", "l", ".")]
    assert [(s.st_mtime_ns, s.st_size) for s in before] == [(s.st_mtime_ns, s.st_size) for s in after]
    assert bytes(reader.pread(100, 0)) == b"content"
    open_file(root, b"f", write=False, create=True).close()  # is there: nothing to make
    fs.close()


def test_modes_are_ordinary(fs: HostFileSystem, granted: Path) -> None:
    old = os.umask(0o027)
    try:
        root = fs.root()
        put(root, b"f")
        root.mkdir(b"d")
    finally:
        os.umask(old)
    assert stat.S_IMODE((granted / "f").stat().st_mode) == 0o640
    assert stat.S_IMODE((granted / "d").stat().st_mode) & 0o777 == 0o750


def test_a_set_id_program_is_not_written(fs: HostFileSystem, granted: Path) -> None:
    (granted / "f").write_bytes(b"program")
    (granted / "f").chmod(0o4755)
    root = fs.root()
    assert errno_of(open_file, root, b"f") == Errno.EACCES
    assert errno_of(open_file, root, b"f", write=False, truncate=True) == Errno.EACCES
    assert get(root, b"f") == b"program"


def test_nothing_passes_between_two_grants(granted: Path, outside: Path) -> None:
    one, other = host(granted), host(outside, writable=False)
    root, elsewhere = one.root(), other.root()
    put(root, b"f", b"1")
    assert errno_of(root.link, b"new", elsewhere.lookup(b"secret")) == Errno.EXDEV
    assert errno_of(elsewhere.rename, b"secret", root, b"new") == Errno.EXDEV
    assert errno_of(root.rename, b"f", elsewhere, b"new") == Errno.EXDEV
    assert (names(root), names(elsewhere)) == ([b"f"], [b"secret"])
    one.close()
    other.close()


def test_a_link_is_made_to_what_was_looked_up_or_not_at_all(fs: HostFileSystem, granted: Path) -> None:
    root = fs.root()
    put(root, b"f", b"first")
    node = root.lookup(b"f")
    put(root, b"g", b"second")
    root.rename(b"g", root, b"f")
    assert errno_of(root.link, b"new", node) == Errno.ENOENT
    assert names(root) == [b"f"]


# a granted file


@pytest.fixture
def one_file(granted: Path) -> Iterator[HostDirectory]:
    (granted / "f").write_bytes(b"content")
    (granted / "private").write_bytes(SECRET)
    fs = host(granted, only=b"f")
    yield fs.root()
    fs.close()


def test_a_file_grant_shows_one_name(one_file: HostDirectory) -> None:
    assert names(one_file) == [b"f"]
    assert [entry.name for entry in one_file.entries(1)] == []
    assert get(one_file, b"f") == b"content"
    assert errno_of(one_file.lookup, b"private") == Errno.ENOENT
    assert errno_of(open_file, one_file, b"private", write=False) == Errno.ENOENT


def test_a_file_grant_can_be_written_but_not_moved(one_file: HostDirectory, granted: Path) -> None:
    put(one_file, b"f", b"changed")
    node = one_file.lookup(b"f")
    calls: list[Callable[[], object]] = [
        lambda: open_file(one_file, b"new", create=True),
        lambda: one_file.mkdir(b"new"),
        lambda: one_file.symlink(b"new", b"private"),
        lambda: one_file.link(b"new", node),
        lambda: one_file.unlink(b"f"),
        lambda: one_file.unlink(b"private"),
        lambda: one_file.rename(b"f", one_file, b"new"),
        lambda: one_file.rename(b"private", one_file, b"f"),
        lambda: one_file.rename(b"f", one_file, b"private"),
        lambda: one_file.set_times(1, 1),
    ]
    assert [errno_of(call) for call in calls] == [Errno.EACCES] * len(calls)
    assert (granted / "f").read_bytes() == b"changed"
    assert inside(granted) == ["f", "private"]


def test_a_file_grant_is_not_a_directory_grant(one_file: HostDirectory, granted: Path) -> None:
    (granted / "f").unlink()
    (granted / "f").mkdir()
    (granted / "f" / "inner").write_bytes(SECRET)
    assert errno_of(one_file.lookup, b"f") == Errno.ENOENT
    assert names(one_file) == []


# what the host may run out of


def test_writing_nothing_costs_nothing(granted: Path) -> None:
    quota = ByteQuota("file_bytes", 1 << 20)
    fs = HostFileSystem(str(granted), writable=True, device=1, quota=quota)
    file = open_file(fs.root(), b"f", create=True)
    used = quota.used
    assert file.pwrite(b"", 1 << 40) == 0
    assert file.append(b"") == 0
    assert quota.used == used
    file.close()
    fs.close()


def test_growth_is_charged_before_it_happens(granted: Path) -> None:
    fs = host(granted, quota=NAME_COST_BYTES + 1000)
    root = fs.root()
    file = open_file(root, b"f", create=True)
    file.pwrite(b"x" * 600, 0)
    file.pwrite(b"y" * 600, 0)  # no growth
    growing: list[Callable[[], object]] = [
        lambda: file.pwrite(b"x" * 500, 600),
        lambda: file.pwrite(b"x", 1 << 40),
        lambda: file.append(b"x" * 401),
        lambda: file.truncate(1 << 40),
        lambda: file.allocate(0, 1 << 40),
        lambda: root.mkdir(b"d"),
        lambda: open_file(root, b"g", create=True),
        lambda: root.symlink(b"l", b"f"),
    ]
    for grow in growing:
        with pytest.raises(LimitReached):
            grow()
        assert (granted / "f").stat().st_size == 600
    file.append(b"x" * 400)
    assert inside(granted) == ["f"]
    fs.close()


def test_failing_costs_nothing(granted: Path) -> None:
    quota = ByteQuota("file_bytes", 1 << 20)
    fs = HostFileSystem(str(granted), writable=True, device=1, quota=quota)
    root = fs.root()
    root.mkdir(b"d")
    gone = enter(root, b"d")
    root.rmdir(b"d")
    used = quota.used
    for _ in range(10):
        assert errno_of(gone.mkdir, b"x") == Errno.ENOENT
        assert errno_of(open_file, gone, b"x", create=True) == Errno.ENOENT
    assert quota.used == used
    fs.close()


def test_offsets_beyond_any_file(fs: HostFileSystem) -> None:
    file = open_file(fs.root(), b"f", create=True)
    assert errno_of(file.pread, 10, (1 << 64) - 1) == Errno.EINVAL
    assert errno_of(file.pwrite, b"x", (1 << 63) - 1) == Errno.EFBIG
    assert errno_of(file.truncate, 1 << 63) == Errno.EFBIG
    assert errno_of(file.allocate, (1 << 63) - 1, 1) == Errno.EFBIG
    assert bytes(file.pread((1 << 32) - 1, 0)) == b""


def test_no_descriptor_is_left_open(fs: HostFileSystem, odd: Path, granted: Path) -> None:
    before = descriptors()
    root = fs.root()
    put(root, b"f", b"1")
    root.mkdir(b"d")
    for _ in range(20):
        for name in (b"f", b"d", b"fifo", b"none"):
            with suppress(WasiError):
                root.lookup(name).close()
            with suppress(WasiError):
                open_file(root, name, write=False).close()
        list(root.entries(0))
        root.sync(False)
    root.close()
    assert descriptors() == before


def test_a_handle_that_is_forgotten_closes_itself(fs: HostFileSystem) -> None:
    before = descriptors()
    root = fs.root()
    put(root, b"f", b"1")
    node, file = root.lookup(b"f"), open_file(root, b"f")
    del root, node, file
    assert descriptors() == before


def test_a_child_outlives_the_handle_it_came_from(fs: HostFileSystem) -> None:
    root = fs.root()
    put(root, b"f", b"1")
    node = root.lookup(b"f")
    root.close()
    assert node.stat().size == 1
    node.close()
    assert errno_of(node.stat) == Errno.EBADF
    assert errno_of(root.lookup, b"f") == Errno.EBADF


def test_snapshots_share_a_fixed_amount_of_memory(granted: Path) -> None:
    for number in range(100):
        (granted / f"file-with-a-name-{number:03}").touch()
    directory = os.open(granted, os.O_RDONLY)
    device = os.fstat(directory).st_dev
    snapshots = Snapshots(bytes_max=10_000)
    owners = [object() for _ in range(20)]
    for owner in owners:
        assert len(list(snapshots.take(owner, directory, device).after(0))) == 100
    held = [owner for owner in owners if snapshots.get(owner) is not None]
    assert held == owners[-2:]
    assert errno_of(Snapshots(bytes_max=1000).take, object(), directory, device) == Errno.ENOMEM
    os.close(directory)


def test_a_large_directory_is_read_once_for_all_batches(
    fs: HostFileSystem, granted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(500):
        (granted / str(number)).touch()
    reads = 0
    real = os.scandir

    def counting(path: Any) -> Any:
        nonlocal reads
        reads += 1
        return real(path)

    monkeypatch.setattr(os, "scandir", counting)
    root = fs.root()
    cookie, count = 0, 0
    while batch := [entry for _, entry in zip(range(10), root.entries(cookie), strict=False)]:
        count += len(batch)
        cookie = batch[-1].cookie
    assert (count, reads) == (500, 1)


def test_every_error_of_the_host_is_one_of_the_guest() -> None:
    import errno as host_errno

    shared = [name for name in host_errno.errorcode.values() if name in Errno.__members__]
    assert len(shared) > 60
    for name in shared:
        assert ERRNO[getattr(host_errno, name)] in (Errno[name], Errno.EAGAIN, Errno.ENOTSUP, Errno.EDEADLK)


def test_the_root_may_be_named_by_a_link_but_must_be_a_directory(granted: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(granted)
    fs = host(tmp_path / "link")
    put(fs.root(), b"f")
    (tmp_path / "link").unlink()
    put(fs.root(), b"g")
    assert inside(granted) == ["f", "g"]
    fs.close()
    assert errno_of(fs.root) == Errno.EBADF
    with pytest.raises(NotADirectoryError):
        host(granted / "f")
    with pytest.raises(FileNotFoundError):
        host(granted / "none")


def test_appends_of_two_writers_never_overwrite(fs: HostFileSystem) -> None:
    root = fs.root()
    put(root, b"f")

    def work(mark: bytes) -> None:
        file: File = open_file(root, b"f")
        for _ in range(500):
            file.append(mark * 7)
        file.close()

    threads = [threading.Thread(target=work, args=(mark,)) for mark in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = get(root, b"f")
    assert len(data) == 7000
    assert {data[at : at + 7] for at in range(0, 7000, 7)} == {b"a" * 7, b"b" * 7}


@pytest.mark.parametrize("path", ["/proc", "/proc/self", "/proc/self/fd", "/sys"])
def test_a_file_system_of_the_kernel_cannot_be_granted(path: str) -> None:
    with pytest.raises(OSError, match="the kernel's own"):
        HostFileSystem(path, writable=False, device=9, quota=None)


def test_nor_be_entered_where_it_is_mounted_in_a_grant() -> None:
    """A grant of ``/`` is a foolish one; it still is none of this process's memory and environment."""
    files = HostFileSystem("/", writable=True, device=9, quota=None)
    root = files.root()
    for name in (b"proc", b"sys"):
        with pytest.raises(WasiError, match="EACCES"):
            root.lookup(name)
    assert root.lookup(b"usr").filetype == FileType.DIRECTORY
    root.close()
    files.close()
