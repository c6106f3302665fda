"""What bad input gets: a typed error that names the fix, a status that is not 0, and never a traceback."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import Sojourn


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode not in (0, 70), done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("command", ["run", "pack", "inspect"])
def test_a_fifo_is_no_program_and_is_not_waited_for(sojourn: Sojourn, tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    refused(sojourn(command, "fifo", timeout=30), "not a regular file", "Try:")


@pytest.mark.parametrize("target", ["absent/x.sojourn", "file/x.sojourn", "."])
def test_where_a_bundle_cannot_be_written(sojourn: Sojourn, tmp_path: Path, target: str) -> None:
    (tmp_path / "prog.py").write_text("pass")
    (tmp_path / "file").write_text("")
    refused(sojourn("pack", "prog.py", "-o", target), "cannot write", "Try: -o FILE")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "prog.py"]


@pytest.mark.parametrize(
    "args",
    [
        ("run", "--json", "--nosuch", "prog.py"),
        ("run", "--json", "absent.py"),
        ("run", "--json", "--memory", "much", "prog.py"),
        ("logs", "--json"),
        ("kill", "--json"),
        ("kill", "--json", "zzzz"),
        ("inspect", "--json", "zzzz"),
        ("pack", "--json", "absent.py"),
        ("image", "build", "--json", "absent.py"),
        ("image", "prune", "--json", "--days", "-1"),
        ("completion", "--json", "tcsh"),
        ("nosuch", "--json"),
    ],
)
def test_errors_are_json_where_that_was_asked_for(sojourn: Sojourn, args: tuple[str, ...]) -> None:
    done = sojourn(*args)
    refused(done)
    error = json.loads(done.stderr)
    assert error.keys() == {"error", "message", "hint"}
    assert error["message"]


@pytest.mark.parametrize(
    "args",
    [
        ("run", "absent.py", "--json"),
        ("run", "-m", "sojourn absent", "--json"),
        ("run", "-msojourn absent", "--json"),
        ("run", "--include", "absent", "-c", "pass", "--json"),
    ],
)
def test_a_programs_own_json_is_not_ours(sojourn: Sojourn, args: tuple[str, ...]) -> None:
    done = sojourn(*args)
    refused(done)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(done.stderr)


def on_terminal(home: Path, *args: str) -> str:
    """What the command shows on a terminal."""
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sojourn", *args],
        env={"PATH": "/usr/bin:/bin", "SOJOURN_HOME": str(home), "TERM": "xterm", "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = bytearray()
    try:
        while piece := os.read(controller, 1 << 16):
            shown += piece
    except OSError:  # how a terminal ends
        pass
    os.close(controller)
    assert process.wait(30) == 0, shown
    return shown.decode()


@pytest.mark.engine
def test_names_are_shown_and_not_obeyed(sojourn: Sojourn, tmp_path: Path) -> None:
    from ..wat import wat

    (tmp_path / "prog.wasm").write_bytes(wat('(module (func (export "_start")))'))
    home = str(tmp_path / "home")
    for name in ("[/x]", "[bold]y", "\x1b[31mred\n"):
        assert sojourn("run", "--name", name, "prog.wasm", SOJOURN_HOME=home).returncode == 0
    shown = on_terminal(Path(home), "ps", "-a")
    assert "[/x]" in shown
    assert "[bold]y" in shown
    assert "\\x1b[31mred\\x0a" in shown
    assert "\x1b[31mred" not in sojourn("ps", "-a", SOJOURN_HOME=home).stdout
    pids = [record["pid"] for record in json.loads(sojourn("ps", "-a", "--json", SOJOURN_HOME=home).stdout)]
    assert all("\x1b" not in sojourn("inspect", pid, SOJOURN_HOME=home).stdout for pid in pids)


@pytest.mark.engine
@pytest.mark.parametrize(
    "damage",
    [
        "state = 'asleep'",
        "args = '{'",
        "args = '{}'",
        "ending = '{}'",
        "ending = 'null'",
        "created_s = 'long ago'",
        "memory_bytes = 'much'",
        "ended_s = x'00'",
        "grants = '" + "[" * 100_000 + "'",
    ],
)
def test_a_damaged_record(sojourn: Sojourn, tmp_path: Path, damage: str) -> None:
    from ..wat import wat

    (tmp_path / "prog.wasm").write_bytes(wat('(module (func (export "_start")))'))
    home = tmp_path / "home"
    assert sojourn("run", "prog.wasm", SOJOURN_HOME=str(home)).returncode == 0
    with sqlite3.connect(home / "processes.db") as table:
        table.execute(f"UPDATE processes SET {damage}")
    table.close()
    refused(sojourn("ps", "-a", SOJOURN_HOME=str(home)), "damaged", "Try: mv")
