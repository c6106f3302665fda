"""Imports point downwards only (docs/architecture.md). Every import counts: in functions, for types only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
GUEST = SOURCE / "sojourn/vm/process/guest"

# What each part may import of Sojourn, besides itself. The longest prefix that fits a module rules it.
MAY_IMPORT: dict[str, set[str]] = {
    "sojourn.model": set(),
    "sojourn.wasm": set(),
    "sojourn.context": {"sojourn.model"},
    "sojourn.functions": {"sojourn.model"},
    "sojourn.vm.process.wasi": {"sojourn.model"},
    "sojourn.vm.process.turns": set(),
    "sojourn.store": {"sojourn.model", "sojourn.context"},
    "sojourn.bundle": {"sojourn.model", "sojourn.store"},
    "sojourn.vm.process": {
        *("sojourn.model", "sojourn.wasm", "sojourn.context", "sojourn.vm.process.wasi", "sojourn.store"),
        "sojourn.vm.process.turns",
    },
    "sojourn.host": {
        *("sojourn.model", "sojourn.bundle", "sojourn.store", "sojourn.vm.process"),
        *("sojourn.context", "sojourn.vm.process.wasi"),
    },
    "sojourn.client": {
        *("sojourn.model", "sojourn.functions", "sojourn.bundle", "sojourn.store", "sojourn.vm.process"),
        "sojourn.host",
    },
    "sojourn.cli": {
        *(
            "sojourn",
            "sojourn.model",
            "sojourn.bundle",
            "sojourn.store",
            "sojourn.vm.process",
            "sojourn.host",
        ),
        "sojourn.client",
        "sojourn.wasm",
    },
    "sojourn.__main__": {"sojourn.cli"},
    "sojourn": {"sojourn.client", "sojourn.model"},
}
PURE = (
    *("sojourn.model", "sojourn.wasm", "sojourn.context", "sojourn.functions"),
    *("sojourn.vm.process.wasi", "sojourn.vm.process.turns"),
)
# The value format, hash and compression of contexts; numpy and pandas are looked up when they are already
# loaded.
PURE_MAY_USE = {"msgpack", "blake3", "compression", "backports"}
IMPURE_STANDARD = {
    "os",
    "socket",
    "subprocess",
    "threading",
    "time",
    "select",
    "signal",
    "tempfile",
    "shutil",
}
ENGINE_ONLY = {"wasmtime"}


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        if not path.is_relative_to(GUEST):
            name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
            found.append((name, path))
    return found


def imports(name: str, path: Path) -> set[str]:
    found = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            found.add(base)
    return found


def part_of(module: str) -> str:
    fits = [part for part in MAY_IMPORT if module == part or module.startswith(part + ".")]
    return max(fits, key=len)


@pytest.mark.parametrize(
    ("name", "path"), modules(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_point_downwards(name: str, path: Path) -> None:
    part = part_of(name)
    allowed = {part, *MAY_IMPORT[part]}
    for target in imports(name, path):
        if target == "sojourn" or target.startswith("sojourn."):
            assert part_of(target) in allowed, f"{name} must not import {target}"


@pytest.mark.parametrize(
    ("name", "path"),
    [m for m in modules() if part_of(m[0]) in PURE],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_pure_parts_know_no_outside(name: str, path: Path) -> None:
    used = {target.partition(".")[0] for target in imports(name, path)}
    assert not used & IMPURE_STANDARD, f"{name} is pure and must not use {used & IMPURE_STANDARD}"
    import sys

    foreign = {top for top in used if top not in sys.stdlib_module_names and top != "sojourn"}
    assert foreign <= PURE_MAY_USE | {"numpy", "pandas"}, f"{name} is pure and must not use {foreign}"


def test_only_the_engine_touches_the_engine() -> None:
    users = {
        name
        for name, path in modules()
        if any(t.partition(".")[0] in ENGINE_ONLY for t in imports(name, path))
    }
    names = {"engine", "engine_modules", "engine_references"}
    assert users == {f"sojourn.vm.process.{name}" for name in names}


def test_no_unsafe_serialiser_anywhere() -> None:
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    for name, path in modules():
        assert not {t.partition(".")[0] for t in imports(name, path)} & banned, name


def test_no_file_is_too_long_to_hold_in_mind() -> None:
    for path in [*SOURCE.rglob("*.py"), *Path(__file__).parents[1].rglob("*.py")]:
        assert len(path.read_text("utf-8").splitlines()) <= 700, path
