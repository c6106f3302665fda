"""Packs: what goes in comes out, and nothing else does."""

from __future__ import annotations

import random
import struct
import sys
import tracemalloc

import pytest

from sojourn.context import CHUNK_BYTES
from sojourn.context.memory import digest_of
from sojourn.context.pack import (
    GROUP_CHUNKS,
    TRAILER_BYTES,
    Encoding,
    Group,
    Index,
    index_bytes,
    open_group,
    split,
    verify,
    write_pack,
)
from sojourn.model.errors import ContextError, DamagedContextError, OtherVersionError

from .samples import index_of, pack_bytes

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RNG = random.Random(5)


def chunks(count: int, noise: bool = False) -> dict[bytes, memoryview]:
    rng = random.Random(count)
    made = [
        rng.randbytes(CHUNK_BYTES) if noise and at % 2 else at.to_bytes(4, "big") * (CHUNK_BYTES // 4)
        for at in range(1, count + 1)
    ]
    return {digest_of(data): memoryview(data) for data in made}


def read_all(data: bytes, index: Index) -> list[bytes]:
    out = b""
    for group in index.groups:
        stored = data[group.offset : group.offset + group.length]
        opened = open_group(group, stored)
        digests = list(split(index.digests))[group.first : group.first + group.count]
        verify(digests, opened)
        out += bytes(opened)
    return [out[at : at + CHUNK_BYTES] for at in range(0, len(out), CHUNK_BYTES)]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("count", [0, 1, GROUP_CHUNKS - 1, GROUP_CHUNKS, GROUP_CHUNKS + 1, 5 * GROUP_CHUNKS])
def test_what_goes_in_comes_out(count: int, noise: bool, compress: bool) -> None:
    given = chunks(count, noise)
    data, index = pack_bytes(given, compress)
    assert index.size_bytes == len(data)
    assert read_all(data, index) == list(map(bytes, given.values()))
    assert index.positions() == {digest: at for at, digest in enumerate(given)}
    assert index.name == pack_bytes(given, not compress)[1].name
    for at in range(count):
        group = index.group_of(at)
        assert group.first <= at < group.first + group.count


def test_noise_is_not_made_larger() -> None:
    rng = random.Random(1)
    given = {digest_of(data): memoryview(data) for data in (rng.randbytes(CHUNK_BYTES) for _ in range(40))}
    data, index = pack_bytes(given, compress=True)
    assert {group.encoding for group in index.groups} == {Encoding.RAW}
    assert read_all(data, index) == list(map(bytes, given.values()))


def test_our_own_mistakes() -> None:
    (digest, data), *_ = chunks(1).items()
    with pytest.raises(ValueError, match="twice"):
        list(write_pack([digest, digest], [data, data], compress=False))
    with pytest.raises(ValueError, match="for each chunk"):
        list(write_pack([digest], [], compress=False))
    with pytest.raises(ValueError, match="a chunk of 5 bytes"):
        list(write_pack([digest], [b"short"], compress=False))


@pytest.mark.parametrize("compress", [False, True])
def test_every_change_is_seen_or_changes_nothing(compress: bool) -> None:
    given = chunks(2 * GROUP_CHUNKS + 3, noise=True)
    good, index = pack_bytes(given, compress)
    expected = read_all(good, index)
    tail = index_bytes(good[-TRAILER_BYTES:])
    for number in range(600):
        data = bytearray(good)
        match number % 4:
            case 0:  # in the index, which is small
                data[-RNG.randint(1, tail)] ^= 1 << RNG.randrange(8)
            case 1:
                data[RNG.randrange(len(data))] ^= 1 << RNG.randrange(8)
            case 2:
                del data[RNG.randrange(len(data)) :]
            case 3:
                at = RNG.randrange(len(data))
                data[at:at] = RNG.randbytes(RNG.randint(1, 50))
        try:
            found = index_of(bytes(data))
            if found.name != index.name:
                continue  # the pack of another name
            assert read_all(bytes(data), found) == expected
        except ContextError:
            pass


def trailer(count: int, groups: int, version: int = 1) -> bytes:
    return struct.pack("<4sHHII", b"SJPK", version, 0, count, groups)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SJPK",
        trailer(10**9, 1),
        trailer(1 << 32 - 1, 1 << 32 - 1),
        trailer(1, 0),
        trailer(0, 1),
        trailer(1, 1),
        bytes(32) + struct.pack("<BII", 9, CHUNK_BYTES, 1) + trailer(1, 1),
        bytes(32) + struct.pack("<BII", 0, CHUNK_BYTES, 1) + trailer(1, 1),
        bytes(32) + struct.pack("<BII", 1, 5, 1 << 31) + trailer(1, 1),
        bytes(5) + bytes(32) + struct.pack("<BII", 0, 5, 1) + trailer(1, 1),
        bytes(64 + 9) + trailer(1, 1),
    ],
)
def test_packs_that_cannot_be(data: bytes) -> None:
    with pytest.raises(DamagedContextError):
        index_of(data)


def test_another_version() -> None:
    with pytest.raises(OtherVersionError):
        index_of(trailer(0, 0, version=2))


@pytest.mark.parametrize("size", [1 << 30, GROUP_CHUNKS * CHUNK_BYTES + 1, GROUP_CHUNKS * CHUNK_BYTES - 1, 0])
def test_what_unfolds_is_bounded(size: int) -> None:
    """A few kilobytes that claim to be a gigabyte."""
    small = zstd.compress(bytes(size), 3)
    count = GROUP_CHUNKS
    index = Index(bytes(32 * count), (Group(Encoding.ZSTD, 0, len(small), 0, count),))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedContextError):
            open_group(index.groups[0], small)
        assert tracemalloc.get_traced_memory()[1] < 4 * count * CHUNK_BYTES
    finally:
        tracemalloc.stop()


def test_two_frames_in_one_group() -> None:
    small = zstd.compress(bytes(CHUNK_BYTES)) * 2
    index = Index(bytes(32), (Group(Encoding.ZSTD, 0, len(small), 0, 1),))
    with pytest.raises(DamagedContextError):
        open_group(index.groups[0], small)
