"""Which grants and limits a process that comes in a file goes on with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sojourn.bundle.build import build_code
from sojourn.host.binding import bind_again
from sojourn.host.requests import LaunchRequest
from sojourn.model.errors import GrantError, LimitError, SojournError
from sojourn.model.grants import DirectoryGrant, EnvironmentGrant
from sojourn.model.limits import GIB, Limits
from sojourn.model.program import RuntimeInfo
from sojourn.store import origins
from sojourn.store.origins import Origins

DATA = DirectoryGrant("/srv/data", "data")
OUT = DirectoryGrant("/srv/out", "/out", writable=True)
BUNDLE = build_code("pass", runtime=RuntimeInfo("sha256:" + "0" * 64, "3.15.0", {}, frozenset(), {}))
USUAL = Limits()


def request(*grants: DirectoryGrant, limits: Limits = USUAL) -> LaunchRequest:
    level = (EnvironmentGrant("LEVEL", "3"),)
    return LaunchRequest(BUNDLE.program, BUNDLE.contents, "x", (), grants, level, limits=limits)


def test_what_was_granted_here_needs_no_word() -> None:
    asked = request(DATA, OUT, limits=Limits(memory_bytes=3 * GIB))
    assert bind_again(asked, "x.context", known=True) == asked


def test_what_asks_for_nothing_needs_no_word() -> None:
    assert bind_again(request(), "x.context", known=False) == request()


def test_each_directory_is_granted_anew() -> None:
    here = DirectoryGrant("/home/me/d", "/data")
    with pytest.raises(GrantError, match="wants /srv/out as /out") as caught:
        bind_again(request(DATA, OUT), "x.context", known=False, grants=[here])
    assert "Try: sojourn resume --grant dir:/srv/out=/out:rw x.context" in str(caught.value)
    there = DirectoryGrant("/home/me/o", "/out", writable=True)
    bound = bind_again(request(DATA, OUT), "x.context", known=False, grants=[there, here])
    assert bound.directories == (DirectoryGrant("/home/me/d", "data"), there)
    assert bound.environment == request().environment


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("grant", [DirectoryGrant("/x", "/other"), DirectoryGrant("/x", "/data", True)])
def test_nothing_else_is_granted(grant: DirectoryGrant, known: bool) -> None:
    with pytest.raises(GrantError, match=grant.guest_path):
        bind_again(request(DATA), "x.context", known=known, grants=[grant])


def test_more_than_usual_must_be_named() -> None:
    asked = request(limits=Limits(memory_bytes=3 * GIB, file_bytes=1 << 50))
    named = {"memory_bytes": 2 * GIB, "file_bytes": 1 << 30}
    for limits in ({}, {"memory_bytes": 2 * GIB}):
        with pytest.raises(LimitError, match="comes from elsewhere"):
            bind_again(asked, "x.context", known=False, limits=limits)
    assert bind_again(asked, "x.context", known=False, limits=named).limits == Limits(**named)
    less = request(limits=Limits(cpu_seconds=1))
    assert bind_again(less, "x.context", known=False).limits == Limits(cpu_seconds=1)


def test_what_was_written_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "KEPT_MAX", 20)
    store = Origins(tmp_path / "written")
    assert not store.knows("0" * 64)
    digests = [f"{number:064x}" for number in range(30)]
    for age, digest in enumerate(digests):
        store.note(digest)
        os.utime(tmp_path / "written" / digest, (age, age))
    assert store.knows(digests[-1])
    assert not store.knows(digests[0])
    assert not store.knows("../written/" + digests[-1])
    (tmp_path / "file").touch()
    with pytest.raises((SojournError, OSError)):
        Origins(tmp_path / "file").note(digests[0])
