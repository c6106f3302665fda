"""From a module as it was given to the module that the engine compiles, and what must be known of it later.

``prepare`` is what happens to every module before it is compiled: it gets our marks (``wasm.instrument``),
then it is made resumable (``wasm.base``). ``Facts`` are what a monitor needs of a module whose compiled
code it finds on
disk: they are stored beside it, because asking the engine for a module's exports takes longer than loading
    it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgpack

from sojourn.model.errors import ModuleError
from sojourn.wasm import INSTRUMENT_VERSION, MalformedModuleError, Module, instrument
from sojourn.wasm.analysis import Analysis
from sojourn.wasm.base import RESUMABLE_VERSION, make_resumable
from sojourn.wasm.binary import FUNCTION, Import, UnsupportedFeatureError
from sojourn.wasm.events import Suspensions
from sojourn.wasm.index_spaces import IndexSpaces
from sojourn.wasm.plan import Plan

from .transforming import Transformer

WASI_MODULE = "wasi_snapshot_preview1"
# The imports that wait, and so may leave the guest: their calls are made again when it goes on.
SUSPENDING = {
    *((WASI_MODULE, name) for name in ("fd_read", "fd_pread", "fd_write", "fd_pwrite")),
    *((WASI_MODULE, name) for name in ("poll_oneoff", "sched_yield")),
    ("host", "call"),
}
VERSION = f"{INSTRUMENT_VERSION}.{RESUMABLE_VERSION}"


@dataclass(frozen=True)
class Facts:
    """What is known of a prepared module.

    Attributes:
        globals: the private names of its mutable globals.
        functions: its own exported functions: how many values they take and give.
        memory_pages: the size of its linear memory at the start.
        suspensions: where it may suspend (``wasm.body.Suspensions``, as bytes).
        additions: what was added to it (``wasm.additions.Additions``, as plain data).
        tables: the tables whose entries are state, because its code may change them.
    """

    globals: tuple[str, ...]
    functions: Mapping[str, tuple[int, int]]
    memory_pages: int
    suspensions: tuple[bytes, bytes, bytes, bytes]
    additions: tuple[Any, ...]
    tables: tuple[int, ...] = ()

    def encode(self) -> bytes:
        encoded: bytes = msgpack.packb(asdict(self))
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Facts:
        """Read what ``encode`` wrote; the caller has verified every byte of it.

        Raises:
            ValueError: it is of another layout.
        """
        try:
            value: dict[str, Any] = msgpack.unpackb(data, use_list=False)
            if not value.pop("whole", True):  # written before tables were told
                raise ValueError("the facts of a module by an earlier version")
            return cls(**value)
        except (TypeError, msgpack.UnpackException) as error:
            raise ValueError(f"not the facts of a module: {error}") from None

    def where(self) -> Suspensions:
        return Suspensions(*self.suspensions)


@dataclass(frozen=True)
class Prepared:
    """A module ready to be compiled.

    Attributes:
        code_bytes: the size of its code section.
        plan: how it is split.
        marked: what its parts are made of, if it is.
    """

    code: bytes
    code_bytes: int
    facts: Facts
    plan: Plan | None = None
    marked: bytes | None = None


def prepare(
    original: bytes,
    *,
    inert: bool = False,
    split: Callable[[bytes], Sequence[Sequence[int]]] = lambda _: (),
    analysis: Analysis | None = None,
) -> Prepared:
    """Change a valid module into the one that is run.

    Args:
        inert: make one that can never be left, for comparison.
        split: says for the marked module which functions each part is to have that is made later
            (``wasm.plan``); none when it is not split.
        analysis: of the marked module, when it is known (``analysed``).

    Raises:
        ModuleError: not a module, or one that cannot be made resumable.
    """
    try:
        marked = instrument(original)
        if IndexSpaces.of(Module.parse(original)).composites:  # they would be memory beside the limit
            raise UnsupportedFeatureError("garbage collection")
        with Transformer(marked.code) as run:
            resumable = make_resumable(
                *(marked.code, suspends, run),
                inert=inert,
                deferred=split(marked.code),
                analysis=analysis,
            )
        module = Module.parse(resumable.code)
        exported = _exported(marked.code)
    except (MalformedModuleError, UnsupportedFeatureError) as error:
        raise ModuleError(f"not a WebAssembly module that can run here: {error}") from None
    where = resumable.suspensions
    facts = Facts(
        marked.globals,
        exported,
        marked.memories[0].pages_min if marked.memories else 0,
        (bytes(where.functions), bytes(where.types), bytes(where.entries), bytes(where.loops)),
        tuple(resumable.additions.plain()),
        resumable.tables,
    )
    source = marked.code if resumable.plan else None
    return Prepared(resumable.code, len(module.section(10)), facts, resumable.plan, source)


def encode_plan(plan: Plan) -> bytes:
    encoded: bytes = msgpack.packb([plan.parts, plan.stubs, plan.exported, plan.entries])
    return encoded


def decode_plan(data: bytes) -> Plan:
    """Read what ``encode_plan`` wrote; the caller has verified every byte of it."""
    return Plan(*msgpack.unpackb(data, use_list=False))


def suspends(item: Import) -> bool:
    """Whether an import may leave the guest: those that wait."""
    return (item.module, item.name) in SUSPENDING


def _exported(code: bytes) -> dict[str, tuple[int, int]]:
    module = Module.parse(code)
    spaces = IndexSpaces.of(module)
    found = {}
    for name, kind, index in module.exports():
        if kind == FUNCTION:
            signature = spaces.signature(index)
            found[name] = (len(signature.params), len(signature.results))
    return found
