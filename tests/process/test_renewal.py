"""What is written into a process that goes on: what its ledger names, and nothing for a bad ledger."""

from __future__ import annotations

import ast
import random
import struct
from pathlib import Path

import pytest

import sojourn.vm.process.renewal as renewal
from sojourn.model.errors import ContextError
from sojourn.vm.process.renewal import ENTRIES_MAX, KINDS, MARK, check_samples, find_ledger, renew

SIZE = 1 << 16
ROOT, BLOCK, NONE, FLOAT, OBJECT = 0x1000, 0x2000, 0x400, 0x500, 0x4000
NUMBER, SEQUENCE = 0x600, 0x700
KIND = {name: number for number, name in enumerate(KINDS, 1)}
RANDOM_BYTES = 2508
STATES = {
    "Random": [(12, 2496)],
    "twister": [(12, 2496)],
    "MT19937": [(52, 2496)],
    "PCG64": [(60, 36)],
    "PCG64DXSM": [(60, 36)],
    "Philox": [(72, 32), (108, 20)],
    "SFC64": [(56, 24), (92, 4)],
}


def memory_with(*entries: tuple[int, int, int], count: int | None = None) -> memoryview:
    memory = memoryview(bytearray(SIZE))
    put(memory, ROOT, *struct.unpack("<4I", MARK), ROOT, 7, 1, BLOCK, NONE, FLOAT, RANDOM_BYTES)
    put(
        memory,
        BLOCK,
        0,
        len(entries) if count is None else count,
        *(word for entry in entries for word in entry),
    )
    put(memory, SEQUENCE + 12, NUMBER)
    put(memory, NUMBER, 9, 0x300, 5 << 3, *range(1, 6))
    return memory


def put(memory: memoryview, address: int, *words: int) -> None:
    struct.pack_into(f"<{len(words)}I", memory, address, *words)


def word(memory: memoryview, address: int) -> int:
    return int(memory.cast("I")[address // 4])


def changed(before: bytes, after: memoryview) -> set[int]:
    """The addresses of changed bytes, but those of the root."""
    root = range(ROOT, ROOT + 4 * renewal.ROOT_WORDS)
    return {
        at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new and at not in root
    }


@pytest.mark.parametrize("kind", STATES)
def test_the_state_of_a_generator_and_nothing_else(kind: str) -> None:
    memory = memory_with((KIND[kind], OBJECT, NUMBER))
    put(memory, OBJECT + 8, SEQUENCE)
    before = bytes(memory)
    touched: set[int] = set()
    for _ in range(64):  # so that each byte has changed once, surely
        renew(memory, ROOT)
        touched |= changed(before, memory)
        assert not kind.startswith("PCG") or memory[OBJECT + 80] & 1  # the increment of this kind must be odd
    assert touched == {
        at for begin, size in STATES[kind] for at in range(OBJECT + begin, OBJECT + begin + size)
    }


def test_the_number_and_the_life_change() -> None:
    memory = memory_with()
    lives = set()
    for identity in (11, 12, None):
        renew(memory, ROOT, identity)
        lives.add(word(memory, ROOT + 4 * renewal.LIFE))
        assert word(memory, ROOT + 4 * renewal.IDENTITY) == (identity or 12)
    assert len(lives) == 3


@pytest.mark.parametrize(
    "case",
    [
        {"sequence": NONE},  # the program seeded it
        {"sequence": 0},  # it is being made, or gone
        {"sequence": SEQUENCE, "number": NUMBER + 4},  # another one
        {"sequence": 0xFFFFFFF0},
        {"evidence": 0},
        {"evidence": NONE},
    ],
)
def test_a_generator_without_evidence_stays(case: dict[str, int]) -> None:
    memory = memory_with((KIND["PCG64"], OBJECT, case.get("evidence", NUMBER)))
    put(memory, OBJECT + 8, case.get("sequence", SEQUENCE))
    put(memory, SEQUENCE + 12, case.get("number", NUMBER))
    before = bytes(memory)
    renew(memory, ROOT)
    assert not changed(before, memory)


def test_a_twister_that_was_reseeded_from_the_system_has_no_number() -> None:
    memory = memory_with((KIND["MT19937"], OBJECT, NONE))
    put(memory, OBJECT + 8, NONE)
    before = bytes(memory)
    renew(memory, ROOT)
    assert changed(before, memory)


@pytest.mark.parametrize(
    "references, digits, renewed", [(2, 5, 4), (2, 2, 1), (2, 1, 0), (2, 6, 0), (3, 5, 0), (1 << 30, 5, 0)]
)
def test_a_number_that_nobody_else_holds_becomes_another(references: int, digits: int, renewed: int) -> None:
    memory = memory_with((KIND["SFC64"], OBJECT, NUMBER))
    put(memory, OBJECT + 8, SEQUENCE)
    put(memory, NUMBER, references, 0x300, digits << 3)
    renew(memory, ROOT)
    found = [word(memory, NUMBER + 12 + 4 * at) for at in range(5)]
    assert sum(value != at for at, value in enumerate(found, 1)) == renewed
    assert all(value < 1 << 30 for value in found)
    assert found[digits - 1 :] == list(range(digits, 6))


@pytest.mark.parametrize(
    "valid, kind, forgotten", [(1, FLOAT, True), (1, FLOAT + 4, False), (0, FLOAT, False)]
)
def test_half_a_pair_of_normal_numbers_is_forgotten(valid: int, kind: int, forgotten: bool) -> None:
    memory = memory_with((KIND["Random"], OBJECT, 0))
    values, number = OBJECT + RANDOM_BYTES, 0x800
    put(memory, values, 0x0101 << 8 | 4 | valid << 24, number)
    put(memory, number, 1, kind)
    renew(memory, ROOT)
    assert word(memory, values + 4) == (NONE if forgotten else number)


@pytest.mark.parametrize("known", [True, False])
def test_the_normal_number_of_a_legacy_generator_goes_with_its_state(known: bool) -> None:
    entries = [(KIND["RandomState"], 0x8000, 0), (KIND["MT19937"], OBJECT, NUMBER)]
    memory = memory_with(*entries[: 2 if known else 1])
    put(memory, OBJECT + 8, SEQUENCE)
    put(memory, 0x8000 + 12, OBJECT)
    renew(memory, ROOT)
    assert bytes(memory[0x8000 + 48 : 0x8000 + 56]) == bytes(8)  # no number was held
    held = struct.pack("<d", 0.5)
    memory[0x8000 + 48 : 0x8000 + 56] = held
    renew(memory, ROOT)
    assert (bytes(memory[0x8000 + 48 : 0x8000 + 56]) != held) == known


def test_blocks_are_followed() -> None:
    memory = memory_with((0, 0, 0))
    put(memory, BLOCK, 0x3000)
    put(memory, 0x3000, 0, 2, 0, 0, 0, KIND["twister"], OBJECT, 0)
    before = bytes(memory)
    renew(memory, ROOT)
    assert changed(before, memory)


HOSTILE = {
    "beyond memory": memory_with((KIND["twister"], SIZE - 100, 0)),
    "at the end of addresses": memory_with((KIND["twister"], 0xFFFFFFFC, 0)),
    "not aligned": memory_with((KIND["twister"], OBJECT + 2, 0)),
    "nowhere": memory_with((KIND["twister"], 0, 0)),
    "no such kind": memory_with((len(KINDS) + 1, OBJECT, 0), (0xFFFFFFFF, OBJECT, 0)),
    "more entries than memory": memory_with(count=0xFFFFFFFF),
    "a legacy generator beyond": memory_with((KIND["RandomState"], SIZE - 8, 0)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_ledger_harms_nobody(name: str) -> None:
    memory = memoryview(bytearray(HOSTILE[name]))
    before = bytes(memory)
    renew(memory, ROOT)
    assert not changed(before, memory)


def test_blocks_in_a_ring_end() -> None:
    memory = memory_with(count=0)
    put(memory, BLOCK, BLOCK)
    renew(memory, ROOT)
    put(memory, BLOCK, BLOCK, ENTRIES_MAX // 2)
    renew(memory, ROOT)


def test_random_ledgers() -> None:
    rng = random.Random(6)
    for _ in range(300):
        memory = memory_with()
        memory[0x100:0x4000] = rng.randbytes(0x3F00)
        put(
            memory, ROOT, *struct.unpack("<4I", MARK), ROOT, 7, 1, rng.choice([BLOCK, rng.randrange(1 << 17)])
        )
        put(memory, BLOCK, rng.randrange(SIZE), rng.randrange(200))
        renew(memory, ROOT)
        assert len(memory) == SIZE


@pytest.mark.parametrize("place", [0, 4, ROOT + 2, ROOT + 4, SIZE - 16, SIZE, 1 << 40])
def test_no_ledger_is_an_error(place: int) -> None:
    with pytest.raises(ContextError, match="ledger"):
        renew(memory_with(), place)


def test_a_ledger_is_found_by_its_mark_and_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_with()
    assert find_ledger(memory) == ROOT
    memory[0x100 : 0x100 + len(MARK)] = MARK  # a copy of the mark
    assert find_ledger(memory) == ROOT
    monkeypatch.setattr(renewal, "_SCAN_BYTES", ROOT + 4)  # across two pieces
    assert find_ledger(memory) == ROOT
    assert find_ledger(memoryview(bytearray(SIZE))) is None
    assert find_ledger(memoryview(bytearray(0))) is None


def test_samples_must_lie_where_they_are_expected() -> None:
    state = random.Random(1).getstate()[1][:624]
    memory = memory_with()
    put(memory, OBJECT + 12, *state)
    check_samples(memory, [("Random", OBJECT, RANDOM_BYTES, state)])
    with pytest.raises(ValueError, match="another layout"):
        check_samples(memory, [("Random", OBJECT - 4, RANDOM_BYTES + 8, state)])


def test_both_sides_mean_the_same_words() -> None:
    """The guest's half cannot be imported here: it changes the library that it is imported into."""
    path = Path(renewal.__file__).parent / "guest" / "_sojourn_ledger.py"
    values: dict[str, object] = {}
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.Assign):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            names = [name.id for name in target.elts if isinstance(name, ast.Name)]
            values |= dict(zip(names, ast.literal_eval(node.value), strict=True))
        elif isinstance(target, ast.Name) and target.id in ("_MARK", "_KINDS"):
            found = node.value
            if isinstance(found, ast.DictComp):
                call = found.generators[0].iter
                assert isinstance(call, ast.Call)
                found = call.args[0]
            values[target.id] = ast.literal_eval(found)
    assert struct.pack("<4I", *values["_MARK"]) == MARK  # type: ignore[misc]
    assert values["_KINDS"] == KINDS
    names = ("SELF", "IDENTITY", "LIFE", "BLOCKS", "NONE", "FLOAT", "RANDOM_BYTES", "ROOT_WORDS")
    for name in (*names, "HEAD_WORDS", "ENTRY_WORDS"):
        assert values["_" + name] == getattr(renewal, name), name
