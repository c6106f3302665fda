"""The local modules that a program imports, found from source, without running any of it.

The host's Python may be older than the guest's, so a file that it cannot parse is no error here: what looks
like an import at the start of a line is taken for one, and the guest reports what is wrong with the rest.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sojourn.model.errors import ProgramError
from sojourn.model.program import FILE_BYTES_MAX, RuntimeInfo

_LINE = re.compile(
    rb"^[ \t]*(?:from[ \t]+(\.*[\w.]*)[ \t]+import[ \t]+\(?([\w, \t*]*)|import[ \t]+([\w., \t]+))", re.M
)


def imported_names(source: bytes, package: str) -> set[str]:
    """The dotted names that ``source``, of a module in ``package``, may import. ``from a import b`` gives
    ``a`` and ``a.b``, for ``b`` may be a module."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(_scan(source, package))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            if base is not None:
                found |= {base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)}
    return {name for name in found if name}


def _scan(source: bytes, package: str) -> Iterator[str]:
    for base, names, plain in _LINE.findall(source):
        if plain:
            for part in plain.decode("utf-8", "replace").split(","):
                yield part.split(" as ")[0].strip()
            continue
        absolute = _absolute(base.decode("utf-8", "replace"), package)
        if absolute is not None:
            yield absolute
            for part in names.decode("utf-8", "replace").split(","):
                yield f"{absolute}.{part.split(' as ')[0].strip()}".strip(".")


def _absolute(name: str, package: str) -> str | None:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    parts = package.split(".") if package else []
    if level - 1 > len(parts):
        return None
    return ".".join([*parts[: len(parts) - level + 1], *([name.lstrip(".")] if name.lstrip(".") else [])])


def read_file(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        ProgramError: missing, not a regular file, not readable, too large.
    """
    try:
        if not path.is_file():
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise ProgramError(
                f"there is no file {path}" if not path.exists() else f"{path} is {kind}",
                "Try: check the path",
            )
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ProgramError(f"{path} is too large for a program", "Try: grant it with --grant instead")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ProgramError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


class LocalFiles:
    """The files of a program by name, and what they import.

    Args:
        root: where local modules are looked for; None: nowhere.
        runtime: what the guest has; its modules are never taken from ``root`` unless they are there.
    """

    def __init__(self, root: Path | None, runtime: RuntimeInfo) -> None:
        self._root = root
        self._runtime = runtime
        self.files: dict[str, bytes] = {}
        self.runtime_imports: set[str] = set()
        self._seen: set[str] = set()

    def add(self, name: str, data: bytes) -> None:
        """Add a file; when it is Python, the local modules that it imports too."""
        if name in self.files:
            return
        self.files[name] = data
        if name.endswith((".py", ">")):
            self.follow(data, ".".join(name.split("/")[:-1]))

    def follow(self, source: bytes, package: str) -> None:
        """Add the local modules that ``source`` imports."""
        for name in sorted(imported_names(source, package)):
            if name not in self._seen:
                self._seen.add(name)
                self._find(name)

    def _find(self, name: str) -> None:
        top = name.partition(".")[0]
        if not self._add_local(name) and top in self._runtime.modules:
            self.runtime_imports.add(top)

    def _add_local(self, name: str) -> bool:
        """Add the module ``name`` and the packages around it, if it is local. The standard library comes
        after the program's folder in ``sys.path``, so a local module of the same name wins, as in Python."""
        if self._root is None:
            return False
        parts = name.split(".")
        if not all(part.isidentifier() for part in parts):
            return False
        found = False
        for depth in range(1, len(parts) + 1):
            base = "/".join(parts[:depth])
            for inner in (f"{base}.py", f"{base}/__init__.py"):
                path = self._root / inner
                if path.is_file() and inner not in self.files:
                    self.add(inner, read_file(path))
                found = found or inner in self.files
        return found
