"""From a virtual machine whose guest was left to a process context, and back.

``take`` reads everything of a machine that stands still; ``put`` makes a fresh machine of the same program
what that one was. What is neither here nor there (identity, grants, limits) the host adds and checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sojourn.context import Base, BaseKind, Context, Global, Memory, check_transform, compare
from sojourn.model.errors import ContextError
from sojourn.store.checkpoints import Stored
from sojourn.store.parallel import digests_of
from sojourn.wasm.base import RESUMABLE_VERSION
from sojourn.wasm.instrument import INSTRUMENT_VERSION

from .dirty import written
from .engine import PAGE_BYTES, Instance
from .kept import Kept, keep, kept_by
from .renewal import find_ledger, renew
from .restore import restore_memory
from .virtual_machine import VirtualMachine
from .wasi.checking import number

TRANSFORM = INSTRUMENT_VERSION * 1000 + RESUMABLE_VERSION
_COLD = "cold"  # whether what the outermost frame returns is the exit status
_LEDGER = "ledger"


@dataclass(frozen=True)
class Origin:
    """What the memory of a machine was set up as, to find out what was written since.

    Attributes:
        memory: its chunks at that time.
        base: the bytes of the base, or None when they are not at hand.
    """

    memory: Memory
    base: memoryview | None = None


@dataclass(frozen=True)
class Snapshot:
    """A machine's state. ``views`` are its memories themselves, and hold while the machine stands still."""

    memories: tuple[Memory, ...]
    views: tuple[memoryview, ...]
    globals: tuple[Global, ...]
    kept: Kept
    records: bytes
    system: dict[str, Any]
    monotonic_ns: int
    realtime_ns: int
    output_bytes: int


def fresh_origin(instance: Instance, base: Base, view: memoryview | None) -> Origin:
    """The origin of an instance that was just made, and that nothing ran in."""
    return Origin(Memory.fresh(len(instance.refresh()), base), view)


def module_base(digest: str, instance: Instance) -> Base:
    """The base of an instance without an image: what the module's own data are."""
    return Base(BaseKind.MODULE, digest, len(instance.refresh()))


def take(machine: VirtualMachine) -> Snapshot:
    """Read the state of a machine whose guest was left (``VirtualMachine.run`` gave None)."""
    instance = machine.instance
    origin = machine.origin
    view = instance.refresh()
    if machine.ledger is None and machine.entered_cold:
        machine.ledger = find_ledger(view)
    memories: tuple[Memory, ...] = ()
    views: tuple[memoryview, ...] = ()
    if instance.has_memory:
        known = (None, None) if origin is None else (origin.memory, origin.base)
        memories = (compare(view, known[0], written(view), known[1], digests_of),)
        views = (view,)
    return Snapshot(
        memories,
        views,
        tuple(Global(kind, bits) for kind, bits in instance.read_globals()),
        kept_by(instance),
        machine.records(),
        {**machine.save_system(), _COLD: machine.entered_cold, _LEDGER: machine.ledger},
        machine.surroundings.monotonic_ns(),
        machine.surroundings.realtime_ns(),
        machine.system.output_bytes,
    )


def put(machine: VirtualMachine, stored: Stored, base: memoryview | None, identity: int) -> None:
    """Make a fresh machine, in which the base is there already, what the stored one was, but a process of its
    own: with its own randomness, and ``identity`` as its number.

    Raises:
        OtherVersionError: its frames are of another version of the transform.
        ContextError: the context is not of this program, or is damaged.
    """
    context = stored.context
    instance = machine.instance
    check_transform(context, TRANSFORM)
    if len(context.memories) != instance.has_memory or len(context.globals) != len(instance.module.globals):
        raise ContextError("it has other memories or globals than its program")
    if context.memories:
        memory = context.memories[0]
        fresh = len(instance.refresh())
        if memory.size_bytes < fresh:
            raise ContextError("its memory is smaller than its program begins with")
        instance.grow_memory((memory.size_bytes - fresh) // PAGE_BYTES)
        restore_memory(stored, 0, instance.refresh(), fresh)
        machine.origin = Origin(memory, base)
    try:
        instance.write_globals([(item.type, item.bits) for item in context.globals])
    except ValueError as error:
        raise ContextError(f"its globals are not those of its program: {error}") from None
    keep(instance, Kept(context.tables, context.dropped_elements, context.dropped_data))
    instance.stack(context.records)  # frames that do not exist are refused before anything runs
    machine.restored = context.records
    machine.entered_cold = context.system.get(_COLD) is True
    machine.ledger = context.system.get(_LEDGER)
    if machine.ledger is not None:
        renew(instance.refresh(), number(machine.ledger, "the place of the ledger"), identity)


def context_of(snapshot: Snapshot, **identity: Any) -> Context:
    """The context of a snapshot; ``identity`` are the fields that the host knows.

    Raises:
        ContextError: something in it is beyond what a context can hold.
    """
    try:
        return Context(
            transform=TRANSFORM,
            memories=snapshot.memories,
            globals=snapshot.globals,
            tables=snapshot.kept.tables,
            dropped_elements=snapshot.kept.dropped_elements,
            dropped_data=snapshot.kept.dropped_data,
            records=snapshot.records,
            system=snapshot.system,
            output_bytes=snapshot.output_bytes,
            monotonic_ns=snapshot.monotonic_ns,
            realtime_ns=snapshot.realtime_ns,
            **identity,
        )
    except ValueError as error:
        raise ContextError(f"this process cannot be stored: {error}") from None
