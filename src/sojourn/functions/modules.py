"""Which modules a program needs: those the guest has, those to ship whole, those that cannot go.

Reads module files and specs; runs nothing of the user's beyond what is imported already.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path

from sojourn.model.errors import FunctionError

from .names import imports_of

MODULES_MAX = 2_000
_STAND_IN = '''"""Stands in for sojourn inside the guest, where a function is called as it is."""


def function(target=None, **_options):
    return target if target is not None else lambda inner: inner
'''


@dataclass(frozen=True)
class ModuleFile:
    """A module to ship whole: where it was, its text, and whether it is a package."""

    file: str
    content: bytes
    package: bool


@dataclass
class Modules:
    """Collects what a program imports.

    Args:
        available: top-level modules, beyond the standard library, that the guest has.
    """

    available: frozenset[str]
    runtime: set[str] = field(default_factory=set)
    whole: dict[str, ModuleFile] = field(default_factory=dict)

    def need(self, name: str, where: str) -> None:
        """Make sure that module ``name`` can be imported in the guest.

        Args:
            where: who imports it, for the error.

        Raises:
            FunctionError: it cannot.
        """
        root = name.partition(".")[0]
        if root in self.available:
            self.runtime.add(root)
        elif root == "sojourn":
            self.whole["sojourn"] = ModuleFile("<sojourn>", _STAND_IN.encode(), True)
        elif root not in sys.stdlib_module_names:
            self._ship(name, where)

    def _ship(self, name: str, where: str) -> None:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            self._ship_one(".".join(parts[:length]), where)

    def _ship_one(self, name: str, where: str) -> None:
        if name in self.whole:
            return
        spec = find_spec(name)
        if spec is None:
            raise FunctionError(
                f"{where} imports {name}, and there is no such module",
                "Install it or correct the name; what the guest has need not be installed here.",
            )
        file = _shippable(spec, name, where)
        if len(self.whole) >= MODULES_MAX:
            raise FunctionError(
                f"the function needs more than {MODULES_MAX:,} modules", "Import fewer of them."
            )
        content = file.read_bytes() if file is not None else b""
        is_package = spec.submodule_search_locations is not None
        self.whole[name] = ModuleFile(str(file or f"<{name}>"), content, is_package)
        self._follow(name, is_package, content, str(file))

    def _follow(self, name: str, is_package: bool, content: bytes, file: str) -> None:
        try:
            tree = ast.parse(content, file)
        except (SyntaxError, ValueError) as error:
            raise FunctionError(f"the module {name} cannot be read: {error}") from error
        tolerated = _tolerated(tree)
        package = name if is_package else name.rpartition(".")[0]
        for statement in imports_of(tree):
            for target in import_targets(statement, package):
                try:
                    self.need(target, f"module {name} (line {statement.lineno})")
                except FunctionError:
                    if statement not in tolerated:
                        raise


def _tolerated(tree: ast.Module) -> set[ast.AST]:
    """Imports inside ``try``: the module is prepared to do without them."""
    tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try) and node.handlers]
    return {inner for node in tries for statement in node.body for inner in ast.walk(statement)}


def import_targets(statement: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """The modules an import statement loads, with absolute names.

    Args:
        package: the package of the importing module, for relative imports.
    """
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    base = absolute_name(statement, package)
    submodules = [f"{base}.{alias.name}" for alias in statement.names if _is_user_module(base, alias.name)]
    return [base, *submodules]


def absolute_name(statement: ast.ImportFrom, package: str) -> str:
    """The absolute name of the module in ``from … import``.

    Raises:
        FunctionError: a relative import that leaves the package.
    """
    if not statement.level:
        return statement.module or ""
    parts = package.split(".") if package else []
    if statement.level > len(parts):
        raise FunctionError(f"line {statement.lineno}: a relative import outside a package")
    kept = parts[: len(parts) - statement.level + 1]
    return ".".join([*kept, statement.module] if statement.module else kept)


def _is_user_module(base: str, name: str) -> bool:
    root = base.partition(".")[0]
    if not base or name == "*" or root in sys.stdlib_module_names or root == "sojourn":
        return False
    spec = find_spec(base)
    if spec is None or spec.submodule_search_locations is None or _is_installed(spec):
        return False
    return find_spec(f"{base}.{name}") is not None


def find_spec(name: str) -> ModuleSpec | None:
    """The spec of a module, loaded or not; None when there is none."""
    module = sys.modules.get(name)
    if module is not None and getattr(module, "__spec__", None) is not None:
        return module.__spec__
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def _shippable(spec: ModuleSpec, name: str, where: str) -> Path | None:
    """The source file of a user's module; None for a package without one.

    Raises:
        FunctionError: native, installed, or without source.
    """
    root = name.partition(".")[0]
    if spec.origin is not None and spec.origin.endswith(tuple(EXTENSION_SUFFIXES)):
        raise FunctionError(
            f"{where} imports {name}, which is native code that the guest lacks",
            "Use a pure-Python package, or one that the runtime contains.",
        )
    if _is_installed(spec):
        raise FunctionError(
            f"{where} imports {name}, which the guest does not have",
            f'Declare it as a dependency of the function: dependencies=["{root}"].',
        )
    if spec.submodule_search_locations is not None and not spec.has_location:
        return None
    if spec.origin is None or not spec.origin.endswith(".py") or not Path(spec.origin).is_file():
        raise FunctionError(f"{where} imports {name}, which has no source file", "Use a module with source.")
    return Path(spec.origin)


def _is_installed(spec: ModuleSpec) -> bool:
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    installed = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    for place in filter(None, places):
        parts = Path(place).parts
        if "site-packages" in parts or "dist-packages" in parts:
            return True
        if any(Path(place).is_relative_to(root) for root in installed):
            return True
    return False
