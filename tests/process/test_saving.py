"""Saving a guest's system and restoring it elsewhere: each kind of thing, and what can be missing there."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sojourn.context.plain import pack
from sojourn.model.errors import GrantError
from sojourn.vm.process.wasi.abi import Errno, Rights
from sojourn.vm.process.wasi.checking import VALUE_BYTES_MAX
from sojourn.vm.process.wasi.outside import Leave, LimitReached
from sojourn.vm.process.wasi.saving import save_system
from tests.wasi.helpers import ALL_RIGHTS, FakeSink, FakeSource

from .worlds import DATA, PLOT, World, nothing_left_open

READ_ONLY = ALL_RIGHTS & ~int(Rights.FD_WRITE)
APPEND = 1
CREATE, TRUNCATE = 1, 8


@pytest.fixture
def w(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


# -- descriptors ---------------------------------------------------------------------------------------


def test_numbers_rights_flags_and_offsets(w: World) -> None:
    files = [w.open(f"f{number}", oflags=CREATE, flags=APPEND) for number in range(4)]
    w.write(files[2], b"hello")
    w.seek(files[2], 2)
    w.ok("fd_close", files[0])
    w.ok("fd_fdstat_set_rights", files[3], int(Rights.FD_READ), 0)
    before = {fd: w.fdstat(fd) for fd in w.system.descriptors}
    new = w.reborn()
    assert {fd: new.fdstat(fd) for fd in new.system.descriptors} == before
    assert new.read(files[2]) == b"llo"
    assert new.open("next", oflags=CREATE) == files[0]  # the lowest that is free
    assert new.open("last", oflags=CREATE) == files[3] + 1
    new.close()


def test_descriptors_of_one_directory_still_share_it(w: World) -> None:
    one = w.open_directory("data")
    same = w.open_directory(".", fd=one)
    new = w.reborn()
    shared = new.system.descriptors[one].shared
    assert shared is new.system.descriptors[same].shared
    assert shared is not None
    assert shared.holders == 2
    new.ok("fd_close", one)
    assert new.readdir(same)
    new.close()


def test_a_listing_of_the_host_goes_on_though_the_directory_changes(w: World) -> None:
    for number in range(50):
        (w.granted / f"file{number:02}").touch()
    fd = w.open_directory("data")
    seen = w.readdir(fd, 300)
    state = w.save()
    for number in range(0, 50, 2):
        (w.granted / f"file{number:02}").unlink()
        (w.granted / f"new{number:02}").touch()
    new = w.reborn(state)
    while found := new.readdir(fd, 300, seen[-1][0]):
        seen += found
    names = [name for _, _, _, name in seen]
    assert sorted(names) == sorted([b".", b"..", *(b"file%02d" % number for number in range(50))])
    new.close()


def test_a_listing_of_private_files_goes_on(w: World) -> None:
    for number in range(40):
        w.make_file(f"f{number:02}")
    seen = w.readdir(3, 300)
    new = w.reborn()
    new.ok("path_unlink_file", 3, *new.path("f00"))
    new.make_file("more")
    while found := new.readdir(3, 300, seen[-1][0]):
        seen += found
    names = [name for _, _, _, name in seen if name.startswith(b"f")]
    assert names == [b"f%02d" % number for number in range(40)]
    assert seen[-1][3] == b"more"
    new.close()


def test_files_of_bundles(w: World) -> None:
    mounted, preopened = (
        w.open("lib/sub/b.txt", rights=READ_ONLY),
        w.open("sub/c.txt", fd=PLOT, rights=READ_ONLY),
    )
    folder = w.open_directory("lib/sub")
    assert w.read(mounted, 2) == b"be"
    before = w.fstat(mounted), w.fstat(folder)
    new = w.reborn()
    assert (new.read(mounted), new.read(preopened)) == (b"ta", b"gamma")
    assert (new.fstat(mounted), new.fstat(folder)) == before
    assert new.read(new.open("c.txt", fd=folder, rights=READ_ONLY)) == b"gamma"
    new.close()


# -- private files -------------------------------------------------------------------------------------


def test_an_open_file_without_a_name(w: World) -> None:
    fd = w.open("gone", oflags=CREATE, rights=ALL_RIGHTS)
    w.write(fd, b"still here")
    w.ok("path_unlink_file", 3, *w.path("gone"))
    ino, used = w.fstat(fd)[1], w.files.used
    new = w.reborn()
    assert new.try_open("gone") == Errno.ENOENT
    assert (new.fstat(fd)[1], new.files.used) == (ino, used)
    new.seek(fd, 0)
    assert new.read(fd) == b"still here"
    new.ok("fd_close", fd)
    assert new.files.used < used
    assert ino not in new.tree.private.inodes
    new.close()


def test_a_removed_directory_that_is_open(w: World) -> None:
    w.mkdir("d")
    fd = w.open_directory("d")
    w.ok("path_remove_directory", 3, *w.path("d"))
    new = w.reborn()
    assert new.try_open("f", fd=fd, oflags=CREATE) == Errno.ENOENT
    new.close()


def test_links_times_and_numbers(w: World) -> None:
    w.make_file("f", b"x")
    w.ok("path_link", 3, 0, *w.path("f"), 3, *w.path2("tmp/g"))
    w.symlink("tmp/g", "s")
    w.ok("path_filestat_set_times", 3, 0, *w.path("f"), 5, (1 << 64) - 1, 5)
    names = ["f", "tmp/g", "s", "tmp", "."]
    before = [w.stat(name) for name in names]
    new = w.reborn()
    assert [new.stat(name) for name in names] == before
    assert new.stat("s", follow=1) == before[0]
    new.make_file("newer")
    assert new.stat("newer")[1] > max(stat[1] for stat in before)
    new.close()


def test_holes_stay_holes_and_long_files_are_cut(w: World) -> None:
    fd = w.open("sparse", oflags=CREATE, rights=ALL_RIGHTS)
    w.seek(fd, 1 << 39)
    w.write(fd, b"end")
    long = w.open("long", oflags=CREATE)
    block = bytes(range(256)) * 64
    for _ in range((20 << 20) // len(block)):
        w.write(long, block)
    used, state = w.files.used, w.save()
    sizes = [len(piece) for piece in state["files"]["data"]]
    assert len(sizes) == 2
    assert max(sizes) <= VALUE_BYTES_MAX
    assert sum(sizes) == (20 << 20) + 3  # and nothing for the holes
    new = w.reborn(state)
    assert new.files.used == used
    new.seek(fd, 1 << 39)
    assert (new.read(fd), new.fstat(fd)[4]) == (b"end", (1 << 39) + 3)
    new.seek(long, 0)
    assert all(new.read(long, len(block)) == block for _ in range((20 << 20) // len(block)))
    new.close()


def test_many_small_files_take_few_values(w: World) -> None:
    for number in range(3000):
        w.make_file(f"tmp/{number}", b"x")
    state = w.save()
    assert len(state["files"]["inodes"]) == 1
    new = w.reborn(state)
    assert new.stat("tmp/2999")[4] == 1
    new.close()


def test_a_mount_in_a_renamed_directory_is_where_it_went(tmp_path: Path) -> None:
    w = World(tmp_path / "w")
    w.tree.mount_directory("/deep/er", w._host(w.granted, 18, True))
    (w.granted / "f").write_bytes(b"here")
    w.ok("path_rename", 3, *w.path("deep"), 3, *w.path2("shallow"))
    state = w.save()
    w.close()
    new = World(tmp_path / "w")
    new.tree.mount_directory("/deep/er", new._host(new.granted, 18, True))
    new = _restored(new, state)
    assert new.read(new.open("shallow/er/f", rights=READ_ONLY)) == b"here"
    assert new.try_open("deep") == Errno.ENOENT
    new.close()


def _restored(new: World, state: dict[str, Any]) -> World:
    from sojourn.vm.process.wasi.saving import restore_system

    restore_system(state, new.system, new.tree)
    return new


# -- files of the host ---------------------------------------------------------------------------------


def _open_host_file(w: World, data: bytes = b"0123456789", **options: int) -> int:
    (w.granted / "d").mkdir(exist_ok=True)
    (w.granted / "d" / "f").write_bytes(data)
    return w.open("data/d/f", **options)


def test_a_file_of_the_host_is_opened_again_and_not_emptied(w: World) -> None:
    fd = _open_host_file(w, b"old", oflags=CREATE | TRUNCATE)
    w.write(fd, b"abcdef")
    new = w.reborn()
    new.write(fd, b"ghi")
    assert (w.granted / "d" / "f").read_bytes() == b"abcdefghi"
    assert new.files.used == w.files.used + 3
    new.close()


def test_a_granted_file_is_opened_again(w: World) -> None:
    fd = w.open("one")
    w.write(fd, b"ab")
    new = w.reborn()
    new.write(fd, b"c")
    assert (w.folder / "one").read_bytes() == b"abc"
    new.close()


def test_it_may_have_been_renamed_while_it_was_open(w: World) -> None:
    fd = _open_host_file(w)
    folder = w.open_directory("data/d")
    w.ok("path_rename", 3, *w.path("data/d/f"), 3, *w.path2("data/g"))
    w.ok("path_rename", 3, *w.path("data/d"), 3, *w.path2("data/e"))
    new = w.reborn()
    assert new.read(fd) == b"0123456789"
    assert new.try_open("x", fd=folder, oflags=CREATE) == Errno.SUCCESS
    assert (w.granted / "e" / "x").exists()
    new.close()


def test_a_path_longer_than_one_resolution_can_walk(w: World) -> None:
    at, path = DATA, w.granted
    for number in range(300):
        name = f"{number:03}" + "n" * 20
        w.mkdir(name, fd=at)
        below = w.open_directory(name, fd=at)
        if at != DATA:
            w.ok("fd_close", at)
        at = below
    fd = w.open("f", fd=at, oflags=CREATE)
    w.write(fd, b"deep")
    new = w.reborn()
    new.seek(fd, 0)
    assert new.read(fd) == b"deep"
    assert new.readdir(at)[-1][3] == b"f"
    assert path.exists()
    new.close()


def test_a_file_without_a_name_cannot_be_left(w: World) -> None:
    fd = _open_host_file(w)
    w.ok("path_unlink_file", 3, *w.path("data/d/f"))
    with pytest.raises(GrantError, match=rf"descriptor {fd}: /data/d/f has no name any more") as caught:
        w.save()
    assert "closed" in caught.value.hint
    assert w.read(fd) == b"0123456789"  # and nothing happened to it


def remove(w: World) -> None:
    (w.granted / "d" / "f").unlink()


def replace(w: World) -> None:
    (w.granted / "new").write_bytes(b"another")
    (w.granted / "new").rename(w.granted / "d" / "f")


def make_directory(w: World) -> None:
    remove(w)
    (w.granted / "d" / "f").mkdir()


def make_fifo(w: World) -> None:
    remove(w)
    os.mkfifo(w.granted / "d" / "f")


def make_link_out(w: World) -> None:
    (w.folder / "secret").write_bytes(b"hidden!!")
    remove(w)
    (w.granted / "d" / "f").symlink_to("../../secret")


def make_absolute_link(w: World) -> None:
    (w.folder / "secret").write_bytes(b"hidden!!")
    remove(w)
    (w.granted / "d" / "f").symlink_to(w.folder / "secret")


def exchange_the_folder(w: World) -> None:
    outside = w.folder / "outside"
    (w.granted / "d").rename(outside)
    (w.granted / "d").symlink_to(outside)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove, "is not there any more"),
        (replace, "was replaced"),
        (make_directory, "is something else now"),
        (make_fifo, "is something else now"),
        (make_link_out, "cannot be written any more"),
        (make_absolute_link, "cannot be written any more"),
        (exchange_the_folder, "cannot be written any more"),
    ],
)
def test_a_file_that_changed_meanwhile(w: World, change: Callable[[World], None], words: str) -> None:
    with nothing_left_open():
        w2 = World(w.folder)
        fd = _open_host_file(w2)
        state = w2.save()
        change(w2)
        with pytest.raises(GrantError, match=rf"descriptor {fd}: /data/d/f {words}") as caught:
            w2.reborn(state)
        assert caught.value.hint.startswith("Try: ")


def test_a_file_that_lost_its_permission(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = _open_host_file(w)
    state = w.save()
    opened = os.open

    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if path == b"f" and flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(13, "as for a user who may only read")
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(GrantError, match=rf"descriptor {fd}: /data/d/f cannot be written any more"):
        w.reborn(state)


def test_another_machine_has_other_numbers(w: World, tmp_path: Path) -> None:
    fd = _open_host_file(w)
    w.read(fd, 4)
    state = w.save()
    there = tmp_path / "there"
    (there / "granted" / "v2").mkdir(parents=True)
    (there / "granted" / "v2" / "f").write_bytes(b"0123456789")
    (there / "granted" / "d").symlink_to("v2")  # a link inside the grant is followed, as a guest's path is
    new = w.reborn(state, folder=there)
    assert new.read(fd) == b"456789"
    new.close()


# -- mounts --------------------------------------------------------------------------------------------


def test_a_grant_of_another_form_is_named(w: World) -> None:
    state = w.save()
    with pytest.raises(GrantError, match="/data is a read-only directory .* and was a writable directory"):
        w.reborn(state, writable=False)


def test_a_missing_grant_and_one_too_many_are_named(w: World) -> None:
    state = w.save()
    for index, mount in enumerate(state["mounts"]):
        fewer = state | {"mounts": state["mounts"][:index] + state["mounts"][index + 1 :]}
        with pytest.raises(GrantError, match=f"{mount['path']} was not granted to the process"):
            w.reborn(fewer)
    more = state | {"mounts": [*state["mounts"], state["mounts"][0] | {"path": "/extra"}]}
    with pytest.raises(GrantError, match="/extra is not granted here"):
        w.reborn(more)


# -- streams, texts, usage -----------------------------------------------------------------------------


def test_streams_keep_their_roles_wherever_they_went(w: World) -> None:
    extra = w.system.extra_numbers[0]
    w.ok("fd_renumber", 2, extra)  # stderr is called as the extra stream was, which is closed
    w.ok("fd_close", 0)
    new = w.reborn()
    new.write(extra, b"oops")
    assert bytes(new.stderr.data) == b"oops"
    assert new.system.output_bytes == 4
    assert new.call("fd_read", 0, *new.vectors([1]), new.OUT) == Errno.EBADF
    assert new.system.extra_numbers == (extra,)
    new.close()


def test_what_was_read_ahead_is_read_once(w: World) -> None:
    w.stdin.chunks = [b"abc", b"def"]
    w.put(w.VECTORS, struct.pack("<QB7xI4xQQH6x", 1, 1, 0, 0, 0, 0))
    w.ok("poll_oneoff", w.VECTORS, w.DATA, 1, w.OUT)
    assert w.read(0, 1) == b"a"
    new = w.reborn()
    assert [new.read(0), new.read(0), new.read(0)] == [b"bc", b"def", b""]
    new.close()


def test_secrets_are_named_and_given_again(w: World) -> None:
    state = w.save()
    assert b"hush" not in pack(state)
    assert state["texts"]["environ"] == [[b"HOME", b"/"], [b"KEY", None]]
    with pytest.raises(GrantError, match="the secret KEY is not given here") as caught:
        w.reborn(state, environ=[(b"HOME", b"/elsewhere")])
    assert caught.value.hint == "Try: --secret KEY"
    new = w.reborn(state, environ=[(b"KEY", b"fresh"), (b"HOME", b"/elsewhere")])
    assert new.system.environ == ((b"HOME", b"/"), (b"KEY", b"fresh"))
    new.ok("args_get", new.DATA, new.DATA + 32)
    assert new.get(new.DATA + 32, 8) == b"prog\0-x\0"
    new.close()


def test_usage_counts_on(tmp_path: Path) -> None:
    w = World(tmp_path, output_bytes=10)
    w.write(1, b"1234567")
    new = w.reborn(output_bytes=10)
    with pytest.raises(LimitReached, match="output_bytes"):
        new.write(1, b"89abcdef")
    assert bytes(new.stdout.data) == b"123456789a"
    again = new.reborn(output_bytes=5)  # a lower limit than was used
    with pytest.raises(LimitReached, match="output_bytes"):
        again.write(1, b"more")
    assert bytes(again.stdout.data) == b"123456789a"
    again.close()


def test_limits_that_the_process_is_above_already(w: World) -> None:
    for number in range(4):
        w.make_file(f"f{number}", bytes(60_000))
        w.open(f"f{number}")
    state = w.save()
    for limit in ({"file_bytes": 100_000}, {"descriptors_max": 9}):
        with pytest.raises(LimitReached):
            w.reborn(state, **limit)


# -- calls in which the guest is left ------------------------------------------------------------------


def leave() -> None:
    raise Leave


def test_a_read_that_waits_is_made_again(tmp_path: Path) -> None:
    w = World(tmp_path, stdin=FakeSource(None, b"later"))
    w.outside.on_wait = leave
    with pytest.raises(Leave):
        w.call("fd_read", 0, *w.vectors([100]), w.OUT)
    new = w.reborn()
    assert new.read(0) == b"later"
    new.close()


class Narrow(FakeSink):
    """Takes a few bytes, then nothing until there is ``room`` again."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: memoryview) -> int:
        taken = data[: self.room]
        self.data += taken
        self.room -= len(taken)
        return len(taken)


def write_all(w: World, fd: int, data: bytes) -> World:
    """As a C library does; whenever it is left, it goes on elsewhere, where the reader took something."""
    while data:
        try:
            data = data[w.write(fd, data) :]
        except Leave:
            sink = w.system.descriptors[fd].sink
            streams = {"stdout": w.stdout, "extra": w.extra}
            state = w.save()
            w.close()
            new = World(w.folder, extra=w.extra, output_bytes=w.system.output.most)
            new.stdout = w.stdout
            new.system.streams["stdout"] = w.stdout
            w = _restored(new, state)
            w.outside.on_wait = leave
            assert sink in streams.values()
            sink.room += 3
    return w


@pytest.mark.parametrize("fd", [1, 6])
def test_each_byte_is_written_and_counted_once(tmp_path: Path, fd: int) -> None:
    w = World(tmp_path, extra=Narrow(2))
    w.stdout = Narrow(2)
    w.system.descriptors[1].sink = w.system.streams["stdout"] = w.stdout
    w.outside.on_wait = leave
    w = write_all(w, fd, b"each byte appears exactly once")
    sink = w.stdout if fd == 1 else w.extra
    assert bytes(sink.data) == b"each byte appears exactly once"
    assert w.system.output_bytes == (30 if fd == 1 else 0)
    w.close()


def test_the_last_bytes_before_a_limit_are_written_once(tmp_path: Path) -> None:
    w = World(tmp_path, output_bytes=10)
    w.stdout = Narrow(2)
    w.system.descriptors[1].sink = w.system.streams["stdout"] = w.stdout
    w.outside.on_wait = leave
    with pytest.raises(LimitReached, match="output_bytes"):
        write_all(w, 1, b"0123456789abcdef")
    assert bytes(w.stdout.data) == b"0123456789"


def sleep_call(w: World, timeout_ns: int, userdata: int = 7) -> tuple[str, int, int, int, int]:
    w.put(w.VECTORS, struct.pack("<QB7xI4xQQH6x", userdata, 0, 1, timeout_ns, 0, 0))
    return "poll_oneoff", w.VECTORS, w.DATA, 1, w.OUT


def left_after(w: World, passed_ns: int) -> None:
    def wait() -> None:
        w.outside.now_ns += passed_ns
        raise Leave

    w.outside.on_wait = wait
    with pytest.raises(Leave):
        w.call(*sleep_call(w, 1_000_000))


def test_a_duration_goes_on_and_does_not_begin_again(w: World) -> None:
    left_after(w, 300_000)
    w = w.reborn()
    left_after(w, 300_000)
    new = w.reborn()
    new.ok(*sleep_call(new, 1_000_000))
    assert new.outside.waits == [400_000]
    new.ok(*sleep_call(new, 1_000_000))  # the next one is a new one
    assert new.outside.waits == [400_000, 1_000_000]
    new.close()


def test_another_call_begins_anew(w: World) -> None:
    left_after(w, 300_000)
    new = w.reborn()
    new.ok(*sleep_call(new, 1_000_000, userdata=8))
    new.ok(*sleep_call(new, 1_000_000))
    assert new.outside.waits == [1_000_000, 1_000_000]
    new.close()


def test_saving_changes_nothing(w: World) -> None:
    w.make_file("f", b"x")
    assert save_system(w.system, w.tree) == save_system(w.system, w.tree)
