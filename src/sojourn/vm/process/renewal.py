"""Makes a Python process that goes on from an image or a checkpoint one of its own: its number, and fresh
random numbers where the program had left them to the system (DESIGN 4.3).

All of it is done from outside, by writing to the guest's memory while it stands still: it may have been left
anywhere, in the middle of a sort or of an allocation, so no code of the interpreter can be called. Where to
write stands in the *ledger*, which the guest keeps (``guest/_sojourn_ledger.py``).

Layouts are those of CPython 3.15 and numpy 2.5 on a 32-bit machine. The making of an image checks them, and
each entry brings evidence: where that is not found nothing is written. What a guest writes into its own
ledger can harm nobody but itself: each address is checked to lie in its memory.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator, Sequence

from sojourn.model.errors import ContextError

from .objects import TWISTER_WORDS, find_state

# Places in the root, and kinds of entries: as in guest/_sojourn_ledger.py.
MARK = struct.pack("<4I", 0x536F6A6F, 0x75726E20, 0x6C656467, 0x65722E31)
SELF, IDENTITY, LIFE, BLOCKS, NONE, FLOAT, RANDOM_BYTES, ROOT_WORDS = 4, 5, 6, 7, 8, 9, 10, 11
KINDS = ("Random", "twister", "RandomState", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
HEAD_WORDS, ENTRY_WORDS = 2, 3
ENTRIES_MAX = 1 << 16
_ENTRY = struct.Struct(f"<{ENTRY_WORDS}I")
_TWISTER = TWISTER_WORDS * 4
# Of each kind the offsets and sizes of what may be any bits: states, and numbers drawn but not yet used.
_ANY_BITS: dict[str, tuple[tuple[int, int], ...]] = {
    "Random": ((12, _TWISTER),),
    "twister": ((12, _TWISTER),),
    "MT19937": ((52, _TWISTER),),
    "PCG64": ((60, 4), (64, 32)),
    "PCG64DXSM": ((60, 4), (64, 32)),
    "Philox": ((72, 32), (108, 4), (112, 16)),  # the counter stays
    "SFC64": ((56, 24), (92, 4)),  # and this one's, too
}
_PCG_INCREMENT = 80  # must be odd
_SEED_SEQUENCE, _ENTROPY = 8, 12  # in a generator of numpy, and in its seed sequence
_BIT_GENERATOR, _GAUSS = 12, 48  # in a RandomState
_VALUES_VALID, _FIRST_VALUE = 3, 4  # after an object of ``random.Random``, where its attributes lie
_TYPE = 4
_NUMBER_TAG, _NUMBER, _NUMBER_TAG_BITS, _NUMBER_BASE = 8, 12, 3, 1 << 30  # an ``int`` and its digits
_NUMBER_DIGITS_MAX = 5  # numpy draws 128 bits
_NUMBER_REFERENCES = 2
_SCAN_BYTES = 1 << 22


def renew(memory: memoryview, root: int, identity: int | None = None) -> None:
    """Make the process in ``memory``, which stands still, another than all that have the same memory.

    Args:
        root: where its ledger lies.
        identity: its number from here on; None leaves what it is.

    Raises:
        ContextError: there is no ledger.
    """
    guest = _Guest(memory)
    if not _is_root(guest, root):
        raise ContextError(
            "its interpreter does not keep its ledger where it says",
            "Try: an older checkpoint of the process",
        )
    life = guest.word(root + 4 * LIFE)
    guest.put(root + 4 * LIFE, (life + 1 + int.from_bytes(os.urandom(3), "little")) & 0xFFFFFFFF)
    if identity is not None:
        guest.put(root + 4 * IDENTITY, identity)
    _Renewal(guest, root).renew()


def find_ledger(memory: memoryview) -> int | None:
    """Where the ledger of a process lies that was not started from an image; None when it has none."""
    guest = _Guest(memory)
    for begin in range(0, len(memory), _SCAN_BYTES):
        data = bytes(memory[begin : begin + _SCAN_BYTES + len(MARK)])
        at = data.find(MARK)
        while at >= 0:
            if _is_root(guest, begin + at):
                return begin + at
            at = data.find(MARK, at + 1)
    return None


def check_samples(memory: memoryview, samples: Sequence[tuple[str, int, int, Sequence[int]]]) -> None:
    """See that the states of generators lie where they are taken to lie.

    Args:
        samples: of each its kind, address and size, and the words of its state.

    Raises:
        ValueError: one does not.
    """
    for kind, address, size, words in samples:
        if find_state(memory, address, size, words) != address + _ANY_BITS[kind][0][0]:
            raise ValueError(f"a generator of kind {kind} has another layout")


class _Guest:
    """The words of a guest's memory. What lies outside reads as 0."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self._words = memory.cast("I")

    def word(self, address: int) -> int:
        index, rest = divmod(address, 4)
        return 0 if rest or not 0 < index < len(self._words) else self._words[index]

    def put(self, address: int, word: int) -> None:
        self._words[address // 4] = word

    def has(self, address: int, size: int) -> bool:
        return not address % 4 and 0 < address <= len(self.memory) - size

    def randomize(self, address: int, size: int) -> None:
        self.memory[address : address + size] = os.urandom(size)


def _is_root(guest: _Guest, root: int) -> bool:
    if not guest.has(root, 4 * ROOT_WORDS):
        return False
    return guest.memory[root : root + len(MARK)] == MARK and guest.word(root + 4 * SELF) == root


class _Renewal:
    """One reading of a ledger."""

    def __init__(self, guest: _Guest, root: int) -> None:
        self._guest = guest
        self._root = root
        self._none = guest.word(root + 4 * NONE)

    def renew(self) -> None:
        entries = list(self._entries())
        done = {place for kind, place, evidence in entries if self._renew_state(kind, place, evidence)}
        for kind, place, _ in entries:
            if kind == "RandomState" and self._guest.word(place + _BIT_GENERATOR) in done:
                self._renew_gauss(place)

    def _entries(self) -> Iterator[tuple[str, int, int]]:
        guest, left = self._guest, ENTRIES_MAX
        block = guest.word(self._root + 4 * BLOCKS)
        while block and left > 0:
            count = min(guest.word(block + 4), left)
            left -= max(count, 1)
            first = block + 4 * HEAD_WORDS
            data = guest.memory[first : first + _ENTRY.size * count]
            for kind, place, evidence in _ENTRY.iter_unpack(data[: len(data) // _ENTRY.size * _ENTRY.size]):
                if 0 < kind <= len(KINDS):
                    yield KINDS[kind - 1], place, evidence
            block = guest.word(block)

    def _renew_state(self, kind: str, place: int, evidence: int) -> bool:
        guest, fields = self._guest, _ANY_BITS.get(kind, ())
        if not fields or not guest.has(place, fields[-1][0] + fields[-1][1]):
            return False
        if kind in ("Random", "twister"):
            if kind == "Random":
                self._forget_gauss(place)
        elif self._is_unseeded(place, evidence):
            self._renew_number(evidence)
        else:
            return False
        for offset, size in fields:
            guest.randomize(place + offset, size)
        if kind.startswith("PCG"):
            guest.put(place + _PCG_INCREMENT, guest.word(place + _PCG_INCREMENT) | 1)
        return True

    def _is_unseeded(self, place: int, evidence: int) -> bool:
        """Whether a generator of numpy holds the number that was drawn to seed it, or, if ``evidence`` is
        ``None`` there, no seed sequence."""
        sequence = self._guest.word(place + _SEED_SEQUENCE)
        if evidence == self._none:
            return sequence == self._none
        return evidence != 0 and self._guest.word(sequence + _ENTROPY) == evidence

    def _renew_number(self, place: int) -> None:
        """The number that seeded a generator of numpy seeds those that are spawned from it, too. When only
        the generator and the ledger refer to it, nobody sees that it becomes another one."""
        guest = self._guest
        digits = guest.word(place + _NUMBER_TAG) >> _NUMBER_TAG_BITS
        if guest.word(place) != _NUMBER_REFERENCES or not 1 < digits <= _NUMBER_DIGITS_MAX:
            return
        for digit in range(place + _NUMBER, place + _NUMBER + 4 * (digits - 1), 4):  # the highest is not 0
            if guest.has(digit, 4):
                guest.put(digit, int.from_bytes(os.urandom(4), "little") % _NUMBER_BASE)

    def _forget_gauss(self, place: int) -> None:
        """Normal numbers are made in pairs: the second of one that was made is not to be used."""
        guest = self._guest
        values = place + guest.word(self._root + 4 * RANDOM_BYTES)
        if not guest.has(values, 8) or guest.memory[values + _VALUES_VALID] != 1:
            return
        kind = guest.word(guest.word(values + _FIRST_VALUE) + _TYPE)
        if kind and kind == guest.word(self._root + 4 * FLOAT):
            guest.put(values + _FIRST_VALUE, self._none)

    def _renew_gauss(self, place: int) -> None:
        """The same in a ``RandomState``, which may hold it as a number: another normal number will do. 0 is
        none: never set, or used."""
        if self._guest.has(place, _GAUSS + 8) and any(
            self._guest.memory[place + _GAUSS : place + _GAUSS + 8]
        ):
            number = struct.pack("<d", random.SystemRandom().gauss(0.0, 1.0))
            self._guest.memory[place + _GAUSS : place + _GAUSS + 8] = number
