"""Where the host finds what in this interpreter belongs to one process only.

A process that goes on from an image or from a checkpoint must not draw the numbers that another draws which
goes on from the same. The host sees to it before the process goes on, by writing to its memory. No code runs
here for that, so nothing that a program could watch (frames, trace functions, signals) tells of it, and also
a draw that is under way, in the middle of a million numbers, goes on with fresh ones.

For that this module keeps the *ledger*: for every random generator that was seeded from the system, where it
lies. A generator that the program seeds is struck out before the seed is in it, and goes on with exactly
its sequence. ``renewal.py`` at the host reads the ledger, and says how it lies in memory:

    root     words that never move: a mark, its own address, the process's number, the number of the life,
             the first block, what the host must know of the interpreter
    block    the address of the next one, the number of its entries, the entries
    entry    what it is (0: nothing), where it lies, evidence

The process may be left between any two stores. So an object is held before its entry says what it is, and
the entry says nothing before the object is let go of: what the host writes to is always alive.

Nothing tells when a generator of numpy is made. But an unseeded one draws a number from the system, and keeps
that very number: it is found where the draw happens, and the number is the evidence that it was the right one.
"""

import array
import functools
import gc
import os
import random
import sys
import uuid

_MARK = 0x536F6A6F, 0x75726E20, 0x6C656467, 0x65722E31
# Places in the root, and kinds of entries: as in renewal.py at the host.
_SELF, _IDENTITY, _LIFE, _BLOCKS, _NONE, _FLOAT, _RANDOM_BYTES, _ROOT_WORDS = 4, 5, 6, 7, 8, 9, 10, 11
_KINDS = {
    name: number
    for number, name in enumerate(
        ("Random", "twister", "RandomState", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"), 1
    )
}
_HEAD_WORDS, _ENTRY_WORDS = 2, 3
_BLOCK_ENTRIES = 64
_ENTRIES_MAX = 1 << 16  # later generators are not watched
_NEAR = 16  # so few objects are made between a generator of numpy and its draw

_root = array.array("L", bytes(4 * _ROOT_WORDS))
_blocks = []  # all of them stay as long as the process
_places = []  # block and position of each slot
_free = []
_held = [object()]  # what lies in each slot
_numbers = []  # and the evidence of it
_slots = {}  # by the identity of what lies there
_alone = sys.getrefcount(_held[0])  # references to an object that nothing but this list holds
_held.clear()
_numpy = {}  # kinds by type, when numpy is there
_life = 0
_making = True  # an image, whose objects stay for ever
_drawn = []  # while it is being made: the numbers that seeded generators of numpy
_given = []  # and the generators whose state somebody set


def getpid():
    """``os.getpid`` in a guest: the number that the host gave this process."""
    return _root[_IDENTITY]


def set_identity(number):
    """What ``getpid`` answers from here on."""
    _root[_IDENTITY] = number


def address():
    """Where the root lies."""
    return _root[_SELF]


# ---------------------------------------------------------------------------------------- the ledger


def _note(item, kind, evidence=None):
    """Enter a generator that was seeded from the system."""
    slot = _slots.get(id(item))
    if slot is None:
        if not _free:
            _make_room()
        if not _free:
            return
        slot = _free.pop()
        _held[slot] = item
        _slots[id(item)] = slot
    block, at = _places[slot]
    block[at] = 0
    _numbers[slot] = evidence
    block[at + 1] = id(item)
    block[at + 2] = id(evidence)
    block[at] = kind


def _strike(item):
    """Forget a generator; whether it was in the ledger."""
    slot = _slots.get(id(item))
    if slot is None:
        return False
    if _making:
        _given.append(item)
    block, at = _places[slot]
    block[at] = 0
    _slots.pop(id(item), None)
    _held[slot] = _numbers[slot] = None
    _free.append(slot)
    return True


def sweep():
    """Strike out what nothing but the ledger holds any more."""
    for slot in range(len(_held)):
        if _held[slot] is not None and sys.getrefcount(_held[slot]) <= _alone:
            _strike(_held[slot])


def _make_room():
    sweep()
    entries = max(_BLOCK_ENTRIES, len(_held))
    if len(_free) >= entries // 2 or len(_held) + entries > _ENTRIES_MAX:
        return
    block = array.array("L", bytes(4 * (_HEAD_WORDS + _ENTRY_WORDS * entries)))
    block[1] = entries
    first = len(_held)
    for index in range(entries):
        _places.append((block, _HEAD_WORDS + _ENTRY_WORDS * index))
        _held.append(None)
        _numbers.append(None)
    where = block.buffer_info()[0]
    _blocks.append(block)
    block[0], _root[_BLOCKS] = _root[_BLOCKS], where
    _free.extend(range(first, first + entries))


# ------------------------------------------------------------------------------- generators of Python


def _watch_random():
    """Every generator of ``random`` reports when it is seeded, and by whom."""
    seed, setstate = random.Random.seed, random.Random.setstate

    @functools.wraps(seed)
    def seed_watched(self, a=None, version=2):
        known = a is not None and _strike(self)
        try:
            seed(self, a, version)
        except BaseException:
            if known:
                _note_random(self)
            raise
        if a is None:
            _note_random(self)

    @functools.wraps(setstate)
    def setstate_watched(self, state):
        _strike(self)
        setstate(self, state)

    random.Random.seed, random.Random.setstate = seed_watched, setstate_watched
    random.seed, random.setstate = random._inst.seed, random._inst.setstate
    _note_random(random._inst)


def _note_random(item):
    """Objects of classes that a program derives are not held: they may be part of anything."""
    if type(item) is random.Random:
        _note(item, _KINDS["Random"])
    elif _making:
        _note(item, _KINDS["twister"])


# ------------------------------------------------------------------------------- generators of numpy


def watch_numpy(numpy_random):
    """Watch the generators of ``numpy.random``, which was just imported."""
    bits = sys.modules["numpy.random.bit_generator"]
    randbits = bits.randbits
    for name in _KINDS:
        if name not in ("Random", "twister") and hasattr(numpy_random, name):
            _numpy[getattr(numpy_random, name)] = _KINDS[name]

    @functools.wraps(randbits)
    def randbits_watched(count):
        number = randbits(count)
        if _making:
            _drawn.append(number)
        _note_newborn(number)
        return number

    bits.randbits = randbits_watched
    for kind in _numpy:
        if issubclass(kind, bits.BitGenerator):
            _replace(kind, "state", _state_watched)
    _replace(numpy_random.MT19937, "_legacy_seeding", _legacy_seeding_watched)
    sys._clear_internal_caches()  # where the methods as they were may be
    common = numpy_random.mtrand._rand  # the one behind numpy.random.rand and its like
    seed_seq = common._bit_generator.seed_seq
    if seed_seq is not None:
        if _making:
            _drawn.append(seed_seq.entropy)
        _note(common._bit_generator, _numpy[type(common._bit_generator)], seed_seq.entropy)
        _note(common, _KINDS["RandomState"])


def _replace(kind, name, watched):
    """Change a method of a class that is closed to assignment."""
    (names,) = gc.get_referents(kind.__dict__)
    names[name] = watched(names[name])


def _state_watched(state):
    def put(self, value):
        _strike(self)
        state.__set__(self, value)

    return property(state.__get__, put, doc=state.__doc__)


def _legacy_seeding_watched(legacy_seeding):
    @functools.wraps(legacy_seeding)
    def _legacy_seeding(self, seed):
        known = _strike(self)
        try:
            legacy_seeding(self, seed)
        except BaseException:
            if known:
                _note(self, _KINDS["MT19937"], getattr(self.seed_seq, "entropy", None))
            raise
        if seed is None and type(self) in _numpy:
            _note(self, _KINDS["MT19937"])

    return _legacy_seeding


def _note_newborn(number):
    """Find for whom ``number`` was drawn: the generator that was made last, and has no seed yet. Should it be
    another one, the evidence will not be there."""
    newborn = None
    for item in reversed(gc.get_objects(generation=0)[-_NEAR:]):
        kind = _numpy.get(type(item))
        if kind == _KINDS["RandomState"]:
            if newborn is not None and id(item) not in _slots:
                _note(item, kind)  # whose generator is being made
            return
        if kind is not None and newborn is None and item.seed_seq is None:
            newborn = item
            _note(item, kind, number)


# ---------------------------------------------------------------------------------------------- uuid


def _watch_uuid():
    """What ``uuid`` keeps from one call to the next is of one life of the process."""
    getnode, uuid7 = uuid.getnode, uuid.uuid7

    @functools.wraps(getnode)
    def getnode_watched():
        _renew_uuid()
        return getnode()

    @functools.wraps(uuid7)
    def uuid7_watched():
        _renew_uuid()
        return uuid7()

    uuid.getnode, uuid.uuid7 = getnode_watched, uuid7_watched


def _renew_uuid():
    global _life
    if _life != _root[_LIFE]:
        _life = _root[_LIFE]
        if uuid._node is not None:
            uuid._node = uuid._random_getnode()
        # Later ones must be above earlier ones, so the counter goes up, and by how much nobody knows.
        uuid._last_counter_v7 += int.from_bytes(os.urandom(5))


# ------------------------------------------------------------------------------------------- install


def install():
    """Begin the ledger. Nothing of the program has run yet."""
    _root[_SELF] = _root.buffer_info()[0]
    _root[_NONE], _root[_FLOAT] = id(None), id(float)
    _root[_RANDOM_BYTES] = random.Random.__basicsize__
    _root[_IDENTITY] = 1
    _watch_random()
    _watch_uuid()
    os.getpid = getpid
    for index, word in enumerate(_MARK):  # last: from here on the host may find it
        _root[index] = word


def settle():
    """Enter what was made in the image and could not be watched: generators of numpy that descend from an
    unseeded one. Call it when all imports are done."""
    global _making
    _making = False
    sweep()
    drawn, given = {id(number) for number in _drawn}, {id(item) for item in _given}
    for item in gc.get_objects():
        kind = _numpy.get(type(item))
        if kind is None or kind == _KINDS["RandomState"] or id(item) in _slots or id(item) in given:
            continue
        number = getattr(item.seed_seq, "entropy", None)
        if number is not None and id(number) in drawn:
            _note(item, kind, number)
    _drawn.clear()
    _given.clear()


def samples():
    """Generators whose layout the host can check: kind, address, size, and the words of the state."""
    own = random._inst
    found = [("Random", id(own), random.Random.__basicsize__, own.getstate()[1][:624])]
    for item in _held:
        if type(item).__name__ == "RandomState":
            twister = item._bit_generator
            words = twister.state["state"]["key"].tolist()
            found.append(("MT19937", id(twister), type(twister).__basicsize__, words))
            break
    return found
