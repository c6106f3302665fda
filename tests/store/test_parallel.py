"""Hashing on several threads gives what hashing on one does, errors included, and leaves no thread behind."""

from __future__ import annotations

import random
import threading

import pytest

from sojourn.context.memory import CHUNK_BYTES, compare, digest_of
from sojourn.context.memory import digests_of as one_by_one
from sojourn.model.errors import DamagedContextError
from sojourn.store import parallel
from sojourn.store.parallel import SHARE_MIN, digests_of, in_shares, verify_chunks

COUNTS = [0, 1, SHARE_MIN - 1, SHARE_MIN, 2 * SHARE_MIN, 5 * SHARE_MIN + 3]


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_processors", lambda: 3)


def chunks(count: int) -> memoryview:
    return memoryview(random.Random(count).randbytes(count * CHUNK_BYTES))


@pytest.mark.parametrize("count", COUNTS)
def test_shares_make_up_the_whole(count: int) -> None:
    shares = in_shares(count, lambda begin, end: list(range(begin, end)))
    assert [number for share in shares for number in share] == list(range(count))
    assert len(shares) == max(1, min(3, count // SHARE_MIN))


@pytest.mark.parametrize("count", COUNTS)
def test_digests_are_those_of_each_chunk(count: int) -> None:
    data = chunks(count)
    parts = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    assert digests_of(parts) == one_by_one(parts) == [digest_of(part) for part in parts]


def test_a_memory_is_found_the_same() -> None:
    data = chunks(4 * SHARE_MIN)
    assert compare(data, None, digest_all=digests_of) == compare(data, None)


@pytest.mark.parametrize("damaged", [0, 2 * SHARE_MIN, 4 * SHARE_MIN - 1])
def test_a_damaged_chunk_is_found_in_every_share(damaged: int) -> None:
    data = bytearray(chunks(4 * SHARE_MIN))
    digests = [digest_of(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES)]
    verify_chunks(digests, memoryview(data))
    data[damaged * CHUNK_BYTES + 77] ^= 1
    with pytest.raises(DamagedContextError, match=digests[damaged].hex()[:16]):
        verify_chunks(digests, memoryview(data))
    assert not [thread for thread in threading.enumerate() if thread.name == "sojourn-share"]


def test_what_happens_first_in_order_is_raised() -> None:
    def fail(begin: int, end: int) -> None:
        raise ValueError(begin)

    with pytest.raises(ValueError, match="^0$"):
        in_shares(3 * SHARE_MIN, fail)


def test_without_threads_it_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert in_shares(3 * SHARE_MIN, lambda begin, end: end - begin) == [SHARE_MIN] * 3
