"""Puts a virtual machine together: tree, system calls, instance. All of it, or none and nothing left open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from sojourn.model.errors import LimitError
from sojourn.model.limits import LIMITS, Limits

from .engine import CompiledModule
from .filesystems import new_tree
from .streams import Streams
from .surroundings import Surroundings
from .virtual_machine import VirtualMachine
from .wasi.mounts import MountTree
from .wasi.outside import ByteQuota, LimitReached
from .wasi.system import Preopen, System
from .wasi.vfs import Quota

Mount = Callable[[MountTree, Quota], Sequence[Preopen]]


def assemble(
    module: CompiledModule,
    limits: Limits,
    streams: Streams,
    mount: Mount,
    *,
    args: Sequence[bytes] = (),
    environ: Sequence[tuple[bytes, bytes]] = (),
    monotonic_ns: int = 0,
    state: object = None,
) -> VirtualMachine:
    """A virtual machine of ``module``.

    Args:
        mount: fills the tree and says which directories are preopened, in order.
        monotonic_ns: what the guest's monotonic clock shows at the start.

    Raises:
        MemoryError: the module's initial memory is above the limit.
        GrantError: what ``mount`` raises.
        LimitError: a limit leaves no room even for an empty file system, or for the first descriptors.
    """
    try:
        return _assemble(module, limits, streams, mount, args, environ, monotonic_ns)
    except LimitReached as error:
        spec = LIMITS[error.name]
        raise LimitError(
            f"{error.name}: {spec.amount(getattr(limits, error.name))} is less than a guest begins with",
            f"Try: {spec.flag} {spec.example}",
        ) from None


def _assemble(
    module: CompiledModule,
    limits: Limits,
    streams: Streams,
    mount: Mount,
    args: Sequence[bytes],
    environ: Sequence[tuple[bytes, bytes]],
    monotonic_ns: int,
) -> VirtualMachine:
    quota = ByteQuota("file_bytes", limits.file_bytes)
    with ExitStack() as undo:
        surroundings = Surroundings(limits.wall_seconds, monotonic_ns)
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
        )
        machine = VirtualMachine(module, system, surroundings, limits, tree)
        undo.pop_all()
    return machine
