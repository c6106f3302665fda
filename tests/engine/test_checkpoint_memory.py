"""The engine's own memory as a checkpoint sees it: its data is mapped copy-on-write, so what a guest did not
write is known, and a fresh instance of the same module has it already."""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sojourn.context import CHUNK_BYTES, PAGE_BYTES, Base, BaseKind, Kind, Memory, compare
from sojourn.model.errors import DamagedContextError
from sojourn.store.checkpoints import Checkpoints
from sojourn.vm.process import dirty, engine
from sojourn.vm.process.preparing import prepare
from sojourn.vm.process.restore import remap_memory, restore_memory
from tests.context.samples import context

from ..wat import wat

pytestmark = pytest.mark.engine

PAGES = 32
DATA = "".join(f"\\{byte:02x}" for byte in random.Random(1).randbytes(3 * CHUNK_BYTES))
MODULE = f"""(module
  (memory (export "memory") {PAGES})
  (data (i32.const 8192) "{DATA}")
  (data (i32.const {20 * PAGE_BYTES}) "{DATA}")
  (func (export "store") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
  (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))
  (func (export "grow") (param i32) (drop (memory.grow (local.get 0)))))"""
BASE = Base(BaseKind.MODULE, "1" * 64, PAGES * PAGE_BYTES)


@pytest.fixture(scope="module")
def module() -> engine.CompiledModule:
    return engine.compile_module(prepare(wat(MODULE)))


@contextmanager
def instance(module: engine.CompiledModule) -> Iterator[engine.Instance]:
    made = engine.Instance(module, {}, lambda: None, 4 * PAGES * PAGE_BYTES, 1)
    try:
        yield made
    finally:
        made.close()


def now(made: engine.Instance, origin: Memory) -> Memory:
    return compare(made.refresh(), origin, dirty.written(made.view))


@pytest.mark.skipif(not dirty._works(), reason="the kernel does not tell written pages")
def test_only_what_the_guest_wrote_is_stored(module: engine.CompiledModule, tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "checkpoints")
    with instance(module) as one, instance(module) as two:
        origin = Memory.fresh(PAGES * PAGE_BYTES, BASE)
        assert (
            now(one, origin).bytes_of(Kind.STORED) <= 2 * CHUNK_BYTES
        )  # the engine may copy the ends of data
        one.call("store", 5 * PAGE_BYTES, 1)
        one.call("fill", 8192, 0, CHUNK_BYTES)  # data of the module, now zero
        one.call("grow", 8)
        one.call("fill", (PAGES + 2) * PAGE_BYTES, 7, 3 * PAGE_BYTES)
        memory = now(one, origin)
        assert memory.size_bytes == (PAGES + 8) * PAGE_BYTES
        assert memory.bytes_of(Kind.STORED) <= 18 * CHUNK_BYTES
        assert memory.bytes_of(Kind.BASE) >= PAGES * PAGE_BYTES - 8 * CHUNK_BYTES
        saved = store.save(context(memories=(memory,)), [one.view])
        two.call("grow", 8)
        with store.load(saved.context.pid, saved.digest) as stored:
            restore_memory(stored, 0, two.refresh(), BASE.size_bytes)
        assert bytes(two.view) == bytes(one.view)
        # And so on, from there: what came from the checkpoint is not read again unless it was written.
        two.call("store", (PAGES + 3) * PAGE_BYTES, 9)
        again = now(two, memory)
        assert again == compare(memoryview(bytes(two.view)), memory, dirty.written(two.view))
        changed = set(again.stored()) - set(memory.stored())
        assert [index for index, _ in changed] == [(PAGES + 3) * PAGE_BYTES // CHUNK_BYTES]


@pytest.mark.skipif(not dirty._works(), reason="the kernel does not tell written pages")
def test_a_memory_that_goes_on_over_its_checkpoint(module: engine.CompiledModule, tmp_path: Path) -> None:
    """After a checkpoint the guest goes on in the pages of the pack: same bytes, what it writes is new."""
    store = Checkpoints(tmp_path / "checkpoints")
    with instance(module) as one:
        one.call("fill", 0, 3, 16 * PAGE_BYTES)
        one.view[: 16 * PAGE_BYTES] = random.Random(2).randbytes(16 * PAGE_BYTES)
        before = bytes(one.view)
        memory = now(one, Memory.fresh(PAGES * PAGE_BYTES, BASE))
        saved = store.save(context(memories=(memory,)), [one.view])
        path = next(tmp_path.rglob("*.pack"))
        good = path.read_bytes()
        path.write_bytes(good[:5000] + b"?" + good[5001:])
        with store.load(saved.context.pid, saved.digest) as stored:
            with pytest.raises(DamagedContextError):
                remap_memory(stored, 0, one.view)
            assert bytes(one.view) == before
        path.write_bytes(good)
        with store.load(saved.context.pid, saved.digest) as stored:
            assert remap_memory(stored, 0, one.view) == 16 * PAGE_BYTES
            assert bytes(one.view) == before
            one.call("store", 5 * PAGE_BYTES, 1)
            written = dirty.written(one.view)
            assert written is not None
            assert written[: 16 * PAGE_BYTES // CHUNK_BYTES].count(1) == 1
            again = now(one, memory)
            second = store.save(context(memories=(again,), sequence=8), [one.view], previous=stored)
        assert second.new_chunks == 1
        with store.load(second.context.pid, second.digest) as stored:
            fresh = memoryview(mmap.mmap(-1, len(one.view), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            fresh[:] = before
            restore_memory(stored, 0, fresh, len(fresh))
        assert bytes(fresh) == bytes(one.view)
