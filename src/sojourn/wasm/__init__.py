"""Decode, change and encode WebAssembly modules. Knows nothing of Sojourn, of an engine or of files.

``binary`` splits a module into its sections, ``instructions`` walks the code, ``instrument`` makes the
module that the virtual machine runs.
"""

from .binary import Import, MalformedModuleError, Memory, Module
from .instrument import DENIED, INSTRUMENT_VERSION, PRIVATE, START, Instrumented, instrument

__all__ = [
    "DENIED",
    "INSTRUMENT_VERSION",
    "PRIVATE",
    "START",
    "Import",
    "Instrumented",
    "MalformedModuleError",
    "Memory",
    "Module",
    "instrument",
]
