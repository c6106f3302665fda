"""From a live Python function to a program: readable source that any newer Python can run.

Pure static analysis: reads sources and live values, runs nothing of the user's. Bytecode and pickles
never travel, so the guest's Python may be another version.

Theory of operation. The function's module is the *home*. Of the home only what the function uses,
transitively, is shipped: each used name becomes a **unit** (a definition in the user's own words, an
import, or a constant with today's value) in one module, ``sojourn_main``. Other modules of the user
are shipped whole; modules of the runtime are only named. A function made inside another one becomes a
unit that makes it again with today's values of the enclosing variables.

Line numbers: the shipped text is compact, and a table beside it (``sojourn-program.json``) says which
of its lines were which lines of which file. The guest compiles each unit at its original place, so its
tracebacks show the user's files and lines.

Annotations are not evaluated in the guest; names that only they use travel if they can.
Decorators of sojourn itself are left out; all others are shipped.
"""

from __future__ import annotations

import builtins
import functools
import hashlib
import inspect
import json
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sojourn.model.errors import FunctionError

from .home import ENTRY_MODULE, Home, Unit, crosses, public_place, unwrapped

MANIFEST = "sojourn-program.json"
PROGRAM_BYTES_MAX = 64 << 20


@dataclass(frozen=True)
class Shipped:
    """A function as a program.

    Attributes:
        files: path to content; Python source a person can read, constants, and a manifest.
        entry: ``"module:name"`` of the function.
        imports: top-level modules needed beyond the standard library and the files, sorted.
        digest: SHA-256 of the files.
        classes: the user's classes whose instances may cross, by their names on the wire.
    """

    files: Mapping[str, bytes]
    entry: str
    imports: tuple[str, ...]
    digest: str
    classes: Mapping[str, type] = field(default_factory=dict, compare=False, hash=False)


def ship(function: Callable[..., Any], available: frozenset[str], classes: Iterable[type] = ()) -> Shipped:
    """Make a program of ``function``.

    Args:
        available: top-level modules that the guest has beyond the standard library.
        classes: the user's classes to ship along, because arguments are instances of them.

    Raises:
        FunctionError: it cannot be shipped; names the name and the line.
    """
    target = unwrapped(function)
    _check_kind(target)
    inner = inspect.unwrap(target.__func__ if isinstance(target, types.MethodType) else target)
    home = Home(_namespace(inner), available)
    name = home.place_entry(target, inner)
    for cls in classes:
        home.refer(cls)
    home.settle_annotations()
    module = ENTRY_MODULE if name.partition(".")[0] in home.bound else "builtins"
    entry = _whole_entry(home, inner) or f"{module}:{name}"
    return _shipped(home, entry)


def _namespace(inner: Any) -> dict[str, Any]:
    """The live names of the module that a function, class or partial is of."""
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    if isinstance(inner, types.FunctionType):
        return inner.__globals__
    return dict(vars(sys.modules.get(getattr(inner, "__module__", None) or "", builtins)))


def _check_kind(target: Any) -> None:
    name = getattr(target, "__qualname__", None) or type(target).__qualname__
    is_bound = isinstance(target, types.MethodType) and not isinstance(target.__self__, type)
    if is_bound or (
        isinstance(target, types.BuiltinMethodType)
        and not isinstance(target.__self__, types.ModuleType | None)
    ):
        raise FunctionError(
            f"{name} is a method of a live object and cannot be shipped",
            "Ship a function that takes the object's data and makes the object itself.",
        )
    if not callable(target):
        raise FunctionError(f"a {name} is not a function", "Pass a function.")
    inner = inspect.unwrap(target)
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        raise FunctionError(
            f"{name} is asynchronous and cannot be shipped",
            "Ship a plain function; use asyncio.run inside it.",
        )
    if inspect.isgeneratorfunction(inner):
        raise FunctionError(
            f"{name} is a generator and cannot be shipped", "Return a list instead of yielding its items."
        )


def _whole_entry(home: Home, inner: Any) -> str | None:
    """Where the function is in its own module, if that has to be shipped whole anyway.

    Then there must not be a second copy of its classes in the home.
    """
    module, name = getattr(inner, "__module__", None), getattr(inner, "__qualname__", "")
    if module not in home.modules.whole or not name.isidentifier():
        return None
    home.become_whole(module)
    return f"{module}:{name}"


def _shipped(home: Home, entry: str) -> Shipped:
    files: dict[str, bytes] = dict(home.carried)
    table: dict[str, Any] = {}
    if home.units or home.imports:
        text, units = _home_text(home)
        files[f"{ENTRY_MODULE}.py"] = text.encode("utf-8", "surrogatepass")
        table[ENTRY_MODULE] = _facts(f"{ENTRY_MODULE}.py", home.file_name, False, True, units)
    for name, module in sorted(home.modules.whole.items()):
        path = name.replace(".", "/") + ("/__init__.py" if module.package else ".py")
        files[path] = module.content
        table[name] = _facts(path, module.file, module.package, False, [])
    classes = _classes(home)
    manifest = {
        "version": 1,
        "entry": entry,
        "modules": table,
        "classes": {wire: place for wire, (_, place) in classes.items()},
    }
    files[MANIFEST] = json.dumps(manifest, indent=1, sort_keys=True).encode()
    _check_size(files)
    imports = tuple(sorted(home.modules.runtime))
    return Shipped(files, entry, imports, _digest(files), {wire: cls for wire, (cls, _) in classes.items()})


def _facts(path: str, file: str, package: bool, future: bool, units: list[Any]) -> dict[str, Any]:
    return {"path": path, "file": file, "package": package, "future": future, "units": units}


def _check_size(files: Mapping[str, bytes]) -> None:
    size = sum(map(len, files.values()))
    if size > PROGRAM_BYTES_MAX:
        raise FunctionError(
            f"the function and its modules take {size:,} bytes (at most {PROGRAM_BYTES_MAX:,})",
            "Import less, or grant the directory that holds the data.",
        )


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        for part in (path.encode(), files[path]):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _home_text(home: Home) -> tuple[str, list[dict[str, Any]]]:
    """The text of the home module, and the table that says where its lines were."""
    lines = [f'"""Shipped by sojourn from {_plain(home.file_name)}: what the function uses."""', ""]
    lines += ["from __future__ import annotations", ""]
    table = []
    for unit in ordered(home):
        lines.append(
            f"# {_plain(unit.file)}, line {unit.pieces[0][0]}" if unit.file != home.file_name else ""
        )
        pieces = []
        for original, text in unit.pieces:
            rows = text.removesuffix("\n").split("\n")
            pieces.append([len(lines), len(lines) + len(rows), original])
            lines += rows
        table.append({"file": unit.file, "pieces": pieces})
    return "\n".join(lines) + "\n", table


def _plain(file_name: str) -> str:
    return file_name.rpartition("/")[2].replace("\\", "/").replace('"', "'")


def ordered(home: Home) -> list[Unit]:
    """The units in an order in which each can be defined, as near to the files' order as possible."""
    done: dict[int, Unit] = {}

    def visit(unit: Unit, everything: bool) -> None:
        if id(unit) in done or id(unit) in entered:
            return
        entered.add(id(unit))
        needed = unit.uses.all if everything else unit.uses.at_once
        # What a unit calls while it is defined (a decorator, say) must be complete by then.
        for name in needed:
            if name in home.units:
                visit(home.units[name], True)
        entered.discard(id(unit))
        done.setdefault(id(unit), unit)

    entered: set[int] = set()
    files = list(dict.fromkeys(unit.file for unit in home.units.values()))
    by_line = sorted(home.units.values(), key=lambda unit: (files.index(unit.file), unit.pieces[0][0]))
    for unit in by_line:
        visit(unit, False)
    imports = [home.imports_unit()] if home.imports else []
    return [*imports, *done.values()]


def _classes(home: Home) -> dict[str, tuple[type, str]]:
    """The classes whose instances may cross: name on the wire to class and place in the guest."""
    found: dict[str, tuple[type, str]] = {}
    for name, value in home.bound.items():
        if isinstance(value, type) and crosses(value):
            place = public_place(value) if name in home.imports else None
            where = f"{place[0]}:{place[1]}" if place else f"{ENTRY_MODULE}:{name}"
            found.setdefault(f"{value.__module__}:{value.__qualname__}", (value, where))
    for module, cls in home.whole_classes():
        found.setdefault(f"{module}:{cls.__qualname__}", (cls, f"{module}:{cls.__qualname__}"))
    return dict(sorted(found.items()))
