"""``sojourn run``."""

from __future__ import annotations

import sys

import click

from sojourn.model.errors import UsageError
from sojourn.model.grants import SecretGrant
from sojourn.model.limits import Limits, parse_limit, parse_time
from sojourn.model.priority import parse_priority

from .common import Examples, complete_file, limit_options

_POLL_S = 0.2
_EXAMPLES = """
sojourn run prog.py --its-own option
sojourn run --grant dir:data --grant dir:out:rw prog.py data/in.csv out
sojourn run -c 'import numpy; print(numpy.arange(5))'
sojourn run -m json.tool < file.json
cat prog.py | sojourn run -
sojourn run --memory 256M --cpu 10s --env LEVEL=3 tool.wasm
"""


class Run(Examples):
    """Options end where the program begins: everything after it is the program's own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end, is_named = self._own(args)
        if is_named:
            args = [*args[:end], "--", *args[end:]]
        return super().parse_args(ctx, args)

    def own_args(self, args: list[str]) -> list[str]:
        """Those of ``args`` that are ours."""
        return args[: self._own(args)[0]]

    def _own(self, args: list[str]) -> tuple[int, bool]:
        """How many of ``args`` are ours; whether the last of them is code or a module (``-c``, ``-m``)."""
        options = {name: p for p in self.params if isinstance(p, click.Option) for name in p.opts}
        at = 0
        while at < len(args):
            arg = args[at]
            option = options.get(arg.partition("=")[0])
            if arg in ("-c", "-m"):
                return min(at + 2, len(args)), True
            if arg[:2] in ("-c", "-m"):  # -cCODE
                return at + 1, True
            if option is None:
                break
            at += 1 if option.is_flag or "=" in arg else 2
        return min(at, len(args)), False


@click.command(
    cls=Run,
    examples=_EXAMPLES,
    context_settings={"allow_interspersed_args": False},
    help="Run a program in the sandbox: a Python script, directory or archive, a WebAssembly command, a "
    "bundle (.sojourn), or - for a script on standard input. What follows PROGRAM is the program's own.",
)
@click.option("-c", "code", metavar="CODE", help="Run this Python code.")
@click.option("-m", "module", metavar="MODULE", help="Run this Python module.")
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="dir:PATH[=GUESTPATH][:rw]",
    help="Let the program see a directory or file; read-only unless :rw.",
)
@click.option(
    "--env", "variables", multiple=True, metavar="NAME=VALUE", help="Set a variable for the program."
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="Give a secret as a variable; its value comes from this environment or $SOJOURN_HOME/secrets, "
    "and is never printed or stored.",
)
@click.option("--net", is_flag=True, help="Refused: network grants do not exist yet.")
@click.option(
    "--include",
    "included",
    multiple=True,
    metavar="PATH[=NAME]",
    help="Add files to the program; it finds them under /program.",
)
@limit_options
@click.option(
    "--priority",
    metavar="low|normal|high",
    default="normal",
    help="Its share of the processors where others want them too: a quarter of a normal one's, or four times "
    "as much.",
)
@click.option("--no-image", is_flag=True, help="Start the interpreter cold instead of from a warm image.")
@click.option(
    "--checkpoint-every",
    metavar="TIME",
    help="Store the process so often, such as 30s; `sojourn resume` goes on from there, whatever happens to "
    "this machine.",
)
@click.option("--name", metavar="NAME", help="What `sojourn ps` shows.")
@click.option("--quiet", is_flag=True, help="No progress, and no word about how it ended.")
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON on stderr.")
@click.argument("program", required=False, shell_complete=complete_file)
@click.argument("args", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_file)
def run(
    code: str | None,
    module: str | None,
    grants: tuple[str, ...],
    variables: tuple[str, ...],
    secrets: tuple[str, ...],
    net: bool,
    included: tuple[str, ...],
    priority: str,
    no_image: bool,
    checkpoint_every: str | None,
    name: str | None,
    quiet: bool,
    as_json: bool,
    program: str | None,
    args: tuple[str, ...],
    **limits: str | None,
) -> None:
    from sojourn.host.embedded import EmbeddedHost
    from sojourn.host.programs import code_program, module_program
    from sojourn.host.requests import LaunchRequest
    from sojourn.host.streams import FdSink, FdSource
    from sojourn.store.home import Home
    from sojourn.vm.process.streams import Given

    from .foreground import Signals, attend
    from .grants import directory_grants, environment_grants
    from .programs import find_program, includes
    from .progress import for_stderr

    if net:
        raise UsageError(
            "--net: network grants do not exist yet", "Try: grant a directory with the data instead"
        )
    if code is not None and module is not None:
        raise UsageError("-c and -m cannot go together", "Try: one of them")
    chosen = Limits.from_dict(
        {key: parse_limit(key, text) for key, text in limits.items() if text is not None}
    )
    directories, environment = directory_grants(grants), environment_grants(variables)
    home, progress = Home.open(), for_stderr(quiet)
    if code is not None or module is not None:
        args = (program, *args) if program is not None else args
        if code is not None:
            bundle, shown = code_program(code, includes(included), home, progress), "-c"
        else:
            assert module is not None
            bundle, shown = module_program(module, includes(included), home, progress), f"-m {module}"
    elif program is None:
        raise UsageError("no program is named", "Try: sojourn run PROGRAM, or sojourn run --help")
    else:
        bundle, shown = find_program(program, includes(included), home, progress)
    request = LaunchRequest(
        bundle.program,
        bundle.contents,
        name or shown,
        args,
        directories,
        environment,
        tuple(SecretGrant(secret) for secret in secrets),
        chosen,
        not no_image,
        parse_priority(priority),
    )
    every_s = None
    if checkpoint_every is not None:
        every_s = parse_time("--checkpoint-every", checkpoint_every, "30s")
    with (
        Signals() as signals,
        FdSource(0) as stdin,
        FdSink(1, signals.output_closed) as out,
        FdSink(2) as err,
        EmbeddedHost(home, progress=progress) as host,
    ):
        process = host.launch(request, stdin=Given() if program == "-" else stdin, stdout=out, stderr=err)
        status = attend(host, process, signals, quiet=quiet, as_json=as_json, checkpoint_every_s=every_s)
    sys.exit(status)
