"""A guest's whole system over every kind of file system, which can be saved and restored elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sojourn.context.plain import pack, unpack
from sojourn.vm.process.filesystems import bundle
from sojourn.vm.process.hostdir import HostFileSystem
from sojourn.vm.process.wasi.memory_fs import MemoryFileSystem
from sojourn.vm.process.wasi.mounts import MountTree
from sojourn.vm.process.wasi.outside import ByteQuota
from sojourn.vm.process.wasi.saving import restore_system, save_system
from sojourn.vm.process.wasi.system import System
from tests.wasi.helpers import FakeMemory, FakeOutside, FakeSink, FakeSource, Guest

LIBRARY = {"a.txt": b"alpha", "sub/b.txt": b"beta", "sub/c.txt": b"gamma"}
ROOT, DATA, PLOT = 3, 4, 5  # the descriptors of the preopened directories


class World(Guest):
    """Private files at ``/``, the host's ``folder`` at ``/data`` (also preopened), its file ``one`` at
    ``/one``, a bundle at ``/lib`` and one that is preopened only."""

    def __init__(
        self,
        folder: Path,
        *,
        writable: bool = True,
        stdin: Any = None,
        extra: Any = None,
        environ: Any = ((b"HOME", b"/"), (b"KEY", b"hush")),
        output_bytes: int = 1 << 20,
        file_bytes: int = 1 << 26,
        descriptors_max: int = 64,
    ) -> None:
        self.folder = folder
        self.outside = FakeOutside()
        self.files = ByteQuota("file_bytes", file_bytes)
        self.tree = MountTree(MemoryFileSystem(self.files, self.outside.realtime_ns))
        self.tree.make_directory("/tmp")
        self.tree.mount_directory("/lib", bundle(LIBRARY, 3))
        (folder / "granted").mkdir(exist_ok=True, parents=True)
        (folder / "one").touch()
        host = self._host(folder / "granted", 16, writable)
        self.tree.mount_directory("/data", host)
        self.tree.mount_file("/one", self._host(folder, 17, writable, b"one"), b"one")
        self.memory = FakeMemory(1 << 17)
        self.stdin = FakeSource() if stdin is None else stdin
        self.stdout, self.stderr = FakeSink(), FakeSink()
        self.extra = FakeSink() if extra is None else extra
        self.system = System(
            self.outside,
            self.memory,
            args=(b"prog", b"-x"),
            environ=environ,
            secrets=(b"KEY",),
            preopens=[(b"/", self.tree), (b"data", host.root()), (b"plot", bundle(LIBRARY, 4).root())],
            stdin=self.stdin,
            stdout=self.stdout,
            stderr=self.stderr,
            descriptors_max=descriptors_max,
            output=ByteQuota("output_bytes", output_bytes),
            extra=(self.extra,),
        )

    def _host(self, path: Path, device: int, writable: bool, only: bytes | None = None) -> HostFileSystem:
        return HostFileSystem(str(path), writable=writable, device=device, quota=self.files, only=only)

    @property
    def granted(self) -> Path:
        return self.folder / "granted"

    def save(self) -> dict[str, Any]:
        """What another machine would get."""
        return unpack(pack(save_system(self.system, self.tree)))

    def reborn(self, state: dict[str, Any] | None = None, **options: Any) -> World:
        """The same guest in a fresh system, at the same streams; this one is closed."""
        state = self.save() if state is None else state
        self.close()
        options = {"stdin": self.stdin, "extra": self.extra, **options}
        new = World(options.pop("folder", self.folder), **options)
        try:
            restore_system(state, new.system, new.tree)
        except BaseException:
            new.close()
            raise
        new.memory.view[:] = self.memory.view
        new.stdout.data, new.stderr.data = self.stdout.data, self.stderr.data
        new.outside.now_ns = self.outside.now_ns
        return new

    def close(self) -> None:
        self.system.close()
        self.tree.close()


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """The body opens no descriptor of the host that it does not close."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


__all__ = ["DATA", "LIBRARY", "PLOT", "ROOT", "FakeSink", "FakeSource", "World", "nothing_left_open"]
