"""Inline script metadata (PEP 723): the ``# /// script`` block of a Python file."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from sojourn.model.errors import DependencyError

# The reference expression of the specification.
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_HINT = "See: https://packaging.python.org/specifications/inline-script-metadata/"


@dataclass(frozen=True)
class ScriptMetadata:
    """What a script says it needs."""

    requires_python: SpecifierSet = field(default_factory=SpecifierSet)
    dependencies: tuple[Requirement, ...] = ()


def script_metadata(text: str) -> ScriptMetadata:
    """The metadata of a script; empty when it has none.

    Raises:
        DependencyError: there are two blocks, or what is in it is not as specified.
    """
    found = [m for m in _BLOCK.finditer(text.replace("\r\n", "\n")) if m["type"] == "script"]
    if not found:
        return ScriptMetadata()
    if len(found) > 1:
        raise DependencyError("the script has two '# /// script' blocks", _HINT)
    content = "".join(
        line[2:] if line.startswith("# ") else line[1:]
        for line in found[0]["content"].splitlines(keepends=True)
    )
    try:
        value = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise DependencyError(f"the script's metadata is not TOML: {error}", _HINT) from None
    names, python = value.get("dependencies", []), value.get("requires-python", "")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DependencyError("the script's dependencies are not a list of texts", _HINT)
    try:
        specifiers = SpecifierSet(python)
    except (InvalidSpecifier, TypeError, AttributeError):
        raise DependencyError(f"requires-python is not a version range: {python!r}", _HINT) from None
    return ScriptMetadata(specifiers, tuple(requirement(name) for name in names))


def requirement(text: str) -> Requirement:
    """Raises ``DependencyError`` when ``text`` is not a requirement."""
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise DependencyError(f"{text!r} is not a dependency: {error}".partition("\n")[0], _HINT) from None
