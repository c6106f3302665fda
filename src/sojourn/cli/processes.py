"""``sojourn ps``, ``logs`` and ``kill``."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from sojourn.model.errors import SojournError, UsageError

from .common import Examples, complete_pid, duration, json_option, print_json, print_table, show_error, size

_POLL_S = 0.05


def record_dict(record: Any) -> dict[str, Any]:
    """A record as JSON."""
    value = {name: getattr(record, name) for name in record.__dataclass_fields__}
    value["state"] = str(record.state)
    value["ending"] = record.ending.to_dict() if record.ending is not None else None
    return value


@click.command(
    cls=Examples,
    help="List processes: those that run, or with -a all that are remembered.",
    examples="sojourn ps\nsojourn ps -a --json",
)
@click.option("-a", "--all", "everything", is_flag=True, help="Those that have ended too.")
@json_option
def ps(everything: bool, as_json: bool) -> None:
    from sojourn.model.states import State
    from sojourn.store.home import Home
    from sojourn.store.hosts import Hosts
    from sojourn.store.table import ProcessTable

    home = Home.open(need_space=False)
    with ProcessTable.open(home) as table:
        Hosts(home).reap(table)
        records = table.list(live=None if everything else True)
    if as_json:
        print_json([record_dict(record) for record in records])
        return
    now = time.time()
    rows = []
    for record in records:
        ran = duration((record.ended_s or now) - (record.started_s or record.created_s))
        memory = size(record.memory_bytes)
        if record.state is State.SUSPENDED:  # it takes neither
            ran = memory = "-"
        rows.append((record.pid, str(record.state), _how(record), ran, memory, record.name))
    print_table(("PID", "STATE", "END", "TIME", "MEMORY", "PROGRAM"), rows)


def _how(record: Any) -> str:
    if record.ending is None:
        return ""
    if record.ending.limit is not None:
        return str(record.ending.limit)
    return str(record.ending.exit_code) if record.ending.exit_code is not None else record.ending.reason[:30]


@click.command(
    cls=Examples,
    help="Show what a process has written, also after it has ended.",
    examples="sojourn logs 3f7a\nsojourn logs -f --stderr 3f7a",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the process ends.")
@click.option("--stdout", "only", flag_value="stdout", help="Only its standard output.")
@click.option("--stderr", "only", flag_value="stderr", help="Only its standard error.")
@json_option
@click.argument("pid", shell_complete=complete_pid)
def logs(follow: bool, only: str | None, as_json: bool, pid: str) -> None:
    import json

    from sojourn.store.home import Home
    from sojourn.store.hosts import Hosts
    from sojourn.store.output import STDERR, STDOUT, follow_output, read_output
    from sojourn.store.table import ProcessTable

    home = Home.open(need_space=False)
    wanted = {"stdout": {STDOUT}, "stderr": {STDERR}}.get(only or "", {STDOUT, STDERR})
    with ProcessTable.open(home) as table:
        Hosts(home).reap(table)
        full = table.resolve(pid)
        path = home.processes / full / "output"

        def ended() -> bool:
            return table.get(full).state.final

        for piece in follow_output(path, 0, ended, _pause) if follow else read_output(path):
            if piece.stream not in wanted:
                continue
            if as_json:
                text = piece.data.decode("utf-8", "replace")
                stream = "stdout" if piece.stream == STDOUT else "stderr"
                click.echo(
                    json.dumps(
                        {"stream": stream, "offset": piece.offset, "time_ns": piece.time_ns, "text": text}
                    )
                )
                continue
            target = sys.stdout if piece.stream == STDOUT else sys.stderr
            target.buffer.write(piece.data)
            target.buffer.flush()


@click.command(
    cls=Examples, help="End processes. A loop is stopped within 100 ms.", examples="sojourn kill 3f7a 9b2c"
)
@click.option("--reason", default="killed by `sojourn kill`", help="What its record will say.")
@json_option
@click.argument("pids", nargs=-1, required=True, metavar="PID...", shell_complete=complete_pid)
def kill(reason: str, as_json: bool, pids: tuple[str, ...]) -> None:
    from sojourn.host.asking import end_process
    from sojourn.store.home import Home
    from sojourn.store.table import ProcessTable

    home = Home.open(need_space=False)
    results, failed = [], False
    with ProcessTable.open(home) as table:
        for prefix in pids:
            try:
                pid = table.resolve(prefix)
                if table.get(pid).state.final:
                    raise UsageError(f"the process {pid} has ended already", f"See: sojourn inspect {pid}")
                results.append({"pid": pid, "state": str(end_process(home, table, pid, reason))})
            except SojournError as error:
                failed = True
                show_error(error, as_json)
    if as_json:
        print_json(results)
    if failed:
        sys.exit(1)


def _pause() -> None:
    time.sleep(_POLL_S)
