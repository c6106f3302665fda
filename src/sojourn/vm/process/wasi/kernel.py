"""What all system calls share: access to guest memory, the descriptor table, turning errors into numbers.

Every pointer from the guest goes through ``span``, which checks it against the memory's size. A method
marked ``syscall`` returns nothing and raises ``WasiError``; the guest gets the errno.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from .abi import Errno, Rights
from .descriptors import Descriptor, DescriptorTable
from .outside import ByteQuota, Outside
from .vfs import WasiError

IOV_MAX = 1024
IO_BYTES_MAX = 1 << 26  # one call moves no more: a guest in a call must stay stoppable
OFFSET_MAX = (1 << 63) - 1

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
_IOVEC = struct.Struct("<II")
_READ_WRITE = int(Rights.FD_READ | Rights.FD_WRITE)

_P = ParamSpec("_P")
_S = TypeVar("_S")


class GuestMemory(Protocol):
    """The linear memory of a guest. It only grows, and never during a system call."""

    @property
    def view(self) -> memoryview:
        """All of it, as bytes (format ``B``), writable."""
        ...

    def refresh(self) -> memoryview:
        """``view`` after reading the size again."""
        ...


class NoMemory:
    """The memory of a guest that has none: every pointer into it is bad."""

    view = memoryview(bytearray())

    def refresh(self) -> memoryview:
        return self.view


def syscall(function: Callable[Concatenate[_S, _P], None]) -> Callable[Concatenate[_S, _P], int]:
    """Make a method that raises ``WasiError`` into one that returns the errno."""

    @functools.wraps(function)
    def call(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            function(self, *args, **kwargs)
        except WasiError as error:
            return error.errno.value
        return 0

    return call


@dataclass(frozen=True)
class LeftCall:
    """A call in which the guest was left while it waited, and which it makes again when it goes on.

    Attributes:
        asked: what it read from the guest's memory.
        begun_ns: when it began, by the guest's monotonic clock.
    """

    name: str
    arguments: tuple[int, ...]
    asked: bytes
    begun_ns: int


class Kernel:
    """The state that system calls work on. Subclasses add the calls, a group each."""

    def __init__(self, outside: Outside, output: ByteQuota, descriptors_max: int) -> None:
        self._outside = outside
        self._output = output
        self._memory: GuestMemory = NoMemory()
        self._table = DescriptorTable(descriptors_max)
        self._open = self._table.entries  # the hot path looks up here
        self.left_call: LeftCall | None = None

    # -- guest memory --

    def span(self, pointer: int, length: int) -> memoryview:
        """The bytes of guest memory at ``pointer``; writing them writes the guest's memory.

        Raises:
            WasiError: ``EFAULT`` when they are not all inside.
        """
        end = pointer + length
        view = self._memory.view
        if end > len(view):
            view = self._memory.refresh()
            if end > len(view):
                raise WasiError(Errno.EFAULT)
        return view[pointer:end]

    def parts(self, vectors: int, count: int) -> list[memoryview]:
        """The buffers of an iovec array, together at most ``IO_BYTES_MAX`` bytes."""
        if count > IOV_MAX:
            raise WasiError(Errno.EINVAL)
        parts = []
        room = IO_BYTES_MAX
        for pointer, length in _IOVEC.iter_unpack(self.span(vectors, 8 * count)):
            part = self.span(pointer, length)
            if length > room:
                part = part[:room]
            room -= len(part)
            parts.append(part)
        return parts

    def gather(self, vectors: int, count: int) -> memoryview:
        """The bytes of a ciovec array: one buffer as it is, several joined."""
        if count == 1:
            pointer, length = _IOVEC.unpack(self.span(vectors, 8))
            data = self.span(pointer, length)
            return data if length <= IO_BYTES_MAX else data[:IO_BYTES_MAX]
        return memoryview(b"".join(self.parts(vectors, count)))

    def path(self, pointer: int, length: int) -> bytes:
        return bytes(self.span(pointer, length))

    # -- descriptors --

    def descriptor(self, fd: int, rights: int = 0) -> Descriptor:
        """The open descriptor ``fd``.

        Raises:
            WasiError: ``EBADF``, also when it may not be read or written; ``ENOTCAPABLE`` when it lacks
                another one of ``rights``.
        """
        descriptor = self._open.get(fd)
        if descriptor is None:
            raise WasiError(Errno.EBADF)
        missing = int(rights) & ~descriptor.rights  # int: arithmetic with flag types is slow
        if missing:
            raise WasiError(Errno.EBADF if missing & _READ_WRITE else Errno.ENOTCAPABLE)
        return descriptor


def scatter(data: bytes | memoryview, parts: list[memoryview]) -> int:
    """Copy ``data`` into ``parts``, in order; how many bytes fitted."""
    if len(parts) == 1:
        size = len(data)
        parts[0][:size] = data
        return size
    view = memoryview(data)
    at = 0
    for part in parts:
        piece = view[at : at + len(part)]
        part[: len(piece)] = piece
        at += len(piece)
        if at == len(view):
            break
    return at


def signed64(value: int) -> int:
    return value - (1 << 64) if value > OFFSET_MAX else value
