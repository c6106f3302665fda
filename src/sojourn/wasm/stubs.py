"""What stands in a split module for functions that lie elsewhere (``plan`` shows it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from .additions import LOADER_TYPE, BaseTarget
from .binary import Module, SectionId, uleb
from .frames import Control, global_get, global_set, i32_const, local_get, sized
from .index_spaces import FuncType, IndexSpaces
from .plan import LOADER_SLOT, Plan


class Dispatchers(Protocol):
    """Where a module that is being made has the dispatchers."""

    @property
    def dispatchers(self) -> Mapping[int, int]: ...


def stub(spaces: IndexSpaces, control: Control, plan: Plan, function: int, dispatchers: Dispatchers) -> bytes:
    """What is called in place of a function of a part (``plan``)."""
    params = range(len(spaces.signature(function).params))
    ask = i32_const(plan.slots[function]) + global_set(control.pending)
    dispatcher = uleb(dispatchers.dispatchers[spaces.functions[function]])
    return sized(b"\0" + ask + b"".join(map(local_get, params)) + b"\x12" + dispatcher + b"\x0b")


def dispatcher(spaces: IndexSpaces, target: BaseTarget, kind: int) -> bytes:
    """See that the pending slot is filled, and call what is in it."""
    control, signature = target.control, spaces.types[kind]
    assert signature is not None
    pending, table = global_get(control.pending), uleb(control.parts)
    loader = uleb(target.type_index(LOADER_TYPE))
    load = pending + i32_const(LOADER_SLOT) + b"\x11" + loader + table
    params = b"".join(map(local_get, range(len(signature.params))))
    call = params + pending + b"\x13" + uleb(kind) + table
    return sized(b"\0" + pending + b"\x25" + table + b"\xd1\x04\x40" + load + b"\x0b" + call + b"\x0b")


def entry(spaces: IndexSpaces, target: BaseTarget, plan: Plan, kind: int) -> bytes:
    """What is in the table in the place of all functions of a type that parts put there."""
    control, signature = target.control, spaces.types[kind]
    assert signature is not None
    pending, loader = global_get(control.pending), uleb(target.type_index(LOADER_TYPE))
    load = pending + i32_const(plan.slots_count) + b"\x6a" + i32_const(LOADER_SLOT)
    load += b"\x11" + loader + uleb(control.parts)
    params = b"".join(map(local_get, range(len(signature.params))))
    return sized(b"\0" + load + params + pending + b"\x13" + uleb(kind) + b"\0\x0b")


def free_gaps_of_types(module: Module, spaces: IndexSpaces, target: BaseTarget, plan: Plan) -> None:
    """Give what stands for functions that nothing in the base names a type without values: the engine spends
    several times as long on one with parameters."""
    nothing = target.types.index(FuncType((), ()))
    gaps = plan.owners.keys() - set(plan.stubs)
    first = spaces.functions_imported
    kinds = [
        uleb(nothing if function in gaps else kind)
        for function, kind in enumerate(spaces.functions[first:], first)
    ]
    module.replace(SectionId.FUNCTION, uleb(len(kinds)) + b"".join(kinds))
