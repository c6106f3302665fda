"""Work on many chunks, shared among the processors: hashing lets other threads run meanwhile.

The threads end with the call: there is nothing to shut down, and making them costs less than 64 chunks do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from sojourn.context.memory import digest_of
from sojourn.context.pack import verify

THREADS_MAX = 4
SHARE_MIN = 64  # chunks that are worth a thread
T = TypeVar("T")


def in_shares(count: int, work: Callable[[int, int], T]) -> list[T]:
    """Call ``work(begin, end)`` for parts of ``range(count)``, at the same time; what each gave, in order.

    Raises:
        BaseException: what the first of them raised, once all have ended.
    """
    shares = max(1, min(_processors(), THREADS_MAX, count // SHARE_MIN))
    ends = [count * number // shares for number in range(shares + 1)]
    results: list[T | None] = [None] * shares
    errors: list[BaseException | None] = [None] * shares

    def run(number: int) -> None:
        try:
            results[number] = work(ends[number], ends[number + 1])
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            errors[number] = error

    threads = []
    for number in range(1, shares):
        thread = threading.Thread(target=run, args=(number,), name="sojourn-share")
        try:
            thread.start()
            threads.append(thread)
        except RuntimeError:  # the system has no thread left for us
            run(number)
    run(0)
    for thread in threads:
        thread.join()
    for error in errors:
        if error is not None:
            raise error
    return results  # type: ignore[return-value]  # each has been set


def digests_of(chunks: Sequence[memoryview]) -> list[bytes]:
    """The digest of each chunk."""
    shares = in_shares(len(chunks), lambda begin, end: [digest_of(chunk) for chunk in chunks[begin:end]])
    return [digest for share in shares for digest in share]


def verify_chunks(digests: Sequence[bytes], data: memoryview) -> None:
    """Check chunks that lie one after the other.

    Raises:
        DamagedContextError: one is not what its digest says.
    """
    in_shares(
        len(digests),
        # No parts of ``data`` here: an error would hold them, and a mapping could not be closed.
        lambda begin, end: verify(digests[begin:end], data, begin),
    )


def _processors() -> int:
    """How many this operating-system process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
