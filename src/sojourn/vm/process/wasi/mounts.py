"""The tree of mounts that a guest sees as ``/``: a private file system with others hung into it.

A mount point is a placeholder, an empty directory or file of the private file system. The directories
handed out here look like those of the private file system, except that a placeholder is swapped for
what is mounted there. Mounts are keyed by the placeholder's inode, so they follow a renamed parent.

A mount point itself cannot be removed, renamed or replaced (``EBUSY``), and nothing is linked or renamed
across mounts (``EXDEV``). Mounts hang in the private file system only, never inside one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from sojourn.model.errors import GrantError

from .abi import Errno, FileType
from .checking import damaged
from .memory_fs import ROOT_INO, DirectoryInode, FileInode, Inode, MemoryDirectory, MemoryFileSystem
from .vfs import Directory, Entry, File, FileSystem, Node, Stat, WasiError


@dataclass(frozen=True)
class Mount:
    """``filesystem`` at ``guest_path``; as a directory, or only its file ``name`` as a file."""

    guest_path: str
    filesystem: FileSystem
    name: bytes | None = None

    def node(self) -> Node:
        """A new handle on what is mounted, as ``Directory.lookup`` gives it."""
        root = self.filesystem.root()
        if self.name is None:
            return root
        try:
            return root.lookup(self.name)
        finally:
            root.close()


class MountTree:
    """A private file system with mounts. Owns it and every file system mounted."""

    def __init__(self, private: MemoryFileSystem) -> None:
        self.private = private
        self.mounts: dict[int, Mount] = {}  # by the placeholder's inode number
        self._over: FileSystem | None = None  # mounted over the root

    def mount_root(self, filesystem: FileSystem) -> None:
        """Show the root of ``filesystem`` as ``/``. It hides the private file system and all mounts in
        it, which can be reached by directory handles only.

        Raises:
            GrantError: there is one already.
        """
        if self._over is not None:
            raise GrantError("the guest path '/' is already taken", "Try: another guest path")
        self._over = filesystem

    def mount_directory(self, guest_path: str, filesystem: FileSystem) -> None:
        """Show the root of ``filesystem`` as the directory ``guest_path`` (absolute).

        Raises:
            GrantError: something is mounted there or above it, or the path runs through a file.
        """
        self._mount(Mount(guest_path, filesystem))

    def mount_file(self, guest_path: str, filesystem: FileSystem, name: bytes) -> None:
        """Show the file ``name`` in the root of ``filesystem`` as the file ``guest_path`` (absolute).

        Raises:
            GrantError: as for ``mount_directory``.
        """
        self._mount(Mount(guest_path, filesystem, name))

    def make_directory(self, guest_path: str) -> None:
        """Make the private directory ``guest_path`` and those above it, as far as they are missing.

        Raises:
            GrantError: the path runs through a mount or a file.
        """
        self._walk(guest_path, _parts(guest_path)).close()

    def directory(self, guest_path: str) -> Directory:
        """A new handle on the directory ``guest_path`` (absolute) of the private file system or mounted in
        it, whatever is mounted over the root.

        Raises:
            WasiError: it does not, or cannot be opened.
        """
        at: Directory = MountedDirectory(self, self.private.root())
        for part in _parts(guest_path):
            try:
                below = at.lookup(part)
            finally:
                at.close()
            if below.filetype != FileType.DIRECTORY:
                below.close()
                raise WasiError(Errno.ENOTDIR)
            at = cast(Directory, below)
        return at

    def root(self) -> Directory:
        """A new handle on ``/``."""
        if self._over is not None:
            return self._over.root()
        return MountedDirectory(self, self.private.root())

    def all_mounts(self) -> dict[str, tuple[int, Mount]]:
        """What is mounted, by guest path, each with the inode number of its placeholder; 0 for what lies over
        the root, which has none."""
        found = {mount.guest_path: (ino, mount) for ino, mount in self.mounts.items()}
        if self._over is not None:
            found["/"] = 0, Mount("/", self._over)
        return found

    def replace_placeholders(self, places: Mapping[str, int]) -> None:
        """The private file system is another one now: in it, each mount has its placeholder at the inode
        number that ``places`` gives for its guest path.

        Raises:
            ContextError: what is there cannot be a placeholder.
        """
        placed: dict[int, Mount] = {}
        for mount in self.mounts.values():
            ino = places[mount.guest_path]
            inode = self.private.inodes.get(ino)
            if inode is None or ino in placed or not _can_hold(inode, mount):
                raise damaged(f"there is no place for {mount.guest_path}")
            placed[ino] = mount
        self.mounts.clear()
        self.mounts.update(placed)

    def open_private(self, inode: DirectoryInode) -> MountedDirectory:
        """A new handle on a directory of the private file system, which may have no name any more."""
        return MountedDirectory(self, MemoryDirectory(self.private, inode))

    def close(self) -> None:
        for mount in self.mounts.values():
            mount.filesystem.close()
        if self._over is not None:
            self._over.close()
        self.private.close()

    def _mount(self, mount: Mount) -> None:
        parts = _parts(mount.guest_path)
        if not parts:
            raise GrantError(
                "nothing can be granted at the guest path '/'", "Try: a path below it, such as /data"
            )
        *parents, name = parts
        parent = self._walk(mount.guest_path, parents)
        try:
            self.mounts[self._placeholder(parent, name, mount)] = mount
        finally:
            parent.close()

    def _walk(self, guest_path: str, parts: list[bytes]) -> MemoryDirectory:
        at = self.private.root()
        for part in parts:
            if at.child(part) is None:
                at.mkdir(part)
            below = at.lookup(part)
            at.close()
            if not isinstance(below, MemoryDirectory) or below.ino in self.mounts:
                below.close()
                raise GrantError(
                    f"the guest path {guest_path!r} lies inside another grant",
                    "Try: a guest path that does not begin with that of another grant",
                )
            at = below
        return at

    def _placeholder(self, parent: MemoryDirectory, name: bytes, mount: Mount) -> int:
        ino = parent.child(name)
        if ino is None:
            if mount.name is None:
                parent.mkdir(name)
            else:
                _make_file(parent, name)
            ino = parent.child(name)
        elif ino in self.mounts or mount.name is not None:
            raise GrantError(
                f"the guest path {mount.guest_path!r} is already taken", "Try: another guest path"
            )
        else:
            self._need_bare_directory(parent, name, mount)
        assert ino is not None
        return ino

    def _need_bare_directory(self, parent: MemoryDirectory, name: bytes, mount: Mount) -> None:
        old = parent.lookup(name)
        try:
            if not isinstance(old, MemoryDirectory) or any(True for _ in old.entries(0)):
                raise GrantError(
                    f"the guest path {mount.guest_path!r} is already taken", "Try: another guest path"
                )
        finally:
            old.close()


def _make_file(parent: MemoryDirectory, name: bytes) -> None:
    parent.open(name, read=False, write=False, create=True, exclusive=True, truncate=False).close()


def _can_hold(inode: Inode, mount: Mount) -> bool:
    if isinstance(inode, DirectoryInode):
        return mount.name is None and inode.ino != ROOT_INO and inode.nlink > 0 and not inode.names
    return mount.name is not None and isinstance(inode, FileInode) and inode.nlink > 0


def _parts(guest_path: str) -> list[bytes]:
    if not guest_path.startswith("/"):
        raise GrantError(f"the guest path {guest_path!r} must be absolute", f"Try: /{guest_path}")
    parts = [part for part in guest_path.encode("utf-8", "surrogateescape").split(b"/") if part]
    if b"." in parts or b".." in parts or b"\0" in b"".join(parts):
        raise GrantError(f"the guest path {guest_path!r} must not contain '.' or '..'")
    return parts


class MountedDirectory:
    """A directory of the private file system, with what is mounted in it. Owns ``inner``."""

    def __init__(self, tree: MountTree, inner: MemoryDirectory) -> None:
        self._tree = tree
        self._inner = inner

    @property
    def filetype(self) -> FileType:
        return FileType.DIRECTORY

    @property
    def filesystem(self) -> FileSystem:
        return self._inner.filesystem

    def identity(self) -> object:
        return self._inner.identity()

    def stat(self) -> Stat:
        return self._inner.stat()

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        self._inner.set_times(atim, mtim)

    def close(self) -> None:
        self._inner.close()

    def lookup(self, name: bytes) -> Node:
        mount = self._mount(name)
        if mount is not None:
            return mount.node()
        node = self._inner.lookup(name)
        return MountedDirectory(self._tree, node) if isinstance(node, MemoryDirectory) else node

    def open(
        self, name: bytes, *, read: bool, write: bool, create: bool, exclusive: bool, truncate: bool
    ) -> File:
        mount = self._mount(name)
        if mount is None:
            return self._inner.open(
                name, read=read, write=write, create=create, exclusive=exclusive, truncate=truncate
            )
        if create and exclusive:
            raise WasiError(Errno.EEXIST)
        if mount.name is None:
            raise WasiError(Errno.EISDIR)
        root = mount.filesystem.root()
        try:
            return root.open(
                mount.name, read=read, write=write, create=False, exclusive=False, truncate=truncate
            )
        finally:
            root.close()

    def mkdir(self, name: bytes) -> None:
        self._inner.mkdir(name)

    def symlink(self, name: bytes, target: bytes) -> None:
        self._inner.symlink(name, target)

    def link(self, name: bytes, target: Node) -> None:
        if isinstance(target, MountedDirectory):
            raise WasiError(Errno.EPERM)
        self._inner.link(name, target)

    def rmdir(self, name: bytes) -> None:
        self._need_no_mount(name)
        self._inner.rmdir(name)

    def unlink(self, name: bytes) -> None:
        self._need_no_mount(name)
        self._inner.unlink(name)

    def rename(self, name: bytes, to: Directory, to_name: bytes) -> None:
        if not isinstance(to, MountedDirectory) or to._tree is not self._tree:
            raise WasiError(Errno.EXDEV)
        self._need_no_mount(name)
        to._need_no_mount(to_name)
        self._inner.rename(name, to._inner, to_name)

    def entries(self, cookie: int) -> Iterator[Entry]:
        for entry in self._inner.entries(cookie):
            mount = self._tree.mounts.get(entry.ino)
            yield entry if mount is None else _shown(entry, mount)

    def sync(self, data_only: bool) -> None:
        self._inner.sync(data_only)

    def save_listing(self) -> Any:
        return self._inner.save_listing()

    def restore_listing(self, state: Any) -> None:
        self._inner.restore_listing(state)

    def _mount(self, name: bytes) -> Mount | None:
        ino = self._inner.child(name)
        return None if ino is None else self._tree.mounts.get(ino)

    def _need_no_mount(self, name: bytes) -> None:
        if self._mount(name) is not None:
            raise WasiError(Errno.EBUSY)


def _shown(entry: Entry, mount: Mount) -> Entry:
    """The placeholder's entry with the number and type of what is mounted; as it is, when that is gone."""
    try:
        node = mount.node()
    except WasiError:
        return entry
    try:
        return replace(entry, ino=node.stat().ino, filetype=node.filetype)
    finally:
        node.close()
