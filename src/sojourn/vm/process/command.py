"""WASI commands: any core module for WASI preview 1 that exports ``_start``.

A command looks for what it may touch in its preopened directories, so it gets one for each directory
granted, under the very name it was granted as, and one for each directory that a granted file is in. After
those come the private ones: ``/tmp``, in memory, and the program's own files at ``/program`` when it has any;
neither when a directory was granted as ``/``, where they would hide what the directory has of that name.
The root of the tree itself is not preopened (decision 8).
"""

from __future__ import annotations

import posixpath
from collections.abc import Container, Mapping, Sequence

from sojourn.context import Context
from sojourn.model.errors import LimitError, ModuleError
from sojourn.model.grants import DirectoryGrant, place_of
from sojourn.model.limits import Limits

from .assembly import assemble
from .compiled import CompiledModules
from .engine import CompiledModule, Instance
from .filesystems import PROGRAM_DEVICE, SCRATCH_FOLDER, bundle, mount_grants
from .snapshots import fresh_origin, module_base
from .streams import Streams
from .virtual_machine import VirtualMachine
from .wasi.mounts import MountTree
from .wasi.system import Preopen
from .wasi.vfs import Quota

START_FUNCTION = "_start"
PROGRAM_FOLDER = "/program"


class Command:
    """A compiled command. Takes the time of compiling when that was never done here.

    Raises:
        ModuleError: not a module, or one that cannot run here.
    """

    def __init__(self, modules: CompiledModules, name: str, digest: str, code: bytes) -> None:
        self._name = name
        self._digest = digest
        self._module: CompiledModule = modules.get(digest, lambda: code, name)
        if START_FUNCTION not in self._module.functions:
            raise ModuleError(
                f"{name} exports no function {START_FUNCTION}",
                "Try: build it as a command (an executable), not as a library or reactor",
            )
        if START_FUNCTION not in self._module.commands:
            raise ModuleError(
                f"{name} exports a function {START_FUNCTION} that takes or returns something",
                "Try: build it as a command for WASI preview 1 (target wasm32-wasip1)",
            )

    def start(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        limits: Limits,
        streams: Streams,
        files: Mapping[str, bytes],
        grants: Sequence[DirectoryGrant],
        context: Context | None = None,
    ) -> VirtualMachine:
        """A virtual machine ready to enter. ``argv`` are the arguments after the program's name.

        Raises:
            LimitError: the memory limit is below the module's initial memory.
            GrantError: a granted path cannot be opened.
        """

        def mount(tree: MountTree, quota: Quota) -> list[Preopen]:
            if files:
                tree.mount_directory(PROGRAM_FOLDER, bundle(files, PROGRAM_DEVICE))
            directories = mount_grants(tree, grants, quota)
            told = {place_of(path): path for path, _ in directories}
            for path in _private(grants, told, bool(files)):
                if place_of(path) not in told:
                    told[place_of(path)] = path
                    directories.append((path, tree.directory(place_of(path))))
            return [(_encoded(path), directory) for path, directory in directories]

        try:
            machine = assemble(
                self._module,
                limits,
                streams,
                mount,
                args=[_encoded(text) for text in (self._name, *argv)],
                environ=[(_encoded(key), _encoded(value)) for key, value in environment.items()],
                monotonic_ns=0 if context is None else context.monotonic_ns,
                state=None if context is None else context.system,
            )
            base = module_base(self._digest, machine.instance)
            machine.origin = fresh_origin(machine.instance, base, None)
            return machine
        except MemoryError as error:
            raise LimitError(
                f"memory_bytes: {limits.memory_bytes:,} bytes are less than the module begins with ({error})",
                "Try: a larger --memory",
            ) from None

    def enter(self, instance: Instance) -> int | None:
        instance.leavable = True
        return instance.call(START_FUNCTION)


def _private(grants: Sequence[DirectoryGrant], directories: Container[str], files: bool) -> list[str]:
    """The guest paths of the directories in private memory that are worth telling, the most important first:
    those with a granted file; ``/tmp``; that of the program when it has ``files``.

    Args:
        directories: the places where a directory was granted.
    """
    found = [posixpath.dirname(grant.guest_path) or "." for grant in grants if grant.place not in directories]
    if "/" not in directories:
        found += [SCRATCH_FOLDER, *([PROGRAM_FOLDER] if files else [])]
    return found


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
