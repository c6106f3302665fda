"""Arguments, environment, clocks, randomness, exit, sockets; and garbage passed to everything."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.vm.process.wasi.abi import SIGNATURES, Errno
from sojourn.vm.process.wasi.outside import LimitReached, ProcessExit, Stopped
from sojourn.vm.process.wasi.system import RANDOM_BYTES_MAX, System

from .helpers import NOW_NS, FakeSource, Guest


def test_every_function_is_there() -> None:
    for name, parameters in SIGNATURES.items():
        assert callable(getattr(System, name)), name
        guest = Guest()
        if name != "proc_exit":
            assert isinstance(guest.call(name, *[0] * len(parameters)), Errno)


def texts(g: Guest, kind: str) -> list[bytes]:
    g.ok(f"{kind}_sizes_get", g.OUT, g.OUT + 4)
    count, size = struct.unpack("<II", g.get(g.OUT, 8))
    g.ok(f"{kind}_get", g.VECTORS, g.DATA)
    found = []
    for (pointer,) in struct.iter_unpack("<I", g.get(g.VECTORS, 4 * count)):
        found.append(g.get(pointer, 4096).split(b"\0")[0])
    assert size == sum(len(text) + 1 for text in found)
    return found


def test_arguments_and_environment() -> None:
    g = Guest(args=[b"prog", b"", b"two words"], environ=[(b"A", b"1"), (b"B", b"x=y"), (b"C", b"")])
    assert texts(g, "args") == [b"prog", b"", b"two words"]
    assert texts(g, "environ") == [b"A=1", b"B=x=y", b"C="]
    assert texts(Guest(args=[]), "args") == []
    assert texts(Guest(), "environ") == []
    assert g.call("args_get", len(g.memory.view) - 8, g.DATA) == Errno.EFAULT
    assert g.call("args_get", g.DATA, len(g.memory.view) - 8) == Errno.EFAULT


@pytest.mark.parametrize(
    ("clock", "expected"), [(0, NOW_NS), (1, 1_000), (2, 77), (3, 77), (4, None), (0xFFFFFFFF, None)]
)
def test_clocks(clock: int, expected: int | None) -> None:
    g = Guest()
    for name, args in (("clock_time_get", (clock, 0, g.OUT)), ("clock_res_get", (clock, g.OUT))):
        errno = g.call(name, *args)
        assert errno == (Errno.EINVAL if expected is None else Errno.SUCCESS)
        if expected is not None:
            assert g.u64() == (expected if name == "clock_time_get" else 1)


def test_random() -> None:
    g = Guest()
    g.ok("random_get", g.DATA, 1000)
    assert 0 not in g.get(g.DATA, 1000)
    assert g.get(g.DATA + 1000, 1) == b"\0"
    g.ok("random_get", g.DATA, 0)
    assert g.call("random_get", len(g.memory.view) - 5, 6) == Errno.EFAULT
    assert g.call("random_get", 0, RANDOM_BYTES_MAX + 1) == Errno.EINVAL


def test_exit_and_signals() -> None:
    g = Guest()
    for code in (0, 3, 0xFFFFFFFF):
        with pytest.raises(ProcessExit) as caught:
            g.call("proc_exit", code)
        assert caught.value.code == code
    assert g.call("proc_raise", 6) == Errno.ENOSYS
    assert g.call("proc_raise", 200) == Errno.EINVAL


@pytest.mark.parametrize("name", ["sock_accept", "sock_recv", "sock_send", "sock_shutdown"])
def test_there_are_no_sockets(name: str) -> None:
    g = Guest()
    rest = [0] * (len(SIGNATURES[name]) - 1)
    for fd in (0, 1, g.open("file", oflags=1)):
        assert g.call(name, fd, *rest) == Errno.ENOTSOCK
    for fd in (3, 44):  # a directory can be neither written nor shut down, whatever it is
        assert g.call(name, fd, *rest) == Errno.EBADF


def test_close_closes_every_handle() -> None:
    g = Guest()
    for number in range(5):
        g.open(f"f{number}", oflags=1)
    g.mkdir("d")
    g.open_directory("d")
    g.system.close()
    g.system.close()
    assert all(inode.opens == 0 for inode in g.tree.private.inodes.values())
    assert g.call("fd_write", 1, *g.vectors([1]), g.OUT) == Errno.EBADF


INTERESTING = st.one_of(
    st.integers(0, 8),
    st.integers(0, 300),
    st.sampled_from([1 << 16, (1 << 16) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]),
    st.integers(0, (1 << 32) - 1),
)
WIDE = st.one_of(
    INTERESTING,
    st.sampled_from([1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, list[int]]:
    name = draw(st.sampled_from(sorted(SIGNATURES)))
    return name, [draw(WIDE if kind == "I" else INTERESTING) for kind in SIGNATURES[name]]


@settings(max_examples=400, deadline=None)
@given(st.lists(calls(), min_size=1, max_size=30), st.integers(0, 1 << 30))
def test_garbage(script: list[tuple[str, list[int]]], seed: int) -> None:
    """Any numbers over a random memory: an errno or an ending, never another exception, nothing leaked."""
    g = Guest(
        stdin=FakeSource(b"data", None, b"more"),
        memory_bytes=1 << 16,
        file_bytes=1 << 20,
        output_bytes=1 << 18,
    )
    fill(g, random.Random(seed))
    g.outside.on_wait = lambda: None
    for name, args in script:
        try:
            errno = getattr(g.system, name)(*args)
        except (ProcessExit, LimitReached, Stopped):
            continue
        assert type(errno) is int
        Errno(errno)
    g.system.close()
    assert all(inode.opens == 0 for inode in g.tree.private.inodes.values())


def fill(g: Guest, rng: random.Random) -> None:
    """Small numbers (so that vectors and subscriptions are often right), and names."""
    words = [rng.choice((0, 1, 2, 3, 4, 5, 16, 100, 256, 1 << 15, rng.getrandbits(32))) for _ in range(4096)]
    g.put(0, struct.pack("<4096I", *words))
    names = [b"a", b"b/", b"..", b"a/b", b".", b"l", b"/", b"c/../a"]
    for at in range(0, 300, 4):
        g.put(at, rng.choice(names)[:4])
    g.mkdir("a")
    g.make_file("b", b"123")
    g.symlink("a", "l")
    for at in range(0, 512, 8):
        if rng.random() < 0.4:
            g.put(at, rng.choice(names).ljust(4, b"/")[:4])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 40))
def test_long_scripts_that_mostly_work(seed: int) -> None:
    """Calls with plausible arguments, so that deep states are reached; nothing leaks in the end."""
    rng = random.Random(seed)
    g = Guest(file_bytes=1 << 18, descriptors_max=20)
    g.outside.on_wait = lambda: None
    paths = [b"a", b"b", b"a/b", b"a/../b", b"l", b"l/x", b"a/", b".", b"a/l", b"..", b"b/.."]
    for _ in range(80):
        try:
            plausible(g, rng, paths)
        except LimitReached as limit:
            if limit.name == "descriptors":
                g.system.fd_close(rng.randrange(4, 20))
    used = g.files.used
    held = sum(inode.data.held for inode in g.tree.private.inodes.values() if hasattr(inode, "data"))
    assert held <= used <= 1 << 18
    g.system.close()
    assert all(inode.opens == 0 for inode in g.tree.private.inodes.values())
    assert all(inode.nlink > 0 for inode in g.tree.private.inodes.values())


def plausible(g: Guest, rng: random.Random, paths: list[bytes]) -> None:
    fd, path, path2 = rng.choice((3, 3, 3, rng.randrange(12))), g.path(rng.choice(paths)), rng.choice(paths)
    rights = rng.choice((0, 2, 66, (1 << 30) - 1, (1 << 30) - 1 - 64))
    vectors = g.vectors([rng.randrange(3000)])
    choices = [
        (
            "path_open",
            fd,
            rng.randrange(2),
            *path,
            rng.randrange(16),
            rights,
            rights,
            rng.randrange(32),
            g.OUT,
        ),
        ("path_create_directory", fd, *path),
        ("path_symlink", *g.path2(path2), fd, *path),
        ("path_rename", fd, *path, 3, *g.path2(path2)),
        ("path_link", fd, 0, *path, 3, *g.path2(path2)),
        ("path_unlink_file", fd, *path),
        ("path_remove_directory", fd, *path),
        ("path_filestat_get", fd, rng.randrange(2), *path, g.OUT),
        ("fd_write", fd, *vectors, g.OUT),
        ("fd_pwrite", fd, *vectors, rng.randrange(1 << 16), g.OUT),
        ("fd_read", fd, *vectors, g.OUT),
        ("fd_readdir", fd, g.DATA, rng.randrange(400), rng.randrange(6), g.OUT),
        ("fd_filestat_set_size", fd, rng.randrange(1 << 16)),
        ("fd_renumber", fd, rng.randrange(12)),
        ("fd_close", rng.randrange(4, 12)),
    ]
    name, *args = rng.choice(choices)
    g.call(str(name), *(int(arg) for arg in args))
