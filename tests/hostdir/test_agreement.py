"""One guest, two file systems: a host directory and private memory answer any sequence of calls alike.

Sequences are seeded, over a few names, so that links, loops, removed directories and open files meet.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sojourn.vm.process.hostdir import HostFileSystem
from sojourn.vm.process.wasi.abi import Errno, FileType, Rights
from sojourn.vm.process.wasi.outside import ByteQuota
from tests.wasi.helpers import ALL_RIGHTS, Guest

PATHS = ("a", "b", "d", "d/e", "d/e/g", "l", "l/x", ".", "..", "d/..", "d/", "a/", "d//e/.", "../a", "/a", "")
TARGETS = ("a", "d", "d/e", "nope", "../a", "l", "d/", ".", "../../b")
RIGHTS = (ALL_RIGHTS, ALL_RIGHTS & ~Rights.FD_WRITE, ALL_RIGHTS & ~Rights.FD_READ)
STEPS = 60
OPEN_MAX = 20


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[Callable[[int], list[Guest]]]:
    made: list[tuple[Guest, HostFileSystem | None]] = []

    def make(seed: int) -> list[Guest]:
        folder = tmp_path / str(seed)
        folder.mkdir()
        host = HostFileSystem(str(folder), writable=True, device=9, quota=ByteQuota("file_bytes", 1 << 62))
        made.append((Guest(preopens=[(b"/", host.root())]), host))
        made.append((Guest(), None))
        return [guest for guest, _ in made[-2:]]

    yield make
    for guest, host in made:
        guest.system.close()
        if host is not None:
            host.close()


def choose(rng: random.Random, descriptors: int) -> tuple[Any, ...]:
    """A call by name, with the plain values that ``answer`` needs."""
    fd = rng.randrange(3, 3 + descriptors) if rng.random() < 0.6 else 3
    path = rng.choice(PATHS)
    name = rng.choice(
        ("open", "open", "path", "path", "two", "two", "link", "io", "io", "stat", "size", "seek")
    )
    return {
        "open": ("open", fd, rng.randrange(2), path, rng.choice((0, 1, 2, 5, 8, 9)), rng.choice(RIGHTS)),
        "path": (
            rng.choice(("path_create_directory", "path_remove_directory", "path_unlink_file")),
            fd,
            path,
        ),
        "two": (rng.choice(("path_rename", "path_link")), fd, path, rng.choice(PATHS)),
        "link": ("path_symlink", fd, rng.choice(TARGETS), path),
        "io": (rng.choice(("fd_read", "fd_write")), fd, rng.choice((0, 3, 50))),
        "stat": ("path_filestat_get", fd, rng.randrange(2), path),
        "size": (rng.choice(("fd_filestat_set_size", "fd_readdir")), fd, rng.choice((0, 5, 90))),
        "seek": ("fd_seek", fd, rng.choice((0, 7, -1, (1 << 63) - 1)), rng.randrange(3)),
    }[name]


def answer(g: Guest, call: tuple[Any, ...]) -> tuple[Errno, Any]:
    """The errno, and what a program can see of the result."""
    name, fd, *rest = call
    if name == "open":
        follow, path, oflags, rights = rest
        errno = g.try_open(path, fd=fd, follow=follow, oflags=oflags, rights=rights)
        return errno, g.u32() if errno == Errno.SUCCESS else None
    if name in ("path_rename", "path_link"):
        flags = () if name == "path_rename" else (0,)
        return g.call(name, fd, *flags, *g.path(rest[0]), fd, *g.path2(rest[1])), None
    if name == "path_symlink":
        return g.call(name, *g.path2(rest[0]), fd, *g.path(rest[1])), None
    if name == "path_filestat_get":
        errno = g.call(name, fd, rest[0], *g.path(rest[1]), g.OUT)
        return errno, _visible(g._filestat()) if errno == Errno.SUCCESS else None
    if name in ("fd_read", "fd_write"):
        g.put(g.DATA, bytes(range(64)))
        errno = g.call(name, fd, *g.vectors(rest), g.OUT)
        return errno, g.get(g.DATA, g.u32()) if errno == Errno.SUCCESS else None
    if name == "fd_readdir":
        errno = g.call(name, fd, g.DATA, 4096, 0, g.OUT)
        return errno, sorted(e[2:] for e in g.readdir(fd)) if errno == Errno.SUCCESS else None
    if name == "fd_seek":
        errno = g.call(name, fd, *rest, g.OUT)
        return errno, g.u64() if errno == Errno.SUCCESS else None
    return g.call(name, fd, *(g.path(rest[0]) if name.startswith("path_") else rest)), None


def _visible(stat: tuple[int, ...]) -> tuple[int, ...]:
    """Type, links and size; those of a directory are the file system's own business."""
    kind, links, size = stat[2:5]
    return (kind, links, size) if kind == FileType.REGULAR_FILE else (kind,)


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_a_host_directory_and_private_memory_answer_alike(
    guests: Callable[[int], list[Guest]], first: int
) -> None:
    for seed in range(first, first + 50):
        rng = random.Random(seed)
        pair = guests(seed)
        done: list[Any] = []
        while len(done) < STEPS:
            call = choose(rng, len(pair[1].system.descriptors) - 3)
            if call[0] == "open" and len(pair[1].system.descriptors) >= OPEN_MAX:
                call = ("fd_close", len(pair[1].system.descriptors) - 1, 0)
                answers = [(g.call("fd_close", call[1]), None) for g in pair]
            else:
                answers = [answer(g, call) for g in pair]
            done.append(call)
            assert answers[0] == answers[1], f"seed {seed}: {done[-6:]}"
