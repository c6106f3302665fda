"""Every command and option says what it is for, and the documentation is what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from sojourn.cli.main import cli
from sojourn.store.home import Home
from sojourn.store.records import ProcessRecord
from sojourn.store.table import ProcessTable

DOCS = Path(__file__).parents[2] / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_cli", DOCS / "generate_cli.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMMANDS = generator().commands()


def test_the_documentation_is_current() -> None:
    assert (DOCS / "cli.md").read_text() == generator().text(), "run: make docs"


@pytest.mark.parametrize(
    ("name", "command"), COMMANDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_everything_has_help(name: str, command: click.Command) -> None:
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"
    if not isinstance(command, click.Group):
        assert "Examples" in command.get_help(click.Context(command, info_name=name))
        assert name == "sojourn run" or any("--json" in p.opts for p in command.params)


def test_help_and_version() -> None:
    assert CliRunner().invoke(cli, ["--help"]).exit_code == 0
    assert "0.1.0" in CliRunner().invoke(cli, ["--version"]).output


def test_completion_knows_commands_and_options() -> None:
    from click.shell_completion import ShellComplete

    complete = ShellComplete(cli, {}, "sojourn", "_SOJOURN_COMPLETE")
    assert "run" in {item.value for item in complete.get_completions([], "r")}
    assert "--grant" in {item.value for item in complete.get_completions(["run"], "--g")}


def test_completion_knows_files_and_processes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import ShellComplete

    complete = ShellComplete(cli, {}, "sojourn", "_SOJOURN_COMPLETE")
    for args in (["run"], ["run", "prog.py"], ["pack"], ["inspect"], ["image", "build"]):
        assert [(item.type, item.value) for item in complete.get_completions(args, "./x")] == [
            ("file", "./x")
        ]
    monkeypatch.setenv("SOJOURN_HOME", str(home.path / "absent"))
    assert complete.get_completions(["kill"], "") == []
    assert not (home.path / "absent").exists()
    monkeypatch.setenv("SOJOURN_HOME", str(home.path))
    with ProcessTable.open(home) as table:
        pids = [table.unused_pid() for _ in range(3)]
        for pid in pids:
            table.insert(
                ProcessRecord(pid=pid, name="a\x1b[1m", program="", created_s=1.0, host_id="h", os_pid=1)
            )
    for args in (["kill"], ["logs"], ["inspect"], ["kill", "x"], ["fork"], ["resume"], ["evict"]):
        found = complete.get_completions(args, "")
        assert {item.value for item in found} == set(pids)
        assert all("\x1b" not in item.help for item in found)
    assert [item.value for item in complete.get_completions(["kill"], pids[0])] == [pids[0]]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "_SOJOURN_COMPLETE" in CliRunner().invoke(cli, ["completion", shell]).output
