"""The ``sojourn`` command: its group, and how errors reach a person.

Commands are imported when they are called, so that ``--help`` and completion are quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module

import click

from sojourn import __version__
from sojourn.model.errors import SojournError, UsageError

from .common import show_error

BUG = 70  # EX_SOFTWARE
COMMANDS = {
    "run": ("run", "Run a program in the sandbox."),
    "pack": ("pack", "Make a program into one file."),
    "inspect": ("inspect", "Show what a program, bundle or process is made of."),
    "ps": ("processes", "List processes."),
    "logs": ("processes", "Show what a process has written."),
    "kill": ("processes", "End processes."),
    "checkpoint": ("checkpoints", "Store a process while it goes on."),
    "resume": ("checkpoints", "Go on with a suspended process, or one in a file."),
    "fork": ("checkpoints", "Make new processes that go on where one is."),
    "evict": ("checkpoints", "Store processes and free their memory."),
    "image": ("image", "Make, list and remove warm images."),
    "code": ("code", "Hand compiled code to other machines, and take it from them."),
    "doctor": ("doctor", "Say what works on this machine, and what to install for the rest."),
    "completion": ("completion", "Print a completion script for a shell."),
}


class Lazy(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(import_module(f"sojourn.cli.{COMMANDS[name][0]}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sojourn")
def cli() -> None:
    """Run unmodified Python and WebAssembly programs in a virtual machine that trusts nothing.

    A program sees a private file system and what you grant; nothing else of this machine exists for it.
    """


def _fill_standard_descriptors() -> None:
    """Who starts us may have closed 0, 1 or 2; the next file of ours must not become a guest's output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"Try: {context.command_path} --help" if context is not None else "Try: sojourn --help"


def _wants_json(args: list[str]) -> bool:
    """Whether errors shall be JSON. What follows a program is the program's own, so is its ``--json``."""
    if args[:1] == ["run"]:
        from .run import Run, run

        assert isinstance(run, Run)
        args = run.own_args(args[1:])
    return "--json" in args


def main() -> None:
    """The entry point: runs the command, turns errors into words and an exit status."""
    _fill_standard_descriptors()
    as_json = _wants_json(sys.argv[1:])
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        if as_json:
            show_error(UsageError(error.format_message(), _usage_hint(error)), as_json)
        else:
            error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except SojournError as error:
        show_error(error, as_json)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:  # noqa: BLE001 - the last place to say something useful
        traceback.print_exc()
        click.echo(
            f"This is a bug in Sojourn {__version__}: {error!r}. Please report it with the lines above.",
            err=True,
        )
        sys.exit(BUG)
