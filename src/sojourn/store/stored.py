"""A stored process context that is open: the context, and the packs with its chunks.

Knows how a context lies in a directory or a file, not who puts it there or removes it (``checkpoints``).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sojourn.context.format import MAGIC, Decoded, decode_parts
from sojourn.context.memory import MissingChunkError, Part, parts
from sojourn.context.values import Context
from sojourn.model.errors import ContextError, DamagedContextError, NotAContextError, UnknownProcessError

from .chunks import SUFFIX as PACK_SUFFIX
from .chunks import PackFile
from .files import translated

CONTEXT_SUFFIX = ".context"
DIGEST = re.compile(r"[0-9a-f]{64}")
HINT_OLDER = "Try: an older checkpoint"


@dataclass
class Stored:
    """A checkpoint that is open. Close it when its memory has been set up; what was mapped stays.

    Attributes:
        context: what was stored.
        digest: the name of the checkpoint; empty for one that is held in memory only.
        packs: with all stored chunks of its memories.
        section_bytes: how long each part is, for people.
        passed_over: what is wrong with those that ``latest`` could not take.
    """

    context: Context
    digest: str
    packs: list[PackFile]
    section_bytes: Mapping[str, int]
    passed_over: tuple[ContextError, ...] = ()
    _parts: dict[int, list[Part]] = field(default_factory=dict, repr=False)

    def parts(self, number: int) -> list[Part]:
        """Where the stored chunks of a memory come from.

        Raises:
            DamagedContextError: one is in no pack.
        """
        if number in self._parts:
            return self._parts[number]
        try:
            found = parts(self.context.memories[number], [(p.index.digests, p.positions) for p in self.packs])
            self._parts[number] = found
            return found
        except MissingChunkError as error:
            raise DamagedContextError(
                f"a chunk of memory, {str(error)[:16]}…, is missing", HINT_OLDER
            ) from None

    def chunk(self, digest: bytes) -> memoryview:
        """The bytes of one stored chunk, verified.

        Raises:
            DamagedContextError: it is in no pack, or not what it was.
        """
        for pack in self.packs:
            position = pack.positions.get(digest)
            if position is not None:
                return pack.chunk(position)
        raise DamagedContextError(f"a chunk of memory, {digest.hex()[:16]}…, is missing", HINT_OLDER)

    def verify(self) -> None:
        """Read all stored chunks.

        Raises:
            DamagedContextError: one is missing or not what it was.
        """
        for number in range(len(self.context.memories)):
            self.parts(number)
        for pack in self.packs:
            pack.verify_all()

    def close(self) -> None:
        for pack in self.packs:
            pack.close()

    def __enter__(self) -> Stored:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def contexts_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*" + CONTEXT_SUFFIX) if DIGEST.fullmatch(path.stem)]


def looks_like_context(path: Path) -> bool:
    """Whether a person who names this file means a context: by its beginning or its name."""
    if path.suffix == CONTEXT_SUFFIX:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False  # whoever reads it as something else says why
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and os.read(descriptor, len(MAGIC)) == MAGIC
    finally:
        os.close(descriptor)


def decode_file(path: Path) -> tuple[Decoded, int]:
    """A context, and the descriptor of its file if it holds its own chunks, else -1."""
    with translated(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise UnknownProcessError(f"there is no checkpoint {path}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise NotAContextError(f"{path} is no file", "Try: a file that sojourn checkpoint -o wrote")
            decoded = decode_parts(
                lambda offset, length: os.pread(descriptor, length, offset), status.st_size
            )
        except BaseException:
            os.close(descriptor)
            raise
    if decoded.index is not None:
        return decoded, descriptor
    os.close(descriptor)
    return decoded, -1


def open_context(path: Path, digest: str | None) -> Stored:
    """Open a context and its packs; ``digest`` None for a file that must be self-contained."""
    decoded, descriptor = decode_file(path)
    with contextlib.ExitStack() as undo:
        packs = []
        if decoded.index is not None:
            packs.append(PackFile(descriptor, decoded.chunks_offset, decoded.index))
            undo.callback(packs[-1].close)
        elif digest is None and decoded.context.packs:
            raise DamagedContextError(
                f"{path} refers to chunks that are in the store it was taken from",
                "Try: sojourn checkpoint -o FILE",
            )
        else:
            for name in decoded.context.packs:
                packs.append(PackFile.open(path.with_name(name + PACK_SUFFIX)))
                undo.callback(packs[-1].close)
        if digest is not None and decoded.digest != digest:
            raise DamagedContextError(f"{path} is another checkpoint than its name says", HINT_OLDER)
        stored = Stored(decoded.context, decoded.digest, packs, decoded.section_bytes)
        for number in range(len(decoded.context.memories)):
            stored.parts(number)
        undo.pop_all()
    return stored
