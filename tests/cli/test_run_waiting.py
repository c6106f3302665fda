"""Waiting for locks, events and queues where there are no threads: it ends, or is an error that says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..conftest import Sojourn
from .commands import Commands

pytestmark = pytest.mark.runtime

TIMED = """
import queue, threading, time, _thread
lock, held = threading.Lock(), _thread.allocate_lock()
held.acquire()
begun = time.monotonic()
print(threading.Event().wait(0.05), held.acquire(timeout=0.05), lock.acquire(timeout=0.05))
print(threading.Condition().__enter__(), threading.Semaphore(0).acquire(timeout=0.05))
for made in (queue.Queue, queue.LifoQueue, queue.SimpleQueue):
    try:
        made().get(timeout=0.05)
    except queue.Empty:
        print("empty")
full = queue.Queue(1)
full.put(1)
try:
    full.put(2, timeout=0.05)
except queue.Full:
    print("full", full.get())
print(time.monotonic() - begun >= 0.35)
with lock if not lock.acquire(False) and not lock.release() else None:
    print(lock.locked(), lock.acquire(False), "locked" in repr(lock))
print(lock.locked(), isinstance(lock, _thread.LockType), type(lock))
"""
FOR_EVER = """
import queue, threading
def attempt(wait, *args):
    try:
        wait(*args)
    except RuntimeError as error:
        print("for ever" in str(error))
held = threading.Lock()
held.acquire()
attempt(held.acquire)
attempt(held.__enter__)
attempt(threading.Event().wait)
attempt(queue.Queue().get)
attempt(queue.SimpleQueue().get)
attempt(threading.Barrier(2).wait)
for arguments, error in (((False, 1), ValueError), ((True, -2), ValueError), ((True, 1e300), OverflowError)):
    try:
        held.acquire(*arguments)
    except error:
        print(error.__name__)
"""


def test_waiting_with_a_limit_of_time_sleeps(sojourn: Sojourn) -> None:
    done = sojourn("run", "-c", TIMED)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "False False True"
    assert lines[1:] == [
        "True False",
        *["empty"] * 3,
        "full 1",
        "True",
        "True False True",
        "False True <class '_thread.lock'>",
    ]


def test_waiting_without_a_limit_is_an_error(sojourn: Sojourn) -> None:
    done = sojourn("run", "-c", FOR_EVER)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["True"] * 6 + ["ValueError", "ValueError", "OverflowError"]


def test_a_process_that_waits_for_an_event_can_be_left(runtime_home: Path, tmp_path: Path) -> None:
    cli = Commands(runtime_home, tmp_path)
    code = "import threading\nprint('?', flush=True)\nprint(threading.Event().wait(5))"
    with cli.running("run", "--name", "event", "-c", code):
        pid = cli.named("event")
        cli.until_output(pid, 2)
        cli.evict(pid)
    assert cli("resume", pid).stdout == "False\n"
