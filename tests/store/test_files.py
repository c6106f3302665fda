"""Files that are whole or absent, and files that are known without reading."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sojourn.model.errors import StoreError
from sojourn.store import files
from sojourn.store.files import (
    check_path,
    remove_stale,
    remove_verified,
    replacing,
    translated,
    verified,
    write_atomic,
    write_verified,
)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "module"
    write_verified(path, b"0123456789" * 1000)
    return path


def counting_hashes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    hashed: list[int] = []
    real = files.file_sha256

    def count(file: object) -> str:
        hashed.append(1)
        return real(file)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "file_sha256", count)
    return hashed


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")
    write_atomic(path, memoryview(b"new"))
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_place_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"keep")
    (tmp_path / "f").symlink_to(tmp_path / "target")
    write_atomic(tmp_path / "f", b"new")
    assert (tmp_path / "target").read_bytes() == b"keep"
    assert not (tmp_path / "f").is_symlink()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_refusals_of_the_system_are_typed(tmp_path: Path, code: int) -> None:
    with pytest.raises(StoreError) as caught, translated(tmp_path):
        raise OSError(code, os.strerror(code))
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint.startswith("Try:")


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), translated(tmp_path):
        raise IsADirectoryError(errno.EISDIR, "bug")


def test_a_full_disk_is_a_typed_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="full"):
        write_atomic(tmp_path / "f", b"x")
    assert list(tmp_path.iterdir()) == []


def test_verified_without_hashing_while_untouched(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = counting_hashes(monkeypatch)
    assert verified(stored)
    assert verified(stored)
    assert hashed == []


def test_hashed_once_after_a_touch(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = counting_hashes(monkeypatch)
    os.utime(stored, ns=(1, 1))
    deadline = time.monotonic() + 10
    while time.time_ns() - stored.stat().st_ctime_ns < 50_000_000:  # a stamp too fresh is not trusted
        assert time.monotonic() < deadline
    assert verified(stored)
    assert verified(stored)
    assert len(hashed) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 9999), st.integers(1, 255), st.booleans())
def test_any_changed_byte_is_noticed_though_the_time_is_put_back(
    tmp_path: Path, position: int, change: int, at_once: bool
) -> None:
    path = tmp_path / "module"
    write_verified(path, b"0123456789" * 1000)
    if at_once:
        assert verified(path)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ change]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not verified(path)
    assert not verified(path)


def test_what_is_not_trusted(stored: Path, tmp_path: Path) -> None:
    assert not verified(tmp_path / "none")
    data = stored.read_bytes()
    os.truncate(stored, 100)
    assert not verified(stored)
    stored.write_bytes(data)
    assert verified(stored)
    stored.chmod(0o620)
    assert not verified(stored)
    stored.chmod(0o600)
    assert verified(stored)
    stored.rename(tmp_path / "real")
    stored.symlink_to(tmp_path / "real")
    assert not verified(stored)
    stored.unlink()
    os.mkfifo(stored, 0o600)
    assert not verified(stored)


@pytest.mark.parametrize(
    "check", [b"", b"{}", b"[]", b"null", b"{" * 4000, b"\xff", b'{"format": 1}', b"x" * 5000]
)
def test_a_damaged_check_is_no_check(stored: Path, check: bytes) -> None:
    check_path(stored).write_bytes(check)
    assert not verified(stored)


def test_a_missing_check_or_one_others_may_write_is_no_check(stored: Path) -> None:
    check_path(stored).chmod(0o666)
    assert not verified(stored)
    check_path(stored).unlink()
    assert not verified(stored)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_of_another_user_is_not_trusted(stored: Path) -> None:
    os.chown(stored, 12345, -1)
    assert not verified(stored)


def test_rewriting_and_removing(stored: Path) -> None:
    write_verified(stored, b"other")
    assert verified(stored)
    remove_verified(stored)
    remove_verified(stored)
    assert list(stored.parent.iterdir()) == []


def test_what_died_writers_left_is_removed_when_old(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "f"):
        raise KeyboardInterrupt
    left = tmp_path / ".f.abc.partial"
    left.touch()
    (tmp_path / "kept").touch()
    assert remove_stale(tmp_path, 60) == 0
    os.utime(left, (0, 0))
    os.utime(tmp_path / "kept", (0, 0))
    assert remove_stale(tmp_path, 60) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
