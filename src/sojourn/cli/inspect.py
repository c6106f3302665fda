"""``sojourn inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sojourn.model.errors import ContextError, ProcessFailedError, ProcessStateError
from sojourn.model.states import State

from .common import Examples, complete_target, json_option, print_json, printable, size

if TYPE_CHECKING:
    from sojourn.store.home import Home
    from sojourn.store.records import ProcessRecord

_ANSWER_TIMEOUT_S = 60.0


@click.command(
    cls=Examples,
    help="Show what a program, a bundle, a checkpoint or a process is made of. TARGET is a path or a PID. "
    "Of a process also where it is: the traceback of a Python program, the functions of another. A process "
    "that runs is stored for that, and goes on.",
    examples="""
sojourn inspect prog.py
sojourn inspect prog.sojourn --json
sojourn inspect half-way.context
sojourn inspect 3f7a
sojourn inspect --native 3f7a
sojourn inspect 3f7a --json | jq '.context.python.threads[0][-1]'
""",
)
@click.option("--native", is_flag=True, help="All WebAssembly frames, of a Python program too.")
@click.option("--last", is_flag=True, help="Of a process that runs, its last checkpoint: do not store it.")
@json_option
@click.argument("target", shell_complete=complete_target)
def inspect(native: bool, last: bool, as_json: bool, target: str) -> None:
    from sojourn.store.stored import looks_like_context

    from .context_view import show_context

    path = Path(target)
    if not path.exists():
        value = _process(target, native, last)
    elif looks_like_context(path):
        value = {"context": _file(path, native)}
    else:
        value = _program(target)
    context = value.get("context")
    if as_json:
        print_json(value)
        return
    _show({name: item for name, item in value.items() if name != "context"}, "")
    if context is not None:
        show_context(context, whole=native)


def _program(target: str) -> dict[str, Any]:
    from sojourn.bundle.contents import describe
    from sojourn.model.progress import Silent
    from sojourn.store.home import Home

    from .programs import find_program

    bundle, _ = find_program(target, [], Home.open(), Silent())
    return describe(bundle)


def _file(path: Path, native: bool) -> dict[str, Any]:
    from sojourn.host.inspecting import describe
    from sojourn.store.checkpoints import Checkpoints
    from sojourn.store.home import Home

    home = Home.open(need_space=False)
    with Checkpoints(home.checkpoints).open_file(path) as stored:
        stored.verify()
        return describe(home, stored, native=native)


def _process(prefix: str, native: bool, last: bool) -> dict[str, Any]:
    from sojourn.store.home import Home
    from sojourn.store.hosts import Hosts
    from sojourn.store.table import ProcessTable

    from .processes import record_dict

    home = Home.open(need_space=False)
    with ProcessTable.open(home) as table:
        Hosts(home).reap(table)
        record = table.get(table.resolve(prefix))
    problem = "" if last or record.state is not State.RUNNING else _stored_now(home, record.pid)
    context = None if record.state.final else _stored(home, record, native)
    if context is None and not problem and not record.state.final:
        problem = "it has no checkpoint"
    return {**record_dict(record), "context": context, "context_problem": problem}


def _stored_now(home: Home, pid: str) -> str:
    """Have a running process stored; why that could not be, or nothing."""
    from sojourn.host.asking import request_checkpoint

    try:
        request_checkpoint(home, pid, stop=False, timeout_s=_ANSWER_TIMEOUT_S)
    except (ContextError, ProcessStateError, ProcessFailedError) as error:
        return error.message
    return ""


def _stored(home: Home, record: ProcessRecord, native: bool) -> dict[str, Any] | None:
    """What the last checkpoint of a process says, if it has one."""
    from sojourn.host.inspecting import describe
    from sojourn.store.checkpoints import Checkpoints

    stored = Checkpoints(home.checkpoints).latest(record.pid)
    if stored is None:
        return None
    with stored:
        return describe(home, stored, native=native)


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
