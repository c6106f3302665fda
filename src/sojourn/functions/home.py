"""The home of a shipped function: which names of its module travel, and as what.

Part of ``ship`` (read its theory of operation first). ``Home`` starts with one function and follows
names: every name found becomes a unit or an import, whose own names are followed in turn. Values
decide, sources supply the words: a statement is used only while it still agrees with the live value.
"""

from __future__ import annotations

import ast
import builtins
import copy
import dataclasses
import enum
import inspect
import linecache
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sojourn.model.errors import CodecError, FunctionError

from .codec import Registry, encode
from .constants import (
    CARRIED_BYTES_MAX,
    LITERAL_CHARACTERS_MAX,
    NotLiteralError,
    literal,
    refusal,
    refuse_registered,
)
from .modules import Modules, absolute_name, import_targets
from .names import Uses, uses
from .scopes import scope_pieces
from .sources import (
    Definition,
    Edit,
    FunctionNode,
    Piece,
    SourceFile,
    bound_names,
    definition_pieces,
    first_line,
    function_node,
    module_statements,
    source_file,
)

ENTRY_MODULE = "sojourn_main"
_MODULE_NAMES = {
    "__name__",
    "__file__",
    "__doc__",
    "__spec__",
    "__builtins__",
    "__debug__",
    "__annotations__",
}
_MODULE_NAMES |= {"__module__", "__qualname__", "__class__", "__loader__", "__package__"}
# Values of these modules' classes are made again by the statement that made them here.
_REMADE = {"re", "typing", "logging", "operator", "struct", "_struct", "string", "_operator"}


@dataclass
class Unit:
    """One thing of the home module, in words, with the place in the user's files it comes from."""

    name: str
    file: str
    pieces: list[Piece]
    uses: Uses = field(default_factory=Uses)


def unwrapped(value: Any) -> Any:
    """What is inside sojourn's own wrappers."""
    while type(value).__module__.partition(".")[0] == "sojourn" and hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    return value


def public_place(value: Any) -> tuple[str, str] | None:
    """The shortest module and name under which a class or function can be imported; None if it cannot."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    name = name or getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        prefix = ".".join(parts[:length])
        if getattr(sys.modules.get(prefix), name, None) is value:
            return prefix, name
    return None


def crosses(cls: type) -> bool:
    """Whether instances of this class of the user's can be values."""
    is_data = dataclasses.is_dataclass(cls) or issubclass(cls, enum.Enum)
    return is_data or (issubclass(cls, tuple) and hasattr(cls, "_fields"))


def _expression_uses(text: str, file_name: str) -> Uses:
    return uses(ast.parse(text).body, file_name)


class Home:
    """Collects what one function needs.

    Args:
        namespace: the live names of the function's module.
        available: top-level modules that the guest has beyond the standard library.
    """

    def __init__(self, namespace: dict[str, Any], available: frozenset[str]) -> None:
        self.namespace = namespace
        self.modules = Modules(available)
        self.package = namespace.get("__package__") or ""
        self.file_name = str(namespace.get("__file__") or "an interactive session")
        self.units: dict[str, Unit] = {}
        self.imports: dict[str, str] = {}
        self.carried: dict[str, bytes] = {}
        self.bound: dict[str, Any] = {}
        self._sources: dict[str, SourceFile] = {}
        self._placed: dict[int, str] = {}
        self._annotations: dict[str, int] = {}

    # Names

    def place_entry(self, target: Any, inner: Any) -> str:
        """The name in the home module of the function to ship."""
        if not isinstance(inner, types.FunctionType):
            return self.refer(target)
        self.file_name = inner.__code__.co_filename
        if self._is_library(inner):
            return self.refer(target)
        name = inner.__name__
        if self._is_bound(name, inner):
            self.resolve(name, f"{name} itself", inner.__code__.co_firstlineno)
            return name
        around = inner.__qualname__.rpartition(".")[0]
        if around and not around.endswith(">"):
            return self._place_method(target, inner)
        # A decorator's own function carries what it wraps; other wrappers (a cache) can be done without.
        return self.refer(target if isinstance(target, types.FunctionType) else inner)

    def _place_method(self, target: Any, inner: types.FunctionType) -> str:
        """A static or class method, or a plain one to be called with its object: its class is shipped."""
        owner = getattr(target, "__self__", None)
        path = f"{owner.__qualname__}.{inner.__name__}" if isinstance(owner, type) else inner.__qualname__
        root, *parts = path.split(".")
        found = self.namespace.get(root)
        if isinstance(found, type):
            name = self.refer(found)
            method: Any = found
            for part in parts:
                method = getattr(method, part, None)
            if inspect.unwrap(getattr(method, "__func__", method)) is inner:
                return ".".join([name, *parts])
        raise FunctionError(
            f"{path} is a method and its class cannot be found in its module",
            "Ship a function that makes the object and calls the method.",
        )

    def _is_library(self, value: Any) -> bool:
        root = (getattr(value, "__module__", None) or "").partition(".")[0]
        return root in self.modules.available or root in sys.stdlib_module_names

    def _is_bound(self, name: str, inner: Any) -> bool:
        return name in self.namespace and inspect.unwrap(unwrapped(self.namespace[name])) is inner

    def resolve(self, name: str, user: str, line: int) -> None:
        """Make ``name`` exist in the home module with the value it has here.

        Raises:
            FunctionError: it has none, or one that cannot be shipped.
        """
        if name in self.bound or name in _MODULE_NAMES:
            return
        where = f"{user} uses {name} (line {line})"
        if name not in self.namespace:
            if hasattr(builtins, name):
                return
            raise FunctionError(f"{where}, which does not exist", "Define or import it before this call.")
        value = unwrapped(self.namespace[name])
        refuse_registered(value, where)
        self.bound[name] = value
        self._bind(name, value, where)

    def refer(self, value: Any, where: str = "") -> str:
        """A name for a class, function or module in the home module.

        Args:
            where: who uses it, for the error.

        Raises:
            FunctionError: it cannot be shipped.
        """
        if id(value) in self._placed:
            return self._placed[id(value)]
        name = getattr(value, "__name__", "value").rpartition(".")[2]
        if getattr(builtins, name, None) is value and name not in self.namespace:
            return name
        inner = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, type | types.FunctionType) and self._is_bound(name, inner):
            self.resolve(name, f"{self.file_name}", 0)
            return name
        name = self._fresh(name)
        self._placed[id(value)] = name
        self.bound[name] = value
        self._bind_value(name, value, where or f"the function uses {name}", None, None)
        return name

    def _fresh(self, name: str) -> str:
        stem = name if name.isidentifier() else "function"
        number, fresh = 1, stem
        while fresh in self.namespace or fresh in self.bound or hasattr(builtins, fresh):
            number += 1
            fresh = f"{stem}_{number}"
        return fresh

    # Statements

    def _statement(self, name: str) -> tuple[SourceFile | None, ast.stmt | None]:
        """The last statement of the home that binds ``name``."""
        for source in self._known_sources():
            found = [stmt for stmt in module_statements(source.tree) if name in bound_names(stmt)]
            if found:
                return source, found[-1]
        return None, None

    def _known_sources(self) -> Iterator[SourceFile]:
        for file_name in [
            self.namespace.get("__file__"),
            self.file_name,
            *_interactive_files(self.namespace),
        ]:
            if isinstance(file_name, str):
                try:
                    yield self._source(file_name)
                except FunctionError:
                    continue

    def _source(self, file_name: str) -> SourceFile:
        if file_name not in self._sources:
            self._sources[file_name] = source_file(file_name, self.namespace)
        return self._sources[file_name]

    # Kinds of values

    def _bind(self, name: str, value: Any, where: str) -> None:
        source, statement = self._statement(name)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for candidate in self._import_statements(name):
                if self._import_again(candidate, name, value, where):
                    return
        if source and isinstance(statement, Definition) and self._agrees(source, statement, value):
            self._define(name, source, statement, value)
            return
        self._bind_value(name, value, where, source, statement)

    def _import_statements(self, name: str) -> list[ast.Import | ast.ImportFrom]:
        return [
            statement
            for source in self._known_sources()
            for statement in module_statements(source.tree)
            if isinstance(statement, ast.Import | ast.ImportFrom) and name in bound_names(statement)
        ]

    def _import_again(
        self, statement: ast.Import | ast.ImportFrom, name: str, value: Any, where: str
    ) -> bool:
        """Bind by an import statement, if it still gives the live value."""
        if isinstance(statement, ast.Import):
            return isinstance(value, types.ModuleType) and self._import_module(name, value, where)
        base = absolute_name(statement, self.package)
        for alias in statement.names:
            if (alias.asname or alias.name) != name:
                continue
            if sys.modules.get(f"{base}.{alias.name}") is value and isinstance(value, types.ModuleType):
                return self._import_module(name, value, where)
            if unwrapped(getattr(sys.modules.get(base), alias.name, None)) is value:
                self._import_from(base, alias.name, name, where)
                return True
        return False

    def _import_from(self, module: str, attribute: str, name: str, where: str) -> None:
        self.modules.need(module, where)
        alias = "" if attribute == name else f" as {name}"
        self.imports[name] = f"from {module} import {attribute}{alias}"

    def _import_module(self, name: str, value: types.ModuleType, where: str) -> bool:
        module = value.__name__
        self.modules.need(module, where)
        self.imports[name] = f"import {module}" if module == name else f"import {module} as {name}"
        return True

    def _agrees(self, source: SourceFile, statement: Definition, value: Any) -> bool:
        """Whether a definition is what made the live value."""
        if isinstance(statement, ast.ClassDef):
            return isinstance(value, type) and value.__name__ == statement.name
        inner = inspect.unwrap(value) if callable(value) else None
        if isinstance(inner, types.FunctionType) and inner.__code__.co_filename == source.name:
            try:
                if function_node(inner.__code__, source) is statement:
                    return True
            except FunctionError:
                return False
        return bool(self._kept_decorators(statement))

    def _bind_value(
        self, name: str, value: Any, where: str, source: SourceFile | None, statement: ast.stmt | None
    ) -> None:
        if isinstance(value, types.ModuleType):
            self._import_module(name, value, where)
        elif isinstance(value, types.FunctionType) and value.__globals__ is self.namespace:
            self._function(name, value, where)
        elif (place := public_place(value)) is not None and self._importable(place[0]):
            self._import_from(*place, name, where)
        elif isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            self._made_elsewhere(name, value, where, source, statement)
        else:
            self._constant(name, value, where, source, statement)

    def _importable(self, module: str) -> bool:
        return sys.modules[module].__dict__ is not self.namespace

    # Definitions

    def _kept_decorators(self, node: Definition) -> list[ast.expr]:
        return [decorator for decorator in node.decorator_list if not self._is_ours(decorator)]

    def _is_ours(self, decorator: ast.expr) -> bool:
        """Whether a decorator is sojourn's, which has no meaning in the guest."""
        expression = decorator.func if isinstance(decorator, ast.Call) else decorator
        parts: list[str] = []
        while isinstance(expression, ast.Attribute):
            parts.append(expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name):
            return False
        value: Any = self.namespace.get(expression.id)
        for part in [None, *reversed(parts)]:
            value = value if part is None else getattr(value, part, None)
            owner = (
                value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            )
            if (owner or type(value).__module__).partition(".")[0] == "sojourn":
                return True
        return False

    def _define(self, name: str, source: SourceFile, node: Definition, value: Any) -> None:
        """A definition at the top of the home, in the user's words."""
        kept = self._kept_decorators(node)
        dropped = [decorator for decorator in node.decorator_list if decorator not in kept]
        edits = [] if isinstance(node, ast.ClassDef) else self._own_default_edits(node, value)
        pieces = definition_pieces(source, node, dropped, edits)
        if source.indent(node.lineno):
            pieces.insert(0, (max(pieces[0][0] - 1, 1), "if True:\n"))
        self._add(Unit(name, source.name, pieces), edited_node(node, kept, edits), name)

    def _own_default_edits(self, node: ast.FunctionDef | ast.AsyncFunctionDef, value: Any) -> list[Edit]:
        inner = inspect.unwrap(value)
        code = getattr(inner, "__code__", None)
        is_own = code is not None and (code.co_name, code.co_firstlineno) == (node.name, first_line(node))
        return self._default_edits(node, inner) if is_own else []

    def _default_edits(self, node: FunctionNode, value: Any) -> list[Edit]:
        """Default values that are not plain text are replaced by what they are now."""
        if not isinstance(value, types.FunctionType):
            return []
        positional = value.__defaults__ or ()
        pairs = list(zip(node.args.defaults, positional, strict=False))
        named = [arg.arg for arg in node.args.kwonlyargs]
        given = value.__kwdefaults__ or {}
        for arg, default in zip(named, node.args.kw_defaults, strict=True):
            if default is not None and arg in given:
                pairs.append((default, given[arg]))
        edits = ((default, self._default_text(default, now)) for default, now in pairs)
        return [(default, text) for default, text in edits if text is not None]

    def _default_text(self, default: ast.expr, now: Any) -> str | None:
        if isinstance(default, ast.Constant):
            return None
        if isinstance(default, ast.Name) and self.namespace.get(default.id, self) is now:
            return None
        try:
            return literal(now, self.refer)
        except NotLiteralError:
            return None

    def _function(self, name: str, value: types.FunctionType, where: str) -> None:
        try:
            source = self._source(value.__code__.co_filename)
        except FunctionError as error:
            message = f"{value.__qualname__} (line {value.__code__.co_firstlineno}): {error.message}"
            raise FunctionError(message, error.hint) from error
        node = function_node(value.__code__, source)
        self._placed[id(value)] = name
        if isinstance(node, ast.Lambda) and not value.__code__.co_freevars:
            edits = self._default_edits(node, value)
            text = f"{name} = ({source.segment(node, edits)})\n"
            self._add(Unit(name, source.name, [(node.lineno, text)]), ast.parse(text).body, name)
            return
        if isinstance(node, Definition) and not source.indent(node.lineno) and node.name == name:
            dropped = node.decorator_list
            edits = self._default_edits(node, value)
            pieces = definition_pieces(source, node, dropped, edits)
            self._add(Unit(name, source.name, pieces), edited_node(node, [], edits), name)
            return
        pieces, body = scope_pieces(name, value, source, self.variable, self._default_edits)
        self._add(Unit(name, source.name, pieces), body, where.partition(" uses ")[0], at_once=True)

    def variable(self, name: str, value: Any, where: str) -> str:
        """The expression for a variable of an enclosing function."""
        return self._expression(name, value, where)

    def _made_elsewhere(
        self, name: str, value: Any, where: str, source: SourceFile | None, statement: ast.stmt | None
    ) -> None:
        """A class or function that a call made, as ``namedtuple`` does: the call is made again."""
        is_method = hasattr(value, "__self__")
        if source and isinstance(statement, ast.Assign | ast.AnnAssign) and not is_method:
            self._statement_again(name, source, statement)
            return
        if not isinstance(value, type):
            raise refusal(where, value)
        raise FunctionError(
            f"{where}, a class whose source cannot be shipped ({value.__module__}.{value.__qualname__})",
            "Define the class at the top level of a module.",
        )

    # Constants

    def _constant(
        self, name: str, value: Any, where: str, source: SourceFile | None, statement: ast.stmt | None
    ) -> None:
        if source and isinstance(statement, ast.Assign | ast.AnnAssign) and self._remade(statement, value):
            self._statement_again(name, source, statement)
            return
        text = f"{name} = {self._expression(name, value, where)}\n"
        file = source.name if source else self.file_name
        line = statement.lineno if statement else 1
        self._add(Unit(name, file, [(line, text)]), ast.parse(text).body, name)

    def _remade(self, statement: ast.Assign | ast.AnnAssign, value: Any) -> bool:
        """Whether running the assignment again in the guest gives the same value."""
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if len(targets) != 1 or not isinstance(targets[0], ast.Name) or statement.value is None:
            return False
        try:
            written = ast.literal_eval(statement.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            root: ast.expr = statement.value
            while isinstance(root, ast.Attribute):
                root = root.value
            is_path = isinstance(root, ast.Name) and root is not statement.value
            module = type(value).__module__.partition(".")[0]
            return (is_path and callable(value)) or type(value) is object or module in _REMADE
        return type(written) is type(value) and repr(written) == repr(value)

    def _statement_again(self, name: str, source: SourceFile, statement: ast.Assign | ast.AnnAssign) -> None:
        text = source.segment(statement) + "\n"
        self._add(Unit(name, source.name, [(statement.lineno, text)]), [statement], name)

    def _expression(self, name: str, value: Any, where: str) -> str:
        value = unwrapped(value)
        try:
            text = literal(value, lambda part: self.refer(part, where))
            if len(text) <= LITERAL_CHARACTERS_MAX:
                return text
        except NotLiteralError:
            pass
        return self._carry(name, value, where)

    def _carry(self, name: str, value: Any, where: str) -> str:
        """A constant that has no literal form: encoded, in a file of its own."""
        registry = Registry(collect=True)
        try:
            parts = encode(value, registry).parts()
        except CodecError as error:
            raise refusal(where, value) from error
        for package in registry.packages:
            self.modules.need(package, where)
        data = b"".join(parts)
        if len(data) > CARRIED_BYTES_MAX:
            raise FunctionError(
                f"{where}, a constant of {len(data):,} bytes (at most {CARRIED_BYTES_MAX:,})",
                "Pass it as an argument, or grant the file that holds it.",
            )
        path = f"constants/{len(self.carried)}-{name}.bin"
        self.carried[path] = data
        known = ", ".join(f"{wire!r}: {self.refer(cls)}" for wire, cls in registry.wanted.items())
        return f"_constant({path!r}, {{{known}}})"

    # Units

    def _add(self, unit: Unit, body: list[ast.stmt], user: str, at_once: bool = False) -> None:
        unit.uses = uses(body, unit.file)
        if at_once:
            unit.uses.at_once = unit.uses.all
        self.units[unit.name] = unit
        needed = unit.uses.all
        for name, line in needed.items():
            known = name in self.namespace or name in self.bound
            if name not in ("_constant", unit.name) and (known or name not in unit.uses.stored):
                self.resolve(name, user, line)
        self._import_chains(unit, user)
        for statement in unit.uses.imports:
            self._inner_import(statement, user)
        for name, line in unit.uses.annotations.items():
            self._annotations.setdefault(name, line)

    def _import_chains(self, unit: Unit, user: str) -> None:
        """``xml.etree.ElementTree`` needs more than ``import xml``."""
        for chain in sorted(unit.uses.chains):
            name, *parts = chain.split(".")
            value = self.bound.get(name)
            for part in parts:
                if not isinstance(value, types.ModuleType):
                    break
                path = f"{value.__name__}.{part}"
                value = getattr(value, part, None)
                if isinstance(value, types.ModuleType) and sys.modules.get(path) is value:
                    self.modules.need(path, f"{user} uses {chain}")
                    self.imports[f"{path} "] = f"import {path} as _{path.replace('.', '_')}"

    def _inner_import(self, statement: ast.Import | ast.ImportFrom, user: str) -> None:
        where = f"{user} (line {statement.lineno})"
        if isinstance(statement, ast.ImportFrom) and statement.level:
            raise FunctionError(
                f"{where} has a relative import inside a function", "Write it with the package's full name."
            )
        for target in import_targets(statement, self.package):
            self.modules.need(target, where)

    def imports_unit(self) -> Unit:
        """All imports as one unit."""
        lines = sorted(set(self.imports.values()))
        return Unit("", f"<imports of {self.file_name}>", [(1, "\n".join(lines) + "\n")])

    def settle_annotations(self) -> None:
        """Ship what only annotations name, as far as it can be shipped: classes of values, above all."""
        while self._annotations:
            name, line = self._annotations.popitem()
            if name not in self.namespace or name in self.bound:
                continue
            before = copy.copy(self)
            for part in ("units", "imports", "carried", "bound", "_placed"):
                setattr(before, part, dict(getattr(self, part)))
            kept = Modules(self.modules.available, set(self.modules.runtime), dict(self.modules.whole))
            try:
                self.resolve(name, "an annotation", line)
            except FunctionError:
                self.__dict__.update(before.__dict__)
                self.modules = kept

    def whole_classes(self) -> Iterator[tuple[str, type]]:
        """The user's classes, in modules shipped whole, whose instances may cross."""
        for module in self.modules.whole:
            for value in list(getattr(sys.modules.get(module), "__dict__", {}).values()):
                if isinstance(value, type) and value.__module__ == module and crosses(value):
                    yield module, value

    def become_whole(self, module: str) -> None:
        """Drop the units: the module itself is shipped."""
        self.units.clear()
        self.imports.clear()
        self.carried.clear()
        self.bound.clear()
        self.modules.need(module, module)


def edited_node(node: Definition, decorators: list[ast.expr], edits: list[Edit]) -> list[ast.stmt]:
    """The syntax of a definition as it is shipped, for finding the names it uses."""
    shipped = copy.copy(node)
    shipped.decorator_list = decorators
    if isinstance(shipped, ast.FunctionDef | ast.AsyncFunctionDef) and edits:
        texts = {id(default): text for default, text in edits}
        args = copy.copy(shipped.args)
        args.defaults = [_replaced(default, texts) for default in args.defaults]
        args.kw_defaults = [default and _replaced(default, texts) for default in args.kw_defaults]
        shipped.args = args
    return [shipped]


def _replaced(default: ast.expr, texts: dict[int, str]) -> ast.expr:
    if id(default) not in texts:
        return default
    return ast.copy_location(ast.parse(texts[id(default)], mode="eval").body, default)


def _interactive_files(namespace: dict[str, Any]) -> list[str]:
    """The pieces of an interactive session or notebook, latest first."""
    if namespace.get("__file__"):
        return []
    names = [name for name in linecache.cache if name.startswith("<") or "ipykernel" in name]
    return [*reversed(names), "<string>"]
