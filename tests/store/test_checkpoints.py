"""Checkpoints in files: whole or absent, shared as far as they are the same, gone when nobody needs them."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sojourn.context import CHUNK_BYTES, PAGE_BYTES, Context, Memory, compare
from sojourn.context.memory import clear_zeros
from sojourn.model.errors import (
    ContextError,
    DamagedContextError,
    NotAContextError,
    OtherVersionError,
    StoreError,
    UnknownProcessError,
)
from sojourn.store.checkpoints import Checkpoints, Saved
from sojourn.store.stored import Stored
from tests.context.samples import IMAGE, context, view_of

PID = "abcd2345"
FULL = OSError(28, "No space left on device")


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def of(pattern: str, sequence: int = 0, pid: str = PID) -> tuple[Context, list[memoryview]]:
    view = view_of(pattern)
    return context(pid=pid, sequence=sequence, memories=(compare(view, None),)), [view]


def put(store: Checkpoints, pattern: str, sequence: int = 0, pid: str = PID, **options: Any) -> Saved:
    value, views = of(pattern, sequence, pid)
    return store.save(value, views, **options)


def memory_of(stored: Stored, fresh: str = "") -> bytes:
    memory = stored.context.memories[0]
    view = memoryview(bytearray(bytes(view_of(fresh)).ljust(memory.size_bytes, b"\0")))
    for part in stored.parts(0):
        stored.packs[part.pack].read_into(part, view[part.offset : part.offset + part.length])
    clear_zeros(memory, view, len(fresh) * CHUNK_BYTES)
    return bytes(view)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def suffixes(folder: Path) -> list[str]:
    return sorted(Path(name).suffix for name in files(folder))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("durable", [False, True])
def test_what_is_saved_is_loaded(store: Checkpoints, compress: bool, durable: bool) -> None:
    value, views = of("ab0acccd")
    saved = store.save(value, views, compress=compress, durable=durable)
    assert (saved.new_chunks, saved.kept_chunks) == (4, 0)
    with store.load(PID, saved.digest) as stored:
        assert stored.context == saved.context == replace(value, packs=saved.context.packs)
        assert memory_of(stored) == bytes(views[0])
        assert memory_of(stored, "zzzzzzzz") == bytes(views[0])
        stored.verify()
    assert [entry.digest for entry in store.all(PID)] == [saved.digest]
    assert store.pids() == [PID]


def test_durable_waits_for_the_disk_and_only_then(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1]
    )
    put(store, "ab0a")
    assert not calls
    saved = put(store, "abca", durable=True)
    assert any(".pack" in path for path in calls)
    assert any(".context" in path for path in calls)
    assert any(path.endswith(PID) for path in calls)
    # What an older checkpoint left to the operating system is made durable with the first that needs it.
    lazy = put(store, "xyz0", 1)
    calls.clear()
    with store.load(PID, lazy.digest) as previous:
        put(store, "xyz0", 2, previous=previous, durable=True)
    assert any(lazy.context.packs[0] in path for path in calls)
    assert saved.digest != lazy.digest


def test_only_what_is_new_is_stored(store: Checkpoints, tmp_path: Path) -> None:
    first = put(store, "abcdefgh")
    with store.load(PID, first.digest) as previous:
        second = put(store, "abcdexgh", 1, previous=previous)
    assert (second.new_chunks, second.kept_chunks) == (1, 7)
    assert second.written_bytes < 2 * CHUNK_BYTES
    with store.load(PID, second.digest) as stored:
        assert memory_of(stored) == bytes(view_of("abcdexgh"))
    assert suffixes(tmp_path) == [".context", ".context", ".pack", ".pack"]


def test_a_pack_that_is_hardly_used_is_not_kept_alive(store: Checkpoints, tmp_path: Path) -> None:
    first = put(store, "abcdefgh")
    with store.load(PID, first.digest) as previous:
        second = put(store, "axxx", 1, previous=previous)
    assert (second.new_chunks, second.kept_chunks) == (2, 0)
    assert store.prune(PID, {second.digest}) == [first.digest]
    assert suffixes(tmp_path) == [".context", ".pack"]


def test_a_long_chain_names_few_packs(store: Checkpoints, tmp_path: Path) -> None:
    rng = random.Random(3)
    state = list("0" * 64)
    saved = put(store, "".join(state))
    for sequence in range(1, 60):
        for _ in range(3):
            state[rng.randrange(64)] = rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN")
        with store.load(PID, saved.digest) as previous:
            saved = put(store, "".join(state), sequence, previous=previous)
        store.prune(PID, {saved.digest})
        with store.load(PID, saved.digest) as stored:
            assert memory_of(stored) == bytes(view_of("".join(state)))
    assert len(saved.context.packs) <= 16
    held = sum(path.stat().st_size for path in tmp_path.rglob("*.pack"))
    assert held < 3 * 64 * CHUNK_BYTES


def test_a_fork_shares_files_and_outlives_its_parent(store: Checkpoints, tmp_path: Path) -> None:
    parent = put(store, "abcdefgh")
    with store.load(PID, parent.digest) as stored:
        child = store.save(
            replace(stored.context, pid="child", epoch=1, parent=parent.digest), previous=stored
        )
    assert (child.new_chunks, child.kept_chunks) == (0, 8)
    (ours,), (theirs,) = (list((tmp_path / "checkpoints" / pid).glob("*.pack")) for pid in (PID, "child"))
    assert ours.samefile(theirs)
    store.remove(PID)
    assert store.pids() == ["child"]
    with store.load("child", child.digest) as stored:
        assert memory_of(stored) == bytes(view_of("abcdefgh"))
    store.remove("child")
    assert store.pids() == []


def test_where_there_are_no_links_packs_are_copied(
    store: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    parent = put(store, "abcdefgh")
    with store.load(PID, parent.digest) as stored:
        child = store.save(replace(stored.context, pid="child"), previous=stored)
    store.remove(PID)
    with store.load("child", child.digest) as stored:
        assert memory_of(stored) == bytes(view_of("abcdefgh"))


def test_what_is_open_stays_readable_and_can_be_saved_again(store: Checkpoints) -> None:
    saved = put(store, "abcd")
    with store.load(PID, saved.digest) as stored:
        store.remove(PID)
        assert memory_of(stored) == bytes(view_of("abcd"))
        again = store.save(stored.context, previous=stored)
    assert again.digest == saved.digest
    with store.load(PID, again.digest) as stored:
        assert memory_of(stored) == bytes(view_of("abcd"))


def test_held_in_memory(store: Checkpoints, tmp_path: Path) -> None:
    value, views = of("abcd")
    with store.hold(value, views) as held:
        assert memory_of(held) == bytes(views[0])
        second, more = of("abcx", 1)
        with store.hold(second, more, held) as next_:
            assert len(next_.packs) == 2
            assert memory_of(next_) == bytes(more[0])
            saved = store.save(next_.context, previous=next_)  # what was in memory only is copied
    with store.load(PID, saved.digest) as stored:
        assert memory_of(stored) == bytes(more[0])
    assert not [name for name in files(tmp_path) if "partial" in name]


# -- the last one ----------------------------------------------------------------------------------------


def test_the_latest_by_epoch_and_sequence(store: Checkpoints) -> None:
    assert store.latest(PID) is None
    for epoch, sequence in ((1, 9), (2, 1), (2, 3), (2, 2)):
        value, views = of("abcd")
        store.save(replace(value, epoch=epoch, sequence=sequence), views)
    found = store.latest(PID)
    assert found is not None
    with found:
        assert (found.context.epoch, found.context.sequence) == (2, 3)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("suffix", [".context", ".pack"])
@pytest.mark.parametrize("harm", [zeros, cut, Path.unlink, lambda path: path.write_bytes(b"")])
def test_after_a_power_cut_the_one_before_is_used(
    store: Checkpoints, tmp_path: Path, suffix: str, harm: Callable[[Path], object]
) -> None:
    """What was written last may be missing, empty, cut off or zero; never is it used."""
    first = put(store, "abcd", 1)
    before = set(tmp_path.rglob("*" + suffix))
    put(store, "efgh", 2)
    (new,) = set(tmp_path.rglob("*" + suffix)) - before
    harm(new)
    found = store.latest(PID)
    assert found is not None
    with found:
        assert found.digest == first.digest
        assert memory_of(found) == bytes(view_of("abcd"))
        if harm is not Path.unlink or suffix == ".pack":
            assert [type(error) for error in found.passed_over] in ([DamagedContextError], [NotAContextError])


def test_when_all_are_damaged_it_says_so(store: Checkpoints, tmp_path: Path) -> None:
    put(store, "abcd")
    cut(next(tmp_path.rglob("*.context")))
    with pytest.raises(DamagedContextError):
        store.latest(PID)


def test_a_chunk_that_changed_on_disk(store: Checkpoints, tmp_path: Path) -> None:
    for compress in (False, True):
        saved = put(store, "abcdefgh", compress=compress)
        path = next(tmp_path.rglob("*.pack"))
        data = bytearray(path.read_bytes())
        data[len(data) // 3 if not compress else 30] ^= 1
        path.write_bytes(data)
        with store.load(PID, saved.digest) as stored:
            with pytest.raises(DamagedContextError):
                memory_of(stored)
            with pytest.raises(DamagedContextError):
                stored.verify()
        store.remove(PID)


def test_files_under_wrong_names(store: Checkpoints, tmp_path: Path) -> None:
    saved, other = put(store, "abcd"), put(store, "efgh", 1)
    folder = tmp_path / "checkpoints" / PID
    context_, pack = folder / f"{saved.digest}.context", folder / f"{saved.context.packs[0]}.pack"
    pack.write_bytes((folder / f"{other.context.packs[0]}.pack").read_bytes())
    with pytest.raises(DamagedContextError, match="another pack"):
        store.load(PID, saved.digest)
    context_.write_bytes((folder / f"{other.digest}.context").read_bytes())
    with pytest.raises(DamagedContextError, match="another checkpoint"):
        store.load(PID, saved.digest)
    pack.unlink()
    pack.mkdir()
    with pytest.raises(ContextError):
        store.load(PID, saved.digest)


def test_what_is_not_there(store: Checkpoints) -> None:
    with pytest.raises(UnknownProcessError):
        store.load(PID, "0" * 64)
    put(store, "abcd")
    with pytest.raises(UnknownProcessError):
        store.load(PID, "0" * 64)
    store.remove("nobody")
    assert store.prune("nobody") == []
    assert store.all("nobody") == []
    for pid in ("", ".", "../x", "a/b", "a" * 65):
        with pytest.raises(ValueError, match="pid"):
            store.load(pid, "0" * 64)
    with pytest.raises(ValueError, match="name of a checkpoint"):
        store.load(PID, "../../x")


# -- nothing half ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["writev", "open", "fsync", "link", "mkdir"])
def test_a_full_disk_leaves_nothing_behind(
    store: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whichever write is the one that fails, what was there is as it was."""
    parent = put(store, "abcdefgh", pid="parent")
    first = put(store, "abcdefgh")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    real = getattr(os, call)
    failed = 0
    for allowed in range(50):
        left = [allowed]

        def limited(*args: Any, **kwargs: Any) -> Any:
            writes = call != "open" or args[1] & os.O_CREAT
            left[0] -= bool(writes)  # noqa: B023
            if left[0] < 0 and writes:  # noqa: B023
                raise FULL
            return real(*args, **kwargs)

        with store.load("parent", parent.digest) as previous, monkeypatch.context() as patch:
            patch.setattr(os, call, limited)
            try:
                put(store, "abcdexgh", 1, pid="new", previous=previous, durable=True)
            except StoreError as error:
                assert "full" in str(error)
                failed += 1
            else:
                break
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert store.pids() == [PID, "parent"]
    assert failed or call == "link"
    with store.load(PID, first.digest) as stored:
        assert memory_of(stored) == bytes(view_of("abcdefgh"))


def test_a_write_that_comes_up_short_is_continued(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, pieces: real(fd, [memoryview(pieces[0])[:1000]]))
    saved = put(store, "abcd")
    with store.load(PID, saved.digest) as stored:
        assert memory_of(stored) == bytes(view_of("abcd"))


WRITER = """
import sys
from pathlib import Path
from sojourn.store.checkpoints import Checkpoints
from tests.store.test_checkpoints import put
store, me = Checkpoints(Path(sys.argv[1])), int(sys.argv[2])
for number in range(15):
    saved = put(store, "abc" + "defghijklmnopqr"[number], 100 * me + number)
    found = store.latest("abcd2345")
    assert found is not None
    found.verify()
    found.close()
    if number % 3 == 0:
        store.prune("abcd2345", {entry.digest for entry in store.all("abcd2345")[:4]})
    if number % 5 == 4:
        store.remove("abcd2345")
        put(store, "abcd", 100 * me + number)
"""


def test_writers_readers_and_removers_at_once(tmp_path: Path) -> None:
    """``latest`` may find nothing for a moment, but never something broken."""
    script = WRITER.replace("    assert found is not None\n", "    if found is None: continue\n")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "checkpoints"), str(number)],
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for number in range(4)
    ]
    for run in runs:
        _, error = run.communicate(timeout=120)
        assert run.returncode == 0, error.decode()
    store = Checkpoints(tmp_path / "checkpoints")
    found = store.latest(PID)
    assert found is not None
    with found:
        found.verify()
    store.prune(PID, {found.digest})
    assert suffixes(tmp_path) == [".context", *[".pack"] * len(found.context.packs)]


KILLED = """
import os, signal, sys
from pathlib import Path
from sojourn.store.checkpoints import Checkpoints
from tests.store.test_checkpoints import put
store = Checkpoints(Path(sys.argv[1]))
def traced(name):
    real = getattr(os, name)
    def call(*args, **kwargs):
        global calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(os, name, call)
for calls in map(int, sys.stdin):  # a line, a step to die at; a child each, which starts in no time
    child = os.fork()
    if not child:
        for name in ("open", "writev", "fsync", "rename", "replace", "close", "mkdir"):
            traced(name)
        put(store, "efgh", 2, durable=True)
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_killed_at_every_step(store: Checkpoints, tmp_path: Path) -> None:
    """A host that dies in the middle of a checkpoint leaves the one before, or the whole new one."""
    first = put(store, "abcd", 1)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "checkpoints")]
    root, pipe = Path(__file__).parents[2], subprocess.PIPE
    with subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True) as host:
        assert host.stdin
        assert host.stdout
        statuses = []
        for calls in range(200):
            print(calls, file=host.stdin, flush=True)
            statuses.append(int(host.stdout.readline()))
            expected = _survivor(store, first)
            if statuses[-1] == 7:
                break
            store.prune(PID, {first.digest})
    assert set(statuses[:-1]) == {-9}
    assert statuses[-1] == 7
    assert len(statuses) > 10
    assert expected == "efgh"


def _survivor(store: Checkpoints, first: Saved) -> str:
    found = store.latest(PID)
    assert found is not None
    with found:
        expected = "abcd" if found.digest == first.digest else "efgh"
        assert memory_of(found) == bytes(view_of(expected))
    return expected


def test_what_dead_writers_left_is_removed_after_a_while(store: Checkpoints, tmp_path: Path) -> None:
    saved = put(store, "abcd")
    folder = tmp_path / "checkpoints" / PID
    for name, age in ((".old.partial", 100_000), (".new.partial", 0)):
        (folder / name).write_bytes(b"x")
        now = (folder / name).stat().st_mtime
        os.utime(folder / name, (now - age, now - age))
    store.prune(PID, {saved.digest})
    assert [name for name in files(folder) if "partial" in name] == [".new.partial"]


def test_packs_of_a_context_that_cannot_be_read_are_left_alone(store: Checkpoints, tmp_path: Path) -> None:
    one, two = put(store, "abcd"), put(store, "efgh", 1)
    path = tmp_path / "checkpoints" / PID / f"{one.digest}.context"
    good = path.read_bytes()
    path.write_bytes(good[:50])
    assert store.prune(PID, {one.digest}) == [two.digest]
    path.write_bytes(good)
    with store.load(PID, one.digest) as stored:
        assert memory_of(stored) == bytes(view_of("abcd"))


# -- files that travel -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_for_another_machine(store: Checkpoints, tmp_path: Path, compress: bool) -> None:
    image = view_of("ab0c")
    now = view_of("ax0c000d")
    memory = compare(now, Memory.fresh(PAGE_BYTES, IMAGE), None, image)
    saved = store.save(context(memories=(memory,)), [now])
    path = tmp_path / "file.context"
    with store.load(PID, saved.digest) as stored:
        digest = store.export(stored, path, {IMAGE.digest: image}, compress=compress)
    store.remove(PID)
    with store.open_file(path) as there:
        assert there.digest == digest
        assert memory_of(there) == bytes(now)
        there.verify()
        assert replace(there.context, packs=(), memories=()) == replace(saved.context, packs=(), memories=())
        adopted = store.save(replace(there.context, pid="moved"), previous=there)
    with store.load("moved", adopted.digest) as stored:
        assert memory_of(stored) == bytes(now)
    assert not [name for name in files(tmp_path) if "partial" in name]


def test_files_that_are_no_use_elsewhere(store: Checkpoints, tmp_path: Path) -> None:
    put(store, "abcd")
    with pytest.raises(DamagedContextError, match="refers to chunks"):
        store.open_file(next(tmp_path.rglob("*.context")))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(NotAContextError):
        store.open_file(tmp_path / "text")
    with pytest.raises(UnknownProcessError):
        store.open_file(tmp_path / "nothing")
    with pytest.raises((ContextError, StoreError)):
        store.open_file(tmp_path)


def test_a_file_on_a_full_disk(store: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = put(store, "abcd")
    path = tmp_path / "out" / "file"
    path.parent.mkdir()
    with store.load(PID, saved.digest) as stored, monkeypatch.context() as patch:

        def refuse(*_: object) -> int:
            raise FULL

        patch.setattr(os, "sendfile", refuse)
        with pytest.raises(StoreError, match="full"):
            store.export(stored, path, {})
    assert list(path.parent.iterdir()) == []


def of_another_version(path: Path) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 8, 99)
    struct.pack_into("<I", data, 24, zlib.crc32(data[:24]))
    path.write_bytes(data)


def test_another_version_is_not_called_damaged(store: Checkpoints, tmp_path: Path) -> None:
    saved = put(store, "abcd")
    of_another_version(next(tmp_path.rglob("*.context")))
    with pytest.raises(OtherVersionError):
        store.load(PID, saved.digest)
    with pytest.raises(OtherVersionError):
        store.latest(PID)


def test_a_later_one_of_another_version_is_not_passed_over(store: Checkpoints, tmp_path: Path) -> None:
    """Going back to an older checkpoint behind somebody's back would lose what happened since."""
    folder = tmp_path / "checkpoints" / PID
    first, second = (put(store, "abcd", sequence) for sequence in (1, 2))
    path = folder / f"{second.digest}.context"
    of_another_version(path)
    written = (folder / f"{first.digest}.context").stat().st_mtime
    os.utime(path, (written + 1, written + 1))
    with pytest.raises(OtherVersionError):
        store.latest(PID)
    os.utime(path, (written - 1, written - 1))  # left by an older Sojourn
    found = store.latest(PID)
    assert found is not None
    with found:
        assert found.digest == first.digest
