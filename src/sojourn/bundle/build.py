"""Build programs from what a person names: a script, a module, code, standard input, a Wasm module.

A script brings the local modules that it imports, found from its source, so that what works as ``python
prog.py`` works here; ``includes`` add files and directories. Nothing outside what was named is read, and no
symbolic link is followed out of it.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sojourn.model.errors import ProgramError
from sojourn.model.program import STDIN, TOTAL_BYTES_MAX, WASI_RUNTIME, Entry, Locked, RuntimeInfo

from .contents import Bundle
from .local import LocalFiles, read_file

Include = tuple[Path, str | None]
Resolver = Callable[[str], tuple[Sequence[Locked], dict[str, bytes]]]
MAIN = "__main__.py"
WASM_MAGIC = b"\0asm"


def build_script(
    path: Path, *, runtime: RuntimeInfo, includes: Sequence[Include] = (), resolver: Resolver | None = None
) -> Bundle:
    """The program of a Python file, or of a directory or zip archive with ``__main__.py``.

    Raises:
        ProgramError: it does not exist, cannot be read, or is no program.
        DependencyError: a dependency that it names cannot be had.
    """
    if path.is_dir():
        return _build_directory(path, runtime, includes, resolver)
    data = read_file(path)
    if data[:4] == b"PK\3\4":
        return _build_archive(path, data, runtime, resolver)
    if b"\0" in data:
        raise ProgramError(f"{path} is not a Python program: it holds a NUL byte", "Try: name a .py file")
    local = LocalFiles(path.resolve().parent, runtime)
    local.add(path.name, data)
    return _finish(Entry("script", path.name), local, data, runtime, includes, resolver)


def build_code(
    text: str,
    *,
    runtime: RuntimeInfo,
    search_path: Path | None = None,
    includes: Sequence[Include] = (),
    resolver: Resolver | None = None,
) -> Bundle:
    """The program of ``python -c``; local modules are looked for in ``search_path``."""
    local = LocalFiles(search_path or Path.cwd(), runtime)
    local.follow(text.encode("utf-8", "surrogatepass"), "")
    return _finish(Entry("code", text), local, text.encode("utf-8", "replace"), runtime, includes, resolver)


def build_stdin(
    text: bytes,
    *,
    runtime: RuntimeInfo,
    search_path: Path | None = None,
    includes: Sequence[Include] = (),
    resolver: Resolver | None = None,
) -> Bundle:
    """The program that was read from standard input."""
    if b"\0" in text:
        raise ProgramError("standard input is not a Python program: it holds a NUL byte")
    local = LocalFiles(search_path or Path.cwd(), runtime)
    local.add(STDIN, text)
    return _finish(Entry("script", STDIN), local, text, runtime, includes, resolver)


def build_module(
    name: str,
    *,
    runtime: RuntimeInfo,
    search_path: Path | None = None,
    includes: Sequence[Include] = (),
    resolver: Resolver | None = None,
) -> Bundle:
    """The program of ``python -m``: a local module, else one of the runtime."""
    local = LocalFiles(search_path or Path.cwd(), runtime)
    local.follow(f"import {name}\nimport {name}.__main__\n".encode(), "")
    return _finish(Entry("module", name), local, f"import {name}".encode(), runtime, includes, resolver)


def build_wasm(path: Path, *, includes: Sequence[Include] = ()) -> Bundle:
    """The program of a WebAssembly module."""
    data = read_file(path)
    if data[:4] != WASM_MAGIC:
        raise ProgramError(f"{path} is not a WebAssembly module", "Try: a .wasm file built for wasm32-wasip1")
    contents = {path.name: data}
    for source, name in includes:
        contents |= _included(source, name)
    return Bundle.make(Entry("wasm", path.name), contents, WASI_RUNTIME)


def _build_directory(
    path: Path, runtime: RuntimeInfo, includes: Sequence[Include], resolver: Resolver | None
) -> Bundle:
    if not (path / MAIN).is_file():
        raise ProgramError(
            f"{path} is a directory without {MAIN}", f"Try: name a script, or add {path / MAIN}"
        )
    local = LocalFiles(path.resolve(), runtime)
    data = read_file(path / MAIN)
    for name, content in _included(path, "").items():
        local.add(name, content)
    return _finish(Entry("script", MAIN), local, data, runtime, includes, resolver)


def _build_archive(path: Path, data: bytes, runtime: RuntimeInfo, resolver: Resolver | None) -> Bundle:
    files = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(item.file_size for item in archive.infolist()) > TOTAL_BYTES_MAX:
                raise ProgramError(f"{path} unpacks to more than a program may hold")
            for item in archive.infolist():
                if not item.is_dir():
                    with archive.open(item) as member:  # reads no more than it declares
                        files[item.filename] = member.read(item.file_size)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error) as error:
        raise ProgramError(f"{path} is a damaged archive: {error}") from None
    if MAIN not in files:
        raise ProgramError(f"{path} is an archive without {MAIN}", f"Try: an archive with {MAIN} at its top")
    local = LocalFiles(None, runtime)
    for name, content in files.items():
        local.add(name, content)
    return _finish(Entry("script", MAIN), local, files[MAIN], runtime, (), resolver)


def _finish(
    entry: Entry,
    local: LocalFiles,
    main: bytes,
    runtime: RuntimeInfo,
    includes: Sequence[Include],
    resolver: Resolver | None,
) -> Bundle:
    for source, name in includes:
        for inner, data in _included(source, name).items():
            local.add(inner, data)
    locked: Sequence[Locked] = ()
    contents = dict(local.files)
    if resolver is not None:
        locked, site = resolver(main.decode("utf-8", "replace"))
        contents |= site
    return Bundle.make(entry, contents, runtime.digest, sorted(local.runtime_imports), locked)


def _included(source: Path, name: str | None) -> dict[str, bytes]:
    """The files that ``--include SOURCE[=NAME]`` adds, by their names in the program."""
    root = source.resolve()
    if not root.exists():
        raise ProgramError(f"cannot include {source}: there is no such file", "Try: an existing path")
    prefix = source.name if name is None else name.strip("/")
    if root.is_file():
        return {prefix or root.name: read_file(root)}
    found = {}
    for path in sorted(root.rglob("*")):
        if "__pycache__" in path.parts or not path.is_file():
            continue
        if not path.resolve().is_relative_to(root):
            raise ProgramError(f"cannot include {path}: the link leads out of {source}")
        inner = path.relative_to(root).as_posix()
        found[f"{prefix}/{inner}" if prefix else inner] = read_file(path)
    return found
