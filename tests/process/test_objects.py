"""What is done to an interpreter's memory when an image is made of it."""

from __future__ import annotations

import random
import struct

import pytest

from sojourn.vm.process.objects import TWISTER_WORDS, find_state, make_immortal

STATE = random.Random(1).getstate()[1][:TWISTER_WORDS]


def memory_of(words: dict[int, int], size: int = 1 << 12) -> memoryview:
    memory = memoryview(bytearray(size))
    for address, word in words.items():
        struct.pack_into("<I", memory, address, word)
    return memory


def test_objects_become_immortal_and_immortal_ones_stay_as_they_are() -> None:
    memory = memory_of({0x100: 3, 0x200: 7 << 28, 0x300: 5, 0x10: 0x100, 0x14: 0x200})
    assert make_immortal(memory, 0x10, 2) == 1
    assert memory.cast("I")[0x100 // 4] == 5 << 28
    assert memory.cast("I")[0x200 // 4] == 7 << 28
    assert memory.cast("I")[0x300 // 4] == 5  # nobody named it


@pytest.mark.parametrize("pointer, count", [(0x101, 1), (0x100, 0), (0x100, 1 << 31)])
def test_what_is_no_object_is_refused(pointer: int, count: int) -> None:
    with pytest.raises(ValueError, match="no object"):
        make_immortal(memory_of({0x100: count, 0x10: pointer}), 0x10, 1)


def test_an_address_beyond_memory_is_refused() -> None:
    with pytest.raises((ValueError, IndexError)):
        make_immortal(memory_of({0x10: 0x7FFFFFF0}), 0x10, 1)


def test_a_state_is_found() -> None:
    memory = memory_of({}, 1 << 14)
    struct.pack_into(f"<{TWISTER_WORDS}I", memory, 0x1010, *STATE)
    assert find_state(memory, 0x1000, 0x1000, STATE) == 0x1010


def test_a_state_that_is_elsewhere_twice_or_cut_is_refused() -> None:
    memory = memory_of({}, 1 << 14)
    struct.pack_into(f"<{TWISTER_WORDS}I", memory, 0x0, *STATE)
    struct.pack_into(f"<{TWISTER_WORDS}I", memory, 0x1000, *STATE)
    for address, size, state in ((0, 1 << 14, STATE), (0x2000, 0x1000, STATE), (0, 0x1000, STATE[:-1])):
        with pytest.raises(ValueError, match="does not hold"):
            find_state(memory, address, size, state)
