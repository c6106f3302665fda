"""``sojourn image``."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click

from .common import Examples, complete_file, duration, json_option, print_json, print_table, size


@click.group(help="Make, list and remove warm images: started interpreters with imports done.")
def image() -> None:
    pass


def _images() -> Any:
    from sojourn.store.home import Home
    from sojourn.vm.process.images import ImageStore

    return ImageStore(Home.open(need_space=False))


@image.command(
    "ls", cls=Examples, help="List images, the most recently used first.", examples="sojourn image ls"
)
@json_option
def ls(as_json: bool) -> None:
    infos = _images().all()
    if as_json:
        print_json([asdict(info) for info in infos])
        return
    rows = [
        (
            info.digest[:12],
            ", ".join(info.imports) or "-",
            size(info.bytes),
            duration(time.time() - info.last_used_s),
        )
        for info in infos
    ]
    print_table(("IMAGE", "IMPORTS", "MEMORY", "LAST USED"), rows)


@image.command(
    "build",
    cls=Examples,
    help="Make the image for imports, or for what a program imports.",
    examples="sojourn image build --imports numpy,pandas\nsojourn image build prog.py",
)
@click.option("--imports", default="", metavar="NAMES", help="Modules, separated by commas.")
@json_option
@click.argument("program", required=False, shell_complete=complete_file)
def build(imports: str, as_json: bool, program: str | None) -> None:
    from sojourn.store.home import Home
    from sojourn.vm.process.monitor import ProcessMonitor

    from .programs import find_program
    from .progress import for_stderr

    home, progress = Home.open(), for_stderr()
    named = [name.strip() for name in imports.split(",") if name.strip()]
    found = find_program(program, [], home, progress)[0].program.imports if program is not None else ()
    info = ProcessMonitor(home, progress=progress).python().image([*named, *found], required=named).info
    if as_json:
        print_json(asdict(info))
        return
    shown = ", ".join(name for name in info.imports if name not in info.failed) or "no further imports"
    click.echo(f"image {info.digest[:12]}: Python with {shown}, {size(info.bytes)}")
    for name, reason in info.failed.items():
        click.echo(f"  {name} could not be imported: {reason}", err=True)


@image.command(
    "prune",
    cls=Examples,
    help="Remove images that were not used for some days.",
    examples="sojourn image prune\nsojourn image prune --all",
)
@click.option(
    "--days", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Unused for so many days."
)
@click.option("--all", "everything", is_flag=True, help="Remove every image.")
@json_option
def prune(days: float, everything: bool, as_json: bool) -> None:
    removed = _images().prune(0 if everything else days)
    if as_json:
        print_json([asdict(info) for info in removed])
    else:
        click.echo(f"{len(removed)} images removed, {size(sum(info.bytes for info in removed))} freed")
