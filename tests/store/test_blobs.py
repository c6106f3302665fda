"""Content-addressed bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sojourn.model.errors import StoreError
from sojourn.store.blobs import Blobs, digest_of

PUT = """
import sys
from pathlib import Path
from sojourn.store.blobs import Blobs
blobs = Blobs(Path(sys.argv[1]))
for number in range(30):
    blobs.put(b"content %d" % number * 1000)
"""


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path)


def test_what_is_put_is_got(blobs: Blobs) -> None:
    digest = blobs.put(b"hello")
    assert digest == digest_of(b"hello") == "sha256:" + hashlib.sha256(b"hello").hexdigest()
    assert blobs.put(memoryview(b"hello")) == digest
    assert blobs.has(digest)
    assert blobs.get(digest) == b"hello"
    assert list(blobs.digests()) == [digest]


def test_what_is_not_there(blobs: Blobs) -> None:
    absent = digest_of(b"other")
    assert not blobs.has(absent)
    blobs.remove(absent)
    with pytest.raises(StoreError, match="not in the store"):
        blobs.get(absent)


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "0" * 63, "sha256:../" + "0" * 61, "md5:00"])
def test_what_is_no_digest(blobs: Blobs, digest: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        blobs.get(digest)


def test_a_damaged_blob_is_found_out_and_mended_by_putting(blobs: Blobs, tmp_path: Path) -> None:
    digest = blobs.put(b"hello")
    blobs.path(digest).write_bytes(b"hellO")
    with pytest.raises(StoreError, match="damaged"):
        blobs.get(digest)
    blobs.put(b"hello")
    assert blobs.get(digest) == b"hello"
    (tmp_path / "elsewhere").write_bytes(b"hello")
    blobs.remove(digest)
    blobs.path(digest).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        blobs.get(digest)
    blobs.put(b"hello")
    assert not blobs.path(digest).is_symlink()


def test_prune_keeps_what_is_needed_and_what_is_new(blobs: Blobs) -> None:
    needed, new, old = (blobs.put(data) for data in (b"needed", b"new", b"old"))
    for digest in (needed, old):
        os.utime(blobs.path(digest), (0, 0))
    assert blobs.prune({needed}, older_s=3600) == [old]
    assert sorted(blobs.digests()) == sorted([needed, new])
    os.utime(blobs.path(new), (0, 0))
    blobs.put(b"new")  # in use again
    assert blobs.prune({needed}, older_s=3600) == []
    assert blobs.prune(set()) != []
    assert list(blobs.digests()) == []


def test_concurrent_writers_of_the_same(blobs: Blobs, tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", PUT, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = list(blobs.digests())
    assert len(found) == 30
    for digest in found:
        assert digest_of(blobs.get(digest)) == digest
