"""WASI commands: any core module for WASI preview 1 that exports ``_start``."""

from __future__ import annotations

from collections.abc import Sequence

from sojourn.model.errors import LimitError, ModuleError
from sojourn.model.grants import DirectoryGrant
from sojourn.model.limits import Limits

from .compiled import CompiledModules
from .engine import CompiledModule, Instance
from .filesystems import guest_system
from .streams import Streams
from .surroundings import Surroundings
from .virtual_machine import VirtualMachine


class Command:
    """A compiled command.

    Raises:
        ModuleError: not a module, or one that cannot run here.
    """

    def __init__(self, modules: CompiledModules, code: bytes, digest: str, name: str) -> None:
        self._module: CompiledModule = modules.get(digest, lambda: code, name)
        self._name = name

    def start(
        self,
        argv: Sequence[str],
        environment: Sequence[tuple[str, str]],
        limits: Limits,
        streams: Streams,
        grants: Sequence[DirectoryGrant],
    ) -> VirtualMachine:
        """A virtual machine ready to call ``_start``. ``argv`` is whole, the program's name first."""
