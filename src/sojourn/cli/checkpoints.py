"""``sojourn checkpoint``, ``resume``, ``fork`` and ``evict``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sojourn.model.errors import ProcessStateError, UsageError
from sojourn.model.limits import parse_limit, parse_time
from sojourn.model.states import State

from .common import Examples, complete_pid, complete_target, json_option, limit_options, print_json
from .grants import directory_grants

_FORKS_MAX = 10_000


@click.command(
    cls=Examples,
    examples="""
sojourn checkpoint k7q2
sojourn checkpoint k7q2 -o half-way.context
""",
    help="Store a process while it goes on. With -o also in a file that holds all of it, and that "
    "`sojourn resume` takes on any machine.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write a file as well.")
@json_option
@click.argument("pid", shell_complete=complete_pid)
def checkpoint(pid: str, output: Path | None, as_json: bool) -> None:
    from sojourn.host.asking import find_process, store_now
    from sojourn.host.keeping import Keeper
    from sojourn.store.home import Home
    from sojourn.store.table import ProcessTable

    home = Home.open()
    with ProcessTable.open(home) as table:
        record = find_process(home, table, pid)
        digest = store_now(home, table, record.pid, stop=False)
    if output is not None:
        if output.is_dir():
            raise UsageError(f"{output} is a directory", "Try: -o FILE")
        Keeper(home).export(record.pid, output)
    if as_json:
        print_json({"pid": record.pid, "checkpoint": digest, "file": str(output) if output else None})
    else:
        click.echo(f"{record.pid} stored as {digest[:12]}" + (f", and in {output}" if output else ""))


@click.command(
    cls=Examples,
    examples="""
sojourn evict k7q2
sojourn evict $(sojourn ps --json | jq -r '.[].pid')
""",
    help="Store processes and free their memory; `sojourn resume` goes on with them.",
)
@json_option
@click.argument("pids", nargs=-1, required=True, metavar="PID...", shell_complete=complete_pid)
def evict(pids: tuple[str, ...], as_json: bool) -> None:
    from sojourn.host.asking import find_process, store_now
    from sojourn.store.home import Home
    from sojourn.store.table import ProcessTable

    home = Home.open()
    found = []
    with ProcessTable.open(home) as table:
        for pid in pids:
            record = find_process(home, table, pid)
            if record.state is not State.RUNNING:
                raise ProcessStateError(
                    f"process {record.pid} is {record.state}, not running", "Try: sojourn ps"
                )
            digest = store_now(home, table, record.pid, stop=True)
            found.append({"pid": record.pid, "checkpoint": digest})
            if not as_json:
                click.echo(f"{record.pid} suspended; go on with: sojourn resume {record.pid}")
    if as_json:
        print_json(found)


@click.command(
    cls=Examples,
    examples="""
sojourn fork k7q2
sojourn fork k7q2 -n 10 --json
sojourn resume $(sojourn fork k7q2)
""",
    help="Make new processes that go on where a process is now. They are suspended: `sojourn resume` "
    "starts each. Prints their pids.",
)
@click.option("-n", "count", type=click.IntRange(1, _FORKS_MAX), default=1, help="How many. Default 1.")
@json_option
@click.argument("pid", shell_complete=complete_pid)
def fork(pid: str, count: int, as_json: bool) -> None:
    from sojourn.host.asking import find_process, store_now
    from sojourn.host.embedded import EmbeddedHost
    from sojourn.store.home import Home

    home = Home.open()
    with EmbeddedHost(home) as host:
        record = find_process(home, host.table, pid)
        store_now(home, host.table, record.pid, stop=False)
        made = host.fork(record.pid, count)
    if as_json:
        print_json({"pid": record.pid, "forks": made})
    else:
        click.echo("\n".join(made))


@click.command(
    cls=Examples,
    examples="""
sojourn resume k7q2
sojourn resume --checkpoint-every 30s k7q2
sojourn resume half-way.context
sojourn resume --grant dir:data=/data --memory 2G from-elsewhere.context
""",
    help="Go on with a suspended process, or with the process in a file that `sojourn checkpoint -o` "
    "wrote. Its output goes here from now on. What a file from elsewhere wants of this machine must be "
    "given here.",
)
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="dir:PATH[=GUESTPATH][:rw]",
    help="For a file: the directory here for a guest path that its process was granted.",
)
@limit_options
@click.option("--checkpoint-every", metavar="TIME", help="Store the process so often, such as 30s.")
@click.option("--quiet", is_flag=True, help="No progress, and no word about how it ended.")
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON on stderr.")
@click.argument("target", metavar="PID|FILE", shell_complete=complete_target)
def resume(
    target: str,
    quiet: bool,
    as_json: bool,
    grants: tuple[str, ...],
    checkpoint_every: str | None,
    **limits: str | None,
) -> None:
    from sojourn.host.asking import find_process
    from sojourn.host.embedded import EmbeddedHost
    from sojourn.host.streams import FdSink, FdSource
    from sojourn.store.home import Home

    from .foreground import Signals, attend
    from .progress import for_stderr

    path, home = Path(target), Home.open()
    given = {name: parse_limit(name, text) for name, text in limits.items() if text is not None}
    if not path.is_file() and (grants or given):
        raise UsageError("--grant and limits are for files", "Try: sojourn resume PID")
    every_s = None
    if checkpoint_every is not None:
        every_s = parse_time("--checkpoint-every", checkpoint_every, "30s")
    with (
        Signals() as signals,
        FdSource(0) as stdin,
        FdSink(1, signals.output_closed) as out,
        FdSink(2) as err,
        EmbeddedHost(home, progress=for_stderr(quiet)) as host,
    ):
        found = host.adopt(path, directory_grants(grants), given) if path.is_file() else None
        pid = find_process(home, host.table, target).pid if found is None else found
        process = host.resume(pid, stdin=stdin, stdout=out, stderr=err)
        status = attend(host, process, signals, quiet=quiet, as_json=as_json, checkpoint_every_s=every_s)
    sys.exit(status)
