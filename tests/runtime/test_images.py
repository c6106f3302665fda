"""Images on disk: made once, never loaded damaged, never pulled away from under a process."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sojourn.model.errors import StoreError
from sojourn.model.states import Ending, State
from sojourn.store.home import Home
from sojourn.vm.process.images import ImageInfo, ImageStore, image_lock

from .conftest import MakeRuntime, execute

PAGE = 1 << 16
DIGEST = "ab" * 32


def info(digest: str = DIGEST) -> ImageInfo:
    return ImageInfo(digest, "sha256:r", ("json",), {}, PAGE, {"g": 7}, 64, 128, 5, 1.0)


def memory(fill: int = 1) -> memoryview:
    return memoryview(bytes([fill]) * PAGE)


def flip(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)


def test_what_was_saved_is_found(home: Home) -> None:
    ImageStore(home).save(info(), memory())
    found = ImageStore(home).find(DIGEST)
    assert found is not None
    assert (found.info.globals, found.info.ledger, found.info.imports) == ({"g": 7}, 128, ("json",))
    assert os.pread(found.descriptor, PAGE + 1, 0) == bytes(memory())
    assert ImageStore(home).find("cd" * 32) is None


def test_an_image_that_is_made_again_is_another_one(home: Home) -> None:
    """What a process stored of its memory is what differs from one image, not from the next of the same
    imports."""
    store = ImageStore(home)
    first = store.save(info(), memory(1)).info.content
    assert first != DIGEST
    found = ImageStore(home).find_content(first)
    assert found is not None
    assert os.pread(found.descriptor, PAGE, 0) == bytes(memory(1))
    second = store.save(replace(info(), created_s=2.0), memory(2)).info.content
    for here in (store, ImageStore(home)):
        assert here.find_content(first) is None
        again = here.find_content(second)
        assert again is not None
        assert os.pread(again.descriptor, PAGE, 0) == bytes(memory(2))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "memory cut": lambda folder: os.truncate(folder / "memory", PAGE - 1),
    "memory longer": lambda folder: os.truncate(folder / "memory", PAGE + 1),
    "memory flipped": lambda folder: flip(folder / "memory", PAGE // 2),
    "memory missing": lambda folder: (folder / "memory").unlink(),
    "check missing": lambda folder: (folder / "memory.check").unlink(),
    "description missing": lambda folder: (folder / "image.json").unlink(),
    "description cut": lambda folder: os.truncate(folder / "image.json", 40),
    "description empty": lambda folder: os.truncate(folder / "image.json", 0),
    "description not ours": lambda folder: (folder / "image.json").write_text('{"info": {}, "sha256": ""}'),
    "description deep": lambda folder: (folder / "image.json").write_text("[" * 100_000),
    "description a list": lambda folder: (folder / "image.json").write_text("[1]"),
    "description a directory": lambda folder: (
        (folder / "image.json").unlink(),
        (folder / "image.json").mkdir(),
    ),
    "folder a file": lambda folder: (shutil.rmtree(folder), folder.write_bytes(b"x")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_image_is_not_found_and_can_be_made_again(
    home: Home, damage: Callable[[Path], object]
) -> None:
    ImageStore(home).save(info(), memory())
    damage(home.images / DIGEST)
    store = ImageStore(home)
    assert store.find(DIGEST) is None
    store.all()
    again = store.save(info(), memory(2))
    assert os.pread(again.descriptor, 1, 0) == b"\2"
    assert ImageStore(home).find(DIGEST) is not None


def test_every_flipped_bit_of_a_description_is_noticed(home: Home) -> None:
    ImageStore(home).save(info(), memory())
    path = home.images / DIGEST / "image.json"
    whole = path.read_bytes()
    inside = json.loads(whole)["info"].encode()
    first = whole.index(b'\\"digest') if b'\\"digest' in whole else 0
    assert inside
    for where in range(first, len(whole) - 90):
        path.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
        assert ImageStore(home).find(DIGEST) is None, where


def test_a_description_of_another_image_is_not_taken(home: Home) -> None:
    store = ImageStore(home)
    store.save(info(), memory())
    store.save(info("cd" * 32), memory(2))
    shutil.copy(home.images / DIGEST / "image.json", home.images / ("cd" * 32) / "image.json")
    assert ImageStore(home).find("cd" * 32) is None


def test_prune_removes_what_is_broken_and_leaves_what_is_being_made(home: Home) -> None:
    store = ImageStore(home)
    store.save(info(), memory())
    (home.images / ("cd" * 32)).mkdir()
    with home.lock(image_lock("cd" * 32)):
        assert [removed.digest for removed in store.prune(0)] == [DIGEST]
        assert (home.images / ("cd" * 32)).is_dir()
    assert store.prune(0) == []
    assert list(home.images.iterdir()) == []
    assert list(home.locks.iterdir()) == []


def test_an_image_lives_as_long_as_somebody_holds_it(home: Home) -> None:
    store = ImageStore(home)
    image = store.save(info(), memory())
    descriptor = image.descriptor
    store.prune(0)
    assert os.pread(descriptor, 1, 0) == b"\1"
    del image
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(descriptor)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs to be root, to mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_disk_that_fills_up_while_an_image_is_written_leaves_nothing(tiny_disk: Path) -> None:
    home = Home.open(tiny_disk / "home")
    store = ImageStore(home)
    with pytest.raises(StoreError, match="disk is full") as caught:
        store.save(info(), memoryview(bytes(2 << 20)))
    assert "free some space" in caught.value.hint
    assert list(home.images.iterdir()) == []
    assert store.save(info(), memory()).info.digest == DIGEST
    (tiny_disk / "filler").write_bytes(bytes((1 << 20) - (200 << 10)))
    assert len(ImageStore(Home.open(tiny_disk / "home", need_space=False)).prune(0)) == 1


@pytest.mark.runtime
def test_processes_that_build_one_image_at_once_build_it_once(
    home: Home, runtime_home: Path, make_runtime: MakeRuntime
) -> None:
    (home.cache).rmdir()
    (home.cache).symlink_to(runtime_home / "cache")
    command = [sys.executable, "-m", "sojourn", "image", "build", "--imports", "decimal", "--json"]
    environment = {**os.environ, "SOJOURN_HOME": str(home.path)}
    builders = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    outputs = [builder.communicate(timeout=120) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0], outputs
    made = [json.loads(out) for out, _ in outputs]
    assert len({(one["digest"], one["created_s"]) for one in made}) == 1
    assert sorted(path.name for path in (home.images / made[0]["digest"]).iterdir()) == [
        "image.json",
        "memory",
        "memory.check",
    ]


@pytest.mark.runtime
def test_a_damaged_image_is_made_anew_for_the_next_process(home: Home, make_runtime: MakeRuntime) -> None:
    first = make_runtime(home, {}).image(())
    flip(home.images / first.info.digest / "memory", 1 << 20)
    runtime = make_runtime(home, {})
    assert execute(runtime, "print(1)") == (Ending(State.EXITED, 0), "1\n")
    assert runtime.image(()).info.created_s > first.info.created_s


@pytest.mark.runtime
def test_pruning_while_processes_start_harms_none(home: Home, make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(home, {})
    runtime.image(())
    over = threading.Event()

    def prune() -> None:
        other = ImageStore(home)
        while not over.is_set():
            other.prune(0)
            runtime._images.prune(0)

    pruner = threading.Thread(target=prune)
    pruner.start()
    try:
        results = [execute(runtime, f"print({n})") for n in range(6)]
    finally:
        over.set()
        pruner.join()
    assert results == [(Ending(State.EXITED, 0), f"{n}\n") for n in range(6)]
