"""The WebAssembly frames of a guest that was left, by the names of their functions. Makes no instance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sojourn.model.errors import ContextError
from sojourn.wasm.binary import FUNCTION, MalformedModuleError, Module
from sojourn.wasm.initial import InitialMemory
from sojourn.wasm.names import function_names

from .compiled import CompiledModules
from .preparing import suspends

NAME_BYTES_MAX = 4096


@dataclass(frozen=True)
class NativeFrame:
    """One call of a function of the module.

    Attributes:
        function: its index.
        site: at which of the places where it can be left it stands, counted in the order of its code.
        name: from the module's name section; of an import that waits its two names; else ``function N``.
    """

    function: int
    site: int
    name: str


def native_frames(
    modules: CompiledModules, digest: str, read: Callable[[], bytes], records: bytes
) -> list[NativeFrame]:
    """The frames in ``records``, the outermost first.

    Args:
        digest, read: the original module, as ``CompiledModules.get`` takes it.

    Raises:
        ContextError: they are not frames of this module, or it cannot be told here.
        ModuleError: the module cannot be read.
    """
    if not records:
        return []
    reader = modules.frame_reader(digest, read)
    if reader is None:
        raise ContextError("its code was not compiled here yet", "Try: sojourn image build, or resume it")
    frames = [(frame.function, frame.site) for frame in reader.stack(records).frames]
    names = _names(Module.parse(read()), {function for function, _ in frames})
    return [NativeFrame(function, site, names[function]) for function, site in frames]


def _names(module: Module, wanted: set[int]) -> dict[int, str]:
    found = {number: f"function {number}" for number in wanted}
    try:
        imported = [item for item in module.imports() if item.kind == FUNCTION]
        waiting = [f"{item.module}.{item.name}" for item in imported if suspends(item)]
        _, starts = module.bodies()
        first = len(imported) + len(starts) - 1  # behind the module's own come the wrappers of imports
        found |= {number: waiting[number - first] for number in wanted if 0 <= number - first < len(waiting)}
        for number, name in function_names(module):
            if number in wanted:
                found[number] = name[:NAME_BYTES_MAX].decode("utf-8", "replace")
    except MalformedModuleError:
        pass  # numbers are names enough
    return found


def module_memory(code: bytes) -> Callable[[int, int], bytes] | None:
    """Reads what a module's own data make of a fresh memory; None when that cannot be told."""
    try:
        initial = InitialMemory(Module.parse(code))
    except MalformedModuleError:
        return None
    return initial.read if initial.known else None
