"""Every command and option says what it is for, and the documentation is what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from sojourn.cli.main import cli

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


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "_SOJOURN_COMPLETE" in CliRunner().invoke(cli, ["completion", shell]).output
