"""Checkpoints of processes: from a machine at rest to the store, and from the store to what a start needs.

A checkpoint names its program; the program itself is kept once, beside it, so that the process can go on in
another operating-system process. A file that travels holds the program as well.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sojourn.bundle.archive import archive_bytes, parse_bundle, read_bundle
from sojourn.bundle.contents import Bundle
from sojourn.context import BaseKind, Context
from sojourn.model.errors import ContextError, ProcessStateError, StoreError
from sojourn.model.grants import DirectoryGrant, EnvironmentGrant, SecretGrant, grant_from_dict
from sojourn.model.limits import Limits
from sojourn.model.priority import Priority
from sojourn.store.checkpoints import Checkpoints, Saved, Stored
from sojourn.store.files import translated, write_atomic
from sojourn.store.home import Home
from sojourn.store.origins import Origins
from sojourn.store.output import OutputWriter
from sojourn.vm.process.images import ImageStore
from sojourn.vm.process.snapshots import context_of, take
from sojourn.vm.process.virtual_machine import VirtualMachine

from .requests import LaunchRequest

_PROGRAM, _HOST = "program", "host"
_NAME_MAX = 4096
_PROGRAMS_LOCK = "programs"
_PROGRAM_FILE = re.compile(r"sha256-[0-9a-f]{64}\.sojourn")
_BUNDLES_MAX = 8
_FILE_NAME = re.compile(r"[^0-9a-z]")


@dataclass
class Line:
    """The checkpoints of one life of a process, one after the other.

    Attributes:
        epoch: of its owner.
        sequence: of the next checkpoint.
        previous: the last one, open, whose chunks the next one shares.
        last: the digest of the last one.
        log: where its output is recorded.
        program_kept: whether its program lies beside its checkpoints.
    """

    pid: str
    request: LaunchRequest
    epoch: int
    sequence: int = 0
    previous: Stored | None = None
    last: str = ""
    log: OutputWriter | None = None
    program_kept: bool = False

    def close(self) -> None:
        if self.previous is not None:
            self.previous.close()


class Keeper:
    """The checkpoints of one home, as hosts use them. Thread-safe; a ``Line`` belongs to its guest's
    thread."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.store = Checkpoints(home.checkpoints)
        self.origins = Origins()
        self._bundles: dict[str, Bundle] = {}
        self._lock = threading.Lock()

    def save(
        self,
        line: Line,
        machine: VirtualMachine,
        *,
        durable: bool = False,
        waiting: bool = False,
        last: bool = False,
    ) -> Saved:
        """Store a machine at rest.

        Args:
            waiting: its guest waits for something, and would go on waiting if it could: while it lies in the
                store its monotonic clock goes on.
            last: of this life, so that no other will share its chunks.

        Raises:
            ContextError: this process cannot be stored.
            StoreError: the disk is full, read-only or not ours to write; nothing is left behind.
        """
        context, views = self._taken(line, machine, line.pid, waiting=waiting)
        before = line.previous
        # What waits may lie there for long, by the thousand, and nobody waits for it to be stored.
        saved = self.store.save(context, views, previous=before, compress=waiting, durable=durable)
        line.last = saved.digest
        line.sequence += 1
        if before is not None:
            # The one before stays as well: a power cut may take the newest.
            named = {*saved.context.packs, *before.context.packs}
            self.store.prune(line.pid, keep=(saved.digest, before.digest), packs=named)
        if not last:
            line.previous = self.store.load(line.pid, saved.digest)
            if before is not None:
                before.close()
        return saved

    def save_fork(self, line: Line, machine: VirtualMachine, pid: str) -> Saved:
        """Store a machine at rest as a new process, which nothing but the store knows yet.

        Raises:
            ContextError, StoreError: as ``save``.
        """
        context, views = self._taken(line, machine, pid)
        return self.store.save(context, views, previous=line.previous)

    def _taken(
        self, line: Line, machine: VirtualMachine, pid: str, *, waiting: bool = False
    ) -> tuple[Context, tuple[memoryview, ...]]:
        """What a machine at rest is, as the process itself or as a new one that goes on from there."""
        request, is_fork = line.request, pid != line.pid
        if request.secrets:
            names = ", ".join(grant.name for grant in request.secrets)
            raise ContextError(
                f"its memory holds secrets ({names}), which must never be in a checkpoint",
                "Try: run it without --secret; a granted file can be read when it is needed",
            )
        if line.log is not None:
            line.log.flush()  # what the checkpoint counts as written must not be lost with us
        snapshot = take(machine)
        context = context_of(
            snapshot,
            program=request.program.digest,
            runtime=_runtime(request),
            pid=pid,
            created_ns=time.time_ns(),
            epoch=1 if is_fork else line.epoch,
            sequence=0 if is_fork else line.sequence,
            parent=line.previous.digest if line.previous is not None else None,
            grants=request.grants(),
            limits=request.limits.to_dict(),
        )
        context.system[_HOST] = {
            "name": request.name,
            "args": list(request.args),
            "use_image": request.use_image,
            "priority": str(request.priority),
            "waiting": waiting,
        }
        if not line.program_kept:
            self.keep_program(request)
            line.program_kept = True
        return context, snapshot.views

    def keep_program(self, request: LaunchRequest) -> None:
        """Keep the program of a process that has a record, for as long as it has not ended.

        Raises:
            StoreError: it cannot be written.
        """
        path = self._program_path(request.program.digest)
        with self._home.lock(_PROGRAMS_LOCK):
            if not path.exists():
                write_atomic(path, archive_bytes(Bundle(request.program, request.contents)))

    def remove_programs(self, needed: Callable[[], Collection[str]], old_s: float) -> list[str]:
        """Remove the programs that nobody needs and that were kept ``old_s`` seconds ago or before.

        Args:
            needed: gives the digests of the programs of all processes that have not ended. It is asked while
                no other program can come to be kept.

        Returns:
            The names of their files.
        """
        oldest_s = time.time() - old_s
        with self._home.lock(_PROGRAMS_LOCK), translated(self._home.bundles):
            keep = {self._program_path(digest).name for digest in needed()}
            removed = [
                path
                for path in self._home.bundles.iterdir()
                if _PROGRAM_FILE.fullmatch(path.name)
                and path.name not in keep
                and path.lstat().st_mtime < oldest_s
            ]
            for path in removed:
                path.unlink(missing_ok=True)
        return [path.name for path in removed]

    def _program_path(self, digest: str) -> Path:
        return self._home.bundles / (_FILE_NAME.sub("-", digest) + ".sojourn")

    def fork(self, stored: Stored, pid: str, request: LaunchRequest) -> Saved:
        """A checkpoint of a new process that goes on from an open one, with the grants of ``request``.

        Raises:
            StoreError: as ``save``.
        """
        context = stored.context
        forked = replace(
            context,
            pid=pid,
            epoch=1,
            sequence=0,
            parent=stored.digest,
            created_ns=time.time_ns(),
            grants=request.grants(),
            limits=request.limits.to_dict(),
            system={**context.system, _HOST: {**_host_part(context), "waiting": False}},
        )
        return self.store.save(forked, previous=stored)

    def waited_ns(self, context: Context) -> int:
        """How long a process has waited in the store, if it was stored because it waits."""
        if _host_part(context).get("waiting") is not True:
            return 0
        return max(0, time.time_ns() - context.realtime_ns)

    def request_of(self, context: Context) -> LaunchRequest:
        """What a process was started with, to bind its grants again.

        Raises:
            ContextError: the context does not say, or its program is not here.
            GrantError: a grant in it is none.
        """
        bundle = self._bundle_of(context)
        host = _host_part(context)
        if not isinstance(host.get("args"), list):
            raise ContextError("it does not say what was started")
        grants = [grant_from_dict(grant) for grant in context.grants]
        return LaunchRequest(
            bundle.program,
            bundle.contents,
            str(host.get("name", ""))[:_NAME_MAX],
            tuple(str(arg) for arg in host["args"]),
            tuple(grant for grant in grants if isinstance(grant, DirectoryGrant)),
            tuple(grant for grant in grants if isinstance(grant, EnvironmentGrant)),
            tuple(grant for grant in grants if isinstance(grant, SecretGrant)),
            Limits.from_dict(context.limits),
            bool(host.get("use_image", True)),
            _priority(host.get("priority")),
        )

    def _bundle_of(self, context: Context) -> Bundle:
        """As ``program_of``; the last few that were asked for stay in memory."""
        if _PROGRAM in context.system:
            return self.program_of(context)
        with self._lock:
            found = self._bundles.pop(context.program, None) or self.program_of(context)
            self._bundles[context.program] = found  # the last used comes last
            while len(self._bundles) > _BUNDLES_MAX:
                del self._bundles[next(iter(self._bundles))]
        return found

    def program_of(self, context: Context) -> Bundle:
        """The program of a context: from the file that travels with it, or kept here.

        Raises:
            ContextError: it is neither here nor there.
            BundleError: what is there is damaged.
        """
        carried = context.system.get(_PROGRAM)
        path = self._program_path(context.program)
        if isinstance(carried, bytes):
            bundle = parse_bundle(carried, "the program in the checkpoint")
        elif path.exists():
            bundle = read_bundle(path)
        else:
            raise ContextError(
                f"its program {context.program[:19]} is not here", "Try: a checkpoint written with -o"
            )
        if bundle.program.digest != context.program:
            raise ContextError("the program beside it is another one")
        return bundle

    def export(self, pid: str, path: Path) -> str:
        """Write the last checkpoint of a process to a file that holds everything: memory, program, and the
        image's
        part of memory.

        Raises:
            ProcessStateError: it has no checkpoint.
            SojournError: the program, the image or a chunk is missing, or the file cannot be written.
        """
        stored = self.store.latest(pid)
        if stored is None:
            raise ProcessStateError(f"process {pid} has no checkpoint", f"Try: sojourn checkpoint {pid}")
        with stored:
            program = archive_bytes(self.program_of(stored.context))
            system: dict[str, Any] = {**stored.context.system, _PROGRAM: program}
            whole = Stored(replace(stored.context, system=system), "", stored.packs, stored.section_bytes)
            digest = self.store.export(whole, path, self._images(stored.context))
        with suppress(StoreError):  # it is whole; whoever resumes it will be asked
            self.origins.note(digest)
        return digest

    def _images(self, context: Context) -> dict[str, memoryview]:
        """The memory of each image that a context refers to."""
        images = ImageStore(self._home)
        found = {}
        for base in (memory.base for memory in context.memories):
            if base.kind is BaseKind.IMAGE:
                image = images.find_content(base.digest)
                if image is None:
                    raise ContextError(f"the image {base.digest[:12]} that it was started from is not here")
                found[base.digest] = image.view()
        return found


def _priority(text: object) -> Priority:
    """What a context says; one of an earlier version, or one that nobody knows here, is normal."""
    return next((priority for priority in Priority if priority == text), Priority.NORMAL)


def _host_part(context: Context) -> dict[str, Any]:
    """What the host that wrote it keeps for the one that goes on with it."""
    found = context.system.get(_HOST)
    return found if isinstance(found, dict) else {}


def _runtime(request: LaunchRequest) -> str:
    """The digest of the module that runs the program."""
    program = request.program
    if program.entry.kind == "wasm":
        return next(file.digest for file in program.files if file.name == program.entry.target)
    return program.runtime
