"""Processes through the client: forks, evictions, answers of evicted ones, checkpoints, ten thousand idle
ones.

Times are of the whole verb as a program sees it, from the call until it returns (or the answer was read),
with the table, the store and the twins' cache as they are in daily use.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

import sojourn
from sojourn.model.states import State
from sojourn.store.home import Home
from sojourn.vm.process.runtime import PythonRuntime

from .measure import Table, timed

OURS, PEER = "Sojourn", "host Python (subprocess)"
ANSWERS = 200
IDLE = 10_000
STARTED = 100
SAMPLE = 100
WAIT_S = 120.0
ECHO = """
import json, numpy, sys
print('ready', flush=True)
for line in sys.stdin:
    print(json.dumps({'got': line.strip()}), flush=True)
"""
COMPUTING = """
import numpy as np, pandas as pd
x = pd.DataFrame({'a': np.arange(10**5), 'b': np.random.rand(10**5)})
print('ready', flush=True)
n = 0
while True:
    n += 1
"""


def measure(home: Home, runtime: PythonRuntime, rounds: int) -> list[Table]:
    del runtime  # the client has its own
    with sojourn.Client(home.path, idle_after=None) as client:
        return [verbs(client, rounds), answers(client), *idle(client, home)]


def started(client: sojourn.Client, code: str, **options: object) -> sojourn.Process:
    process = client.start(code=code, **options)  # type: ignore[arg-type]
    if process.readline(WAIT_S) != b"ready\n":
        raise RuntimeError(f"it did not start: {process.output}")
    return process


def ask(process: sojourn.Process, word: str) -> None:
    process.write(word.encode() + b"\n")
    if process.readline(WAIT_S) != f'{{"got": "{word}"}}\n'.encode():
        raise RuntimeError(f"{process.pid} answered something else")


def verbs(client: sojourn.Client, rounds: int) -> Table:
    table = Table("Verbs of a process through the client", "ms", "less", OURS)
    computing, waiting = started(client, COMPUTING), started(client, ECHO)
    forks: list[sojourn.Process] = []

    def fork() -> float:
        return timed(lambda: forks.extend(computing.fork(start=False)))

    def fork_runs() -> float:
        taken = timed(forks[-1].resume)
        forks.pop().kill()
        return taken

    def evict() -> float:
        taken = timed(waiting.evict)
        ask(waiting, "x")
        return taken

    subjects: dict[str, Callable[[], float]] = {
        "fork, pandas loaded and computing, until it is stored": fork,
        "the fork, until it runs": fork_runs,
        "checkpoint, pandas loaded and computing": lambda: timed(computing.checkpoint),
        "checkpoint, waiting for input": lambda: timed(waiting.checkpoint),
        "evict, waiting for input": evict,
    }
    for number in range(rounds * 10 + 2):
        for row, subject in subjects.items():
            value = subject()
            if number >= 2:  # the first compile the twins of a stack
                table.values.setdefault(row, {}).setdefault(OURS, []).append(value)
    computing.kill()
    waiting.kill()
    return table


def answers(client: sojourn.Client) -> Table:
    """From the write to an evicted process until its answer has been read; beside it one that was not."""
    evicted, awake = started(client, ECHO), started(client, ECHO)
    with subprocess.Popen(
        [sys.executable, "-c", ECHO.replace(", numpy", "")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        peer.stdout.readline()

        def ask_peer() -> None:
            assert peer.stdin is not None
            assert peer.stdout is not None
            peer.stdin.write(b"x\n")
            peer.stdin.flush()
            peer.stdout.readline()

        subjects: dict[str, Callable[[], None]] = {
            "evicted": lambda: ask(evicted, "x"),
            "in memory": lambda: ask(awake, "x"),
            PEER: ask_peer,
        }
        taken: dict[str, list[float]] = {name: [] for name in subjects}
        for number in range(ANSWERS + 10):
            evicted.evict()
            for name, subject in subjects.items():
                value = timed(subject)
                if number >= 10:
                    taken[name].append(value)
        peer.stdin.close()
    table = Table("An answer: from the request until it was read", "ms", "less", "median")
    for name, values in taken.items():
        table.values[name] = {
            "median": [statistics.median(values)],
            "99th percentile": [statistics.quantiles(values, n=100, method="inclusive")[98]],
        }
    evicted.kill()
    awake.kill()
    return table


def idle(client: sojourn.Client, home: Home) -> list[Table]:
    """What a process costs that has waited long. Most are forks of one, which share what they have in common;
    some were started each for itself."""
    table = Table("A process that has waited long, evicted", "kB", "less", OURS)
    times = Table("Many of them", "s", "less", OURS)
    one = started(client, ECHO)
    ask(one, "before")

    before, disk = memory(), used(home)
    begun = time.perf_counter()
    forks = one.fork(IDLE, start=False, timeout=None)
    times.values[f"to make {IDLE:,} by fork"] = {OURS: [time.perf_counter() - begun]}
    table.values[f"memory, of {IDLE:,} forks with a handle each"] = {OURS: [(memory() - before) / IDLE / 1e3]}
    table.values[f"disk, of {IDLE:,} forks"] = {OURS: [(used(home) - disk) / IDLE / 1e3]}

    before, disk = memory(), used(home)
    alone = [started(client, ECHO, idle_after=0.5) for _ in range(STARTED)]
    while any(process.state is not State.SUSPENDED for process in alone):
        time.sleep(0.05)
    table.values[f"memory, of {STARTED} started and then evicted"] = {
        OURS: [(memory() - before) / STARTED / 1e3]
    }
    table.values[f"disk, of {STARTED} started and then evicted"] = {
        OURS: [(used(home) - disk) / STARTED / 1e3]
    }
    table.values["memory, of one that waits on a pipe"] = {PEER: [peer_memory() / 1e3]}

    begun = time.perf_counter()
    for number, process in enumerate(random.sample(forks + alone, SAMPLE)):
        ask(process, f"sample {number}")
        process.evict()
    times.values[f"to ask {SAMPLE} of them, one after the other, each evicted again"] = {
        OURS: [time.perf_counter() - begun]
    }
    for process in (one, *forks, *alone):
        process.kill()
    return [table, times]


def memory() -> int:
    return int(psutil.Process().memory_full_info().uss)


def used(home: Home) -> int:
    """Bytes of disk below what processes have in the home, each file once however many names it has."""
    seen: dict[int, int] = {}
    for folder in (home.checkpoints, home.processes):
        for path in [folder, *folder.rglob("*")]:
            status = path.lstat()
            seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values()) + sum(path.stat().st_size for path in Path(home.path).glob("processes.db*"))


def peer_memory() -> int:
    code = ECHO.replace(", numpy", "")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        found = int(psutil.Process(child.pid).memory_full_info().uss)
        child.stdin.close()
    return found
