"""Objects of the guest's CPython as they lie in its memory, for the making of images.

The objects of an image become immortal, from outside, because the interpreter offers no way from inside:
CPython does not count the references of an immortal object, and every count is a write, which would copy the
page of a shared image. And states of Mersenne twisters are found, to check where they lie (``renewal.py``).

The layout is that of CPython 3.12 and later on a 32-bit machine: the reference count comes first, and is
that of an immortal object from 2**30 up.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

TWISTER_WORDS = 624
_WORD = 4
_IMMORTAL_MIN = 1 << 30
_IMMORTAL = 5 << 28  # what CPython gives objects that it makes immortal while it runs


def make_immortal(memory: memoryview, address: int, count: int) -> int:
    """Make objects immortal: those whose ``count`` addresses lie at ``address``. Returns how many it made.

    Raises:
        ValueError: one of them is no object, so the layout is not the expected one.
    """
    words = memory.cast("I")
    made = 0
    for pointer in words[address // _WORD : address // _WORD + count]:
        index, rest = divmod(pointer, _WORD)
        if rest or not 0 < words[index] < 1 << 31:
            raise ValueError(f"there is no object at {pointer:#x}")
        if words[index] < _IMMORTAL_MIN:
            words[index] = _IMMORTAL
            made += 1
    return made


def find_state(memory: memoryview, address: int, size: int, state: Sequence[int]) -> int:
    """Where in the object at ``address`` the words of ``state`` lie.

    Raises:
        ValueError: they do not, or in more than one place.
    """
    data = bytes(memory[address : address + size])
    wanted = struct.pack(f"<{len(state)}I", *state)
    if len(state) != TWISTER_WORDS or data.count(wanted) != 1:
        raise ValueError(f"the object at {address:#x} does not hold its state")
    return address + data.index(wanted)
