"""``sojourn inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import Examples, complete_target, json_option, print_json, printable, size


@click.command(
    cls=Examples,
    help="Show what a program, a bundle or a process is made of. TARGET is a path or a PID.",
    examples="sojourn inspect prog.py\nsojourn inspect prog.sojourn --json\nsojourn inspect 3f7a",
)
@json_option
@click.argument("target", shell_complete=complete_target)
def inspect(as_json: bool, target: str) -> None:
    value = _program(target) if Path(target).exists() else _process(target)
    if as_json:
        print_json(value)
    else:
        _show(value, "")


def _program(target: str) -> dict[str, Any]:
    from sojourn.bundle.contents import describe
    from sojourn.model.progress import Silent
    from sojourn.store.home import Home

    from .programs import find_program

    bundle, _ = find_program(target, [], Home.open(), Silent())
    return describe(bundle)


def _process(prefix: str) -> dict[str, Any]:
    from sojourn.store.home import Home
    from sojourn.store.hosts import Hosts
    from sojourn.store.table import ProcessTable

    from .processes import record_dict

    home = Home.open(need_space=False)
    with ProcessTable.open(home) as table:
        Hosts(home).reap(table)
        return record_dict(table.get(table.resolve(prefix)))


def _show(value: Any, indent: str) -> None:
    """Plain values as an indented list, sizes for people."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            click.echo(f"{indent}{key}:")
            _show(item, indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            click.echo(f"{indent}{key}:")
            for one in item:
                rest = "  ".join(f"{k}={_plain(k, v)}" for k, v in one.items())
                click.echo(f"{indent}  - {printable(rest)}")
        else:
            click.echo(f"{indent}{key}: {printable(_plain(key, item))}")


def _plain(key: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and "bytes" in key:
        return size(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in (None, "", {}) else str(value)
