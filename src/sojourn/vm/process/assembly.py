"""Puts a virtual machine together: tree, system calls, instance. All of it, or none and nothing left open."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from sojourn.model.errors import LimitError
from sojourn.model.limits import LIMITS, Limits

from .engine import CompiledModule
from .filesystems import new_tree
from .room import room
from .streams import Streams
from .surroundings import Surroundings
from .virtual_machine import VirtualMachine
from .wasi.checking import damaged, number
from .wasi.mounts import MountTree
from .wasi.outside import ByteQuota, LimitReached
from .wasi.saving import COMPONENTS, restore_system
from .wasi.system import Preopen, System
from .wasi.vfs import Quota

_NEW: Mapping[str, Any] = {"system": None, "clocks": None, "host_calls": 0}
_HOST_CALLS_MAX = 1 << 62
Mount = Callable[[MountTree, Quota], Sequence[Preopen]]


def assemble(
    module: CompiledModule,
    limits: Limits,
    streams: Streams,
    mount: Mount,
    *,
    args: Sequence[bytes] = (),
    environ: Sequence[tuple[bytes, bytes]] = (),
    secrets: Collection[bytes] = (),
    monotonic_ns: int = 0,
    state: Mapping[str, Any] | None = None,
) -> VirtualMachine:
    """A virtual machine of ``module``.

    Args:
        mount: fills the tree and says which directories are preopened, in order.
        secrets: the names in ``environ`` whose values are never saved.
        monotonic_ns: what the guest's monotonic clock shows at the start.
        state: what ``VirtualMachine.save_system`` gave, of a process that goes on here: its files,
            descriptors, arguments, clocks and usage. ``mount`` must do what it did at its start; of
            ``environ`` only the values of secrets are used. Memory and frames are not part of it; further
            entries are ignored.

    Raises:
        MemoryError: the module's initial memory is above the limit.
        GrantError: what ``mount`` raises; with ``state``, a grant, a secret or an open file that is missing
            here or is another one.
        LimitError: a limit leaves no room even for an empty file system, or for the first descriptors; with
            ``state``, for what the process has already.
        ContextError: the state is damaged.
        HostFullError: the system has no room for another process.
    """
    parts = _NEW if state is None else _parts(state)
    try:
        with room():
            return _assemble(module, limits, streams, mount, args, environ, secrets, monotonic_ns, parts)
    except LimitReached as error:
        spec = LIMITS[error.name]
        held = "begins with" if state is None else "has already"
        raise LimitError(
            f"{error.name}: {spec.amount(getattr(limits, error.name))} is less than a guest {held}",
            f"Try: {spec.flag} {spec.example}",
        ) from None


def _parts(state: Mapping[str, Any]) -> Mapping[str, Any]:
    if not {*COMPONENTS, "clocks", "host_calls"} <= set(state):
        raise damaged("the state of the process is not whole")
    return {
        "system": {name: state[name] for name in COMPONENTS},
        "clocks": state["clocks"],
        "host_calls": number(state["host_calls"], "the number of host calls", _HOST_CALLS_MAX),
    }


def _assemble(
    module: CompiledModule,
    limits: Limits,
    streams: Streams,
    mount: Mount,
    args: Sequence[bytes],
    environ: Sequence[tuple[bytes, bytes]],
    secrets: Collection[bytes],
    monotonic_ns: int,
    state: Mapping[str, Any],
) -> VirtualMachine:
    quota = ByteQuota("file_bytes", limits.file_bytes)
    with ExitStack() as undo:
        surroundings = Surroundings(limits.wall_seconds, monotonic_ns, state["clocks"])
        undo.callback(surroundings.close)
        tree = new_tree(quota, surroundings.realtime_ns)
        undo.callback(tree.close)
        preopens = mount(tree, quota)
        for _, place in preopens:
            if not isinstance(place, MountTree):
                undo.callback(place.close)
        system = System(
            surroundings,
            args=args,
            environ=environ,
            preopens=preopens,
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            extra=streams.extra,
            descriptors_max=limits.descriptors,
            output=ByteQuota("output_bytes", limits.output_bytes),
            secrets=secrets,
        )
        undo.callback(system.close)
        if state["system"] is not None:
            restore_system(state["system"], system, tree)
        machine = VirtualMachine(module, system, surroundings, limits, tree)
        machine.instance.host_calls_left -= state["host_calls"]
        undo.pop_all()
    return machine
