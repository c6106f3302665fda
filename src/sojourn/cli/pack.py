"""``sojourn pack``."""

from __future__ import annotations

from pathlib import Path

import click

from .common import Examples, complete_file, json_option, print_json, size


@click.command(
    cls=Examples,
    help="Make a program into one file that holds all it needs. Equal programs give equal files.",
    examples="sojourn pack prog.py -o prog.sojourn\n"
    "sojourn pack prog.py --include templates -o prog.sojourn\n"
    "sojourn run prog.sojourn",
)
@click.option("-o", "--output", metavar="FILE", help="Where to write it; default: PROGRAM with .sojourn.")
@click.option("--include", "included", multiple=True, metavar="PATH[=NAME]", help="Add files to the program.")
@json_option
@click.argument("program", shell_complete=complete_file)
def pack(output: str | None, included: tuple[str, ...], as_json: bool, program: str) -> None:
    from sojourn.bundle.archive import write_bundle
    from sojourn.store.home import Home

    from .programs import find_program, includes
    from .progress import for_stderr

    bundle, name = find_program(program, includes(included), Home.open(), for_stderr())
    path = Path(output or f"{Path(name).stem or 'program'}.sojourn")
    write_bundle(bundle, path)
    written = path.stat().st_size
    if as_json:
        print_json({"path": str(path), "digest": bundle.program.digest, "bytes": written})
    else:
        click.echo(f"{path}: {len(bundle.program.files)} files, {size(written)}, {bundle.program.digest}")
