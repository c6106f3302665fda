"""The file system that a guest sees: one tree over private memory, bundles and granted directories."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sojourn.model.errors import GrantError
from sojourn.model.grants import DirectoryGrant

from .hostdir import HostFileSystem
from .wasi.bundle_fs import BundleFileSystem, Content
from .wasi.memory_fs import MemoryFileSystem
from .wasi.mounts import MountTree
from .wasi.vfs import Directory, FileSystem, Quota

_PRIVATE_DEVICE, GUEST_DEVICE, LIBRARY_DEVICE, PLOTTING_DEVICE, PROGRAM_DEVICE, _GRANT_DEVICE = (
    1,
    2,
    3,
    4,
    5,
    16,
)
_FOLDERS = ("/tmp", "/home")  # noqa: S108 - in the guest


class InMemory:
    """A file whose bytes are at hand."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self.size = len(data)

    def read(self) -> bytes | memoryview:
        return self._data


class OnDisk:
    """A file of the host, mapped when it is first read; it must not change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def read(self) -> memoryview:
        with self._path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


class SharedBundle(BundleFileSystem):
    """A bundle that many guests see at once: no guest's end closes it."""

    def __init__(self, contents: Mapping[str, Content], device: int) -> None:
        super().__init__(contents, device)

    def close(self) -> None:
        """It stays open for the others."""


def bundle(files: Mapping[str, bytes], device: int) -> SharedBundle:
    return SharedBundle({name: InMemory(data) for name, data in files.items()}, device)


def new_tree(quota: Quota, now: Callable[[], int]) -> MountTree:
    """An empty private root, with the directories that programs expect."""
    tree = MountTree(MemoryFileSystem(quota, now, _PRIVATE_DEVICE))
    for folder in _FOLDERS:
        tree.make_directory(folder)
    return tree


def mount_grants(
    tree: MountTree, grants: Sequence[DirectoryGrant], quota: Quota
) -> list[tuple[str, Directory]]:
    """Open and mount what is granted, shallow paths first.

    Returns:
        For each granted directory, its guest path as it was granted, and a new handle on it.

    Raises:
        GrantError: a path does not exist, cannot be opened, or is granted twice.
    """
    directories: list[tuple[str, Directory]] = []
    ordered = sorted(grants, key=lambda grant: grant.guest_path.count("/"))
    for number, grant in enumerate(ordered):
        guest_path = "/" + grant.guest_path.strip("/")
        try:
            mode = Path(grant.path).stat().st_mode
            if stat.S_ISDIR(mode):
                files = _open(grant, grant.path, _GRANT_DEVICE + number, quota)
                tree.mount_directory(guest_path, files)
                directories.append((grant.guest_path, files.root()))
            elif stat.S_ISREG(mode):
                # Opened by its real name: the link that a person named is followed once, here.
                folder, name = os.path.split(os.path.realpath(grant.path))
                files = _open(grant, folder, _GRANT_DEVICE + number, quota, os.fsencode(name))
                tree.mount_file(guest_path, files, os.fsencode(name))
            else:
                raise GrantError(f"{grant.path} is neither a directory nor a regular file")
        except OSError as error:
            raise GrantError(f"cannot grant {grant.path}: {error.strerror}") from None
    return directories


def _open(
    grant: DirectoryGrant, path: str, device: int, quota: Quota, only: bytes | None = None
) -> FileSystem:
    return HostFileSystem(path, writable=grant.writable, device=device, quota=quota, only=only)
