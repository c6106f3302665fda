"""Bundles: a program in one file.

A bundle is a zip archive of ``manifest.json`` (the program, canonical JSON) and ``files/<name>``. Writing is
deterministic: equal programs give equal bytes. Reading treats the file as hostile: nothing is unpacked to
disk, every size is bounded before and while bytes are produced, and what comes out is checked against the
manifest, byte for byte, before anybody sees it.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from pathlib import Path

from sojourn.model.errors import BundleError, StoreError
from sojourn.model.program import (
    FILES_MAX,
    MANIFEST_BYTES_MAX,
    TOTAL_BYTES_MAX,
    Program,
)
from sojourn.store.files import write_atomic

from .contents import Bundle

MANIFEST = "manifest.json"
FOLDER = "files/"
BUNDLE_BYTES_MAX = TOTAL_BYTES_MAX + MANIFEST_BYTES_MAX + (64 << 20)
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = (stat.S_IFREG | 0o644) << 16
_HINT = "Try: make it again with sojourn pack"


def write_bundle(bundle: Bundle, path: Path) -> None:
    """Write ``bundle`` to ``path``, whole or not at all.

    Raises:
        StoreError: it cannot be written there.
    """
    if path.is_dir():
        raise StoreError(f"cannot write {path}: it is a directory", "Try: -o FILE")
    try:
        write_atomic(path, archive_bytes(bundle))
        path.chmod(0o644)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}", "Try: -o FILE, in a directory that exists"
        ) from None


def archive_bytes(bundle: Bundle) -> bytes:
    """The bytes of a bundle: equal programs give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _add(archive, MANIFEST, bundle.program.to_json())
        for name in sorted(bundle.contents):
            _add(archive, FOLDER + name, bundle.contents[name])
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _TIME)
    info.create_system, info.external_attr = 3, _MODE
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data, compresslevel=6)


def read_bundle(path: Path) -> Bundle:
    """Read a bundle; everything about it is checked.

    Raises:
        BundleError: not a bundle, damaged, or one that tries to be more than that.
    """
    try:
        if path.stat().st_size > BUNDLE_BYTES_MAX:
            raise BundleError(f"{path} is too large for a bundle")
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}", "Try: check the path") from None
    return parse_bundle(data, str(path))


def parse_bundle(data: bytes, name: str) -> Bundle:
    """The bundle in ``data``; ``name`` is for messages."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _parse(archive, name)
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,  # a compression that zipfile does not know
        RuntimeError,  # encrypted
        EOFError,
        OSError,
        ValueError,
        zlib.error,
    ) as error:
        raise BundleError(f"{name} is not a bundle, or damaged: {error}", _HINT) from None


def _parse(archive: zipfile.ZipFile, name: str) -> Bundle:
    members = archive.infolist()
    if len(members) > FILES_MAX + 1:
        raise BundleError(f"{name} has {len(members):,} members; the most is {FILES_MAX:,}")
    by_name = {member.filename: member for member in members}
    if len(by_name) != len(members):
        raise BundleError(f"{name} has two members of one name", _HINT)
    if MANIFEST not in by_name:
        raise BundleError(f"{name} is an archive, but not a bundle: it has no {MANIFEST}", _HINT)
    program = Program.from_json(_member(archive, by_name.pop(MANIFEST), MANIFEST_BYTES_MAX, name))
    wanted = {FOLDER + file.name: file for file in program.files}
    if by_name.keys() != wanted.keys():
        odd = sorted(by_name.keys() ^ wanted.keys())[0]
        raise BundleError(f"{name} does not hold exactly what its manifest names: {odd!r}", _HINT)
    contents = {
        file.name: _member(archive, by_name[member], file.size, name) for member, file in wanted.items()
    }
    bundle = Bundle(program, contents)
    bundle.check()
    return bundle


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, bytes_max: int, name: str) -> bytes:
    """The bytes of one member, never more than ``bytes_max`` of them."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise BundleError(f"{name}: {member.filename!r} is not a regular file", _HINT)
    if member.file_size > bytes_max:
        raise BundleError(f"{name}: {member.filename!r} is larger than it may be", _HINT)
    with archive.open(member) as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise BundleError(f"{name}: {member.filename!r} is larger than it says", _HINT)
    return data
