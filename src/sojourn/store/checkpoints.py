"""Checkpoints: stored process contexts, one directory for each process.

    checkpoints/<pid>/<digest>.context     a context (``sojourn.context.format``)
    checkpoints/<pid>/<name>.pack          chunks of memory that contexts in this directory name

A checkpoint shares packs with the one before it, as far as its memory is still the same, and a fork shares
those of its parent: a pack that another directory has is a hard link to the same file. So the file system
counts the references, and what a process has can be removed without looking at any other process.

A context is written after its packs, so one that is found has all it names; after a power cut, unless it was
written ``durable``, its checksums tell whether that still holds. Who writes, removes or opens holds a lock on
the directory. What is open stays readable whatever is removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sojourn.context.format import encode
from sojourn.context.memory import (
    CHUNK_BYTES,
    BaseKind,
    without_base,
)
from sojourn.context.pack import name_of
from sojourn.context.values import PACKS_MAX, Context
from sojourn.model.errors import (
    ContextError,
    DamagedContextError,
    OtherVersionError,
    StoreError,
    UnknownProcessError,
)

from .chunks import SUFFIX as PACK_SUFFIX
from .chunks import PackFile, copy_bytes, pack_in_memory, write_pack_file, write_pack_to, write_pieces
from .files import remove_stale, replacing, sync_directory, translated
from .home import lock_opened
from .stored import CONTEXT_SUFFIX, DIGEST, HINT_OLDER, Stored, contexts_in, decode_file, open_context

__all__ = ["Checkpoints", "Entry", "Saved", "Stored"]

LOCK_TIMEOUT_S = 60.0
_POLL_S = 0.002
_STALE_S = 3600.0
# A pack of which less than this share is still used is not kept for a new checkpoint: its chunks are stored
# again.
_USED_LEAST = 0.5
# The file system has no links, the file has too many or none, it is in memory, or elsewhere.
_NO_LINK = (
    errno.EXDEV,
    errno.EMLINK,
    errno.EPERM,
    errno.ENOENT,
    errno.EOPNOTSUPP,
    errno.EACCES,
    errno.ENOSYS,
)
_PID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was written.

    Attributes:
        context: as stored, with the names of its packs.
        written_bytes: on disk, for this checkpoint alone.
        new_chunks, kept_chunks: how many were stored, and how many were there.
    """

    digest: str
    context: Context
    written_bytes: int
    new_chunks: int
    kept_chunks: int


@dataclass(frozen=True)
class Entry:
    """A checkpoint in the store, by name; ``written_s`` in seconds since 1970."""

    pid: str
    digest: str
    written_s: float


class _Choice:
    """Which chunks a new checkpoint must store, and which packs have the others."""

    def __init__(self, context: Context, previous: Sequence[PackFile], views: Sequence[memoryview]) -> None:
        self._views = views
        self._previous = previous
        self._places: dict[bytes, tuple[int, int]] = {}
        for number, memory in enumerate(context.memories):
            for index, digest in memory.stored():
                if digest not in self._places:
                    self._places[digest] = number, index
        self.kept = self._keep(previous)
        known = set().union(*(pack.positions for pack in self.kept))
        self.new = [digest for digest in self._places if digest not in known]
        self.kept_chunks = len(self._places) - len(self.new)

    def _keep(self, previous: Sequence[PackFile]) -> list[PackFile]:
        """The packs worth keeping, the most used first."""
        found = []
        for pack in previous:
            used = sum(digest in pack.positions for digest in self._places)
            if used and used >= _USED_LEAST * pack.index.count:
                found.append((used, pack))
        found.sort(key=lambda pair: -pair[0])
        return [pack for _, pack in found[: PACKS_MAX - 1]]

    def chunks(self) -> Iterator[memoryview]:
        """The bytes of each new chunk, in order."""
        for digest in self.new:
            number, index = self._places[digest]
            if number < len(self._views):
                yield self._views[number][index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            else:
                yield self._from_packs(digest)

    def _from_packs(self, digest: bytes) -> memoryview:
        for pack in self._previous:
            position = pack.positions.get(digest)
            if position is not None:
                return pack.chunk(position)
        raise DamagedContextError(f"a chunk of memory, {digest.hex()[:16]}…, is missing", HINT_OLDER)


class Checkpoints:
    """The checkpoints under one directory. Safe to use from several threads and processes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    # writing

    def save(
        self,
        context: Context,
        views: Sequence[memoryview] = (),
        *,
        previous: Stored | None = None,
        compress: bool = False,
        durable: bool = False,
    ) -> Saved:
        """Store a context, whole or not at all.

        Args:
            context: with its memories as ``compare`` found them.
            views: the memories themselves, unchanged since; empty when ``previous`` has every chunk.
            previous: an open checkpoint that chunks are shared with: the one before, or the parent of a fork.
            compress: smaller and slower; for what travels or rests.
            durable: it survives a power cut once this returns.

        Raises:
            ContextError: what a component saved cannot be stored.
            DamagedContextError: ``previous`` lacks a chunk.
            StoreError: the disk is full, read-only or not ours to write; nothing is left behind.
        """
        choice = _Choice(context, previous.packs if previous else (), views)
        with self._locked(context.pid, make=True) as folder:
            made: list[Path] = []
            try:
                return self._write(folder, made, context, choice, compress, durable)
            except BaseException:
                for path in made:
                    with contextlib.suppress(OSError):
                        path.unlink()
                with contextlib.suppress(OSError):
                    folder.rmdir()  # only if nothing else is in it
                raise

    def _write(
        self, folder: Path, made: list[Path], context: Context, choice: _Choice, compress: bool, durable: bool
    ) -> Saved:
        written = 0
        names = []
        for pack in choice.kept:
            path = folder / (pack.index.name + PACK_SUFFIX)
            if not path.exists():
                made.append(path)
                _link(pack, path)
            if durable:
                with translated(path):
                    _sync(path)
            names.append(pack.index.name)
        if choice.new:
            path = folder / (name_of(b"".join(choice.new)) + PACK_SUFFIX)
            if not path.exists():
                made.append(path)
            written += write_pack_file(path, choice.new, choice.chunks(), compress=compress, durable=durable)
            names.append(path.stem)
        context = replace(context, packs=tuple(names))
        digest, pieces = encode(context)
        path = folder / (digest + CONTEXT_SUFFIX)
        if not path.exists():
            made.append(path)
        with replacing(path, durable=durable) as file:
            write_pieces(file.fileno(), pieces)
        if durable:
            with translated(self._root):
                sync_directory(self._root)
        written += sum(map(len, pieces))
        return Saved(digest, context, written, len(choice.new), choice.kept_chunks)

    def hold(self, context: Context, views: Sequence[memoryview], previous: Stored | None = None) -> Stored:
        """A checkpoint in memory only, to fork from at once: as ``save`` and ``load``, without the disk."""
        choice = _Choice(context, previous.packs if previous else (), views)
        packs = [pack.again() for pack in choice.kept]
        if choice.new:
            packs.append(pack_in_memory(choice.new, choice.chunks()))
        context = replace(context, packs=tuple(pack.index.name for pack in packs))
        return Stored(context, "", packs, {})

    # reading

    def load(self, pid: str, digest: str) -> Stored:
        """Open a checkpoint. Its chunks are there; each is verified when it is used.

        Raises:
            UnknownProcessError: there is no such checkpoint.
            ContextError: it cannot be used; which of its three kinds says why.
            StoreError: it cannot be read.
        """
        if not DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is not the name of a checkpoint")
        with self._locked(pid) as folder:
            return open_context(folder / (digest + CONTEXT_SUFFIX), digest)

    def latest(self, pid: str) -> Stored | None:
        """Open the last checkpoint of a process that is whole, or None when it has none.

        One that is damaged, as a power cut leaves it, is passed over for the one before; ``passed_over`` of
        what is returned says so. One of another version is not, if it was written later: to go back behind it
        is not for us to decide.

        Raises:
            OtherVersionError: the last one is of another version.
            DamagedContextError: all are damaged.
        """
        failures: list[ContextError] = []
        others: list[tuple[int, OtherVersionError]] = []
        with contextlib.suppress(UnknownProcessError), self._locked(pid) as folder:
            found: list[tuple[int, int, int, Path]] = []
            for path in contexts_in(folder):
                try:
                    context = decode_file(path)[0].context
                    found.append((context.epoch, context.sequence, context.created_ns, path))
                except OtherVersionError as error:
                    others.append((path.stat().st_mtime_ns, error))
                except ContextError as error:
                    failures.append(error)
            for *_, path in sorted(found, reverse=True):
                for written_ns, other in others:
                    if written_ns > path.stat().st_mtime_ns:
                        raise other
                try:
                    stored = open_context(path, path.stem)
                except ContextError as error:
                    failures.append(error)
                else:
                    stored.passed_over = tuple(failures)
                    return stored
        for failure in (*(other for _, other in others), *failures):
            raise failure
        return None

    def pids(self) -> list[str]:
        """The processes that have checkpoints."""
        with translated(self._root):
            if not self._root.is_dir():
                return []
            return sorted(path.name for path in self._root.iterdir() if _PID.fullmatch(path.name))

    def all(self, pid: str) -> list[Entry]:
        """The checkpoints of a process by name, the last written first; none when it is unknown."""
        entries = []
        with translated(self._root):
            for path in contexts_in(self._folder(pid)):
                with contextlib.suppress(FileNotFoundError):
                    entries.append(Entry(pid, path.stem, path.stat().st_mtime))
        return sorted(entries, key=lambda entry: -entry.written_s)

    # removing

    def prune(self, pid: str, keep: Collection[str] = (), packs: Collection[str] | None = None) -> list[str]:
        """Remove the checkpoints of a process but those in ``keep``, and the packs that no other names.

        Args:
            packs: what those in ``keep`` name, for who knows that: they need not be read then.

        Returns:
            The digests of those that were removed.
        """
        removed = []
        with contextlib.suppress(UnknownProcessError), self._locked(pid) as folder, translated(folder):
            for path in contexts_in(folder):
                if path.stem not in keep:
                    path.unlink(missing_ok=True)
                    removed.append(path.stem)
            self._drop_packs(folder, packs)
            remove_stale(folder, _STALE_S)
            with contextlib.suppress(OSError):
                folder.rmdir()  # only when nothing is left
        return removed

    def _drop_packs(self, folder: Path, known: Collection[str] | None) -> None:
        named: set[str] = set(known or ())
        for path in contexts_in(folder) if known is None else ():
            try:
                named |= set(decode_file(path)[0].context.packs)
            except ContextError:
                return  # what it names is not known, so all stays
        for path in folder.glob("*" + PACK_SUFFIX):
            if path.stem not in named:
                path.unlink(missing_ok=True)

    def remove(self, pid: str) -> None:
        """Remove all of a process. What is not there is no error."""
        with contextlib.suppress(UnknownProcessError), self._locked(pid) as folder, translated(folder):
            shutil.rmtree(folder)

    def remove_unless(self, pid: str, needed: Callable[..., bool], old_s: float) -> bool:
        """Remove all of a process if nobody needs it, as is found out while nobody else can change it.

        Args:
            needed: called with ``old``: whether nothing was written here for ``old_s`` seconds.

        Returns:
            Whether it was removed.
        """
        with contextlib.suppress(UnknownProcessError), self._locked(pid) as folder, translated(folder):
            written_s = max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))
            if needed(old=time.time() - written_s > old_s):
                return False
            shutil.rmtree(folder)
            return True
        return False

    # files that travel

    def export(
        self, stored: Stored, path: Path, bases: Mapping[str, memoryview], *, compress: bool = True
    ) -> str:
        """Write a self-contained file, whole or not at all; return the digest of the checkpoint in it.

        Args:
            bases: the bytes of each image that the context refers to, by digest. Data of the module is not
            stored:
                whoever resumes the process has the module.

        Raises:
            DamagedContextError: a chunk is not what it was.
            StoreError: the file cannot be written.
        """
        context, digests, chunks = _gather(stored, bases)
        with translated(path), tempfile.TemporaryFile(dir=path.parent) as spool:
            index = write_pack_to(spool.fileno(), digests, chunks, compress)
            digest, pieces = encode(context, index)
            with replacing(path) as file:
                write_pieces(file.fileno(), pieces)
                copy_bytes(spool.fileno(), 0, file.fileno(), index.size_bytes)
        return digest

    def open_file(self, path: Path) -> Stored:
        """Open a self-contained file.

        Raises:
            ContextError: it cannot be used; which of its three kinds says why.
            StoreError: it cannot be read.
        """
        return open_context(path, None)

    # the directory of a process

    def _folder(self, pid: str) -> Path:
        if not _PID.fullmatch(pid):
            raise ValueError(f"{pid!r} is not a pid")
        return self._root / pid

    @contextlib.contextmanager
    def _locked(self, pid: str, *, make: bool = False) -> Iterator[Path]:
        """Hold the lock on the directory of a process."""
        folder = self._folder(pid)
        deadline_s = time.monotonic() + LOCK_TIMEOUT_S
        with translated(folder):
            while (descriptor := self._try_lock(folder, make)) is None:
                if time.monotonic() > deadline_s:
                    raise StoreError(
                        f"the checkpoints of {pid} are in use by another process",
                        "Try: end the other sojourn process that works on it, then start again",
                    )
                time.sleep(_POLL_S)
        try:
            yield folder
        finally:
            os.close(descriptor)

    def _try_lock(self, folder: Path, make: bool) -> int | None:
        if make:
            self._make(folder)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            if make:
                return None  # somebody removed it this very moment
            raise UnknownProcessError(f"{folder.name} has no checkpoint", "Try: sojourn ps") from None
        return lock_opened(descriptor, folder)

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            return
        except FileNotFoundError:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)


def _gather(
    stored: Stored, bases: Mapping[str, memoryview]
) -> tuple[Context, list[bytes], Iterator[bytes | memoryview]]:
    """The context without images, the digests of all its chunks, and the chunks."""
    memories = []
    places: dict[bytes, tuple[memoryview, int] | tuple[PackFile, int]] = {}
    for number, memory in enumerate(stored.context.memories):
        for part in stored.parts(number):
            pack = stored.packs[part.pack]
            places.update({digest: (pack, part.first + at) for at, digest in enumerate(part.digests)})
        if memory.base.kind is BaseKind.IMAGE:
            base = bases[memory.base.digest]
            memory, added = without_base(memory, base)
            places.update({digest: (base, offset) for digest, offset in added.items()})
        memories.append(memory)

    def chunks() -> Iterator[bytes | memoryview]:
        for source, at in places.values():
            yield source.chunk(at) if isinstance(source, PackFile) else source[at : at + CHUNK_BYTES]

    return replace(stored.context, memories=tuple(memories)), list(places), chunks()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(pack: PackFile, path: Path) -> None:
    """Give an open pack a name more; where the file system cannot, copy it."""
    with translated(path):
        if pack.offset == 0:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # Given a directory, Python calls linkat, which alone follows the link in /proc to the file.
                os.link(f"/proc/self/fd/{pack.descriptor}", path, src_dir_fd=folder, follow_symlinks=True)
                return
            except FileExistsError:
                return
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
            finally:
                os.close(folder)
        with replacing(path, durable=False) as file:
            copy_bytes(pack.descriptor, pack.offset, file.fileno(), pack.index.size_bytes)
