"""Which global names a piece of code uses, when, and in which line.

Pure: syntax in, names out. Python's own compiler decides what is global (comprehensions, f-strings,
``match``, nested scopes and ``global`` included); nothing is run. Annotations are not evaluated in a
shipped module, so names that only they use come separately.
"""

from __future__ import annotations
import __future__

import ast
import dis
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType

_GLOBAL_LOADS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
_COMPREHENSIONS = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}
_GLOBAL_STORES = {"STORE_GLOBAL", "DELETE_GLOBAL"}


@dataclass
class Uses:
    """What a unit of code needs.

    Attributes:
        at_once: names needed when the unit is defined, with the line of the first use.
        later: names needed when what it defines is called.
        stored: names it binds in the module by ``global``.
        annotations: names that only annotations mention.
        chains: dotted uses, such as ``xml.etree.ElementTree`` (over-approximated).
        imports: import statements inside it.
    """

    at_once: dict[str, int] = field(default_factory=dict)
    later: dict[str, int] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    annotations: dict[str, int] = field(default_factory=dict)
    chains: set[str] = field(default_factory=set)
    imports: list[ast.Import | ast.ImportFrom] = field(default_factory=list)

    @property
    def all(self) -> dict[str, int]:
        return {**self.later, **self.at_once}


def uses(statements: list[ast.stmt], file_name: str) -> Uses:
    """What these statements need of the module they stand in.

    Raises:
        SyntaxError: they cannot be compiled.
    """
    tree = ast.Module(body=statements, type_ignores=[])
    flags = __future__.annotations.compiler_flag
    code = compile(tree, file_name, "exec", flags=flags, dont_inherit=True, optimize=0)
    found = Uses()
    _collect(code, found, at_once=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.chains.update(_chain(node))
    found.imports = list(_imports(tree))
    for name, line in _annotation_names(tree):
        if name not in found.at_once and name not in found.later:
            found.annotations.setdefault(name, line)
    return found


def _collect(code: CodeType, found: Uses, at_once: bool) -> None:
    own = {
        instruction.argval for instruction in dis.get_instructions(code) if instruction.opname == "STORE_NAME"
    }
    for instruction in dis.get_instructions(code):
        line = (instruction.positions.lineno if instruction.positions else None) or code.co_firstlineno
        name = instruction.argval
        if instruction.opname in _GLOBAL_STORES:
            found.stored.add(name)
        elif instruction.opname in _GLOBAL_LOADS and not (instruction.opname == "LOAD_NAME" and name in own):
            (found.at_once if at_once else found.later).setdefault(name, line)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            # A class body runs at once, as comprehensions there do; what a function holds runs later.
            is_function = constant.co_flags & 0x02 and constant.co_name not in _COMPREHENSIONS
            _collect(constant, found, at_once and not is_function)


def _chain(node: ast.Attribute) -> Iterator[str]:
    parts: list[str] = []
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name):
        yield ".".join([inner.id, *reversed(parts)])


def _annotation_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        annotations = (getattr(node, "annotation", None), getattr(node, "returns", None))
        for annotation in annotations:
            if isinstance(annotation, ast.expr):
                yield from _names_in(annotation, annotation.lineno)


def _names_in(annotation: ast.expr, line: int) -> Iterator[tuple[str, int]]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            yield node.id, line
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                inner = ast.parse(node.value, mode="eval")
            except (SyntaxError, ValueError):
                continue
            yield from ((part.id, line) for part in ast.walk(inner) if isinstance(part, ast.Name))


def _imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements in a tree, except those that only a type checker sees."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def imports_of(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    """All import statements of a module, functions' included, except those for type checkers only."""
    return list(_imports(tree))


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"
