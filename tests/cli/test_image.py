"""``sojourn image``, as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sojourn.bundle.archive import write_bundle
from sojourn.bundle.contents import Bundle
from sojourn.model.program import Entry
from sojourn.vm.process.artifacts import find_python

from ..conftest import Sojourn

pytestmark = pytest.mark.runtime


def test_an_import_that_a_program_may_do_without_is_not_said_to_be_in_its_image(
    sojourn: Sojourn, tmp_path: Path
) -> None:
    runtime = find_python().runtime_info().digest
    contents = {"main.py": b"print(1)"}
    imports = ("decimal", "no_such_module_xyz")
    write_bundle(Bundle.make(Entry("script", "main.py"), contents, runtime, imports), tmp_path / "p.sojourn")
    done = sojourn("image", "build", "p.sojourn")
    assert done.returncode == 0, done.stderr
    assert ": Python with decimal, " in done.stdout
    assert "no_such_module_xyz" not in done.stdout
    assert "no_such_module_xyz could not be imported: ModuleNotFoundError" in done.stderr


def test_an_import_that_was_asked_for_and_fails_leaves_no_image(sojourn: Sojourn) -> None:
    for _ in range(2):
        done = sojourn("image", "build", "--imports", "decimal,no_such_module_xyzzy")
        assert (done.returncode, done.stdout) == (2, "")
        assert "no_such_module_xyzzy could not be imported: ModuleNotFoundError" in done.stderr
        assert "Try:" in done.stderr
    assert "no_such_module_xyzzy" not in sojourn("image", "ls").stdout


def test_what_was_built_is_listed(sojourn: Sojourn) -> None:
    built = json.loads(sojourn("image", "build", "--imports", "decimal", "--json").stdout)
    listed = json.loads(sojourn("image", "ls", "--json").stdout)
    assert built["digest"] in {image["digest"] for image in listed}
    assert built["digest"][:12] in sojourn("image", "ls").stdout
