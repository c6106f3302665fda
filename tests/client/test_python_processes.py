"""Python programs as processes: the same output whatever happens to them in between."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sojourn
from sojourn.model.states import State

from .test_processes import SOON_S, record, suspended

pytestmark = pytest.mark.runtime
LATE_S = 120.0  # the twins of a stack may have to be compiled first

# Keeps state in generators, dictionaries and an open file, and says a digest of all of it for each line.
TALKING = """
import hashlib, io, json, sys
notes = io.open('notes.txt', 'w+')
def counting():
    total = {}
    while True:
        word = yield json.dumps(total, sort_keys=True)
        total[word] = total.get(word, 0) + 1
counts = counting()
next(counts)
print('ready', flush=True)
for line in sys.stdin:
    text = counts.send(line.strip())
    notes.write(line)
    notes.seek(0)
    kept = notes.read()
    print(len(kept), hashlib.sha256((text + kept).encode()).hexdigest()[:16], flush=True)
print('bye', file=sys.stderr)
"""


@pytest.fixture
def client(runtime_home: Path) -> Iterator[sojourn.Client]:
    with sojourn.Client(runtime_home, idle_after=None) as client:
        yield client


def talk(process: sojourn.Process, words: list[str]) -> list[bytes]:
    answers = []
    for word in words:
        process.write(word.encode() + b"\n")
        answers.append(process.readline(LATE_S))
    return answers


def test_a_conversation_is_the_same_with_and_without_evictions(client: sojourn.Client) -> None:
    rng = random.Random(3)
    words = [rng.choice(["one", "two", "three", "four"]) for _ in range(30)]
    straight = client.start(code=TALKING, name="straight")
    assert straight.readline(LATE_S) == b"ready\n"
    expected = talk(straight, words)
    straight.close_stdin()
    assert straight.wait(SOON_S).exit_code == 0

    disturbed = client.start(code=TALKING, name="disturbed", idle_after=0.01)
    assert disturbed.readline(LATE_S) == b"ready\n"
    heard = []
    for word in words:
        verb = rng.choice(("nothing", "evict", "wait", "checkpoint", "fork"))
        if verb == "wait":
            suspended(disturbed)
        elif verb == "fork":
            (fork,) = disturbed.fork(start=False)
            fork.kill()
        elif verb != "nothing":
            getattr(disturbed, verb)()
        heard += talk(disturbed, [word])
    disturbed.close_stdin()
    assert disturbed.wait(SOON_S).exit_code == 0
    assert heard == expected
    assert disturbed.output == (b"ready\n" + b"".join(expected), b"bye\n") == straight.output
    assert record(disturbed).epoch > 3


def test_forks_differ_and_their_clocks_and_sleeps_are_right(client: sojourn.Client) -> None:
    process = client.start(
        code="import random, time, uuid\nprint('ready', flush=True)\ninput()\n"
        "print(uuid.uuid4(), random.random(), flush=True)\nbegun = time.monotonic()\ntime.sleep(0.3)\n"
        "print(time.monotonic() - begun >= 0.3)"
    )
    assert process.readline(LATE_S) == b"ready\n"
    forks = process.fork(3)
    said = set()
    for each in (process, *forks):
        each.write(b"\n")
        said.add(each.readline(LATE_S))
        assert each.readline(LATE_S) == b"True\n"
        assert each.wait(SOON_S).state is State.EXITED
    assert len(said) == 4


_HOST = """
import sys, time
import sojourn
client = sojourn.Client(sys.argv[1], idle_after=0.05)
process = client.start(code=sys.argv[2], name="orphan")
process.write(b"one\\n")
print(process.pid, process.readline(120), process.readline(120), flush=True)
while process.state != "suspended":
    time.sleep(0.01)
print("out", flush=True)
time.sleep(600)
"""


def test_what_a_host_that_is_killed_had_evicted_goes_on_elsewhere(
    client: sojourn.Client, runtime_home: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOST, str(runtime_home), TALKING], stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout is not None
        pid = host.stdout.readline().split()[0]
        assert host.stdout.readline() == "out\n"
        host.send_signal(signal.SIGKILL)
        host.wait(SOON_S)
    straight = client.start(code=TALKING)
    assert straight.readline(LATE_S) == b"ready\n"
    expected = talk(straight, ["one", "two"])
    process = client.resume(pid)
    assert process.readline(LATE_S) == b"ready\n"
    assert process.readline(LATE_S) == expected[0]
    assert talk(process, ["two"]) == expected[1:]
    process.kill()
    straight.kill()
