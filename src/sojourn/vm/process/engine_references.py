"""References of an instance as plain numbers: what is in its tables, globals and frames, and which segments
it has dropped.

Part of the engine's adapter. A function is named by its index in the original module; the base module has a
private table of all functions whose address is taken, so nothing else can be in a table. Nothing of the
host's is ever given to a guest, so references to such things are null.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import wasmtime
from wasmtime import _ffi

from sojourn.wasm.additions import (
    EXTERNALS_COUNT,
    FUNCTIONS,
    REFERENCES,
    REFERENCES_COUNT,
    Additions,
    drop_name,
    dropped_name,
    export_name,
)
from sojourn.wasm.binary import TABLE
from sojourn.wasm.callgraph import Segment

if TYPE_CHECKING:
    from .engine import Instance

FUNCREF, EXTERNREF = _ffi.WASMTIME_FUNCREF.value, _ffi.WASMTIME_EXTERNREF.value
Function = int | None  # by its index in the original module; None is null


@dataclass(frozen=True)
class TableState:
    """A table that is not as instantiation makes it: its size now, and what is elsewhere in it."""

    size: int
    changes: tuple[tuple[int, Function], ...]


class References:
    """Reads and writes them. Made when nothing has run in the instance yet."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._context = instance._context
        facts = instance.module.facts
        self._additions = Additions.of(facts.additions)
        self._known: dict[int, int] = {}  # what the engine calls a function -> its index
        if self._additions.references:
            table = self._table(FUNCTIONS)
            for place, function in enumerate(self._additions.functions):
                self._known[self._raw(self._get(table, place))] = function
        self._places = {function: place for place, function in enumerate(self._additions.functions)}
        self._tables = {index: self._table(export_name(TABLE, index)) for index in facts.tables}
        self._fresh = {index: self._entries(table) for index, table in self._tables.items()}

    # tables

    def tables(self) -> dict[int, TableState]:
        """Those that are not as instantiation made them."""
        found = {}
        for index, table in self._tables.items():
            state = self._state(table, self._fresh[index])
            if state.changes or state.size != len(self._fresh[index]):
                found[index] = state
        return found

    def set_tables(self, states: dict[int, TableState]) -> None:
        """Make the tables of a fresh instance what they were.

        Raises:
            ValueError: these are no states of its tables.
        """
        if not states.keys() <= self._tables.keys():
            raise ValueError("other tables than its program changes")
        for index, state in states.items():
            self._set(self._tables[index], state, len(self._fresh[index]))

    def kept(self) -> TableState:
        """What the frames refer to, by the places that they name."""
        return self._state(self._table(REFERENCES), (), self._count(REFERENCES_COUNT))

    def set_kept(self, state: TableState) -> None:
        """Of a fresh instance.

        Raises:
            ValueError: there is a function that does not exist.
        """
        self._set(self._table(REFERENCES), state, 0)

    @property
    def in_frames(self) -> bool:
        """Whether frames can hold references."""
        return self._additions.references

    def forget(self) -> None:
        """Frames that are saved from now on may use the places again: nobody has any saved but those that go
        on now, and they are read before anything else runs."""
        if self._additions.references:
            for name in (REFERENCES_COUNT, EXTERNALS_COUNT):
                self._set_count(name, 0)

    def _state(self, table: Any, fresh: Sequence[Function], size: int | None = None) -> TableState:
        entries = self._entries(table, size)
        changes = tuple(
            (place, entry)
            for place, entry in enumerate(entries)
            if entry != (fresh[place] if place < len(fresh) else None)
        )
        return TableState(len(entries), changes)

    def _set(self, table: Any, state: TableState, fresh: int) -> None:
        if state.size < fresh:
            raise ValueError("a table that is smaller than its program begins with")
        if state.size > fresh:
            before = ctypes.c_uint64()
            null = self._value(None)
            _check(
                _ffi.wasmtime_table_grow(
                    *(self._context, ctypes.byref(table), state.size - fresh),
                    *(ctypes.byref(null), ctypes.byref(before)),
                ),
                "a table cannot be as large",
            )
        for place, function in state.changes:
            value = self._value(function)
            _check(
                _ffi.wasmtime_table_set(self._context, ctypes.byref(table), place, ctypes.byref(value)),
                "a table cannot hold what it held",
            )

    def _entries(self, table: Any, size: int | None = None) -> list[Function]:
        count = _ffi.wasmtime_table_size(self._context, ctypes.byref(table))
        return [self.function(self._get(table, place)) for place in range(count if size is None else size)]

    def _get(self, table: Any, place: int) -> Any:
        value = _ffi.wasmtime_val_t()
        if not _ffi.wasmtime_table_get(self._context, ctypes.byref(table), place, ctypes.byref(value)):
            raise RuntimeError("an element that is not there")
        return value

    def _table(self, name: str) -> Any:
        return self._instance._must("table", name).table

    # single references

    def function(self, value: Any) -> Function:
        """What a reference in the engine's form refers to."""
        raw = self._raw(value)
        return None if raw == 0 else self._known[raw]

    def _raw(self, value: Any) -> int:
        """What tells functions of one store apart; 0 is null."""
        if int(value.kind) != FUNCREF or not value.of.funcref.store_id:
            return 0
        found: Any = _ffi.wasmtime_func_to_raw(self._context, ctypes.byref(value.of.funcref))
        return int(getattr(found, "value", found) or 0)

    def _value(self, function: Function) -> Any:
        """The other way round.

        Raises:
            ValueError: no such function has an address.
        """
        if function is None:
            value: Any = _ffi.wasmtime_val_t()
            value.kind = FUNCREF
            value.of.funcref.store_id = 0
            return value
        place = self._places.get(function)
        if place is None:
            raise ValueError(f"function {function} is nothing that can be referred to")
        return self._get(self._table(FUNCTIONS), place)

    def set_value(self, value: Any, function: Function) -> None:
        """Set a reference in the engine's form, whose type stays.

        Raises:
            ValueError: no such function has an address.
        """
        if int(value.kind) == FUNCREF:
            value.of.funcref = self._value(function).of.funcref
        elif function is not None:
            raise ValueError("a function where none can be")

    # segments

    def dropped(self) -> list[Segment]:
        return [key for key in self._additions.drops if self._instance.read_global(dropped_name(key))]

    def drop(self, keys: Iterable[Segment]) -> None:
        """Of a fresh instance.

        Raises:
            ValueError: segments that its program never drops.
        """
        wanted = set(keys)
        if not wanted <= set(self._additions.drops):
            raise ValueError("segments that its program does not drop")
        for key in sorted(wanted):
            self._instance._run(self._instance._must("func", drop_name(key)).func, (), 0)

    def _count(self, name: str) -> int:
        return self._instance.read_global(name)

    def _set_count(self, name: str, count: int) -> None:
        self._instance.write_global(name, count)


def _check(error: Any, what: str) -> None:
    if error:
        raise ValueError(f"{what}: {wasmtime.WasmtimeError._from_ptr(error)}")
