"""A saved state that anybody may have made: typed errors, nothing left open, nothing that breaks later."""

from __future__ import annotations

import contextlib
import copy
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sojourn.model.errors import ContextError, GrantError
from sojourn.vm.process.surroundings import Surroundings
from sojourn.vm.process.wasi.abi import Rights
from sojourn.vm.process.wasi.files_state import _CHUNK, _INODE, _NAME
from sojourn.vm.process.wasi.outside import Leave, LimitReached, Stopped
from tests.wasi.helpers import ALL_RIGHTS, RW

from .worlds import World, nothing_left_open

ROUNDS = 2500
CREATE = 1


def rich_world(folder: Path) -> World:
    """One with something of each kind."""
    w = World(folder)
    w.mkdir("d")
    w.make_file("d/f", b"some content")
    w.symlink("f", "d/s")
    w.ok("path_link", 3, 0, *w.path("d/f"), 3, *w.path2("second"))
    (w.granted / "h").write_bytes(b"the host's")
    for path in ("d/f", "data/h"):
        w.open(path)
    w.open("lib/a.txt", rights=ALL_RIGHTS & ~Rights.FD_WRITE)
    fd = w.open("gone", oflags=CREATE)
    w.write(fd, b"unlinked")
    w.ok("path_unlink_file", 3, *w.path("gone"))
    for path in ("d", "data", "lib"):
        w.readdir(w.open_directory(path), 60)
    w.open_directory(".", fd=w.open_directory("tmp"))
    w.mkdir("removed")
    w.open_directory("removed")
    w.ok("path_remove_directory", 3, *w.path("removed"))

    def leave() -> None:
        raise Leave

    w.outside.on_wait = leave
    w.put(w.VECTORS, struct.pack("<QB7xI4xQQH6x", 7, 0, 1, 1000, 0, 0))
    with pytest.raises(Leave):
        w.call("poll_oneoff", w.VECTORS, w.DATA, 1, w.OUT)
    return w


def places(value: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """Every (container, key) in the state."""
    found = [] if found is None else found
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            places(value[key], found)
    return found


_ODD = [
    None,
    True,
    -1,
    0,
    1,
    2,
    1 << 20,
    1 << 62,
    (1 << 64) - 1,
    1 << 64,
    1.5,
    "",
    "x" * 100,
    b"",
    b"/",
    b"..",
    [],
    {},
]


def changed(value: Any, rng: random.Random) -> Any:
    if type(value) is bytes and value and rng.random() < 0.8:
        data = bytearray(value)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 2, 0x2E, 0x2F, 0xFF, rng.randrange(256)])
        return bytes(data[: rng.choice([len(data), len(data), rng.randrange(len(data))])])
    if type(value) is int and rng.random() < 0.7:
        return value + rng.choice([-1, 1, 2, -2, 255])
    if type(value) is list and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return rng.choice([value[:at], [*value, copy.deepcopy(value[at])], value[:at] + value[at + 1 :]])
    return copy.deepcopy(rng.choice(_ODD))


def live_a_little(w: World, rng: random.Random) -> None:
    """Calls of all kinds on what came out of a changed state: they may fail, as calls fail."""
    w.outside.on_wait = None
    for fd in sorted(w.system.descriptors):
        for name, args in (
            ("fd_filestat_get", (w.OUT,)),
            ("fd_read", (*w.vectors([20]), w.OUT)),
            ("fd_write", (*w.vectors([20]), w.OUT)),
            ("fd_readdir", (w.DATA, 500, 0, w.OUT)),
            ("fd_readdir", (w.DATA, 500, rng.randrange(5), w.OUT)),
            ("fd_seek", (0, 2, w.OUT)),
            ("path_open", (0, *w.path("d/f"), 0, int(RW), 0, 0, w.OUT)),
            ("path_rename", (*w.path("d"), 3, *w.path2("e"))),
            ("path_create_directory", (*w.path("e/g"),)),
            ("path_unlink_file", (*w.path("second"),)),
            ("fd_close", ()),
        ):
            with contextlib.suppress(LimitReached, Stopped):
                w.call(name, fd, *args)


def restore_changed(w: World, state: dict[str, Any], rng: random.Random) -> bool:
    """Whether it was taken."""
    try:
        new = w.reborn(state)
    except (ContextError, GrantError, LimitReached):
        return False
    try:
        with contextlib.suppress(GrantError):
            new.save()
        live_a_little(new, rng)
    finally:
        new.close()
    return True


def test_changed_states(tmp_path: Path) -> None:
    rng = random.Random(7)
    w = rich_world(tmp_path)
    state = w.save()
    w.close()
    taken = 0
    with nothing_left_open():
        for _ in range(ROUNDS):
            hurt = copy.deepcopy(state)
            for _ in range(rng.choice([1, 1, 1, 2, 4])):
                container, key = rng.choice(places(hurt))
                container[key] = changed(container[key], rng)
            taken += restore_changed(w, hurt, rng)
            (tmp_path / "granted" / "h").write_bytes(b"the host's")
    assert 0 < taken < ROUNDS


def files(state: dict[str, Any], name: str, layout: struct.Struct) -> list[list[int]]:
    return [list(record) for record in layout.iter_unpack(b"".join(state["files"][name]))]


def put(state: dict[str, Any], name: str, layout: struct.Struct, records: list[list[int]]) -> None:
    state["files"][name] = [b"".join(layout.pack(*record) for record in records)]


def names(state: dict[str, Any]) -> list[list[Any]]:
    data, found = b"".join(state["files"]["names"]), []
    while data:
        directory, ino, cookie, length = _NAME.unpack_from(data)
        found.append([directory, ino, cookie, data[_NAME.size : _NAME.size + length]])
        data = data[_NAME.size + length :]
    return found


def put_names(state: dict[str, Any], found: list[list[Any]]) -> None:
    state["files"]["names"] = [b"".join(_NAME.pack(*rest, len(name)) + name for *rest, name in found)]


def entry(state: dict[str, Any], name: bytes) -> list[Any]:
    return next(item for item in names(state) if item[3] == name)


def a_directory_in_itself(state: dict[str, Any]) -> None:
    ino = entry(state, b"d")[1]
    put_names(state, [[ino, *item[1:]] if item[3] == b"d" else item for item in names(state)])
    inodes = files(state, "inodes", _INODE)
    for inode in inodes:
        if inode[0] == ino:
            inode[2], inode[6], inode[7] = 3, ino, 1000
        if inode[0] == 1:
            inode[2] -= 1
    put(state, "inodes", _INODE, inodes)


def a_directory_in_two_places(state: dict[str, Any]) -> None:
    item = entry(state, b"d")
    put_names(state, [*names(state), [*item[:2], item[2] + 1, b"again"]])


def a_name_that_leads_out(state: dict[str, Any]) -> None:
    put_names(state, [[*item[:3], b".."] if item[3] == b"second" else item for item in names(state)])


def a_name_with_a_slash(state: dict[str, Any]) -> None:
    put_names(state, [[*item[:3], b"a/b"] if item[3] == b"second" else item for item in names(state)])


def a_chunk_beyond_its_file(state: dict[str, Any]) -> None:
    chunks = files(state, "chunks", _CHUNK)
    chunks[0][0] = 1 << 40
    put(state, "chunks", _CHUNK, chunks)


def a_count_of_links(state: dict[str, Any]) -> None:
    inodes = files(state, "inodes", _INODE)
    inodes[-1][2] += 1
    put(state, "inodes", _INODE, inodes)


def files_that_nobody_counted(state: dict[str, Any]) -> None:
    state["usage"]["file_bytes"] = 100


def a_number_twice(state: dict[str, Any]) -> None:
    state["descriptors"]["open"].append(state["descriptors"]["open"][-1])


def a_role_twice(state: dict[str, Any]) -> None:
    state["descriptors"]["open"][1]["role"] = "stderr"


def output_that_does_not_count(state: dict[str, Any]) -> None:
    state["descriptors"]["open"][1] |= {"role": "extra 1"}


def a_source_that_is_written(state: dict[str, Any]) -> None:
    state["descriptors"]["open"][0]["rights"] |= int(Rights.FD_WRITE)


def rights_of_files_on_a_directory(state: dict[str, Any]) -> None:
    state["descriptors"]["open"][3]["rights"] |= int(Rights.FD_WRITE)


def a_mount_at_the_root(state: dict[str, Any]) -> None:
    for mount in state["mounts"]:
        if mount["path"] == "/data":
            mount["placeholder"] = 1


def two_mounts_in_one_place(state: dict[str, Any]) -> None:
    found = {mount["path"]: mount for mount in state["mounts"]}
    found["/lib"]["placeholder"] = found["/data"]["placeholder"]


def a_path_that_climbs(state: dict[str, Any]) -> None:
    for row in state["descriptors"]["open"]:
        if row.get("path") == b"/data/h":
            row["place"]["path"] = b"../one"


def a_million_descriptors(state: dict[str, Any]) -> None:
    state["descriptors"]["open"] = [{}] * ((1 << 20) + 1)


def a_huge_number(state: dict[str, Any]) -> None:
    state["descriptors"]["open"][-1]["number"] = 1 << 60


def one_component_less(state: dict[str, Any]) -> None:
    del state["usage"]


@pytest.mark.parametrize(
    "hurt",
    [
        a_directory_in_itself,
        a_directory_in_two_places,
        a_name_that_leads_out,
        a_name_with_a_slash,
        a_chunk_beyond_its_file,
        a_count_of_links,
        files_that_nobody_counted,
        a_number_twice,
        a_role_twice,
        output_that_does_not_count,
        a_source_that_is_written,
        rights_of_files_on_a_directory,
        a_mount_at_the_root,
        two_mounts_in_one_place,
        a_path_that_climbs,
        a_million_descriptors,
        a_huge_number,
        one_component_less,
    ],
)
def test_made_up_states(tmp_path: Path, hurt: Callable[[dict[str, Any]], None]) -> None:
    with nothing_left_open():
        w = rich_world(tmp_path)
        state = w.save()
        hurt(state)
        with pytest.raises(ContextError, match="damaged") as caught:
            w.reborn(state)
        assert caught.value.hint


@pytest.mark.parametrize(
    "state",
    [
        {},
        [],
        7,
        {"monotonic_ns": 1, "wall_ns": 2},
        {"monotonic_ns": -1, "wall_ns": 0, "cpu_ns": 0},
        {"monotonic_ns": 0, "wall_ns": 1.5, "cpu_ns": 0},
        {"monotonic_ns": 0, "wall_ns": 0, "cpu_ns": 1 << 63},
    ],
)
def test_made_up_clocks(state: Any) -> None:
    with nothing_left_open(), pytest.raises(ContextError):
        Surroundings(1.0, state=state)
