"""Which parts of a guest's memory were written to since it was set up: asked of the kernel, not compared.

Memory is set up by private mappings: of an image, of a pack, of the engine's own copy of the module's data,
of nothing. A page of such a mapping that was never written is either not there, or is the file's own page.
``/proc/self/pagemap`` has 64 bits for each page; these tell:

    bit 63, present, or bit 62, swapped: the page is there
    bit 61: it is a page of a file (or of shared memory), that is, not ours alone

So a page was written exactly if it is there and bit 61 is not set. Reading a page of nothing can make it look
written; that costs a look at it, no more. No privilege is needed (the page's number, which would need one, is
not looked at).

Where the file does not exist or tells something else (gVisor, other systems), a test at the first use finds
out, and the answer is *not known*: then all of memory is read and compared.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache

from sojourn.context.memory import CHUNK_BYTES

_PATH = "/proc/self/pagemap"
_ENTRY_BYTES = 8
# The highest byte of an entry decides: present or swapped, and no page of a file.
_WRITTEN = bytes(bool(bits & 0xC0) and not bits & 0x20 for bits in range(256))


def written(view: memoryview) -> bytes | None:
    """One byte for each chunk of a memory: 1 where it was written to since it was set up, 0 where it was not.

    Args:
        view: all of the memory, made of private mappings; a multiple of ``CHUNK_BYTES``.

    Returns:
        None when it cannot be found out.
    """
    if not _works():
        return None
    if not view:
        return b""
    return _chunks(_pages(ctypes.addressof(ctypes.c_char.from_buffer(view)), len(view)))


def _pages(address: int, length: int) -> bytes:
    """The same, for each page; empty when the kernel says less than it was asked for."""
    page = mmap.PAGESIZE
    count = -(-length // page)
    try:
        descriptor = os.open(_PATH, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        entries = os.pread(descriptor, count * _ENTRY_BYTES, address // page * _ENTRY_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
    if len(entries) != count * _ENTRY_BYTES:
        return b""
    return entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].translate(_WRITTEN)  # entries are little-endian


def _chunks(pages: bytes) -> bytes | None:
    """From pages to chunks, whichever is larger."""
    if not pages:
        return None
    page = mmap.PAGESIZE
    if page >= CHUNK_BYTES:
        return b"".join(bytes((flag,)) * (page // CHUNK_BYTES) for flag in pages)
    each = CHUNK_BYTES // page
    joined = int.from_bytes(pages[0::each], "little")
    for at in range(1, each):
        joined |= int.from_bytes(pages[at::each], "little")
    return joined.to_bytes(len(pages) // each, "little")


@cache
def _works() -> bool:
    """Whether the kernel tells written pages from others, tried on a mapping made for that."""
    page = mmap.PAGESIZE
    try:
        descriptor = os.memfd_create("sojourn-probe", os.MFD_CLOEXEC)
    except OSError:
        return False
    try:
        os.ftruncate(descriptor, 4 * page)
        os.pwrite(descriptor, b"x" * 4 * page, 0)
        probe = mmap.mmap(descriptor, 4 * page, flags=mmap.MAP_PRIVATE)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    with probe:
        seen = probe[page]  # read: the file's page
        probe[2 * page] = 0  # written: a page of our own
        view = ctypes.c_char.from_buffer(probe)
        flags = _pages(ctypes.addressof(view), 4 * page)
        del view
    return seen == ord("x") and flags[1:] == b"\0\1\0"
