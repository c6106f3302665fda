"""What the commands share: options, errors, output for people and for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from sojourn.model.errors import SojournError
from sojourn.model.limits import LIMITS, Limits

_COMPLETED_MAX = 50  # processes offered
F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")(command)


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each limit, from the one table of limits."""
    defaults = Limits()
    for spec in reversed(LIMITS.values()):
        unit = {"B": "SIZE", "s": "TIME", "count": "N"}[spec.unit]
        default = f"{getattr(defaults, spec.name):,g}" + ("" if unit == "N" else f" {spec.unit}")
        text = f"Limit: {spec.meaning}. Default {default}."
        command = click.option(spec.flag, spec.name, metavar=unit, help=text)(command)
    return command


class Examples(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")


def complete_file(_ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Let the shell complete a path."""
    return [CompletionItem(typed, type="file")]


def complete_pid(_ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The processes that are remembered, with their names. Makes no home, and says nothing of a bad one."""
    from sojourn.store.home import Home, default_path
    from sojourn.store.table import ProcessTable

    try:
        if not default_path().exists():
            return []
        with ProcessTable.open(Home.open(need_space=False)) as table:
            records = table.list(count_max=_COMPLETED_MAX)
    except SojournError:
        return []
    return [
        CompletionItem(record.pid, help=f"{record.state}: {printable(record.name)}")
        for record in records
        if record.pid.startswith(typed)
    ]


def complete_target(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """A process, or a path."""
    return complete_pid(ctx, parameter, typed) or complete_file(ctx, parameter, typed)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table that is pleasant on a terminal, and aligned text elsewhere."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False)
        for header in headers:
            table.add_column(header)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # as it is: a name is no markup
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in (headers, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    """``text`` without what a terminal would obey: names come from files, bundles and records of others."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def show_error(error: SojournError, as_json: bool) -> None:
    """What went wrong and how to mend it, on stderr."""
    if as_json:
        value = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        click.echo(json.dumps(value), err=True)
        return
    lines = [printable(line) for line in str(error).split("\n")]
    click.echo("\n".join([f"{click.style('error:', fg='red', bold=True)} {lines[0]}", *lines[1:]]), err=True)


def size(count: float) -> str:
    """Bytes for a person: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for a person: ``0.3 s``, ``4 min``."""
    for limit, unit, divisor in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return (
                f"{seconds / divisor:.1f} {unit}"
                if unit == "s" and seconds < 10
                else f"{seconds / divisor:.0f} {unit}"
            )
    return f"{seconds / 86400:.0f} d"
