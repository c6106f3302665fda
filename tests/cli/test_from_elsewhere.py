"""A file with a process may come from anybody: what it wants of this machine must be given here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from .commands import Commands
from .test_checkpoints import suspended

pytestmark = pytest.mark.runtime

CODE = "print('?', flush=True)\ninput()\nopen('/data/out', 'w').write('written')\nprint('done')"


@pytest.fixture
def file(runtime_home: Path, tmp_path: Path) -> str:
    """Written by a user who granted ``theirs``."""
    (tmp_path / "theirs").mkdir()
    cli = Commands(runtime_home, tmp_path, {"XDG_STATE_HOME": str(tmp_path / "somebody")})
    flags = ("--grant", f"dir:{tmp_path / 'theirs'}=/data:rw", "--memory", "2G")
    pid = suspended(cli, tmp_path.name, CODE, *flags)
    assert cli("checkpoint", pid, "-o", "half.context").returncode == 0
    assert cli("kill", pid).returncode == 0
    again = cli("resume", "half.context", stdin="\n")  # he need not say anything again
    assert (again.returncode, again.stdout) == (0, "done\n"), again.stderr
    (tmp_path / "theirs" / "out").unlink()
    return "half.context"


def test_what_it_wants_is_named_and_nothing_runs(runtime_home: Path, tmp_path: Path, file: str) -> None:
    cli = Commands(runtime_home, tmp_path, {"XDG_STATE_HOME": str(tmp_path / "me")})
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    mine.mkdir()
    wanted = cli("resume", file, stdin="\n")
    assert (wanted.returncode, wanted.stdout) == (2, "")
    assert f"comes from elsewhere, and wants {theirs} as /data" in wanted.stderr
    assert f"Try: sojourn resume --grant dir:{theirs}=/data:rw {file}" in wanted.stderr
    grant = ("--grant", f"dir:{mine}=/data:rw")
    memory = cli("resume", *grant, file, stdin="\n")
    assert (memory.returncode, memory.stdout) == (2, "")
    assert "of memory_bytes" in memory.stderr
    assert "Try: --memory" in memory.stderr
    assert not [record for record in cli.json("ps") if record["name"] == tmp_path.name]
    done = cli("resume", *grant, "--memory", "2G", file, stdin="\n")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert (mine / "out").read_text() == "written"
    assert not (theirs / "out").exists()


def test_who_wrote_it_can_give_another_directory(runtime_home: Path, tmp_path: Path, file: str) -> None:
    cli = Commands(runtime_home, tmp_path, {"XDG_STATE_HOME": str(tmp_path / "somebody")})
    (tmp_path / "theirs").rename(tmp_path / "moved")
    gone = cli("resume", file, stdin="\n")
    assert (gone.returncode, gone.stdout) == (2, "")
    done = cli("resume", "--grant", f"dir:{tmp_path / 'moved'}=/data:rw", file, stdin="\n")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    for flags in (("--grant", "dir:moved=/other"), ("--grant", "dir:moved=/data")):
        other = replace(cli)("resume", *flags, file, stdin="\n")
        assert (other.returncode, other.stdout) == (2, "")
