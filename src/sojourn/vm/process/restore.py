"""Sets a fresh memory up from a checkpoint, as far as possible without copying.

Chunks that lie in a pack as they are, many one after the other, are *mapped* from it, copy-on-write: forks of
one checkpoint share them, the kernel may drop and fetch them again, and the next checkpoint knows that they
were not written. The others are copied. Each is verified in its place, before the guest runs.

A process has a limited number of mappings, and each map can make two more of the one it divides. So few are
made, the longest first.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from sojourn.context.memory import Part, clear_zeros
from sojourn.store.stored import Stored

MAP_BYTES_MIN = 256 * 1024
MAPS_MAX = 16
_PROT_READ_WRITE, _MAP_PRIVATE_FIXED = 3, 0x02 | 0x10

_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)


def restore_memory(stored: Stored, number: int, view: memoryview, fresh_bytes: int) -> None:
    """Make a fresh memory what the memory ``number`` of a checkpoint was.

    Args:
        view: the fresh memory, grown to its size, with the base in place (the image mapped), at rest. It must
        be a
            private mapping that may be replaced in part, as the engine's are.
        fresh_bytes: how much of it, from the beginning, may be something else than zero: the size of the
        base, or
            of a fresh instance's memory before it was grown.

    Raises:
        DamagedContextError: a chunk is not what it was. The memory is void then.
    """
    memory = stored.context.memories[number]
    if len(view) != memory.size_bytes:
        raise ValueError(f"a memory of {len(view)} bytes for one of {memory.size_bytes}")
    parts = stored.parts(number)
    mapped = _to_map(stored, parts)
    for part in parts:
        pack, place = stored.packs[part.pack], view[part.offset : part.offset + part.length]
        offset = mapped.get(part.offset)
        if offset is not None and _mapped(place, pack.descriptor, offset):
            pack.check(part, place)
        else:
            pack.read_into(part, place)
    clear_zeros(memory, view, fresh_bytes)


def remap_memory(stored: Stored, number: int, view: memoryview) -> int:
    """Let a memory that was just saved go on over its checkpoint: the same bytes, in pages of the pack.

    Forks of it share them then, and the next checkpoint, with the memory of this one as
    its origin, reads only what was written since. Small pieces stay as they are.

    Args:
        view: the memory, at rest, unchanged since it was saved.

    Returns:
        How many bytes were mapped.

    Raises:
        DamagedContextError: a chunk is not what it was. The memory is as before.
        OSError: the system refused a mapping. The memory is as before, in part mapped.
    """
    mapped = 0
    parts = stored.parts(number)
    for offset, there in _to_map(stored, parts).items():
        part = next(part for part in parts if part.offset == offset)
        pack = stored.packs[part.pack]
        with (
            mmap.mmap(pack.descriptor, part.length, mmap.MAP_SHARED, mmap.PROT_READ, offset=there) as probe,
            memoryview(probe) as content,
        ):
            pack.check(part, content)  # first elsewhere: this memory is in use
        map_file(view[offset : offset + part.length], pack.descriptor, there)
        mapped += part.length
    return mapped


def _to_map(stored: Stored, parts: list[Part]) -> dict[int, int]:
    """Offset in the memory to offset in the file, of those parts that are worth a mapping."""
    found = {}
    for part in sorted(parts, key=lambda part: -part.length)[:MAPS_MAX]:
        offset = stored.packs[part.pack].raw_offset(part)
        aligned = offset is not None and not (offset | part.offset | part.length) % mmap.PAGESIZE
        if offset is not None and aligned and part.length >= MAP_BYTES_MIN:
            found[part.offset] = offset
    return found


def _mapped(place: memoryview, descriptor: int, offset: int) -> bool:
    """Whether the system did it; there may be too many mappings."""
    try:
        map_file(place, descriptor, offset)
    except OSError:
        return False
    return True


def map_file(place: memoryview, descriptor: int, offset: int) -> None:
    """Make a part of memory that of a file, copy-on-write.

    Raises:
        OSError: the system refused the mapping.
    """
    address = ctypes.addressof(ctypes.c_char.from_buffer(place))
    if _mmap(address, len(place), _PROT_READ_WRITE, _MAP_PRIVATE_FIXED, descriptor, offset) != address:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "mapping a pack into memory")
