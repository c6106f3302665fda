"""A program together with the bytes of its files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sojourn.model.errors import BundleError
from sojourn.model.program import SITE_PREFIX, Entry, FileRecord, Locked, Program, digest_of


@dataclass(frozen=True)
class Bundle:
    """``contents`` holds exactly the files that ``program`` names; ``check`` proves it."""

    program: Program
    contents: Mapping[str, bytes]

    @classmethod
    def make(
        cls,
        entry: Entry,
        contents: Mapping[str, bytes],
        runtime: str,
        imports: Iterable[str] = (),
        dependencies: Iterable[Locked] = (),
    ) -> Bundle:
        """Name ``contents`` by their digests.

        Raises:
            BundleError: the parts do not make a program.
        """
        files = tuple(FileRecord(name, len(data), digest_of(data)) for name, data in contents.items())
        program = Program(entry, files, runtime, tuple(imports), tuple(dependencies))
        return cls(program, dict(sorted(contents.items())))

    def check(self) -> None:
        """Raises:
        BundleError: a file is missing, is too many, or is not the one that the program names.
        """
        if self.contents.keys() != {file.name for file in self.program.files}:
            raise BundleError("the bundle does not hold exactly the files that its program names")
        for file in self.program.files:
            data = self.contents[file.name]
            if len(data) != file.size or digest_of(data) != file.digest:
                raise BundleError(f"{file.name} is damaged: it is not the file that the program names")


def describe(bundle: Bundle) -> dict[str, Any]:
    """What travels: each part of the bundle with its bytes, as plain values for ``sojourn inspect``."""
    program = bundle.program
    own = [file for file in program.files if not file.name.startswith(SITE_PREFIX)]
    dependencies = [_describe_dependency(bundle, locked) for locked in program.dependencies]
    manifest_bytes = len(program.to_json())
    return {
        "digest": program.digest,
        "entry": {"kind": program.entry.kind, "target": program.entry.target},
        "runtime": program.runtime,
        "imports": list(program.imports),
        "files": [{"name": file.name, "bytes": file.size, "digest": file.digest} for file in own],
        "dependencies": dependencies,
        "bytes": {
            "manifest": manifest_bytes,
            "program": sum(file.size for file in own),
            "dependencies": program.size - sum(file.size for file in own),
            "total": manifest_bytes + program.size,
        },
    }


def _describe_dependency(bundle: Bundle, locked: Locked) -> dict[str, Any]:
    names = _installed_by(bundle, locked)
    return {
        **vars(locked),
        "files": len(names),
        "bytes": sum(len(bundle.contents[name]) for name in names),
    }


def _installed_by(bundle: Bundle, locked: Locked) -> set[str]:
    """The files that came with one wheel: those its own RECORD lists."""
    stem = "-".join(locked.filename.split("-")[:2])
    record = f"{SITE_PREFIX}{stem}.dist-info/RECORD"
    text = bundle.contents.get(record, b"").decode("utf-8", "replace")
    listed = {SITE_PREFIX + row[0] for row in csv.reader(text.splitlines()) if row}
    return (listed | {record}) & bundle.contents.keys()
