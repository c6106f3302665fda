"""A program: the code segment. Files, an entry point and the exact runtime, named by one digest.

A ``Program`` is the manifest: it names every file by size and digest and holds none of them, so it is
small and can be compared, sent and stored alone. It must not know where the files are kept, how they
were found, or how they are run.

Invariants: a ``Program`` that exists is valid (every check is in its constructor); equal programs have
equal JSON, byte for byte, and so equal digests; two different programs have different digests.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import BundleError

FORMAT = 1
FILES_MAX = 20_000
FILE_BYTES_MAX = 256 << 20
TOTAL_BYTES_MAX = 512 << 20
NAME_BYTES_MAX = 4096
NAMES_BYTES_MAX = 4 << 20
TARGET_BYTES_MAX = 1 << 20
DEPENDENCIES_MAX = 1000
IMPORTS_MAX = 1000
MANIFEST_BYTES_MAX = 16 << 20

KINDS = ("script", "module", "code", "wasm")
STDIN = "<stdin>"
"""The target of a script that was read from standard input."""

WASI_RUNTIME = "wasi_snapshot_preview1"
"""The runtime of a program that is itself a WebAssembly module."""

SITE_PREFIX = "site-packages/"
"""Where the files of dependencies live in a program; its own files may not."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PACKAGE = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*")


@dataclass(frozen=True)
class RuntimeInfo:
    """What a builder of programs must know about the Python runtime.

    Attributes:
        digest: names the exact runtime, ``sha256:<hex>``.
        python_version: such as ``"3.15.0"``.
        packages: name and version of each Python package inside the runtime.
        modules: top-level modules of those packages: importable, and not of the standard library.
        metadata: the ``METADATA`` text of those packages, as far as known; tells what their extras need.
    """

    digest: str
    python_version: str
    packages: Mapping[str, str]
    modules: frozenset[str] = frozenset()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """Where a program begins.

    Attributes:
        kind: ``script`` (a file run by the interpreter), ``module`` (as ``python -m``), ``code`` (as
            ``python -c``) or ``wasm`` (a WebAssembly command module).
        target: the file's name in the program, the module's dotted name, or the code itself.
    """

    kind: str
    target: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BundleError(f"{_shown(self.kind)} is no kind of entry", f"There are: {', '.join(KINDS)}")
        _text(self.target, "entry target", TARGET_BYTES_MAX)
        if self.kind == "module" and not is_module_name(self.target):
            raise BundleError(f"{_shown(self.target)} is not the name of a module")
        if "\0" in self.target:
            raise BundleError("the entry contains a NUL character")


@dataclass(frozen=True)
class FileRecord:
    """One file of a program: its name, its size in bytes, its digest (``sha256:<hex>``)."""

    name: str
    size: int
    digest: str

    def __post_init__(self) -> None:
        check_name(self.name)
        if not _is_int(self.size) or not 0 <= self.size <= FILE_BYTES_MAX:
            raise BundleError(f"{self.name}: a size of {_shown(self.size)} bytes is not possible")
        if not isinstance(self.digest, str) or not _DIGEST.fullmatch(self.digest):
            raise BundleError(f"{self.name}: {_shown(self.digest)} is not a digest")


@dataclass(frozen=True)
class Locked:
    """One dependency, exactly: the wheel whose files are in the program.

    Attributes:
        name: normalised, as in ``typing-extensions``.
        sha256: of the wheel, hexadecimal.
    """

    name: str
    version: str
    filename: str
    sha256: str

    def __post_init__(self) -> None:
        for what, pattern in (
            ("name", _PACKAGE),
            ("version", _WORD),
            ("filename", _WORD),
            ("sha256", _SHA256),
        ):
            value = getattr(self, what)
            if not isinstance(value, str) or len(value) > 255 or not pattern.fullmatch(value):
                raise BundleError(f"a dependency's {what} cannot be {_shown(value)}")


@dataclass(frozen=True)
class Program:
    """An immutable program. ``files``, ``imports`` and ``dependencies`` are kept sorted.

    Attributes:
        entry: where it begins.
        files: every file, those of dependencies under ``SITE_PREFIX``.
        runtime: what runs it: the Python runtime's digest, or ``WASI_RUNTIME`` for a ``wasm`` entry.
        imports: top-level modules of the runtime, beyond the standard library, that the code imports.
        dependencies: the wheels whose files are included.

    Raises:
        BundleError: any part is not possible, or the parts do not fit each other.
    """

    entry: Entry
    files: tuple[FileRecord, ...]
    runtime: str
    imports: tuple[str, ...] = ()
    dependencies: tuple[Locked, ...] = ()
    format: int = FORMAT

    def __post_init__(self) -> None:
        if not _is_int(self.format) or self.format != FORMAT:
            raise BundleError(
                f"this program has format {_shown(self.format)}; this version of Sojourn reads {FORMAT}",
                "Try: pip install --upgrade sojourn",
            )
        object.__setattr__(self, "files", tuple(sorted(self.files, key=lambda file: file.name)))
        object.__setattr__(self, "imports", tuple(sorted(self.imports)))
        object.__setattr__(self, "dependencies", tuple(sorted(self.dependencies, key=lambda d: d.name)))
        self._check_files()
        self._check_imports()
        self._check_dependencies()
        self._check_runtime()

    def _check_files(self) -> None:
        _count(self.files, FILES_MAX, "files")
        check_names([file.name for file in self.files])
        total = sum(file.size for file in self.files)
        if total > TOTAL_BYTES_MAX:
            raise BundleError(
                f"the program holds {total:,} bytes; {TOTAL_BYTES_MAX:,} are allowed",
                "Try: give large data as a grant (--grant dir:PATH) instead of including it",
            )
        if self.entry.kind in ("script", "wasm") and self.entry.target not in {f.name for f in self.files}:
            raise BundleError(f"the entry {_shown(self.entry.target)} is not among the program's files")

    def _check_imports(self) -> None:
        _count(self.imports, IMPORTS_MAX, "imports")
        if len(set(self.imports)) != len(self.imports):
            raise BundleError("an import is listed twice")
        for name in self.imports:
            if not is_module_name(name) or "." in name:
                raise BundleError(f"{_shown(name)} is not the name of a top-level module")

    def _check_dependencies(self) -> None:
        _count(self.dependencies, DEPENDENCIES_MAX, "dependencies")
        if len({locked.name for locked in self.dependencies}) != len(self.dependencies):
            raise BundleError("a dependency is listed twice")
        if not self.dependencies and any(f.name.startswith(SITE_PREFIX) for f in self.files):
            raise BundleError(f"the program has files in {SITE_PREFIX} but no dependencies")

    def _check_runtime(self) -> None:
        if self.entry.kind == "wasm":
            if self.runtime != WASI_RUNTIME or self.imports or self.dependencies:
                raise BundleError(f"a WebAssembly program runs on {WASI_RUNTIME} alone")
        elif not isinstance(self.runtime, str) or not _DIGEST.fullmatch(self.runtime):
            raise BundleError(f"{_shown(self.runtime)} is not the digest of a runtime")

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the canonical JSON: the program's name everywhere."""
        return digest_of(self.to_json())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the JSON."""
        return {
            "dependencies": [vars(locked) for locked in self.dependencies],
            "entry": vars(self.entry),
            "files": [vars(file) for file in self.files],
            "format": self.format,
            "imports": list(self.imports),
            "runtime": self.runtime,
        }

    def to_json(self) -> bytes:
        """The canonical form: sorted keys, no spaces, ASCII."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Program:
        """Read the canonical form; anything else is refused.

        Raises:
            BundleError: it is too large, not JSON, not a program, or not in canonical form.
        """
        if len(data) > MANIFEST_BYTES_MAX:
            raise BundleError(f"the manifest has more than {MANIFEST_BYTES_MAX:,} bytes", _REBUILD)
        try:
            value = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError):
            raise BundleError("the manifest is not JSON", _REBUILD) from None
        program = _program(value)
        if program.to_json() != data:
            raise BundleError("the manifest is not in canonical form", _REBUILD)
        return program


_REBUILD = "Try: make the bundle again with `sojourn pack`"


def _program(value: object) -> Program:
    top = _fields(value, "manifest", {"dependencies", "entry", "files", "format", "imports", "runtime"})
    if top["format"] != FORMAT:  # before anything whose layout another format may have changed
        return Program(Entry("code", ""), (), "", format=top["format"])
    return Program(
        entry=Entry(**_fields(top["entry"], "entry", {"kind", "target"})),
        files=tuple(
            FileRecord(**_fields(item, "file", {"name", "size", "digest"})) for item in _list(top["files"])
        ),
        runtime=top["runtime"],
        imports=tuple(_text(item, "import", NAME_BYTES_MAX) for item in _list(top["imports"])),
        dependencies=tuple(
            Locked(**_fields(item, "dependency", {"name", "version", "filename", "sha256"}))
            for item in _list(top["dependencies"])
        ),
    )


def _fields(value: object, what: str, names: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != names:
        raise BundleError(f"the {what} must have exactly the fields {', '.join(sorted(names))}", _REBUILD)
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise BundleError("the manifest has something else where a list belongs", _REBUILD)
    return value


def _text(value: object, what: str, bytes_max: int) -> str:
    if not isinstance(value, str):
        raise BundleError(f"the {what} is not text")
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise BundleError(f"the {what} is not valid Unicode") from None
    if size > bytes_max:
        raise BundleError(f"the {what} has {size:,} bytes; {bytes_max:,} are allowed")
    return value


def _count(items: Sequence[object], most: int, what: str) -> None:
    if len(items) > most:
        raise BundleError(f"the program has {len(items):,} {what}; {most:,} are allowed")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def is_module_name(name: object) -> bool:
    """Whether ``name`` is a dotted name as an import statement could have it."""
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def check_name(name: object) -> None:
    """Check the name of one file in a program: relative, plain, with ``/`` between its parts.

    Raises:
        BundleError: it is anything else, and so might reach outside the program.
    """
    text = _text(name, "name of a file", NAME_BYTES_MAX)
    if not text:
        raise BundleError("a file has an empty name")
    if text.startswith("/"):
        raise BundleError(f"{_shown(text)}: the name of a file in a program must be relative")
    if any(character == "\\" or ord(character) < 32 or ord(character) == 127 for character in text):
        raise BundleError(f"{_shown(text)}: the name of a file has a backslash or a control character")
    for part in text.split("/"):
        if part in ("", ".", ".."):
            raise BundleError(f"{_shown(text)}: the name of a file has an empty, '.' or '..' part")


def check_names(names: Sequence[str]) -> None:
    """Check that files of these (valid) names can exist together.

    Raises:
        BundleError: a name occurs twice, is also a directory of another, or all are too long together.
    """
    if sum(len(name.encode("utf-8")) for name in names) > NAMES_BYTES_MAX:
        raise BundleError(f"the names of the files have more than {NAMES_BYTES_MAX:,} bytes together")
    present = set(names)
    if len(present) != len(names):
        twice = next(name for name in sorted(present) if names.count(name) > 1)
        raise BundleError(f"{_shown(twice)} occurs twice in the program")
    for name in names:
        end = name.rfind("/")
        while end > 0:
            if name[:end] in present:
                raise BundleError(f"{_shown(name[:end])} is both a file and a directory in the program")
            end = name.rfind("/", 0, end)


def digest_of(data: bytes) -> str:
    """``sha256:<hex>`` of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
