"""Path resolution: from a directory handle and a path of the guest to a directory and one plain name.

Walks component by component over open handles. Symbolic links are expanded here and ``..`` goes back
along the stack of handles held, so no path, link or concurrent change of the file system leads above the
starting directory: there is no handle up there to go to. Absolute paths and absolute targets are refused
(``EPERM``), as is ``..`` above the start.

Invariant: every handle opened here is closed when the ``Target`` is, or before an error leaves.
"""

from __future__ import annotations

from types import TracebackType
from typing import cast

from .abi import Errno, FileType
from .vfs import (
    NAME_BYTES_MAX,
    PATH_BYTES_MAX,
    SYMLINKS_MAX,
    Directory,
    Node,
    Symlink,
    WasiError,
)

DEPTH_MAX = 256  # handles held at one time
COMPONENTS_MAX = 4096  # looked up for one path, links included


class Target:
    """Where a path leads. A context manager: leaving it closes what was opened.

    Attributes:
        directory: the directory that holds ``name``.
        name: one plain name, or None when the path leads to ``directory`` itself (``.``, ``a/..``).
        node: the object called ``name`` when the walk has looked it up (it does so to follow links);
            None when it did not, or when there is no such object.
        slash: the path ends in a slash: only a directory will do.
        parts: the names from the start to ``directory``.
    """

    def __init__(self, start: Directory) -> None:
        self._stack: list[Directory] = [start]  # the first is the caller's
        self.parts: list[bytes] = []
        self.name: bytes | None = None
        self.node: Node | None = None
        self.slash = False
        self.dots = False  # the last component was ".."

    @property
    def directory(self) -> Directory:
        return self._stack[-1]

    @property
    def is_start(self) -> bool:
        """The path leads to the directory that the walk started from."""
        return self.name is None and len(self._stack) == 1

    def find(self) -> Node:
        """The object itself; stays owned by the target.

        Raises:
            WasiError: ``ENOENT``; ``ENOTDIR`` when a directory is demanded and it is none.
        """
        if self.name is None:
            return self.directory
        if self.node is None:
            self.node = self.directory.lookup(self.name)
        if self.slash and self.node.filetype != FileType.DIRECTORY:
            raise WasiError(Errno.ENOTDIR)
        return self.node

    def find_or_none(self) -> Node | None:
        """The object itself, None when there is none of that name."""
        try:
            return self.find()
        except WasiError as error:
            if error.errno != Errno.ENOENT:
                raise
            return None

    def take(self) -> Node:
        """Like ``find``, but the caller closes what it gets. Not for the starting directory."""
        assert not self.is_start
        node = self.find()
        if self.name is None:
            self._stack.pop()
        self.node = None
        return node

    def push(self, directory: Directory, name: bytes) -> None:
        if len(self._stack) > DEPTH_MAX:
            directory.close()
            raise WasiError(Errno.ENAMETOOLONG)
        self._stack.append(directory)
        self.parts.append(name)

    def pop(self) -> None:
        if len(self._stack) == 1:
            raise WasiError(Errno.EPERM)
        self._stack.pop().close()
        self.parts.pop()

    def close(self) -> None:
        if self.node is not None:
            self.node.close()
            self.node = None
        while len(self._stack) > 1:
            self._stack.pop().close()

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def resolve(start: Directory, path: bytes, *, follow: bool, slash_follows: bool = True) -> Target:
    """Walk ``path`` from ``start``, which stays the caller's.

    Args:
        follow: expand a symbolic link at the end of the path.
        slash_follows: a trailing slash also demands that (it does where a path is to be used, not where
            a name is made or removed).

    Raises:
        WasiError: what the walk met. The last component need not exist.
    """
    target = Target(start)
    try:
        _Walk(target, follow, slash_follows).run(path)
    except BaseException:
        target.close()
        raise
    return target


class _Walk:
    def __init__(self, target: Target, follow: bool, slash_follows: bool) -> None:
        self.target = target
        self.follow = follow
        self.slash_follows = slash_follows
        self.pending: list[bytes] = []  # components still to walk, the next one last
        self.links = 0
        self.components = 0

    def run(self, path: bytes) -> None:
        self._expand(path)
        target = self.target
        while self.pending:
            name = self.pending.pop()
            self.components += 1
            if self.components > COMPONENTS_MAX:
                raise WasiError(Errno.ELOOP)
            target.dots = name == b".."
            if name in (b"", b"."):
                continue
            if target.dots:
                target.pop()
            elif len(name) > NAME_BYTES_MAX:
                raise WasiError(Errno.ENAMETOOLONG)
            elif self.pending:
                self._enter(name)
            else:
                self._finish(name)

    def _expand(self, path: bytes) -> None:
        """Put the components of ``path`` before those still to walk."""
        if not path:
            raise WasiError(Errno.ENOENT)
        if len(path) >= PATH_BYTES_MAX:
            raise WasiError(Errno.ENAMETOOLONG)
        if b"\0" in path:
            raise WasiError(Errno.EINVAL)
        if path.startswith(b"/"):
            raise WasiError(Errno.EPERM)
        stripped = path.rstrip(b"/")
        if not self.pending and stripped != path:
            self.target.slash = True
        self.pending.extend(reversed(stripped.split(b"/")))

    def _enter(self, name: bytes) -> None:
        """``name`` is not the last component: it must lead to a directory."""
        node = self.target.directory.lookup(name)
        if node.filetype == FileType.DIRECTORY:
            self.target.push(cast(Directory, node), name)
        elif node.filetype == FileType.SYMBOLIC_LINK:
            self._follow(node)
        else:
            node.close()
            raise WasiError(Errno.ENOTDIR)

    def _finish(self, name: bytes) -> None:
        """``name`` is the last component, unless it is a link that is followed."""
        target = self.target
        if self.follow or (target.slash and self.slash_follows):
            try:
                node = target.directory.lookup(name)
            except WasiError as error:
                if error.errno != Errno.ENOENT:
                    raise
                target.name = name
                return
            if node.filetype == FileType.SYMBOLIC_LINK:
                self._follow(node)
                return
            target.node = node
        target.name = name

    def _follow(self, node: Node) -> None:
        self.links += 1
        try:
            if self.links > SYMLINKS_MAX:
                raise WasiError(Errno.ELOOP)
            path = cast(Symlink, node).readlink()
        finally:
            node.close()
        self._expand(path)
