"""The file system that a guest sees: one tree over private memory, bundles and granted directories."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from sojourn.model.errors import GrantError
from sojourn.model.grants import DirectoryGrant

from .hostdir import HostFileSystem
from .wasi.bundle_fs import BundleFileSystem, Content
from .wasi.memory_fs import MemoryFileSystem
from .wasi.mounts import MountTree
from .wasi.vfs import Directory, Quota

_PRIVATE_DEVICE, GUEST_DEVICE, LIBRARY_DEVICE, PLOTTING_DEVICE, PROGRAM_DEVICE, _GRANT_DEVICE = (
    1,
    2,
    3,
    4,
    5,
    16,
)
SCRATCH_FOLDER = "/tmp"  # noqa: S108 - in the guest
_FOLDERS = (SCRATCH_FOLDER, "/home")


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
    ordered = sorted(grants, key=lambda grant: grant.place.count("/"))
    with ExitStack() as undo:
        for number, grant in enumerate(ordered):
            try:
                files = _mount_grant(tree, grant, _GRANT_DEVICE + number, quota)
            except OSError as error:
                raise GrantError(f"cannot grant {grant.path}: {error.strerror}") from None
            if files is not None:
                directory = files.root()
                undo.callback(directory.close)
                directories.append((grant.guest_path, directory))
        undo.pop_all()
    return directories


def _mount_grant(tree: MountTree, grant: DirectoryGrant, device: int, quota: Quota) -> HostFileSystem | None:
    """Mount one grant; give its file system when it is a directory."""
    mode = Path(grant.path).stat().st_mode
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise GrantError(f"{grant.path} is neither a directory nor a regular file")
    folder, name = grant.path, None
    if stat.S_ISREG(mode):
        # Opened by its real name: the link that a person named is followed once, here.
        folder, file = os.path.split(os.path.realpath(grant.path))
        name = os.fsencode(file)
    files = HostFileSystem(folder, writable=grant.writable, device=device, quota=quota, only=name)
    try:
        if name is not None:
            tree.mount_file(grant.place, files, name)
            return None
        if grant.place == "/":
            tree.mount_root(files)
        else:
            tree.mount_directory(grant.place, files)
    except BaseException:
        files.close()
        raise
    return files
