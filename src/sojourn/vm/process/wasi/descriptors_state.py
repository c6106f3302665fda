"""Open descriptors as plain data, and back.

Streams are bound again by their role in the process, files and directories opened again where they are
(``places.py``). Which numbers are free follows from those that are taken. What a descriptor may do is not
more than the grants allow, whatever a state says: the file systems hold that.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from sojourn.model.errors import GrantError

from .abi import FdFlags, Rights
from .calls_path import DIRECTORY_RIGHTS, FILE_RIGHTS
from .checking import damaged, fields, items, number, raw, text
from .descriptors import PATH_KEPT_BYTES_MAX, Descriptor, DescriptorTable, Kind, SharedDirectory
from .kernel import OFFSET_MAX
from .outside import Sink, Source
from .places import CannotReopenError, Places
from .system import stream_descriptor
from .vfs import PATH_BYTES_MAX

DESCRIPTORS_MAX = 1 << 20
PENDING_BYTES_MAX = 1 << 24
_COMMON = ("number", "kind", "rights", "inheriting", "flags")
_OWN = {
    Kind.FILE: ("path", "offset", "place"),
    Kind.DIRECTORY: ("path", "preopen", "directory"),
    Kind.SOURCE: ("role", "pending"),
    Kind.SINK: ("role",),
}
_FLAGS = sum(FdFlags)
_READ, _WRITE = int(Rights.FD_READ), int(Rights.FD_WRITE)
_ROLE_MAX = 32


def save_descriptors(table: DescriptorTable, places: Places) -> dict[str, Any]:
    """The open descriptors, and apart from them the directory handles, which several may share.

    Raises:
        GrantError: one is on a file of the host that has no name any more, so that it could not be opened
            again.
    """
    shared: dict[int, int] = {}
    directories: list[dict[str, Any]] = []
    rows = []
    for number_, descriptor in sorted(table.entries.items()):
        try:
            if descriptor.shared is not None and id(descriptor.shared) not in shared:
                directory = descriptor.shared.directory
                shared[id(descriptor.shared)] = len(directories)
                directories.append({"place": places.save(directory), "listing": directory.save_listing()})
            rows.append(_row(number_, descriptor, shared, places))
        except CannotReopenError as error:
            raise _unreachable(number_, descriptor.path, error) from None
    return {"open": rows, "directories": directories}


def _row(number_: int, descriptor: Descriptor, shared: Mapping[int, int], places: Places) -> dict[str, Any]:
    kind = descriptor.kind
    row: dict[str, Any] = {
        "number": number_,
        "kind": str(kind),
        "rights": descriptor.rights,
        "inheriting": descriptor.inheriting,
        "flags": descriptor.flags,
    }
    if descriptor.file is not None:
        row |= {"path": descriptor.path, "offset": descriptor.offset, "place": places.save(descriptor.file)}
    elif descriptor.shared is not None:
        index = shared[id(descriptor.shared)]
        row |= {"path": descriptor.path, "preopen": descriptor.preopen, "directory": index}
    else:
        row["role"] = descriptor.role
        if kind is Kind.SOURCE:
            row["pending"] = descriptor.pending
    return row


def _unreachable(number_: int, path: bytes, error: CannotReopenError) -> GrantError:
    shown = path.decode("utf-8", "backslashreplace")
    return GrantError(f"descriptor {number_}: {shown} {error.why}", error.hint)


def restore_descriptors(
    state: Any, table: DescriptorTable, places: Places, streams: Mapping[str, Source | Sink]
) -> None:
    """Open everything again into ``table``, which must have nothing. All or none.

    Raises:
        GrantError: something cannot be opened again; names the descriptor, the path and what to do.
        ContextError: the state is damaged.
        LimitReached: ``descriptors``.
    """
    saved = fields(state, ("open", "directories"), "the descriptors")
    with ExitStack() as undo:
        loading = _Loading(places, streams, undo)
        handles = items(saved["directories"], "the list of directories", DESCRIPTORS_MAX)
        for row in items(saved["open"], "the list of descriptors", DESCRIPTORS_MAX):
            loading.add(row, handles)
        if len(loading.shared) != len(handles):
            raise damaged("a directory is open without a descriptor")
        table.put(loading.entries)
        undo.pop_all()


class _Loading:
    """Descriptors being opened again; what is open is closed by ``undo``."""

    def __init__(self, places: Places, streams: Mapping[str, Source | Sink], undo: ExitStack) -> None:
        self.entries: dict[int, Descriptor] = {}
        self.shared: dict[int, SharedDirectory] = {}
        self._places = places
        self._streams = streams
        self._undo = undo
        self._roles: set[str] = set()

    def add(self, row: Any, handles: list[Any]) -> None:
        kind = row.get("kind") if type(row) is dict else None
        if type(kind) is not str or kind not in list(Kind):
            raise damaged("a descriptor is of no known kind")
        fields(row, (*_COMMON, *_OWN[Kind(kind)]), "a descriptor")
        number_ = number(row["number"], "the number of a descriptor", DESCRIPTORS_MAX - 1)
        if number_ in self.entries:
            raise damaged(f"descriptor {number_} is there twice")
        if "role" in row:
            descriptor = self._stream(row)
        else:
            path = raw(row["path"], "the path of a descriptor", PATH_KEPT_BYTES_MAX)
            try:
                descriptor = self._file(row) if kind == Kind.FILE else self._directory(row, handles)
            except CannotReopenError as error:
                raise _unreachable(number_, path, error) from None
            descriptor.path = path
        self._undo.callback(descriptor.close)
        self.entries[number_] = descriptor

    def _bare(self, row: Mapping[str, Any], most: int) -> Descriptor:
        rights = number(row["rights"], "the rights of a descriptor")
        inheriting = number(row["inheriting"], "the rights of a descriptor")
        if rights & ~most or inheriting & ~(DIRECTORY_RIGHTS | FILE_RIGHTS):
            raise damaged("a descriptor has rights that it cannot have")
        return Descriptor(rights, inheriting, flags=_flags(row))

    def _stream(self, row: Mapping[str, Any]) -> Descriptor:
        role = text(row["role"], "the role of a stream", _ROLE_MAX)
        if role not in self._streams or role in self._roles:
            raise damaged(f"a stream is {role!r}, which is not there or there twice")
        self._roles.add(role)
        bound = stream_descriptor(role, self._streams[role])
        if bound.kind != row["kind"]:
            raise damaged(f"{role} is a {bound.kind}, not a {row['kind']}")
        checked = self._bare(row, bound.rights)
        bound.rights, bound.inheriting, bound.flags = checked.rights, checked.inheriting, checked.flags
        if row.get("pending") is not None:
            bound.pending = raw(row["pending"], "what was read ahead", PENDING_BYTES_MAX)
        return bound

    def _file(self, row: Mapping[str, Any]) -> Descriptor:
        descriptor = self._bare(row, FILE_RIGHTS)
        descriptor.offset = number(row["offset"], "an offset", OFFSET_MAX)
        write = bool(descriptor.rights & _WRITE)
        read = bool(descriptor.rights & _READ) or not write
        descriptor.file = self._places.open_file(row["place"], read=read, write=write)
        return descriptor

    def _directory(self, row: Mapping[str, Any], handles: list[Any]) -> Descriptor:
        descriptor = self._bare(row, DIRECTORY_RIGHTS)
        if row["preopen"] is not None:
            descriptor.preopen = raw(row["preopen"], "the name of a directory", PATH_BYTES_MAX)
        if not handles:
            raise damaged("a descriptor is on no directory")
        index = number(row["directory"], "the number of a directory", len(handles) - 1)
        if index not in self.shared:
            self.shared[index] = self._open(handles[index])
        descriptor.hold(self.shared[index])
        return descriptor

    def _open(self, handle: Any) -> SharedDirectory:
        saved = fields(handle, ("place", "listing"), "an open directory")
        directory = self._places.open_directory(saved["place"])
        if saved["listing"] is not None:
            try:
                directory.restore_listing(saved["listing"])
            except BaseException:
                directory.close()
                raise
        return SharedDirectory(directory)


def _flags(row: Mapping[str, Any]) -> int:
    flags = number(row["flags"], "the flags of a descriptor")
    if flags & ~_FLAGS:
        raise damaged("a descriptor has flags that do not exist")
    return flags
