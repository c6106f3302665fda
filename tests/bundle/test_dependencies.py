"""Inline metadata, wheels, and resolving against the real registry."""

from __future__ import annotations

import io
import zipfile

import pytest

from sojourn.bundle.dependencies import Dependencies, unpack_wheel
from sojourn.bundle.script_metadata import script_metadata
from sojourn.model.errors import DependencyError
from sojourn.model.progress import Silent
from sojourn.store.home import Home
from sojourn.vm.process.artifacts import find_python


def script(*names: str, python: str = ">=3.11") -> str:
    listed = "".join(f"#   '{name}',\n" for name in names)
    return f'# /// script\n# requires-python = "{python}"\n# dependencies = [\n{listed}# ]\n# ///\nprint(1)\n'


def resolve(home: Home, text: str) -> set[str]:
    locked, contents = Dependencies(find_python().runtime_info(), home, Silent())(text)
    assert all(name.startswith("site-packages/") for name in contents)
    return {wheel.name for wheel in locked}


def test_metadata() -> None:
    found = script_metadata(script("a>=1", "b[c]"))
    assert [r.name for r in found.dependencies] == ["a", "b"]
    assert "3.15.0" in found.requires_python
    assert script_metadata("print('# /// script')").dependencies == ()


@pytest.mark.parametrize(
    "text",
    [
        "# /// script\n# x = [\n# ///\n",
        '# /// script\n# dependencies = "a"\n# ///\n',
        '# /// script\n# dependencies = ["no good!"]\n# ///\n',
        '# /// script\n# requires-python = "no"\n# ///\n',
        script("a") + "\n" + script("b"),
    ],
)
def test_bad_metadata(text: str) -> None:
    with pytest.raises(DependencyError):
        script_metadata(text)


def test_what_the_runtime_has_is_used_from_there(home: Home) -> None:
    assert resolve(home, script("numpy>=2", "Pandas", "PyYAML")) == set()
    assert resolve(home, script('nosuch-xyz; sys_platform == "win32"')) == set()


def test_versions_that_do_not_fit_are_named(home: Home) -> None:
    with pytest.raises(DependencyError, match=r"numpy<1.*2\.5"):
        resolve(home, script("numpy<1"))
    with pytest.raises(DependencyError, match="requires Python"):
        resolve(home, script(python=">=4"))


def test_a_wheel_unpacks_to_libraries_only() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("a/b.py", "x-1.data/purelib/p.py", "x-1.data/scripts/s", "x-1.dist-info/RECORD"):
            archive.writestr(name, "x")
    assert set(unpack_wheel("x", buffer.getvalue())) == {"a/b.py", "p.py", "x-1.dist-info/RECORD"}
    with pytest.raises(DependencyError):
        unpack_wheel("x", b"no wheel")


@pytest.mark.network
def test_pure_wheels_are_resolved_once(home: Home) -> None:
    assert {"humanize"} <= resolve(home, script("humanize>=4", "numpy"))
    dependencies = Dependencies(find_python().runtime_info(), home, Silent())
    dependencies._run_pip = None  # type: ignore[assignment,method-assign]  # the second time asks nobody
    assert {wheel.name for wheel in dependencies(script("humanize>=4", "numpy"))[0]} == {"humanize"}


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "words"), [("psycopg2-binary", "native code"), ("nosuchpackage-xyz-1", "there is no package")]
)
def test_what_cannot_be_had_is_named(home: Home, name: str, words: str) -> None:
    with pytest.raises(DependencyError, match=f"{name}.*{words}|{words}.*{name}"):
        resolve(home, script(name))
