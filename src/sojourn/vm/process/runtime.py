"""The Python runtime: CPython as a guest, started cold or from an image.

``PythonRuntime.start`` gives a virtual machine that is ready to execute the first line of a program; from
an image that is a matter of mapping memory. The guest sees one tree: a private root in memory, the standard
library as one read-only zip, our half of the runtime at ``/sojourn``, the program at ``/program``, and what
was granted. It is one preopened directory, so that an image, in which the C library has already looked at
what there is, fits every set of grants.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sojourn.context import Base, BaseKind, Context
from sojourn.model.errors import GrantError, LimitError, ProgramError, RuntimeUnavailableError
from sojourn.model.grants import DirectoryGrant
from sojourn.model.limits import MIB, Limits
from sojourn.model.progress import Progress
from sojourn.model.states import State
from sojourn.store.home import Home

from . import completing
from .artifacts import PythonArtifacts, find_python
from .assembly import assemble
from .compiled import CompiledModules, shown
from .engine import Instance
from .entrances import BYTES_FROM, CALL_ONE
from .filesystems import (
    GUEST_DEVICE,
    LIBRARY_DEVICE,
    PLOTTING_DEVICE,
    PROGRAM_DEVICE,
    OnDisk,
    SharedBundle,
    bundle,
    mount_grants,
)
from .guest import function_server_files
from .images import Image, ImageInfo, ImageStore, image_digest, image_lock
from .objects import make_immortal
from .partition import PLAIN
from .renewal import check_samples, renew
from .snapshots import fresh_origin
from .streams import Collected, Given, Streams
from .virtual_machine import VirtualMachine
from .wasi.mounts import MountTree
from .wasi.system import Preopen
from .wasi.vfs import Quota

GUEST_FOLDER = "/sojourn"
PROGRAM_FOLDER = "/program"
LIBRARY_FOLDER = "/usr/local/lib"
EXTRA_FIRST = 5  # the descriptors of further streams begin after the standard ones and two directories
_BUILD_LIMITS = Limits(memory_bytes=2048 * MIB, cpu_seconds=600, wall_seconds=1200)
_IMAGE_ESTIMATE_S = 3.0
_MARK = "sojourn image "
_AGENT = sorted((Path(__file__).parent / "guest").glob("_sojourn_*.py"))
# Part of every image: what programs import most, so that no start pays for it.
_COMMON = (
    *("argparse", "base64", "bisect", "collections", "concurrent.futures", "contextlib", "copy", "csv"),
    *("dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "glob", "hashlib", "heapq"),
    *("inspect", "io", "itertools", "json", "logging", "math", "operator", "os", "pathlib", "pprint"),
    *("random", "re", "secrets", "shutil", "statistics", "string", "struct", "subprocess", "tempfile"),
    *("textwrap", "threading", "time", "traceback", "types", "typing", "unittest", "urllib.parse"),
    *("uuid", "warnings", "weakref", "zipfile", "zoneinfo"),
)


@dataclass(frozen=True)
class PythonStart:
    """How the interpreter begins: the same words as the command line of ``python``.

    Attributes:
        kind: ``script``, ``code``, ``module``, ``directory`` or ``serve``.
        target: a path in the guest, the code itself, or a module's name.
        argv: ``sys.argv``, whole.
        path_first, path_last: around the library in ``sys.path``.
        identity: what ``os.getpid`` answers.
        name: the file name that a traceback shows for code.
        descriptors: for ``serve``, the streams to read from and write to.
    """

    kind: str
    target: str
    argv: tuple[str, ...]
    path_first: tuple[str, ...] = ()
    path_last: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    identity: int = 1
    name: str = "<string>"
    descriptors: tuple[int, ...] = ()

    def encoded(self) -> bytes:
        """As the agent reads it."""
        return json.dumps({**vars(self), "environment": dict(self.environment)}).encode()


class PythonRuntime:
    """CPython, compiled for this machine, and its images.

    Making one compiles what the start of the interpreter needs when that was never done here; the rest is
    compiled when it is called, and whole in the background (``completing``).

    Raises:
        RuntimeUnavailableError: the runtime is not installed, or is damaged.
    """

    def __init__(self, home: Home, modules: CompiledModules, progress: Progress) -> None:
        self.artifacts: PythonArtifacts = find_python()
        self._home = home
        self._progress = progress
        self._images = ImageStore(home)
        self._building = threading.Lock()
        self._completing = False
        self._guest_files, self._guest_digest = guest_modules()
        self._guest = bundle(self._guest_files, GUEST_DEVICE)
        library = {self.artifacts.library_name: OnDisk(self.artifacts.library)}
        self._library = SharedBundle(library, LIBRARY_DEVICE)
        self._plotting = bundle(self.artifacts.plotting_data(), PLOTTING_DEVICE)
        self._module = modules.get(
            self.artifacts.module_digest,
            self.artifacts.read_module,
            f"CPython {self.artifacts.python_version}",
        )

    # images

    def image(self, imports: Sequence[str], *, required: Sequence[str] = ()) -> Image:
        """The image with ``imports`` done; made now when there is none.

        An import that fails is noted in the image, for the program may do without it.

        Args:
            required: those of ``imports`` that must not fail.

        Raises:
            ProgramError: one of ``required`` cannot be imported. No image is made then.
        """
        digest = image_digest(self.artifacts.digest, self._guest_digest, imports)
        image = self._images.find(digest)
        if image is None:
            with self._building, self._home.lock(image_lock(digest)):
                image = self._images.find(digest) or self._build(
                    digest, tuple(sorted(set(imports))), required
                )
                self._ahead(())  # while the program runs, for the first line seldom needs it
        _need(required, image.info.failed)
        self._complete()
        return image

    def expect(self, imports: Sequence[str]) -> None:
        """Begin to get what a program with ``imports`` will call that goes on here."""
        self._ahead(imports)
        self._complete()

    def _ahead(self, imports: Sequence[str]) -> None:
        if self._module.parts is not None:
            self._module.parts.ahead((PLAIN, *imports))

    def _complete(self) -> None:
        """Once for each runtime: see that the whole interpreter is compiled for later starts."""
        if self._module.parts is not None and not self._completing:
            self._completing = True
            self._module.parts.rest()
            completing.begin(self._home)

    def find_image(self, content: str) -> Image | None:
        """The image of that ``ImageInfo.content``, if it is here."""
        return self._images.find_content(content)

    def _build(self, digest: str, imports: tuple[str, ...], required: Sequence[str]) -> Image:
        what = (
            f"making an image of Python with {', '.join(imports)}" if imports else "making an image of Python"
        )
        if imports:
            self._ahead(imports)
        with shown(self._progress, what, lambda: _IMAGE_ESTIMATE_S if imports else None):
            output = Collected(MIB)
            machine = self.start(None, _BUILD_LIMITS, Streams(Given(), output, output))
            try:
                ending = machine.run(lambda instance: _prepare(instance, imports, settle=True))
                assert ending is not None  # nobody suspends it
                if ending.state is not State.EXITED or ending.exit_code != 0:
                    raise RuntimeUnavailableError(
                        f"no image could be made: {ending.reason or output.text()}", "Try: sojourn doctor"
                    )
                facts = json.loads(output.text().rpartition(_MARK)[2])
                _need(required, facts["failed"])
                instance = machine.instance
                memory = instance.refresh()
                check_samples(memory, facts["samples"])
                make_immortal(memory, *facts["lasting"])
                info = ImageInfo(
                    digest=digest,
                    runtime=self.artifacts.digest,
                    imports=imports,
                    failed=facts["failed"],
                    bytes=len(memory),
                    globals={name: instance.read_global(name) for name in self._module.globals},
                    enter=facts["enter"],
                    ledger=facts["ledger"],
                    monotonic_ns=machine.surroundings.monotonic_ns(),
                    created_s=time.time(),
                )
                return self._images.save(info, memory)
            finally:
                machine.close()

    # starting

    def start(
        self,
        image: Image | None,
        limits: Limits,
        streams: Streams,
        program: Mapping[str, bytes] | None = None,
        grants: Sequence[DirectoryGrant] = (),
        context: Context | None = None,
    ) -> VirtualMachine:
        """A virtual machine ready to execute the first line: from ``image``, or cold; or one that shall be
        made
        what ``context`` says, its image mapped.

        Raises:
            LimitError: the memory limit is below what the runtime itself takes.
            GrantError: a granted directory cannot be opened.
        """
        monotonic_ns = 0 if image is None else image.info.monotonic_ns
        if context is not None:
            monotonic_ns = context.monotonic_ns
        try:
            machine = self._machine(limits, streams, program or {}, grants, monotonic_ns, context)
        except MemoryError:
            raise _too_little(limits, 40 * MIB) from None
        if image is not None:
            try:
                machine.instance.map_memory(image.descriptor, image.info.bytes)
                for name, bits in image.info.globals.items():
                    machine.instance.write_global(name, bits)
                base = Base(BaseKind.IMAGE, image.info.content, image.info.bytes)
                machine.origin = fresh_origin(machine.instance, base, image.view())
                machine.ledger = image.info.ledger
                if context is None:  # of one that goes on, this memory is not yet what it was
                    renew(machine.instance.refresh(), image.info.ledger)
            except MemoryError:
                machine.close()
                raise _too_little(limits, image.info.bytes) from None
            except BaseException:
                machine.close()
                raise
        return machine

    def entry(self, start: PythonStart, image: Image | None) -> Callable[[Instance], int | None]:
        """What ``VirtualMachine.run`` enters to execute the program on a machine that ``start`` gave."""

        def cold(instance: Instance) -> int | None:
            _prepare(instance, (), settle=False)
            instance.leavable = True
            return _turn(
                instance, f"import _sojourn_agent\n_sojourn_agent.start({start.encoded()!r})".encode()
            )

        def warm(instance: Instance) -> int | None:
            assert image is not None
            data = start.encoded()
            pointer = _put(instance, data)
            argument = instance.call(BYTES_FROM, pointer, len(data))
            instance.leavable = True
            instance.call(CALL_ONE, image.info.enter, argument or 0)
            raise RuntimeError("the agent returned")  # it leaves by ending the process

        return cold if image is None else warm

    def _machine(
        self,
        limits: Limits,
        streams: Streams,
        program: Mapping[str, bytes],
        grants: Sequence[DirectoryGrant],
        monotonic_ns: int,
        context: Context | None,
    ) -> VirtualMachine:

        def mount(tree: MountTree, quota: Quota) -> list[Preopen]:
            if any(grant.place == "/" for grant in grants):
                raise GrantError(
                    "a directory granted as '/' would hide Python's own library",
                    "Try: a guest path below it, such as /data",
                )
            tree.mount_directory(GUEST_FOLDER, self._guest)
            tree.mount_directory(LIBRARY_FOLDER, self._library)
            if program:
                tree.mount_directory(PROGRAM_FOLDER, bundle(program, PROGRAM_DEVICE))
            for _, directory in mount_grants(tree, grants, quota):
                directory.close()  # an image knows no further preopened directories
            return [(b"/", tree), (self._plotting_path(), self._plotting.root())]

        state = None if context is None else context.system
        return assemble(self._module, limits, streams, mount, monotonic_ns=monotonic_ns, state=state)

    def _plotting_path(self) -> bytes:
        """matplotlib looks for its data beside its code, which lies inside the library's archive."""
        return f"{LIBRARY_FOLDER}/{self.artifacts.library_name}/matplotlib/mpl-data".encode()


def _prepare(instance: Instance, imports: Sequence[str], *, settle: bool) -> int | None:
    """Start the interpreter and do the imports; for an image, report on stdout what the host must know."""
    instance.call("_initialize")
    prepared = _turn(
        instance,
        f"import sys; sys.path.insert(0, {GUEST_FOLDER!r})\n"
        "import _sojourn_agent\n"
        f"_sojourn_agent.prepare({_COMMON!r}, {list(imports)!r})\n".encode(),
    )
    if prepared or not settle:
        return prepared
    return _turn(
        instance,
        f"import _sojourn_agent, json\nprint({_MARK!r} + json.dumps(_sojourn_agent.settle()))\n".encode(),
    )


def _turn(instance: Instance, source: bytes) -> int | None:
    """Run a piece of Python in the interpreter; its exit status."""
    return instance.call("turn", _put(instance, source), len(source))


def _put(instance: Instance, data: bytes) -> int:
    """Where in the guest's memory ``data`` lies now."""
    pointer = instance.call("host_alloc", max(1, len(data))) or 0
    memory = instance.refresh()
    if not pointer or pointer + len(data) > len(memory):
        raise MemoryError("the interpreter has no room for its first line")
    memory[pointer : pointer + len(data)] = data
    return pointer


def guest_modules() -> tuple[dict[str, bytes], str]:
    """Our half of the runtime, as files by name, and a digest of them: the agent, the loop that serves
    functions, and what that stands on."""
    files = {path.name: path.read_bytes() for path in _AGENT} | function_server_files()
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name} {len(data)} ".encode() + data)
    digest.update(repr(_COMMON).encode())
    return files, digest.hexdigest()


def _need(required: Sequence[str], failed: Mapping[str, str]) -> None:
    for name in required:
        if name in failed:
            raise ProgramError(
                f"{name} could not be imported: {failed[name]}",
                "Try: the name of a module of the runtime; sojourn doctor --json lists its packages",
            )


def _too_little(limits: Limits, needed: int) -> LimitError:
    return LimitError(
        f"memory_bytes: {limits.memory_bytes:,} bytes are less than the interpreter itself takes",
        f"Try: --memory {-(-needed // MIB) + 64}M or more",
    )
