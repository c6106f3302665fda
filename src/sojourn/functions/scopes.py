"""Functions made inside other functions: a unit that makes them again, with today's variables.

Part of ``ship``. The shipped unit is a small function around the user's own text::

    def _scope(factor=3):           # the variables of the enclosing function, with their values now
        def scale(x):               # the user's lines, as they stand in the file
            return x * factor
        return scale
    scale = _scope()

Functions that use one another through shared variables (mutual recursion) are made in one scope.
The user's lines keep their indentation, because removing it would change strings of several lines.
"""

from __future__ import annotations

import ast
import dis
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sojourn.model.errors import FunctionError

from .sources import Definition, Edit, FunctionNode, Piece, SourceFile, definition_pieces, function_node

SCOPE_FUNCTIONS_MAX = 256

Variable = Callable[[str, Any, str], str]
Defaults = Callable[[FunctionNode, Any], list[Edit]]


@dataclass
class _Scope:
    """Functions that share variables, and those variables."""

    cells: dict[str, types.CellType] = field(default_factory=dict)
    users: dict[str, types.FunctionType] = field(default_factory=dict)
    functions: dict[int, tuple[str, types.FunctionType]] = field(default_factory=dict)

    def add(self, name: str, function: types.FunctionType) -> None:
        if id(function) in self.functions:
            return
        if len(self.functions) >= SCOPE_FUNCTIONS_MAX:
            raise FunctionError(f"{name} uses too many functions of the function around it", "Pass them.")
        self.functions[id(function)] = (name, function)
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._add_cell(function, variable, cell)

    def _add_cell(self, function: types.FunctionType, variable: str, cell: types.CellType) -> None:
        line = function.__code__.co_firstlineno
        if variable == "__class__":
            raise FunctionError(
                f"{function.__qualname__} (line {line}) is a method that uses super()",
                "Ship a function that makes the object and calls the method.",
            )
        self.users.setdefault(variable, function)
        if self.cells.setdefault(variable, cell) is not cell:
            raise FunctionError(
                f"{function.__qualname__} (line {line}) uses two different variables called {variable}",
                "Give the variables of nested functions different names.",
            )
        try:
            value = cell.cell_contents
        except ValueError:
            raise FunctionError(
                f"{function.__qualname__} (line {line}) uses {variable}, which has no value yet",
                f"Assign {variable} before shipping the function.",
            ) from None
        if is_nested(value) and value.__globals__ is function.__globals__:
            self.add(variable, value)


def is_nested(value: Any) -> bool:
    """Whether a value is a function made inside another function."""
    return isinstance(value, types.FunctionType) and "<locals>" in value.__qualname__


def scope_pieces(
    name: str, function: types.FunctionType, source: SourceFile, variable: Variable, defaults: Defaults
) -> tuple[list[Piece], list[ast.stmt]]:
    """The text of a unit that binds ``name`` to a copy of ``function``, and its syntax.

    Args:
        variable: gives the expression for an enclosing variable's value; it is told who uses it where.
        defaults: gives the edits for default values.

    Raises:
        FunctionError: a variable cannot be shipped.
    """
    scope = _Scope()
    inner = function.__name__ if function.__name__.isidentifier() else name
    scope.add(inner, function)
    made = [(called, member, _node(member, source)) for called, member in scope.functions.values()]
    made.sort(key=lambda item: (item[2].lineno, item[2].col_offset))
    indents = [source.indent(node.lineno) for _, _, node in made if isinstance(node, Definition)]
    indent = min([text for text in indents if text], key=len, default="    ")
    own = {called for called, _, _ in made}
    variables = [
        f"{key}={variable(key, cell.cell_contents, _user(scope.users[key], key))}"
        for key, cell in scope.cells.items()
        if key not in own
    ]
    maker = f"_scope_of_{name}"
    header = f"def {maker}({', '.join(variables)}):\n"
    pieces: list[Piece] = [(max(made[0][2].lineno - 1, 1), header)]
    for called, member, node in made:
        pieces += _member(called, member, node, source, indent, defaults)
    last = made[-1][2].end_lineno or 1
    pieces.append((last + 1, f"{indent}return {inner}\n{name} = {maker}()\n"))
    return pieces, _syntax(pieces, source)


def _user(function: types.FunctionType, variable: str) -> str:
    """Such as ``"scale uses factor (line 3)"``."""
    code = function.__code__
    found = (
        step.positions.lineno
        for step in dis.get_instructions(code)
        if step.argval == variable and step.positions
    )
    return f"{function.__qualname__} uses {variable} (line {next(found, None) or code.co_firstlineno})"


def _node(function: types.FunctionType, source: SourceFile) -> FunctionNode:
    if function.__code__.co_filename != source.name:
        raise FunctionError(f"{function.__qualname__} and what it uses are in different files", "Pass it.")
    return function_node(function.__code__, source)


def _member(
    called: str,
    function: types.FunctionType,
    node: FunctionNode,
    source: SourceFile,
    indent: str,
    defaults: Defaults,
) -> list[Piece]:
    """One function of a scope, under the name it is called by there."""
    edits = defaults(node, function)
    if isinstance(node, ast.Lambda):
        return [(node.lineno, f"{indent}{called} = ({source.segment(node, edits)})\n")]
    pieces = definition_pieces(source, node, node.decorator_list, edits)
    own_indent = source.indent(node.lineno)
    if own_indent != indent:
        pieces.insert(0, (node.lineno - 1, f"{indent}if True:\n"))
    if node.name != called:
        pieces.append(((node.end_lineno or node.lineno) + 1, f"{indent}{called} = {node.name}\n"))
    return pieces


def _syntax(pieces: list[Piece], source: SourceFile) -> list[ast.stmt]:
    text = ""
    for line, part in pieces:
        text += "\n" * max(line - 1 - text.count("\n"), 0) + part
    try:
        return ast.parse(text, source.name).body
    except SyntaxError as error:
        raise FunctionError(
            f"line {error.lineno} of {source.name} cannot be shipped on its own: {error.msg}",
            "Define the function at the top level of its module.",
        ) from error
