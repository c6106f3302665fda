"""What an instance keeps besides memory, numbers and frames, as a context holds it: tables and segments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sojourn.context import Table
from sojourn.context.values import TABLES_MAX
from sojourn.model.errors import ContextError
from sojourn.wasm.events import DATA_DROP, ELEM_DROP

from .engine import Instance
from .engine_references import References, TableState

_IN_FRAMES = TABLES_MAX - 1  # no program has so many, so this number is free for what its frames refer to


@dataclass(frozen=True)
class Kept:
    """See ``Context``."""

    tables: tuple[Table, ...] = ()
    dropped_elements: tuple[int, ...] = ()
    dropped_data: tuple[int, ...] = ()


def kept_by(instance: Instance) -> Kept:
    """What an instance keeps; it stands still."""
    references = instance.references
    if references is None:
        return Kept()
    dropped = references.dropped()
    return Kept(
        tuple(Table(index, state.size, state.changes) for index, state in _states(references)),
        tuple(sorted(segment for kind, segment, _ in dropped if kind == ELEM_DROP)),
        tuple(sorted(segment for kind, segment, _ in dropped if kind == DATA_DROP)),
    )


def _states(references: References) -> Iterator[tuple[int, TableState]]:
    yield from sorted(references.tables().items())
    if references.in_frames and (state := references.kept()).size:
        yield _IN_FRAMES, state


def keep(instance: Instance, kept: Kept) -> None:
    """Make a fresh instance keep that.

    Raises:
        ContextError: its program cannot keep it.
    """
    references = instance.references
    states = {table.index: TableState(table.size, table.changes) for table in kept.tables}
    segments = [(ELEM_DROP, segment, 0) for segment in kept.dropped_elements]
    segments += [(DATA_DROP, segment, 0) for segment in kept.dropped_data]
    in_frames = states.pop(_IN_FRAMES, None)
    if references is None:
        if states or segments or in_frames is not None:
            raise ContextError("it has tables or segments that its program does not change")
        return
    if in_frames is not None and not references.in_frames:
        raise ContextError("its frames have references that those of its program do not")
    try:
        references.set_tables(states)
        references.drop(segments)
        if in_frames is not None:
            references.set_kept(in_frames)
    except ValueError as error:
        raise ContextError(f"its tables are not those of its program: {error}") from None
