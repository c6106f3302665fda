"""From what a person types to a program."""

from __future__ import annotations

import sys
from pathlib import Path

from sojourn.bundle.build import Include
from sojourn.bundle.contents import Bundle
from sojourn.host.programs import program_at, text_program
from sojourn.model.errors import UsageError
from sojourn.model.progress import Progress
from sojourn.store.home import Home


def includes(texts: tuple[str, ...]) -> list[Include]:
    """``PATH[=NAME]`` as typed with --include."""
    found: list[Include] = []
    for text in texts:
        path, equals, name = text.partition("=")
        if not path or (equals and not name):
            raise UsageError(f"--include {text!r} names no file", "Try: --include PATH[=NAME]")
        found.append((Path(path), name or None))
    return found


def find_program(target: str, included: list[Include], home: Home, progress: Progress) -> tuple[Bundle, str]:
    """The program that ``target`` names (a path, or ``-`` for standard input), and a name for people.

    Raises:
        ProgramError: there is no such program.
    """
    if target == "-":
        return text_program(sys.stdin.buffer.read(), included, home, progress), "-"
    return program_at(Path(target), included, home, progress)
