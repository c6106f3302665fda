"""The conformance suite, over each file system that can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sojourn.vm.process import hostcalls
from sojourn.vm.process.hostdir import HostFileSystem
from sojourn.vm.process.wasi.memory_fs import MemoryFileSystem
from sojourn.vm.process.wasi.outside import ByteQuota
from sojourn.vm.process.wasi.vfs import FileSystem
from tests.fs_conformance import Conformance


class TestMemory(Conformance):
    @pytest.fixture
    def fs(self) -> FileSystem:
        times = iter(range(1, 10**9))
        return MemoryFileSystem(ByteQuota("file_bytes", 1 << 30), lambda: next(times))


class TestHostDirectory(Conformance):
    @pytest.fixture
    def fs(self, tmp_path: Path) -> Iterator[FileSystem]:
        fs = HostFileSystem(str(tmp_path), writable=True, device=3, quota=ByteQuota("file_bytes", 1 << 30))
        yield fs
        fs.close()


class TestHostDirectoryWithoutPathDescriptors(TestHostDirectory):
    """As on hosts that have no O_PATH."""

    @pytest.fixture
    def fs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileSystem]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        monkeypatch.setattr("sojourn.vm.process.hostdir.DIRECTORY_FLAGS", flags)
        assert flags != hostcalls.DIRECTORY_FLAGS
        fs = HostFileSystem(str(tmp_path), writable=True, device=3, quota=None)
        yield fs
        fs.close()
