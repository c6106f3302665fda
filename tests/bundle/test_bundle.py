"""Programs from files, bundles in files, and what hostile ones get."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pytest

from sojourn.bundle.archive import parse_bundle, read_bundle, write_bundle
from sojourn.bundle.build import build_code, build_module, build_script, build_stdin, build_wasm
from sojourn.bundle.contents import Bundle
from sojourn.bundle.local import imported_names
from sojourn.model.errors import BundleError, ProgramError
from sojourn.model.program import RuntimeInfo

RUNTIME = RuntimeInfo("sha256:" + "0" * 64, "3.15.0", {"numpy": "2.5.2"}, frozenset({"numpy", "pandas"}))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "prog.py").write_text("import numpy.linalg, helper\nfrom pkg.sub import thing\n")
    (tmp_path / "helper.py").write_text("def f():\n    import pandas\n")
    (tmp_path / "unrelated.py").write_text("")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("")
    (tmp_path / "pkg/sub.py").write_text("from .deep import x\nthing = 1\n")
    (tmp_path / "pkg/deep.py").write_text("from .. import nothing\nx = 1\n")
    return tmp_path


def names(bundle: Bundle) -> set[str]:
    return {file.name for file in bundle.program.files}


def test_a_script_brings_what_it_imports(project: Path) -> None:
    bundle = build_script(project / "prog.py", runtime=RUNTIME)
    assert names(bundle) == {"prog.py", "helper.py", "pkg/__init__.py", "pkg/sub.py", "pkg/deep.py"}
    assert bundle.program.imports == ("numpy", "pandas")


def test_the_digest_is_of_the_content(project: Path) -> None:
    one = build_script(project / "prog.py", runtime=RUNTIME)
    assert build_script(project / "prog.py", runtime=RUNTIME).program.digest == one.program.digest
    (project / "helper.py").write_text("x = 2\n")
    assert build_script(project / "prog.py", runtime=RUNTIME).program.digest != one.program.digest


def test_other_kinds(project: Path, tmp_path: Path) -> None:
    assert names(build_code("import helper", runtime=RUNTIME, search_path=project)) == {"helper.py"}
    assert "pkg/sub.py" in names(build_module("pkg.sub", runtime=RUNTIME, search_path=project))
    assert names(build_stdin(b"import helper", runtime=RUNTIME, search_path=project)) == {
        "<stdin>",
        "helper.py",
    }
    (tmp_path / "m.wasm").write_bytes(b"\0asm\x01\0\0\0")
    assert build_wasm(tmp_path / "m.wasm").program.entry.kind == "wasm"


def test_syntax_that_only_the_guest_knows_is_no_error(project: Path) -> None:
    (project / "prog.py").write_text(
        "type X = int\nimport helper\nfrom pkg import (sub)\nlazy import numpy\nt'{1}'\n"
    )
    assert {"helper.py", "pkg/sub.py"} <= names(build_script(project / "prog.py", runtime=RUNTIME))


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        (b"import a.b, c as d", "", {"a.b", "c"}),
        (b"from a import b", "", {"a", "a.b"}),
        (b"from . import b", "p", {"p", "p.b"}),
        (b"from ..x import y", "p.q", {"p.x", "p.x.y"}),
        (b"from ... import y", "p", set()),
        (b"def f(:\n  import a\nfrom b import c, d as e", "", {"a", "b", "b.c", "b.d"}),
    ],
)
def test_imports(source: bytes, package: str, expected: set[str]) -> None:
    assert imported_names(source, package) == expected


def test_missing_and_odd_programs(tmp_path: Path) -> None:
    (tmp_path / "nul.py").write_bytes(b"a\0b")
    (tmp_path / "empty").mkdir()
    for name in ("missing.py", "nul.py", "empty"):
        with pytest.raises(ProgramError, match=name):
            build_script(tmp_path / name, runtime=RUNTIME)


def test_an_included_link_does_not_lead_out(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data/evil").symlink_to("/etc/passwd")
    with pytest.raises(ProgramError, match="leads out"):
        build_script(project / "prog.py", runtime=RUNTIME, includes=[(project / "data", None)])


def test_bundles_go_out_and_in(project: Path) -> None:
    bundle = build_script(project / "prog.py", runtime=RUNTIME)
    for name in ("a", "b"):
        write_bundle(bundle, project / name)
    assert (project / "a").read_bytes() == (project / "b").read_bytes()
    assert read_bundle(project / "a") == bundle


def archive(members: dict[str, bytes], **options: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def good() -> tuple[Bundle, dict[str, bytes]]:
    bundle = build_code("print(1)", runtime=RUNTIME, search_path=Path("/nonexistent"))
    bundle = Bundle.make(bundle.program.entry, {"a.py": b"x", "b/c.py": b"y"}, RUNTIME.digest)
    members = {"manifest.json": bundle.program.to_json(), "files/a.py": b"x", "files/b/c.py": b"y"}
    return bundle, members


@pytest.mark.parametrize(
    "change",
    [
        {"files/../../evil": b"x"},
        {"/etc/passwd": b"x"},
        {"files/extra": b"x"},
        {"files/a.py": b"z"},
        {"files/a.py": b"xx"},
        {"files/a.py": bytes(100_000_000)},
        {"manifest.json": b"{}"},
        {"manifest.json": b"[" * 100_000},
        {"manifest.json": bytes(20_000_000)},
    ],
    ids=range(9),
)
def test_hostile_bundles(change: dict[str, bytes]) -> None:
    bundle, members = good()
    assert parse_bundle(archive(members), "good") == bundle
    with pytest.raises(BundleError):
        parse_bundle(archive({**members, **change}), "hostile")


def test_names_that_reach_outside_cannot_be_in_a_manifest() -> None:
    for name in ("../x", "/x", "a//b", "a/./b", "", "a\\b", "a\0b"):
        with pytest.raises(BundleError):
            Bundle.make(good()[0].program.entry, {name: b""}, RUNTIME.digest)


def test_mutated_bundles_are_refused_or_the_same() -> None:
    bundle, members = good()
    original = archive(members)
    rng = random.Random(5)
    for _ in range(1500):
        data = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data))]
        try:
            assert parse_bundle(bytes(data), "mutated") == bundle
        except BundleError:
            continue
