"""``sojourn completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .common import Examples, json_option, print_json


@click.command(
    cls=Examples,
    help="Print a script that makes a shell complete Sojourn's commands and options.",
    examples='eval "$(sojourn completion bash)"        # in ~/.bashrc\n'
    "sojourn completion fish > ~/.config/fish/completions/sojourn.fish",
)
@json_option
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(as_json: bool, shell: str) -> None:
    from .main import cli

    kind = get_completion_class(shell)
    assert kind is not None  # click knows all three
    script = kind(cli, {}, "sojourn", "_SOJOURN_COMPLETE").source()
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)
