"""The stored form of a context: exact, and for anything else exactly one of three errors."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given

from sojourn.context import (
    FORMAT,
    PAGE_BYTES,
    Context,
    Decoded,
    Global,
    Memory,
    check_transform,
    compare,
    decode,
    encode,
)
from sojourn.context import pack as packs
from sojourn.context.format import CHECKSUM_BYTES, MAGIC, PRELUDE, SELF_CONTAINED
from sojourn.context.memory import digest_of
from sojourn.context.plain import pack, unpack
from sojourn.model.errors import ContextError, DamagedContextError, NotAContextError, OtherVersionError

from .samples import IMAGE, chunks_of, context, contexts, pack_bytes, view_of

# What ``encode(context())`` was when the format got its number. When this test fails, what is stored has
# changed: raise FORMAT in ``context/format.py`` (and say in the error's hint who can read the old one), then
# put the new digest here.
FINGERPRINTS = {1: "4312c6c58341c920"}


def whole(value: Context) -> bytes:
    return b"".join(encode(value)[1])


def alone(compress: bool = True) -> tuple[bytes, Context]:
    """A self-contained file."""
    views = [view_of("abb0c0ad")]
    value = context(memories=(compare(views[0], None),), packs=())
    data, index = pack_bytes(chunks_of(views, value.memories), compress)
    return b"".join(encode(value, index)[1]) + data, replace(value, packs=(index.name,))


def seal(prelude: bytes, header: bytes, rest: bytes) -> bytes:
    """A file with right checksums around any content, as somebody would make who wants to do harm."""
    fields_ = list(PRELUDE.unpack(prelude))
    fields_[3], fields_[4] = len(header), PRELUDE.size + len(header) + CHECKSUM_BYTES + len(rest)
    begin = PRELUDE.pack(*fields_)[:24]
    prelude = begin + struct.pack("<I4x", zlib.crc32(begin))
    return prelude + header + digest_of(prelude + header) + rest


def rewrite(change: Callable[[dict[str, Any], list[bytes]], None], data: bytes | None = None) -> bytes:
    """A file whose header and sections were changed, then sealed again."""
    data = whole(context()) if data is None else data
    length = PRELUDE.unpack(data[: PRELUDE.size])[3]
    header = unpack(data[PRELUDE.size : PRELUDE.size + length])
    at = PRELUDE.size + length + CHECKSUM_BYTES
    sections = []
    for _, size, _ in header["sections"]:
        sections.append(data[at : at + size])
        at += size
    before = list(sections)
    change(header, sections)
    for number, entry in enumerate(header["sections"] or ()):
        if number < len(sections) and sections[number] != before[number]:
            entry[1:] = [len(sections[number]), digest_of(sections[number])]
    return seal(data[: PRELUDE.size], pack(header), b"".join(sections))


@given(contexts())
def test_what_is_encoded_is_decoded(value: Context) -> None:
    digest, pieces = encode(value)
    found = decode(b"".join(pieces))
    assert found.context == value
    assert found.digest == digest
    assert found.index is None
    assert sum(found.section_bytes.values()) == sum(map(len, pieces))
    assert encode(found.context) == (digest, pieces)


def test_a_file_that_holds_its_chunks() -> None:
    for compress in (False, True):
        data, value = alone(compress)
        found = decode(data)
        assert found.context == value
        assert found.index is not None
        assert sum(found.section_bytes.values()) == len(data)
        assert found.chunks_offset == len(data) - found.index.size_bytes


def test_every_field_is_stored() -> None:
    """A field that ``Context`` gets later must not be forgotten."""
    value = context(packs=("e" * 64,))
    for field in fields(Context):
        if field.name not in ("level",):
            assert getattr(value, field.name) not in (field.default, [], {}, ()), field.name
    assert decode(whole(value)).context == value


def test_the_layout_changes_only_with_its_version() -> None:
    value = context(packs=("e" * 64,))
    views = [view_of("abb0c0ad")]
    raw, _ = pack_bytes(
        chunks_of(views, value.memories), compress=False
    )  # compressed bytes are zstd's affair
    assert {FORMAT: digest_of(whole(value) + raw).hex()[:16]} == FINGERPRINTS
    assert packs.FORMAT == 1, "a pack of another layout has another version, and so has the context"


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"PK\3\4" + bytes(100), bytes(1000), b"\0asm\1\0\0\0", MAGIC[:3] + b"x"]
)
def test_what_is_no_context(data: bytes) -> None:
    with pytest.raises(NotAContextError, match="not a process context"):
        decode(data)


def test_another_version() -> None:
    begin = bytearray(whole(context())[: PRELUDE.size])
    struct.pack_into("<H", begin, 8, FORMAT + 1)
    struct.pack_into("<I", begin, 24, zlib.crc32(begin[:24]))
    with pytest.raises(OtherVersionError, match=f"format {FORMAT + 1}"):
        decode(bytes(begin) + b"whatever another version has here")


def test_frames_of_another_transform() -> None:
    check_transform(context(transform=3), 3)
    check_transform(context(transform=3, records=b"", frames=()), 4)
    with pytest.raises(OtherVersionError, match="version 3 of the transform"):
        check_transform(context(transform=3), 4)


def test_every_truncation_and_every_extension_is_damage() -> None:
    for data in (whole(context()), alone()[0]):
        for length in range(1, len(data)):
            with pytest.raises(DamagedContextError):
                decode(data[:length])
        with pytest.raises(DamagedContextError):
            decode(data + b"\0")


def test_every_flipped_bit_is_damage() -> None:
    """Of a context that refers to packs, each and every one."""
    good = whole(context())
    for bit in range(8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        expected = NotAContextError if bit < 8 * len(MAGIC) else DamagedContextError
        with pytest.raises(expected):
            decode(data)


def content(found: Decoded, data: bytes) -> object:
    """All that a file says, with every chunk verified."""
    assert found.index is not None
    out = []
    for group in found.index.groups:
        at = found.chunks_offset + group.offset
        opened = packs.open_group(group, data[at : at + group.length])
        packs.verify(list(packs.split(found.index.digests))[group.first : group.first + group.count], opened)
        out.append(bytes(opened))
    return found.context, b"".join(out)


@pytest.mark.parametrize("compress", [False, True])
def test_every_mutation_is_seen_or_changes_nothing(compress: bool) -> None:
    mutate(random.Random(11), compress, 1500)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_many_more_mutations(seed: int) -> None:
    mutate(random.Random(seed), bool(seed % 2), 100_000)


def mutate(rng: random.Random, compress: bool, count: int) -> None:
    good, _ = alone(compress)
    expected = content(decode(good), good)
    for number in range(count):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data)) if number % 2 else rng.randrange(min(len(data), 1500))
            match rng.randrange(4):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    data[at] = rng.randrange(256)
                case 2:
                    del data[at : at + rng.randint(1, 8)]
                case 3:
                    data[at:at] = data[rng.randrange(len(data)) :][: rng.randint(1, 40)]
        try:
            assert content(decode(bytes(data)), bytes(data)) == expected
        except ContextError as error:
            assert type(error) in (NotAContextError, OtherVersionError, DamagedContextError)
            assert error.hint


# -- sealed again by somebody who knows how --------------------------------------------------------------


def header(name: str, value: Any) -> Callable[[dict[str, Any], list[bytes]], None]:
    return lambda found, _: found.__setitem__(name, value)


def memory(*values: Any) -> Callable[[dict[str, Any], list[bytes]], None]:
    return lambda _, sections: sections.__setitem__(1, pack([list(values)]))


def entry(number: int, at: int, value: Any) -> Callable[[dict[str, Any], list[bytes]], None]:
    return lambda found, _: found["sections"][number].__setitem__(at, value)


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


NONE = ["none", "", 0]
HOSTILE: dict[str, Callable[[dict[str, Any], list[bytes]], None]] = {
    "a field too many": header("more", 1),
    "a field missing": lambda found, _: found.pop("pid"),
    "no fields": lambda found, _: (found.clear(), found.update(sections=[])),
    **{
        f"{name} = {value!r}": header(name, value)
        for name, values in {
            "pid": ["", "../x", "a/b", "a" * 65, 5, None, "a\n"],
            "program": ["", "sha256:", "x" * 64, "a" * 63, None],
            "runtime": ["A" * 64, b"b" * 64],
            "parent": ["", 1, "../../etc"],
            "level": ["machine", ""],
            "transform": [-1, True, 1.0, 1 << 40],
            "epoch": [-1, 1 << 63, None],
            "sequence": [-1, "1"],
            "created_ns": [-1, 1.5],
            "output_bytes": [-5, (1 << 64) - 1],
            "grants": [[1], {}, [[]], [{}] * 5000],
            "limits": [[], None],
            "secrets": [[1], ["a b"], ["x" * 300], ["A"] * 5000],
            "packs": [[1], ["../x"], ["e" * 63], ["e" * 64, "e" * 64], [f"{n:064x}" for n in range(17)]],
            "globals": [
                [["i32", b"\0" * 8]],
                [["i31", b"\0" * 4]],
                [["i32", 5]],
                [["i32"]],
                [5],
                [["i32", b"\0" * 4, 1]],
                [["i32", b"\0" * 4]] * 70000,
            ],
            "tables": [
                [[-1, 5, b""]],
                [[0, 1 << 32, b""]],
                [[0, 5, words(5, 1)]],
                [[0, 5, words(2, 1, 1, 1)]],
                [[0, 5, words(1, 1, 1, 1)]],
                [[0, 5, words(1)]],
                [[0, 5, b"abc"]],
                [[1, 5, b""], [0, 5, b""]],
                [[0, 5, b""], [0, 5, b""]],
                [[0, 1 << 24, bytes(8 * ((1 << 20) + 1))]],
            ],
            "dropped_data": [words(1, 1), words(2, 1), words(1 << 31), b"abc", [], bytes(4 << 21)],
            "dropped_elements": [words(5, 4), None],
            "frames": [
                words(1),
                words(9, 1),
                words(4, 3, 9, 1),
                words(4, 2, *([1] * 100)),
                bytes(16 << 20),
            ],
            "sections": [[], [[]], [5], None, "abc"],
        }.items()
        for value in values
    },
    "sections in another order": lambda found, _: found["sections"].reverse(),
    "a section twice": lambda found, _: found["sections"].append(found["sections"][0]),
    "a section of another name": entry(0, 0, "memory"),
    "a negative length": entry(0, 1, -1),
    "a length beyond the end": entry(2, 1, 1 << 50),
    "overlapping lengths": lambda found, _: (entry(0, 1, 1000)(found, []), entry(1, 1, 1)(found, [])),
    "a digest that is short": entry(1, 2, b"abc"),
    "a digest of another": entry(1, 2, bytes(32)),
    "memory: no list": lambda _, sections: sections.__setitem__(1, pack({})),
    "memory: not canonical": lambda _, sections: sections.__setitem__(1, b"\xdc\0\0"),
    "memory: trailing bytes": lambda _, sections: sections.__setitem__(1, b"\x90\x90"),
    "memory: 10^9 memories": lambda _, sections: sections.__setitem__(
        1, b"\xdd" + (10**9).to_bytes(4, "big")
    ),
    "memory: many": lambda _, sections: sections.__setitem__(1, pack([[0, NONE, b"", b"", b""]] * 17)),
    "memory: fields": memory(0, NONE, b"", b""),
    "memory: size": memory(1 << 60, NONE, b"\0", words(1), b""),
    "memory: negative": memory(-PAGE_BYTES, NONE, b"", b"", b""),
    "memory: runs": memory(PAGE_BYTES, NONE, bytes(1 << 20), bytes(4 << 20), b""),
    "memory: kinds": memory(PAGE_BYTES, NONE, b"\7", words(4), b""),
    "memory: counts": memory(PAGE_BYTES, NONE, b"\0", words(4, 0), b""),
    "memory: overflow": memory(PAGE_BYTES, NONE, b"\0\2", words(4, (1 << 32) - 1), b""),
    "memory: digests": memory(PAGE_BYTES, NONE, b"\2", words(4), bytes(5)),
    "memory: base": memory(PAGE_BYTES, ["disk", "1" * 64, 0], b"\0", words(4), b""),
    "memory: base digest": memory(PAGE_BYTES, ["image", "../../x", PAGE_BYTES], b"\1", words(4), b""),
    "memory: base size": memory(PAGE_BYTES, ["image", "1" * 64, -1], b"\0", words(4), b""),
    "memory: base missing": memory(PAGE_BYTES, NONE, b"\1", words(4), b""),
    "system: no dict": lambda _, sections: sections.__setitem__(2, pack([1])),
    "system: keys": lambda _, sections: sections.__setitem__(2, pack({1: 2})),
    "system: deep": lambda _, sections: sections.__setitem__(2, b"\x81\xa1a" + b"\x91" * 1000 + b"\xc0"),
    "system: many": lambda _, sections: sections.__setitem__(
        2, b"\x81\xa1a\xdd" + (10**9).to_bytes(4, "big")
    ),
    "records: none": lambda _, sections: sections.__setitem__(0, b""),
    "records: of another": lambda _, sections: sections.__setitem__(0, bytes(40)),
    "records: short": lambda _, sections: sections.__setitem__(0, bytes(7)),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=[name[:60] for name in HOSTILE])
def test_hostile_contexts_are_refused_in_little_memory(change: Any) -> None:
    data = rewrite(change)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedContextError):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 32 * len(data) + (8 << 20)
    finally:
        tracemalloc.stop()


def test_a_change_that_is_sealed_again_and_is_right() -> None:
    """The helper above makes valid files, so it is not the seal that the test refuses."""
    assert decode(rewrite(header("sequence", 8))).context == context(sequence=8)
    assert decode(rewrite(lambda _, sections: sections.__setitem__(2, pack({"a": 1})))).context.system == {
        "a": 1
    }
    data, value = alone()
    assert decode(rewrite(header("sequence", 8), data)).context == replace(value, sequence=8)


ALONE: dict[str, Callable[[dict[str, Any], list[bytes]], None]] = {
    "another pack": header("packs", ["e" * 64]),
    "no pack": header("packs", []),
    "an image": memory(PAGE_BYTES, ["image", "1" * 64, PAGE_BYTES], b"\1", words(4), b""),
    "a chunk that is not there": memory(PAGE_BYTES, NONE, b"\2", words(4), bytes(128)),
    "no chunks": lambda _, sections: sections.__setitem__(3, b""),
    "an empty pack": lambda _, sections: sections.__setitem__(3, pack_bytes({}, compress=False)[0]),
    "a pack that claims much": lambda _, sections: sections.__setitem__(
        3, struct.pack("<4sHHII", b"SJPK", 1, 0, 200_000, 1)
    ),
}


@pytest.mark.parametrize("change", ALONE.values(), ids=list(ALONE))
def test_hostile_files_that_hold_their_chunks(change: Any) -> None:
    with pytest.raises(DamagedContextError):
        decode(rewrite(change, alone()[0]))


def test_flags_must_fit() -> None:
    for data in (whole(context()), alone()[0]):
        begin = bytearray(data[: PRELUDE.size])
        for flags in (begin[10] ^ SELF_CONTAINED, begin[10] | 2):
            begin[10] = flags
            header_bytes = PRELUDE.unpack(bytes(begin))[3]
            end = PRELUDE.size + header_bytes
            with pytest.raises(DamagedContextError):
                decode(seal(bytes(begin), data[PRELUDE.size : end], data[end + CHECKSUM_BYTES :]))


# -- what cannot be written --------------------------------------------------------------------------------


def test_a_component_that_saves_what_is_no_data() -> None:
    with pytest.raises(ContextError, match=r"system.*clock\.now.*tuple"):
        encode(context(system={"clock": {"now": (1, 2)}}))


def test_a_component_that_saves_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.context.format.SYSTEM_BYTES_MAX", 100)
    with pytest.raises(ContextError, match="more than the 100"):
        encode(context(system={"files": bytes(200)}))


def test_a_file_with_an_image_holds_not_all() -> None:
    value = context(memories=(Memory.fresh(PAGE_BYTES, IMAGE),))
    with pytest.raises(ValueError, match="needs an image"):
        encode(value, pack_bytes({}, compress=False)[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pid", "a/b"),
        ("epoch", -1),
        ("frames", ((9, 1),)),
        ("frames", ((4, 2),) * 5),
        ("records", b""),
        ("dropped_data", (2, 1)),
        ("packs", ("x",)),
        ("secrets", ("a=b",)),
        ("system", {1: 2}),
        ("level", "syscall"),
        (
            "memories",
            (Memory.fresh(4 << 30, replace(IMAGE, size_bytes=4 << 30)), Memory.fresh(PAGE_BYTES, IMAGE)),
        ),
    ],
)
def test_contexts_that_cannot_be(name: str, value: object) -> None:
    with pytest.raises(ValueError):
        context(**{name: value})


def test_globals_that_cannot_be() -> None:
    for kind, bits in (
        ("i32", 1 << 32),
        ("i32", -1),
        ("funcref", 1 << 32),
        ("exnref", 0),
        ("v128", 1 << 128),
    ):
        with pytest.raises(ValueError, match="a global"):
            Global(kind, bits)
