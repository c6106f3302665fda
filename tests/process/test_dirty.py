"""What the kernel says was written, and memory that is set up from packs by maps and copies."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sojourn.context import CHUNK_BYTES, PAGE_BYTES, Base, BaseKind, Memory, compare
from sojourn.model.errors import DamagedContextError
from sojourn.store.checkpoints import Checkpoints
from sojourn.vm.process import dirty, restore
from tests.context.samples import context

IMAGE_BYTES = 16 * PAGE_BYTES
SIZE = 24 * PAGE_BYTES
IMAGE = Base(BaseKind.IMAGE, "1" * 64, IMAGE_BYTES)

needs_pagemap = pytest.mark.skipif(not dirty._works(), reason="the kernel does not tell written pages")


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "image"
    path.write_bytes(random.Random(1).randbytes(IMAGE_BYTES - PAGE_BYTES) + bytes(PAGE_BYTES))
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def fresh(image: int) -> memoryview:
    """A memory as the engine has it: a reservation, with the image mapped over its beginning."""
    view = memoryview(mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    restore.map_file(view[:IMAGE_BYTES], image, 0)
    return view


def flags(view: memoryview) -> list[int]:
    found = dirty.written(view)
    assert found is not None
    return [at for at, flag in enumerate(found) if flag]


@needs_pagemap
def test_reading_is_not_writing(image: int) -> None:
    view = fresh(image)
    assert flags(view) == []
    assert len(bytes(view[:IMAGE_BYTES])) == IMAGE_BYTES
    assert flags(view) == []
    view[5] = 1
    view[3 * CHUNK_BYTES - 1] = view[3 * CHUNK_BYTES - 1]  # the same value, but written
    view[SIZE - 1] = 1
    assert flags(view) == [0, 2, SIZE // CHUNK_BYTES - 1]


@needs_pagemap
def test_any_writes_are_found(image: int) -> None:
    rng = random.Random(2)
    base = memoryview(bytes(fresh(image)))[:IMAGE_BYTES]
    for _ in range(20):
        view = fresh(image)
        places = [rng.randrange(SIZE) for _ in range(rng.randrange(40))]
        for place in places:
            view[place] ^= 0xFF
        assert set(flags(view)) >= {place // CHUNK_BYTES for place in places}
        found = compare(view, Memory.fresh(SIZE, IMAGE), dirty.written(view), base)
        assert found == compare(view, Memory.fresh(SIZE, IMAGE), None, base)


@pytest.mark.parametrize("page", [4096, 16384, 65536])
def test_pages_of_any_size(page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(page)
    monkeypatch.setattr(mmap, "PAGESIZE", page)
    for _ in range(50):
        pages = bytes(rng.random() < 0.2 for _ in range(SIZE // page))
        found = dirty._chunks(pages)
        assert found is not None
        assert len(found) == SIZE // CHUNK_BYTES
        for at in range(len(found)):
            first, last = at * CHUNK_BYTES // page, ((at + 1) * CHUNK_BYTES - 1) // page
            assert found[at] == any(pages[first : last + 1])


@pytest.mark.parametrize("content", [None, b"", bytes(1 << 20), b"\xff" * (1 << 20)])
def test_a_kernel_that_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """No such file, an empty one, one that always says the same: then nothing is believed."""
    path = tmp_path / "pagemap"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(dirty, "_PATH", str(path))
    dirty._works.cache_clear()
    try:
        assert dirty.written(memoryview(bytearray(PAGE_BYTES))) is None
    finally:
        dirty._works.cache_clear()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_checkpoints_of_checkpoints(tmp_path: Path, image: int, compress: bool, known: bool) -> None:
    """Write here and there, save, set up anew from it, again and again: always the same memory, and what was
    not written since the last time is not stored again."""
    rng = random.Random(7)
    store = Checkpoints(tmp_path / "checkpoints")
    base = memoryview(bytes(fresh(image)))[:IMAGE_BYTES]
    view, origin, previous = fresh(image), Memory.fresh(SIZE, IMAGE), None
    view[10 * PAGE_BYTES : 20 * PAGE_BYTES] = rng.randbytes(10 * PAGE_BYTES)  # a large piece, to be mapped
    for sequence in range(8):
        for _ in range(5):
            place = rng.randrange(SIZE)
            view[place : place + 100] = bytes(len(view[place : place + 100]))
        at = rng.randrange(SIZE // PAGE_BYTES) * PAGE_BYTES
        view[at : at + PAGE_BYTES] = bytes(PAGE_BYTES)
        written = dirty.written(view) if known else None
        memory = compare(view, origin, written, base)
        assert memory == compare(view, Memory.fresh(SIZE, IMAGE), None, base)
        saved = store.save(
            context(memories=(memory,), sequence=sequence), [view], previous=previous, compress=compress
        )
        assert not sequence or saved.new_chunks < 30
        if previous is not None:
            previous.close()
        previous = store.load(saved.context.pid, saved.digest)
        next_ = fresh(image)
        restore.restore_memory(previous, 0, next_, IMAGE_BYTES)
        assert next_ == view
        view, origin = next_, memory
        store.prune(saved.context.pid, {saved.digest})
    assert previous is not None
    previous.close()


@needs_pagemap
def test_large_pieces_are_mapped_and_stay_unwritten(tmp_path: Path, image: int) -> None:
    store = Checkpoints(tmp_path / "checkpoints")
    view = fresh(image)
    view[8 * PAGE_BYTES :] = random.Random(3).randbytes(16 * PAGE_BYTES)
    saved = store.save(context(memories=(compare(view, None),)), [view])
    with store.load(saved.context.pid, saved.digest) as stored:
        forks = [fresh(image) for _ in range(3)]
        for fork in forks:
            restore.restore_memory(stored, 0, fork, IMAGE_BYTES)
    store.remove(saved.context.pid)  # what is mapped stays
    for number, fork in enumerate(forks):
        assert flags(fork) == []
        fork[9 * PAGE_BYTES] ^= 1 + number
        assert flags(fork) == [9 * PAGE_BYTES // CHUNK_BYTES]
    assert len({bytes(fork[9 * PAGE_BYTES : 10 * PAGE_BYTES]) for fork in forks}) == 3


def test_few_maps_however_many_pieces(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "checkpoints")
    piece = random.Random(4).randbytes(restore.MAP_BYTES_MIN)
    view = memoryview(bytearray(b"".join(bytes((n,)) * PAGE_BYTES + piece for n in range(40))))
    value = context(memories=(compare(view, None),))
    saved = store.save(value, [view])
    with store.load(saved.context.pid, saved.digest) as stored:
        assert len(restore._to_map(stored, stored.parts(0))) == restore.MAPS_MAX
        memory = memoryview(mmap.mmap(-1, len(view), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        restore.restore_memory(stored, 0, memory, 0)
        assert memory == view


def test_a_map_is_verified_too(tmp_path: Path, image: int) -> None:
    store = Checkpoints(tmp_path / "checkpoints")
    view = fresh(image)
    saved = store.save(context(memories=(compare(view, None),)), [view])
    path = next(tmp_path.rglob("*.pack"))
    data = bytearray(path.read_bytes())
    data[5 * PAGE_BYTES + 77] ^= 1
    path.write_bytes(data)
    with store.load(saved.context.pid, saved.digest) as stored, pytest.raises(DamagedContextError):
        restore.restore_memory(stored, 0, fresh(image), IMAGE_BYTES)
