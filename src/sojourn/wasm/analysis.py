"""What is decided for a module as a whole, and takes a look at all of its code: its *analysis*.

Everything else is made function by function. So whoever has the analysis of a module can make a part of it
without looking at the rest. It is a pure function of the module and of which imports suspend, and small: a
few bits for each function.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from .binary import Module
from .callgraph import Calls, Segment, suspensions
from .events import Suspensions
from .index_spaces import IndexSpaces

# A function that names more than what it calls: itself, the functions whose address it takes, and its uses
# of data and element segments.
Naming = tuple[int, tuple[int, ...], tuple[Segment, ...]]


@dataclass(frozen=True, slots=True)
class Analysis:
    """
    Attributes:
        suspensions: where the module may suspend.
        called: for each function, not zero if one that may suspend calls it.
        naming: the functions that take addresses or use segments, in their order.
        references: whether any can get hold of a reference other than an exception's.
        tries: whether any has a ``try_table``.
        tables: the tables whose entries they may change.
    """

    suspensions: Suspensions
    called: Sequence[int]
    naming: tuple[Naming, ...]
    references: bool
    tries: bool
    tables: tuple[int, ...]

    def plain(self) -> list[Any]:
        """As plain data, for a file."""
        return list(astuple(self))

    @classmethod
    def of(cls, plain: Sequence[Any]) -> Analysis:
        """What ``plain`` gave.

        Raises:
            TypeError, ValueError: it was something else.
        """
        where, called, naming, references, tries, tables = plain
        found = [
            (int(function), tuple(taken), tuple([(kind, segment, name) for kind, segment, name in segments]))
            for function, taken, segments in naming
        ]
        where = Suspensions(*map(bytes, where))
        return cls(where, bytes(called), tuple(found), bool(references), bool(tries), tuple(tables))

    def fits(self, spaces: IndexSpaces) -> bool:
        """Whether it can be that of a module with these index spaces."""
        where, functions = self.suspensions, len(spaces.functions)
        sizes = {len(part) for part in (where.functions, where.entries, where.loops, self.called)}
        return sizes == {functions} and len(where.types) == len(spaces.types)


def analyse(
    module: Module,
    spaces: IndexSpaces,
    calls: Sequence[Calls],
    imports: Collection[int],
    *,
    everywhere: bool = False,
    inert: bool = False,
) -> Analysis:
    """The analysis of a module.

    Args:
        calls: what its defined functions call, in order.
        imports: the imported functions that suspend.
        everywhere: every function polls at its entry.
        inert: nothing may suspend.

    Raises:
        MalformedModuleError: a function or type that is called does not exist.
    """
    first, functions = spaces.functions_imported, len(spaces.functions)
    if inert:
        sizes = (functions, len(spaces.types), functions, functions)
        where = Suspensions(*map(bytes, sizes))
    else:
        where = suspensions(module, spaces, calls, imports, everywhere=everywhere)
    called = bytearray(functions)
    for function, call in enumerate(calls, first):
        if where.functions[function]:
            for callee in call.functions:
                called[callee] = 1
    naming = [
        (function, call.taken, call.segments)
        for function, call in enumerate(calls, first)
        if call.taken or call.segments
    ]
    return Analysis(
        *(where, bytes(called), tuple(naming)),
        references=any(call.references for call in calls),
        tries=any(call.tries for call in calls),
        tables=tuple(sorted({table for call in calls for table in call.tables})),
    )
