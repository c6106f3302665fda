"""Finding the source of a live function: its file, its place in that file's syntax tree, its text.

Pure static analysis: reads source through ``linecache`` (files, interactive sessions, notebooks) and
runs nothing of the user's. Positions are those of the running code, so a file that has changed since
it was imported is noticed.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any

from sojourn.model.errors import FunctionError

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Edit = tuple[ast.expr, str]
"""An expression, and the text to put in its place."""
Piece = tuple[int, str]
"""A line number in the user's file, and whole lines of text that belong there."""


@dataclass(frozen=True)
class SourceFile:
    """One file's text, by lines as Python counts them, and its syntax tree."""

    name: str
    lines: tuple[str, ...]
    tree: ast.Module

    def segment(self, node: ast.expr | ast.stmt, edits: Sequence[Edit] = ()) -> str:
        """The exact text of a node, but for the edits (which keep the number of lines)."""
        end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
        return self._between((node.lineno, node.col_offset), end, edits)

    def whole_lines(self, node: ast.expr | ast.stmt, edits: Sequence[Edit]) -> Piece:
        """The lines that a node stands on, edited, as a piece that ends with a newline."""
        last = node.end_lineno or node.lineno
        text = self._between((node.lineno, 0), (last, len(self.lines[last - 1].encode())), edits)
        return node.lineno, text if text.endswith("\n") else text + "\n"

    def _between(self, start: tuple[int, int], stop: tuple[int, int], edits: Sequence[Edit]) -> str:
        parts = []
        for node, text in sorted(edits, key=lambda edit: (edit[0].lineno, edit[0].col_offset)):
            parts.append(self._text(start, (node.lineno, node.col_offset)))
            start = (node.end_lineno or node.lineno, node.end_col_offset or 0)
            parts.append(text + "\n" * (start[0] - node.lineno))
        return "".join([*parts, self._text(start, stop)])

    def _text(self, start: tuple[int, int], stop: tuple[int, int]) -> str:
        """The text between two places; columns count UTF-8 bytes, as syntax trees do."""
        lines = [line.encode() for line in self.lines[start[0] - 1 : stop[0]]]
        lines[-1] = lines[-1][: stop[1]]
        lines[0] = lines[0][start[1] :]
        return b"".join(lines).decode()

    def indent(self, line: int) -> str:
        text = self.lines[line - 1]
        return text[: len(text) - len(text.lstrip(" \t\f"))]


def source_file(file_name: str, namespace: dict[str, Any] | None = None) -> SourceFile:
    """The source that code of this file name came from.

    Raises:
        FunctionError: there is none to be had, or it is no Python.
    """
    lines = linecache.getlines(file_name, namespace) or _command_line(file_name)
    if not lines:
        typed = "Python keeps what is typed from 3.13 on, IPython always. " if file_name == "<stdin>" else ""
        raise FunctionError(
            f"the source of {file_name} cannot be found, and functions travel as source",
            f"{typed}Put the function in a file and import or run that.",
        )
    return _parsed(file_name, tuple(lines))


@lru_cache(maxsize=256)
def _parsed(file_name: str, lines: tuple[str, ...]) -> SourceFile:
    try:
        return SourceFile(file_name, lines, ast.parse("".join(lines), file_name))
    except (SyntaxError, ValueError) as error:
        raise FunctionError(f"the source of {file_name} cannot be read: {error}") from error


def _command_line(file_name: str) -> list[str]:
    """The program of ``python -c``, which older Pythons do not keep anywhere else."""
    arguments = sys.orig_argv
    if file_name != "<string>" or "-c" not in arguments[:-1]:
        return []
    return [line + "\n" for line in arguments[arguments.index("-c") + 1].split("\n")]


def function_node(code: CodeType, source: SourceFile) -> FunctionNode:
    """The syntax of a function or lambda, given its compiled code.

    Raises:
        FunctionError: the source no longer has it where the code says.
    """
    found = [node for node in ast.walk(source.tree) if _may_be(node, code)]
    if len(found) > 1:
        found = [node for node in found if _holds(node, code)] or found
        found.sort(key=_extent)
    if not found:
        raise FunctionError(
            f"{code.co_name} is not at line {code.co_firstlineno} of {source.name} any more",
            "The file has changed since it was loaded: start again.",
        )
    assert isinstance(found[0], FunctionNode)
    return found[0]


def first_line(node: Definition) -> int:
    """The line a definition begins on, decorators included, as compiled code has it."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _may_be(node: ast.AST, code: CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        same_place = code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        same_place = node.name == code.co_name and first_line(node) == code.co_firstlineno
    else:
        return False
    return same_place and _argument_names(node.args) == _code_arguments(code)


def _argument_names(args: ast.arguments) -> list[str]:
    extra = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
    return [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, *extra)]


def _code_arguments(code: CodeType) -> list[str]:
    starred = bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)
    return list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + starred])


def _extent(node: ast.AST) -> tuple[int, int]:
    assert isinstance(node, FunctionNode)
    return (node.end_lineno or 0) - node.lineno, (node.end_col_offset or 0) - node.col_offset


def _holds(node: ast.AST, code: CodeType) -> bool:
    """Whether all instructions of ``code`` stand within this node."""
    assert isinstance(node, FunctionNode)
    start, end = (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)
    for line, _, column, end_column in code.co_positions():
        if line is None or column is None or not end_column:
            continue
        if not start <= (line, column) <= end:
            return False
    return True


def definition_pieces(
    source: SourceFile, node: Definition, dropped: Sequence[ast.expr], edits: Sequence[Edit]
) -> list[Piece]:
    """The whole lines of a definition, without the decorators ``dropped``, and edited."""
    kept = [decorator for decorator in node.decorator_list if decorator not in dropped]
    parts = [source.whole_lines(decorator, ()) for decorator in kept]
    return [*parts, source.whole_lines(node, edits)]


def module_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """All statements that run in the module's own scope, those inside ``if``, ``try`` and loops too."""
    waiting: list[ast.stmt] = list(reversed(tree.body))
    while waiting:
        statement = waiting.pop()
        yield statement
        if isinstance(statement, Definition):
            continue
        inner = [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
        for handler in getattr(statement, "handlers", ()):
            inner.extend(handler.body)
        for case in getattr(statement, "cases", ()):
            inner.extend(case.body)
        waiting.extend(reversed(inner))


def bound_names(statement: ast.stmt) -> list[str]:
    """The names a statement of a module binds by itself."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Import(names=aliases):
            return [alias.asname or alias.name.partition(".")[0] for alias in aliases]
        case ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name for alias in aliases]
        case ast.Assign(targets=targets):
            return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
            return [name]
        case ast.AugAssign(target=ast.Name(id=name)):
            return [name]
    return []
