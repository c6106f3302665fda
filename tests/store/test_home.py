"""The home: ours alone, writable, and locked by one at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sojourn.model.errors import StoreError
from sojourn.store.home import SUBDIRECTORIES, Home, default_path, need_space, try_lock

COUNT = """
import sys
from pathlib import Path
from sojourn.store.home import Home
home = Home.open(Path(sys.argv[1]))
counter = home.path / "counter"
for _ in range(40):
    with home.lock("count"):
        counter.write_text(str(int(counter.read_text()) + 1))
"""
HOLD = """
import sys
from pathlib import Path
from sojourn.store.home import Home
with Home.open(Path(sys.argv[1])).lock("held"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def test_makes_all_that_it_needs_for_us_alone(home: Home) -> None:
    for name in SUBDIRECTORIES:
        assert (home.path / name).stat().st_mode & 0o777 == 0o700
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert list(home.tmp.glob(".*")) == []
    assert Home.open(home.path) == home


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path / "named"))
    assert Home.open().path == tmp_path / "named"
    monkeypatch.setenv("SOJOURN_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path() == tmp_path / "sojourn"


@pytest.mark.parametrize("below", ["", "cache", "processes"])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720])
def test_one_that_others_may_write_is_refused(home: Home, below: str, mode: int) -> None:
    (home.path / below).chmod(mode)
    with pytest.raises(StoreError, match="other users") as caught:
        Home.open(home.path)
    assert "chmod go-w" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give directories away")
def test_one_of_another_user_is_refused(home: Home) -> None:
    os.chown(home.path, 12345, -1)
    with pytest.raises(StoreError, match="another user"):
        Home.open(home.path)


def test_what_cannot_be_a_home(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("file", "file/below", "loop", "x" * 300):
        with pytest.raises(StoreError) as caught:
            Home.open(tmp_path / path)
        assert "SOJOURN_HOME" in caught.value.hint


def test_one_that_cannot_be_written_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(StoreError, match="not writable"):
        Home.open(home.path)


def test_one_on_a_read_only_disk_is_told_from_one_with_the_wrong_mode(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(home.path)
    fields = (*real[:8], real.f_flag | os.ST_RDONLY, *real[9:])
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="read-only") as caught:
        Home.open(home.path)
    assert "chmod" not in caught.value.hint
    assert "SOJOURN_HOME" in caught.value.hint


def test_a_full_disk_is_refused_unless_nothing_is_to_be_written(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def full(self: Path, *args: object, **options: object) -> object:
        if self.parent == home.tmp:
            raise OSError(errno.ENOSPC, "no space", str(self))
        return real(self, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StoreError, match="full"):
        Home.open(home.path)
    assert Home.open(home.path, need_space=False) == home


def test_too_little_space_is_told_before_the_work(home: Home) -> None:
    need_space(home.cache, 1, "it")
    with pytest.raises(StoreError, match="compiling CPython needs 1,000,000,000,000 MB") as caught:
        need_space(home.cache, 10**18, "compiling CPython")
    assert "SOJOURN_HOME" in caught.value.hint


def test_one_holder_at_a_time_and_the_other_is_told(home: Home) -> None:
    told: list[bool] = []
    with home.lock("a"):
        with (
            pytest.raises(StoreError, match="locked"),
            home.lock("a", timeout_s=0.01, waiting=lambda: told.append(True)),
        ):
            pytest.fail("two holders")
        with home.lock("b", timeout_s=0):
            pass
    assert told == [True]
    with home.lock("a", timeout_s=0, waiting=lambda: told.append(True)):
        pass
    assert told == [True]
    assert list(home.locks.iterdir()) == []


def test_waiting_ends_when_the_holder_lets_go(home: Home) -> None:
    waits, got = threading.Event(), threading.Event()

    def wait() -> None:
        with home.lock("a", timeout_s=30, waiting=waits.set):
            got.set()

    thread = threading.Thread(target=wait)
    with home.lock("a"):
        thread.start()
        assert waits.wait(30)
        assert not got.is_set()
    assert got.wait(30)
    thread.join()


@pytest.mark.parametrize("name", ["", "..", ".a", "a/b", "a\0", "x" * 201])
def test_names_of_locks_are_plain(home: Home, name: str) -> None:
    with pytest.raises(ValueError, match="name of a lock"), home.lock(name):
        pass


def test_a_lock_on_a_removed_file_is_no_lock(home: Home) -> None:
    path = home.locks / "a"
    first = try_lock(path)
    assert first is not None
    path.unlink()
    second = try_lock(path)
    assert second is not None  # another file by now
    os.close(first)
    assert try_lock(path) is None
    os.close(second)


def test_processes_exclude_each_other(home: Home) -> None:
    (home.path / "counter").write_text("0")
    workers = [subprocess.Popen([sys.executable, "-c", COUNT, str(home.path)]) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0, 0]
    assert (home.path / "counter").read_text() == "160"


def test_a_holder_that_is_killed_lets_go(home: Home) -> None:
    command = [sys.executable, "-c", HOLD, str(home.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreError), home.lock("held", timeout_s=0):
            pass
        holder.kill()
        holder.wait(30)
    with home.lock("held", timeout_s=0):
        pass
