"""A guest that is saved and restored at any point does as one that is not."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sojourn.model.errors import GrantError
from sojourn.vm.process.wasi.abi import Errno, Rights
from sojourn.vm.process.wasi.outside import LimitReached

from .worlds import FakeSource, World

READ, WRITE = int(Rights.FD_READ), int(Rights.FD_WRITE)
ALL = (1 << 30) - 1
NAMES = [b"a", b"b", b"d", b"d/a", b"d/e", b"link", b"../a", b"tmp/x", b"data/h", b"data/d", b"data/d/h"]
NAMES += [b"one", b"lib/a.txt", b"lib/sub", b"lib/sub/b.txt", b"."]
SIZES = [0, 1, 7, 100, 65_536, 70_000]
OFFSETS = [0, 1, 5, 65_535, 300_000, (1 << 41), (1 << 64) - 1]
STDIN = (b"hello", None, b"world" * 30_000, None, b"!")
_HOST = (16, 17)
REBIRTH = "rebirth"


class Player:
    """Plays calls on a world; the results are comparable with those of a world over another folder."""

    def __init__(self, folder: Path, lives: bool) -> None:
        self.world = World(folder, stdin=FakeSource(*STDIN))
        self.lives = lives
        self.reborn = 0

    def play(self, call: tuple[int, int, int, int]) -> Any:
        kind, a, b, c = call
        name = CALLS[kind]
        if name == REBIRTH:
            return self.rebirth()
        self.world.outside.now_ns += 1_000
        try:
            return getattr(self, name)(a, b, c)
        except LimitReached as limit:
            return limit.name

    def rebirth(self) -> None:
        if not self.lives:
            return
        try:
            state = self.world.save()
        except GrantError as error:  # a file of the host without a name: it may not be left, and goes on
            assert "no name" in error.message
            return
        self.world = self.world.reborn(state)
        assert self.world.save() == state
        self.reborn += 1

    def call(self, name: str, *args: int, out: int = 0) -> Any:
        w = self.world
        w.put(w.OUT, bytes(64))
        errno = w.call(name, *args)
        return errno, w.get(w.OUT, out) if errno == Errno.SUCCESS else b""

    def fd(self, number: int) -> int:
        """One that is open mostly."""
        numbers = sorted(self.world.system.descriptors)
        return number if number == 15 or not numbers else numbers[(number * 7) % len(numbers)]

    def stat_of(self, result: Any) -> Any:
        errno, data = result
        if errno != Errno.SUCCESS:
            return errno
        stat = struct.unpack("<QQB7xQQQQQ", data)
        # The host's inode numbers, times and directory sizes are not ours to compare.
        return (stat[0], stat[2]) if stat[0] in _HOST else stat

    def open(self, a: int, b: int, c: int) -> Any:
        w = self.world
        rights = (READ | WRITE | ALL, READ | ALL & ~WRITE, WRITE | ALL & ~READ, ALL & ~WRITE)[b % 4]
        oflags = (0, 1, 1, 2, 9, 5, 8, 1)[c % 8]
        flags = 1 if b & 8 else 0
        base = 4 if b & 4 and a < 7 else 3
        return self.call(
            *("path_open", base, a & 1, *w.path(NAMES[a])), oflags, rights, ALL, flags, w.OUT, out=4
        )

    def close(self, a: int, b: int, c: int) -> Any:
        return self.call("fd_close", self.fd(a)) if b > 3 else None

    def write(self, a: int, b: int, c: int) -> Any:
        w = self.world
        size = SIZES[b % 6]
        w.put(w.DATA, bytes([65 + c]) * size)
        return self.call("fd_write", self.fd(a), *w.vectors([size // 2, size - size // 2]), w.OUT, out=4)

    def pwrite(self, a: int, b: int, c: int) -> Any:
        w = self.world
        w.put(w.DATA, bytes([97 + c]) * SIZES[b % 6])
        return self.call("fd_pwrite", self.fd(a), *w.vectors([SIZES[b % 6]]), OFFSETS[c % 7], w.OUT, out=4)

    def read(self, a: int, b: int, c: int) -> Any:
        w = self.world
        fd = self.fd(a)
        if fd == 0 and w.stdin.chunks and w.stdin.chunks[0] is None:
            w.stdin.chunks.pop(0)  # it would wait
        result = self.call("fd_read", fd, *w.vectors([SIZES[b % 6]]), w.OUT, out=4)
        return result, w.get(w.DATA, w.u32()) if result[0] == Errno.SUCCESS else b""

    def pread(self, a: int, b: int, c: int) -> Any:
        w = self.world
        result = self.call("fd_pread", self.fd(a), *w.vectors([SIZES[b % 6]]), OFFSETS[c % 7], w.OUT, out=4)
        return result, w.get(w.DATA, w.u32()) if result[0] == Errno.SUCCESS else b""

    def seek(self, a: int, b: int, c: int) -> Any:
        return self.call("fd_seek", self.fd(a), OFFSETS[b % 7], c % 3, self.world.OUT, out=8)

    def fdstat(self, a: int, b: int, c: int) -> Any:
        return self.call("fd_fdstat_get", self.fd(a), self.world.OUT, out=24)

    def set_flags(self, a: int, b: int, c: int) -> Any:
        return self.call("fd_fdstat_set_flags", self.fd(a), b)

    def set_rights(self, a: int, b: int, c: int) -> Any:
        if self.fd(a) < 6:
            return None  # what is at the start is needed on
        return self.call(
            "fd_fdstat_set_rights", self.fd(a), ALL & ~(READ if b & 1 else WRITE) & ~(1 << 25), 0
        )

    def fstat(self, a: int, b: int, c: int) -> Any:
        return self.stat_of(self.call("fd_filestat_get", self.fd(a), self.world.OUT, out=64))

    def stat(self, a: int, b: int, c: int) -> Any:
        w = self.world
        return self.stat_of(self.call("path_filestat_get", 3, b & 1, *w.path(NAMES[a]), w.OUT, out=64))

    def set_times(self, a: int, b: int, c: int) -> Any:
        return self.call("fd_filestat_set_times", self.fd(a), b * 10**9, c * 10**9, 5)

    def set_size(self, a: int, b: int, c: int) -> Any:
        return self.call("fd_filestat_set_size", self.fd(a), OFFSETS[b % 5])

    def allocate(self, a: int, b: int, c: int) -> Any:
        return self.call("fd_allocate", self.fd(a), OFFSETS[b % 4], SIZES[c % 6])

    def mkdir(self, a: int, b: int, c: int) -> Any:
        return self.call("path_create_directory", 3, *self.world.path(NAMES[a]))

    def unlink(self, a: int, b: int, c: int) -> Any:
        return self.call("path_unlink_file", 3, *self.world.path(NAMES[a]))

    def rmdir(self, a: int, b: int, c: int) -> Any:
        return self.call("path_remove_directory", 3, *self.world.path(NAMES[a]))

    def rename(self, a: int, b: int, c: int) -> Any:
        w = self.world
        return self.call("path_rename", 3, *w.path(NAMES[a]), 3, *w.path2(NAMES[b]))

    def link(self, a: int, b: int, c: int) -> Any:
        w = self.world
        return self.call("path_link", 3, 0, *w.path(NAMES[a]), 3, *w.path2(NAMES[b]))

    def symlink(self, a: int, b: int, c: int) -> Any:
        w = self.world
        return self.call("path_symlink", *w.path2(NAMES[a]), 3, *w.path(NAMES[b]))

    def readdir(self, a: int, b: int, c: int) -> Any:
        fd = self.fd(a)
        descriptor = self.world.system.descriptors.get(fd)
        w = self.world
        if descriptor is None or descriptor.shared is None or not descriptor.rights & (1 << 14):
            return w.call("fd_readdir", fd, w.DATA, 4096, 0, w.OUT)
        if descriptor.directory.filesystem.device in _HOST:
            return sorted((kind, name) for _, _, kind, name in w.readdir(fd))
        return [entry[:1] + entry[2:] for entry in w.readdir(fd, 24 + 30 * b, c)]

    def renumber(self, a: int, b: int, c: int) -> Any:
        one, two = self.fd(a), self.fd(b)
        return self.call("fd_renumber", one, two) if min(one, two) > 5 else None

    def poll(self, a: int, b: int, c: int) -> Any:
        w = self.world
        wishes = struct.pack("<QB7xI4xQQH6x", 1, 0, 1, c * 1000, 0, 0)
        wishes += struct.pack("<QB7xI4xQQH6x", 2, 1, self.fd(a), 0, 0, 0)
        w.put(w.VECTORS, wishes)
        result = self.call("poll_oneoff", w.VECTORS, w.DATA, 2, w.OUT, out=4)
        return result, w.get(w.DATA, 32 * w.u32()) if result[0] == Errno.SUCCESS else b""

    def clock(self, a: int, b: int, c: int) -> Any:
        return self.call("clock_time_get", 1, 0, self.world.OUT, out=8)

    def environment(self, a: int, b: int, c: int) -> Any:
        w = self.world
        w.put(w.DATA, bytes(128))
        return self.call("environ_get", w.DATA, w.DATA + 64), w.get(w.DATA, 128)

    def used(self, a: int, b: int, c: int) -> Any:
        w = self.world
        return w.files.used, w.system.output_bytes, bytes(w.stdout.data), bytes(w.extra.data)


CALLS = ["open", "open", "open", "write", "write", "read", "read", "close", REBIRTH, REBIRTH]
CALLS += [name for name in vars(Player) if not name.startswith("_")]
for _helper in ("play", "rebirth", "call", "fd", "stat_of"):
    CALLS.remove(_helper)
_calls = st.lists(
    st.tuples(st.integers(0, len(CALLS) - 1), st.integers(0, 15), st.integers(0, 15), st.integers(0, 15)),
    min_size=5,
    max_size=80,
)


def play_both(calls: list[tuple[int, int, int, int]]) -> int:
    """How many lives the one had that was saved and restored."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        undisturbed, moving = Player(Path(one), lives=False), Player(Path(two), lives=True)
        try:
            for call in [*calls, (CALLS.index("used"), 0, 0, 0)]:
                assert moving.play(call) == undisturbed.play(call), CALLS[call[0]]
            return moving.reborn
        finally:
            undisturbed.world.close()
            moving.world.close()


@given(_calls)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_guest_does_as_one_that_was_never_left(calls: list[tuple[int, int, int, int]]) -> None:
    play_both(calls)


def test_long_lives() -> None:
    """Seeded, and long enough that files, links and descriptors pile up."""
    import random

    lives = 0
    for seed in range(12):
        rng = random.Random(seed)
        numbers = range(len(CALLS))
        lives += play_both([(rng.choice(numbers), *rng.choices(range(16), k=3)) for _ in range(400)])
    assert lives > 100
