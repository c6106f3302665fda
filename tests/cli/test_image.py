"""``sojourn image``, as a person uses it."""

from __future__ import annotations

import json

import pytest

from ..conftest import Sojourn

pytestmark = pytest.mark.runtime


def test_an_import_that_failed_is_not_said_to_be_in_the_image(sojourn: Sojourn) -> None:
    done = sojourn("image", "build", "--imports", "decimal,no_such_module_xyz")
    assert done.returncode == 0
    assert ": Python with decimal, " in done.stdout
    assert "no_such_module_xyz" not in done.stdout
    assert "no_such_module_xyz could not be imported: ModuleNotFoundError" in done.stderr


def test_what_was_built_is_listed(sojourn: Sojourn) -> None:
    built = json.loads(sojourn("image", "build", "--imports", "decimal", "--json").stdout)
    listed = json.loads(sojourn("image", "ls", "--json").stdout)
    assert built["digest"] in {image["digest"] for image in listed}
    assert built["digest"][:12] in sojourn("image", "ls").stdout
