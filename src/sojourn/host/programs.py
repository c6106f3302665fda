"""From what a person names, on the command line or in Python, to a program."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from sojourn.bundle.build import (
    WASM_MAGIC,
    Include,
    Resolver,
    build_code,
    build_module,
    build_script,
    build_stdin,
    build_wasm,
)
from sojourn.bundle.contents import Bundle
from sojourn.model.errors import ProgramError
from sojourn.model.program import Locked, RuntimeInfo
from sojourn.model.progress import Progress
from sojourn.store.home import Home
from sojourn.vm.process.artifacts import find_python

_ZIP_MAGIC = b"PK\3\4"


def program_at(path: Path, included: Sequence[Include], home: Home, progress: Progress) -> tuple[Bundle, str]:
    """The program at ``path``, and a name for people: a script, a directory or archive with a
    ``__main__.py``, a WebAssembly module, or a bundle.

    Raises:
        ProgramError: there is no such program.
    """
    magic = _magic(path)
    if magic == WASM_MAGIC:
        return build_wasm(path, includes=included), path.name
    if magic == _ZIP_MAGIC and _is_bundle(path):
        from sojourn.bundle.archive import read_bundle

        return read_bundle(path), path.name
    if path.suffix == ".wasm":
        raise ProgramError(f"{path} is not a WebAssembly module", "Try: a module built for wasm32-wasip1")
    made = build_script(path, runtime=runtime(), includes=included, resolver=resolver(home, progress))
    return made, path.name


def text_program(text: bytes, included: Sequence[Include], home: Home, progress: Progress) -> Bundle:
    """What ``python -`` runs, as read from standard input."""
    return build_stdin(text, runtime=runtime(), includes=included, resolver=resolver(home, progress))


def code_program(code: str, included: Sequence[Include], home: Home, progress: Progress) -> Bundle:
    return build_code(code, runtime=runtime(), includes=included, resolver=resolver(home, progress))


def module_program(name: str, included: Sequence[Include], home: Home, progress: Progress) -> Bundle:
    return build_module(name, runtime=runtime(), includes=included, resolver=resolver(home, progress))


def runtime() -> RuntimeInfo:
    return find_python().runtime_info()


def resolver(home: Home, progress: Progress) -> Resolver:
    """Resolves a script's dependencies, when it names any."""

    def resolve(script: str) -> tuple[Sequence[Locked], dict[str, bytes]]:
        if "# /// script" not in script:
            return (), {}
        from sojourn.bundle.dependencies import Dependencies

        return Dependencies(runtime(), home, progress)(script)

    return resolve


def _magic(path: Path) -> bytes:
    try:
        if path.is_dir():
            return b""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not make us wait
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ProgramError(f"{path} is not a regular file", "Try: - with the program on stdin")
            return file.read(4)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ProgramError(f"cannot read {path}: {reason}", "Try: check the path") from None


def _is_bundle(path: Path) -> bool:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return "manifest.json" in archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return path.suffix == ".sojourn"
