"""Compiled code that goes to another home, and what is not taken."""

from __future__ import annotations

import hashlib
import platform
import struct
from pathlib import Path

import msgpack
import pytest

from sojourn.model.errors import ModuleError, UsageError
from sojourn.model.progress import Silent
from sojourn.store.home import Home
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.handover import MAGIC, Handover, Original, export_code, import_code

from ..wat import wat

pytestmark = pytest.mark.engine

CODE = wat('(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))')
DIGEST = "sha256:" + hashlib.sha256(CODE).hexdigest()
OTHER = "aarch64" if platform.machine() != "aarch64" else "x86_64"


def modules(folder: Path) -> CompiledModules:
    return CompiledModules(Home.open(folder), Silent())


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "prog.code"
    original = Original(DIGEST, lambda: CODE, "prog.wasm")
    _, digest = export_code(modules(tmp_path / "there"), original, platform.machine(), path, Silent())
    return path, digest


def unread() -> bytes:
    raise AssertionError("it is compiled again")


def test_what_is_trusted_is_not_compiled_again(exported: tuple[Path, str], tmp_path: Path) -> None:
    path, digest = exported
    here = modules(tmp_path / "here")
    taken = import_code(here, path, digest.upper())
    assert taken.module == DIGEST
    module = here.get(DIGEST, unread, "prog.wasm")
    assert module.functions == {"_start"}


@pytest.mark.parametrize("trusted", [None, "0" * 64, ""])
def test_what_is_not_trusted_is_not_taken(
    exported: tuple[Path, str], tmp_path: Path, trusted: str | None
) -> None:
    path, digest = exported
    with pytest.raises(UsageError) as caught:
        import_code(modules(tmp_path / "here"), path, trusted)
    assert digest in str(caught.value)
    assert not list(Home.open(tmp_path / "here").cache.glob("*.cwasm"))


def with_header(path: Path, **changed: object) -> str:
    """Write the header of an exported file anew; the digest of what it is then."""
    data = path.read_bytes()
    size = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 4], "little")
    body = data[len(MAGIC) + 4 + size :]
    header = msgpack.packb({**msgpack.unpackb(data[len(MAGIC) + 4 :][:size]), **changed})
    path.write_bytes(MAGIC + struct.pack("<I", len(header)) + header + body)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"engine": "wasmtime-1.0.0 pdp11 Unix"}, "another machine or engine"),
        ({"transform": "0.0"}, "another version of Sojourn"),
        ({"code_bytes": 1 << 60}, "not a file of compiled code"),
        ({"code_bytes": True}, "not a file of compiled code"),
        ({"code_bytes": 17}, "another size"),
        ({"facts_bytes": -1}, "not a file of compiled code"),
        ({"module": 7}, "not a file of compiled code"),
        ({"more": 1}, "not a file of compiled code"),
    ],
)
def test_also_a_trusted_file_must_be_for_us(
    exported: tuple[Path, str], tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    digest = with_header(exported[0], **changed)
    with pytest.raises(UsageError, match=words):
        import_code(modules(tmp_path / "here"), exported[0], digest)


def test_every_cut_is_seen(exported: tuple[Path, str], tmp_path: Path) -> None:
    data = exported[0].read_bytes()
    here = modules(tmp_path / "here")
    cut = tmp_path / "cut"
    for size in [*range(200), *range(200, len(data), 97)]:
        cut.write_bytes(data[:size])
        with pytest.raises(UsageError):
            import_code(here, cut, hashlib.sha256(data[:size]).hexdigest())


def test_code_that_the_engine_does_not_know_is_not_kept(exported: tuple[Path, str], tmp_path: Path) -> None:
    path, _ = exported
    made = Handover(**msgpack.unpackb(header(path)))
    digest = with_header(path, facts_bytes=made.facts_bytes + 8, code_bytes=made.code_bytes - 8)
    here = modules(tmp_path / "here")
    with pytest.raises(UsageError, match="cannot use it"):
        import_code(here, path, digest)
    assert not list(Home.open(tmp_path / "here").cache.glob("*.cwasm"))


def header(path: Path) -> bytes:
    data = path.read_bytes()
    return data[len(MAGIC) + 4 :][: int.from_bytes(data[len(MAGIC) : len(MAGIC) + 4], "little")]


def test_for_another_cpu(tmp_path: Path) -> None:
    path = tmp_path / "prog.code"
    original = Original(DIGEST, lambda: CODE, "prog.wasm")
    made, digest = export_code(modules(tmp_path / "there"), original, OTHER, path, Silent())
    assert OTHER in made.engine
    with pytest.raises(UsageError, match=f"for another machine.*{OTHER}"):
        import_code(modules(tmp_path / "here"), path, digest)


def test_a_module_that_is_none_is_refused_first(tmp_path: Path) -> None:
    original = Original("sha256:none", lambda: b"\0asm\1\0\0\0\1", "prog.wasm")
    with pytest.raises(ModuleError):
        export_code(modules(tmp_path / "there"), original, OTHER, tmp_path / "prog.code", Silent())
    assert not (tmp_path / "prog.code").exists()
