"""The names by which a saved state knows file systems and what is open in them.

A file system is known by where the guest sees it; what is open in the private one by its inode number (it may
have no name any more), and in any other by its path from the root, to be walked again at the destination by
the same rules as a guest's own path: never outside, whatever has changed there. Opening again makes nothing
and empties nothing.

Beside a path stand the identities of the object and of the root it was under. They mean something only where
the root is the same one still: there, an object of another identity has taken the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from sojourn.model.errors import GrantError

from .abi import Errno, FileType
from .checking import U64_MAX, damaged, fields, flag, items, number, raw, text
from .memory_fs import DirectoryInode, FileInode, MemoryFile, MemoryFileSystem
from .mounts import Mount, MountTree
from .resolve import DEPTH_MAX, resolve
from .vfs import NAME_BYTES_MAX, PATH_BYTES_MAX, Directory, File, FileSystem, Node, WasiError

PRIVATE = ""
MOUNTS_MAX = 1 << 12
PATH_MAX = 1 << 17  # of a path from a root, in bytes
_IDENTITY_MAX = 4  # numbers in one
_MOUNT_FIELDS = ("path", "file", "device", "writable", "placeholder")
_OTHER_KIND = (Errno.ENOTDIR, Errno.EISDIR, Errno.ELOOP, Errno.ENXIO)
_FORBIDDEN = (Errno.EACCES, Errno.EPERM, Errno.EROFS, Errno.ETXTBSY)
_AGAIN = "Try: put it back, or start the program again"


class CannotReopenError(Exception):
    """What was open cannot be opened here. ``why`` goes on a sentence, ``hint`` says how to mend it."""

    def __init__(self, why: str, hint: str = _AGAIN) -> None:
        super().__init__(why)
        self.why = why
        self.hint = hint


class Places:
    """The file systems of one guest by name.

    Args:
        preopened: those beside the tree that the guest has a directory of.
    """

    def __init__(self, tree: MountTree, preopened: Sequence[tuple[bytes, FileSystem]]) -> None:
        self._tree = tree
        self._mounts: dict[str, tuple[int, Mount]] = tree.all_mounts()
        self._systems: dict[str, FileSystem] = {PRIVATE: tree.private}
        self._systems |= {path: mount.filesystem for path, (_, mount) in self._mounts.items()}
        self._names = {id(system): name for name, system in self._systems.items()}
        for name, system in preopened:
            if id(system) not in self._names:
                key = f"preopened {name.decode('utf-8', 'surrogateescape')}"
                self._systems[key] = system
                self._names[id(system)] = key

    # what is mounted

    def save_mounts(self) -> list[dict[str, Any]]:
        """What the guest sees beside the private file system, to be compared with what it gets elsewhere."""
        return [self._mount_state(name) for name in sorted(self._systems) if name != PRIVATE]

    def _mount_state(self, name: str) -> dict[str, Any]:
        system = self._systems[name]
        placeholder, mount = self._mounts.get(name, (0, None))
        return {
            "path": name,
            "file": mount is not None and mount.name is not None,
            "device": system.device,
            "writable": system.writable,
            "placeholder": placeholder,
        }

    def check_mounts(self, state: Any) -> dict[str, int]:
        """Compare with what is here.

        Returns:
            For each mount in the private file system, its placeholder's inode number in the saved one.

        Raises:
            GrantError: something is missing here, is another thing, or was not there.
            ContextError: the state is damaged.
        """
        saved: dict[str, dict[str, Any]] = {}
        for item in items(state, "the list of mounts", MOUNTS_MAX):
            row = dict(fields(item, _MOUNT_FIELDS, "a mount"))
            path = text(row["path"], "the path of a mount", PATH_MAX)
            flag(row["file"], "the kind of a mount")
            flag(row["writable"], "whether a mount is writable")
            number(row["device"], "the device number of a mount")
            number(row["placeholder"], "the placeholder of a mount")
            if path in saved:
                raise damaged(f"{path!r} is mounted twice")
            saved[path] = row
        for path in sorted(saved.keys() | (self._systems.keys() - {PRIVATE})):
            _compare(path, saved.get(path), self._mount_state(path) if path in self._systems else None)
        return {path: saved[path]["placeholder"] for path, (ino, _) in self._mounts.items() if ino}

    # what is open

    def save(self, node: Node) -> dict[str, Any]:
        """Where the object behind an open handle is.

        Raises:
            CannotReopenError: nowhere: its last name was removed.
        """
        system = node.filesystem
        name = self._names[id(system)]
        if name == PRIVATE:
            return {"mount": name, "ino": node.stat().ino}
        try:
            path = system.path_of(node)
            if path is None:
                raise CannotReopenError(
                    "has no name any more in what was granted", "Try: again, once it is closed"
                )
            return {
                "mount": name,
                "path": path,
                "identity": _numbers(node.identity()),
                "tree": _numbers(self._root_identity(system)),
            }
        except WasiError as error:
            raise CannotReopenError(f"cannot be looked at ({error.errno.name})") from None

    def open_file(self, state: Any, *, read: bool, write: bool) -> File:
        """A new handle on the file that ``state`` was saved of.

        Raises:
            CannotReopenError: it is not there, is none, or may not be opened so.
            ContextError: the state is damaged.
        """
        system = self._system(state)
        if isinstance(system, MemoryFileSystem):
            inode = system.inodes.get(_ino(state))
            if not isinstance(inode, FileInode):
                raise damaged("an open file is no file")
            return MemoryFile(system, inode, read=read, write=write)
        return cast(File, self._reopen(system, state, directory=False, read=read, write=write))

    def open_directory(self, state: Any) -> Directory:
        """As ``open_file``, for a directory."""
        system = self._system(state)
        if isinstance(system, MemoryFileSystem):
            inode = system.inodes.get(_ino(state))
            if not isinstance(inode, DirectoryInode):
                raise damaged("an open directory is none")
            return self._tree.open_private(inode)
        return cast(Directory, self._reopen(system, state, directory=True, read=True, write=False))

    def _system(self, state: Any) -> FileSystem:
        if type(state) is not dict or type(state.get("mount")) is not str:
            raise damaged("something is open nowhere")
        system = self._systems.get(state["mount"])
        if system is None:
            raise damaged(f"something is open in {state['mount'][:80]!r}, which is not mounted")
        return system

    def _reopen(self, system: FileSystem, state: Any, *, directory: bool, read: bool, write: bool) -> Node:
        place = fields(state, ("mount", "path", "identity", "tree"), "the place of something open")
        path = raw(place["path"], "the path of something open", PATH_MAX)
        identity, tree = (_identity(place[name]) for name in ("identity", "tree"))
        try:
            same_tree = _numbers(self._root_identity(system)) == tree
            parts = _names(path)
            node: Node = (
                _open_directory(system, parts)
                if directory
                else _open_file(system, parts, read=read, write=write)
            )
            try:
                if same_tree and _numbers(node.identity()) != identity:
                    raise CannotReopenError("was replaced by another one of that name")
            except BaseException:
                node.close()
                raise
            return node
        except WasiError as error:
            raise _reason(error.errno, write) from None

    def _root_identity(self, system: FileSystem) -> object:
        root = system.root()
        try:
            return root.identity()
        finally:
            root.close()


def _compare(path: str, saved: dict[str, Any] | None, here: dict[str, Any] | None) -> None:
    if saved is None or here is None:
        which = "was not granted to the process" if saved is None else "is not granted here"
        raise GrantError(f"{path} {which}", "Try: the grants that the process was started with")
    names = ("file", "writable", "device")
    if any(saved[name] != here[name] for name in names):
        raise GrantError(
            f"{path} is {_words(here)} here, and was {_words(saved)}",
            "Try: the grants that the process was started with, in the same form",
        )


def _words(mount: dict[str, Any]) -> str:
    kind = "file" if mount["file"] else "directory"
    return f"a {'writable' if mount['writable'] else 'read-only'} {kind} (device {mount['device']})"


def _ino(state: Any) -> int:
    return number(fields(state, ("mount", "ino"), "the place of something open")["ino"], "an inode number")


def _numbers(identity: object) -> list[int]:
    return [int(part) for part in identity] if isinstance(identity, tuple) else [cast(int, identity)]


def _identity(value: Any) -> list[int]:
    return [number(part, "an identity", U64_MAX) for part in items(value, "an identity", _IDENTITY_MAX)]


def _names(path: bytes) -> list[bytes]:
    parts = path.split(b"/") if path else []
    if any(part in (b"", b".", b"..") or b"\0" in part or len(part) > NAME_BYTES_MAX for part in parts):
        raise damaged("something is open at a path that cannot be")
    return parts


def _open_directory(system: FileSystem, parts: list[bytes]) -> Directory:
    """Walk ``parts`` from the root, in as few steps as resolutions can do it."""
    at = system.root()
    while parts:
        count = _fitting(parts)
        at = _enter(at, b"/".join(parts[:count]))
        parts = parts[count:]
    return at


def _enter(at: Directory, path: bytes) -> Directory:
    """The directory at ``path``; ``at`` is closed, unless it is the same one."""
    try:
        with resolve(at, path, follow=True) as target:
            if target.is_start:
                return at
            if target.find().filetype != FileType.DIRECTORY:
                raise WasiError(Errno.ENOTDIR)
            below = cast(Directory, target.take())
    except BaseException:
        at.close()
        raise
    at.close()
    return below


def _open_file(system: FileSystem, parts: list[bytes], *, read: bool, write: bool) -> File:
    last = len(parts) - _fitting(parts[::-1])
    at = _open_directory(system, parts[:last])
    try:
        with resolve(at, b"/".join(parts[last:]) or b".", follow=True) as target:
            if target.name is None or target.find().filetype != FileType.REGULAR_FILE:
                raise WasiError(Errno.EISDIR)
            return target.directory.open(
                target.name, read=read, write=write, create=False, exclusive=False, truncate=False
            )
    finally:
        at.close()


def _fitting(parts: list[bytes]) -> int:
    """How many of ``parts`` one resolution can walk."""
    room = PATH_BYTES_MAX - 1
    for count, part in enumerate(parts[: DEPTH_MAX // 2]):
        room -= len(part) + 1
        if room < 0:
            return count
    return min(len(parts), DEPTH_MAX // 2)


def _reason(errno: Errno, write: bool) -> CannotReopenError:
    if errno == Errno.ENOENT:
        return CannotReopenError("is not there any more")
    if errno in _OTHER_KIND:
        return CannotReopenError("is something else now")
    if errno in _FORBIDDEN:
        what = "written" if write else "read"
        return CannotReopenError(f"cannot be {what} any more", f"Try: allow it to be {what} again")
    return CannotReopenError(f"cannot be opened ({errno.name})")
