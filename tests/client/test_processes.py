"""Processes in Python: streams, verbs, and what happens behind their backs: eviction and return."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sojourn
from sojourn.model.errors import ProcessStateError, UnknownProcessError, UsageError
from sojourn.model.states import State
from sojourn.store.checkpoints import Checkpoints
from sojourn.store.home import Home
from sojourn.store.table import ProcessTable

from ..wat import wat

pytestmark = pytest.mark.engine

# Writes what it reads with one bit of each byte turned, so that nothing can be an echo of ours.
ECHO = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $i i32)
    (loop $again
      (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.load (i32.const 8)) (then
        (local.set $i (i32.const 0))
        (loop $turn
          (i32.store8 (i32.add (i32.const 64) (local.get $i))
            (i32.xor (i32.const 32) (i32.load8_u (i32.add (i32.const 64) (local.get $i)))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $turn (i32.lt_u (local.get $i) (i32.load (i32.const 8)))))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
        (br $again))))))"""
# Sleeps for so many nanoseconds, then writes a letter; again and again.
SLEEP = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 300) "z")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 300)) (i32.store (i32.const 4) (i32.const 1))
    (i32.store (i32.const 116) (i32.const 1)) (i64.store (i32.const 124) (i64.const %d))
    (loop $again
      (drop (call $poll (i32.const 100) (i32.const 200) (i32.const 1) (i32.const 8)))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
      (br $again))))"""
LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'
SOON_S = 30.0


def turned(data: bytes) -> bytes:
    return bytes(byte ^ 32 for byte in data)


def until(condition: Callable[[], Any], what: str) -> None:
    deadline_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline_s, f"in vain: {what}"
        time.sleep(0.005)


def suspended(process: sojourn.Process) -> None:
    until(lambda: process.state is State.SUSPENDED, f"{process.pid} is evicted")


def answer(process: sojourn.Process, data: bytes) -> None:
    """Have an echo answer, all of it and nothing else."""
    process.write(data, SOON_S)
    heard = b""
    while len(heard) < len(data):
        heard += process.read(timeout=SOON_S)
    assert heard == turned(data)


@pytest.fixture
def client(home: Home) -> Iterator[sojourn.Client]:
    with sojourn.Client(home.path, idle_after=None) as client:
        yield client


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / f"{abs(hash(text))}.wasm"
        path.write_bytes(wat(text))
        return path

    return write


Module = Callable[[str], Path]


def test_streams_and_the_end(client: sojourn.Client, module: Module) -> None:
    process = client.start(module(ECHO), name="echo")
    assert process.state is State.RUNNING
    process.write(turned(b"ab\ncd"))
    assert process.readline(SOON_S) == b"ab\n"
    process.close_stdin()
    assert process.readline(SOON_S) == b"cd"  # the last has no end
    assert process.read(timeout=SOON_S) == b""
    assert list(process) == []
    ending = process.wait(SOON_S)
    assert (ending.state, ending.exit_code) == (State.EXITED, 0)
    assert process.output == (b"ab\ncd", b"")
    assert process.kill() == ending
    with pytest.raises(BrokenPipeError):
        process.write(b"more")
    process.close_stdin()
    for verb in (process.resume, process.evict, process.checkpoint, process.fork):
        with pytest.raises(ProcessStateError):
            verb()


def test_given_input_is_all_there_is(client: sojourn.Client, module: Module) -> None:
    process = client.start(module(ECHO), stdin=b"all of it")
    assert process.wait(SOON_S).exit_code == 0
    assert process.output.stdout == turned(b"all of it")


def test_read_in_pieces_and_out_of_time(client: sojourn.Client, module: Module) -> None:
    process = client.start(module(ECHO))
    for read in (process.read, process.readline):
        with pytest.raises(TimeoutError):
            read(timeout=0.01)
    with pytest.raises(TimeoutError):
        process.wait(0.01)
    process.write(turned(b"one\ntwo\nthr"))
    assert process.read(2, SOON_S) == b"on"
    assert process.readline(SOON_S) == b"e\n"
    assert process.readline(SOON_S) == b"two\n"
    with pytest.raises(TimeoutError):
        process.readline(0.01)
    assert process.read(timeout=SOON_S) == b"thr"  # what came is not lost


def test_a_process_that_computes_is_killed(client: sojourn.Client, module: Module) -> None:
    process = client.start(module(LOOP))
    ending = process.kill("enough")
    assert (ending.state, ending.reason) == (State.KILLED, "enough")
    assert process.state is State.KILLED


def test_leaving_ends_what_runs_and_keeps_what_was_evicted(home: Home, module: Module) -> None:
    with sojourn.Client(home.path, idle_after=0.01) as client:
        computes, kept = client.start(module(LOOP)), client.start(module(LOOP))
        waits = client.start(module(ECHO))
        suspended(waits)
        kept.evict()
    with ProcessTable.open(home) as table:
        states = [table.get(process.pid).state for process in (computes, waits, kept)]
    assert states == [State.KILLED, State.KILLED, State.SUSPENDED]
    with pytest.raises(UsageError, match="closed"):
        client.start(module(LOOP))


def test_what_cannot_be_asked_for_is_named(client: sojourn.Client, module: Module) -> None:
    for wrong in ({}, {"code": "1", "module": "m"}):
        with pytest.raises(UsageError, match="one program"):
            client.start(**wrong)
    for name in ("checkpoint_every", "idle_after"):
        with pytest.raises(UsageError, match=name):
            client.start(module(LOOP), **{name: -1.0})
    with pytest.raises(UnknownProcessError):
        client.process("zzzz")
    with pytest.raises(UnknownProcessError):
        client.resume("nowhere")
    process = client.start(module(LOOP))
    with pytest.raises(UsageError, match="0 forks"):
        process.fork(0)


def test_an_evicted_process_answers(client: sojourn.Client, module: Module) -> None:
    process = client.start(module(ECHO))
    answer(process, b"before")
    for turn in range(5):
        process.evict()
        assert process.state is State.SUSPENDED
        process.evict()  # it is
        answer(process, b"after %d" % turn)
        assert process.state is State.RUNNING
    process.evict()
    process.resume()
    process.resume()
    assert process.state is State.RUNNING
    assert process.output.stdout == turned(b"before" + b"".join(b"after %d" % n for n in range(5)))
    process.evict()
    process.close_stdin()  # it comes back to find the end
    assert process.wait(SOON_S).exit_code == 0


def test_two_handles_and_two_clients(client: sojourn.Client, home: Home, module: Module) -> None:
    one = client.start(module(ECHO))
    answer(one, b"x")
    two = client.process(one.pid[:7])
    assert two.read(timeout=SOON_S) == turned(b"x")  # each reads from the beginning
    two.write(b"y")
    assert one.read(timeout=SOON_S) == two.read(timeout=SOON_S) == turned(b"y")
    with sojourn.Client(home.path) as other:
        (far,) = other.processes()
        assert (far.pid, far.state) == (one.pid, State.RUNNING)
        assert far.read(timeout=SOON_S) == turned(b"xy")
        with pytest.raises(ProcessStateError, match="another program runs"):
            far.write(b"z")
        far.checkpoint()
        far.evict()
        assert one.state is State.SUSPENDED
        far.write(b"z")  # and so it goes on there
        assert one.read(timeout=SOON_S) == far.read(timeout=SOON_S) == turned(b"z")
        with pytest.raises(ProcessStateError):
            one.write(b"lost")
        assert far.kill("over").reason == "over"
        assert one.wait(SOON_S).reason == "over"


def test_a_checkpoint_in_a_file_goes_on_as_another_process(
    client: sojourn.Client, module: Module, tmp_path: Path
) -> None:
    process = client.start(module(ECHO))
    answer(process, b"x")
    process.checkpoint(tmp_path / "file.context")
    other = client.resume(tmp_path / "file.context")
    assert other.pid != process.pid
    answer(other, b"other")
    answer(process, b"first")
    assert other.output.stdout == turned(b"other")


def test_forks_go_on_each_for_itself(client: sojourn.Client, module: Module) -> None:
    process = client.start(module(ECHO))
    answer(process, b"before")
    forks = process.fork(3)
    assert [fork.state for fork in forks] == [State.RUNNING] * 3
    for number, fork in enumerate(forks):
        answer(fork, b"%d" % number)
    (later,) = forks[1].fork(start=False)
    assert later.state is State.SUSPENDED
    answer(later, b"later")
    answer(process, b"after")
    assert forks[1].output.stdout == turned(b"1")
    assert later.output.stdout == turned(b"later")


def test_the_output_of_a_fork_that_is_recovered_comes_once(
    client: sojourn.Client, home: Home, module: Module
) -> None:
    """What it wrote since its checkpoint it writes again, so that is cut off: counted from where it began."""
    process = client.start(module(ECHO))
    answer(process, b"the output of its parent is not in its log")
    (fork,) = process.fork()
    answer(fork, b"stored ")
    fork.checkpoint()
    answer(fork, b"lost")
    with ProcessTable.open(home) as table:  # as when its host dies
        fork.evict()
        stored = Checkpoints(home.checkpoints)
        latest = stored.latest(fork.pid)
        assert latest is not None
        latest.close()
        stored.prune(
            fork.pid, keep=[entry.digest for entry in stored.all(fork.pid) if entry.digest != latest.digest]
        )
        table.update(fork.pid, epoch=40)
    with sojourn.Client(home.path) as other:
        again = other.resume(fork.pid)
        assert again.read(timeout=SOON_S) == turned(b"stored ")
        answer(again, b"found")
        assert again.output.stdout == turned(b"stored found")


def test_checkpoints_of_earlier_lives_are_not_kept(
    client: sojourn.Client, home: Home, module: Module
) -> None:
    process = client.start(module(ECHO))
    for turn in range(6):
        answer(process, b"%d" % turn)
        process.evict()
    folder = home.checkpoints / process.pid
    assert len(list(folder.glob("*.context"))) == 2
    named = {
        name for entry in Checkpoints(home.checkpoints).all(process.pid) for name in packs(home, entry.digest)
    }
    assert {path.stem for path in folder.glob("*.pack")} == named


def packs(home: Home, digest: str) -> tuple[str, ...]:
    (pid,) = Checkpoints(home.checkpoints).pids()
    with Checkpoints(home.checkpoints).load(pid, digest) as stored:
        return stored.context.packs


# -- idle eviction -------------------------------------------------------------------------------------


def test_one_that_waits_for_input_is_evicted_and_comes_back(client: sojourn.Client, module: Module) -> None:
    process = client.start(module(ECHO), idle_after=0.01)
    for turn in range(5):
        suspended(process)
        answer(process, b"turn %d" % turn)
    suspended(process)
    process.close_stdin()
    assert process.wait(SOON_S).exit_code == 0
    assert process.output.stdout == turned(b"".join(b"turn %d" % turn for turn in range(5)))


def test_one_that_sleeps_is_evicted_and_wakes_in_time(client: sojourn.Client, module: Module) -> None:
    """The clock of its sleep goes on: it is not the longer for the eviction, nor cut short by it."""
    sleep_s = 0.5
    begun_s = time.monotonic()
    process = client.start(module(SLEEP % (sleep_s * 1e9)), idle_after=0.01)
    for turn in range(1, 4):
        suspended(process)
        assert process.read(timeout=SOON_S) == b"z"
        assert time.monotonic() - begun_s >= turn * sleep_s
    process.kill()


def test_a_sleep_is_not_ended_by_input_that_nobody_reads(client: sojourn.Client, module: Module) -> None:
    process = client.start(module(SLEEP % 3600e9), idle_after=0.01)
    suspended(process)
    epoch = record(process).epoch
    process.write(b"x")
    with pytest.raises(TimeoutError):
        process.read(timeout=0.05)
    assert (record(process).state, record(process).epoch) == (State.SUSPENDED, epoch)
    assert process.kill("over").reason == "over"


def record(process: sojourn.Process) -> Any:
    return process._host.record(process.pid)


def test_one_that_computes_is_not_evicted(client: sojourn.Client, module: Module) -> None:
    process, waits = (
        client.start(module(LOOP), idle_after=0.001),
        client.start(module(ECHO), idle_after=0.001),
    )
    suspended(waits)
    assert (record(process).state, record(process).epoch) == (State.RUNNING, 1)


def test_an_evicted_one_is_killed_by_handle_and_by_others(
    client: sojourn.Client, home: Home, module: Module
) -> None:
    one, two = client.start(module(ECHO), idle_after=0.01), client.start(module(ECHO), idle_after=0.01)
    suspended(one)
    suspended(two)
    assert one.kill("by its handle").reason == "by its handle"
    assert not (home.checkpoints / one.pid).exists()
    waiting = threading.Thread(target=two.wait, args=(SOON_S,))
    waiting.start()
    with sojourn.Client(home.path) as other:
        other.process(two.pid).kill("by another")
    waiting.join(SOON_S)
    assert not waiting.is_alive()
    assert two.wait(SOON_S).reason == "by another"
    with pytest.raises(BrokenPipeError):
        two.write(b"x")


def test_one_that_another_host_has_taken_is_left_to_it(
    client: sojourn.Client, home: Home, module: Module
) -> None:
    process = client.start(module(ECHO), idle_after=0.01)
    suspended(process)
    with sojourn.Client(home.path, idle_after=None) as other:
        taken = other.resume(process.pid)
        answer(taken, b"there")
        with pytest.raises((ProcessStateError, BrokenPipeError)):
            for _ in range(1000):  # the first may be taken for what brings it back, and finds that it is gone
                process.write(b"here")
                time.sleep(0.01)
        assert process.read(timeout=SOON_S) == turned(b"there")
        answer(taken, b"still there")


def test_nothing_stays_open_for_an_evicted_process(
    client: sojourn.Client, home: Home, module: Module
) -> None:
    first = client.start(module(ECHO), idle_after=0.01)
    suspended(first)
    until(lambda: not guests(), "its thread ends")
    before = open_files()
    processes = [client.start(module(ECHO), idle_after=0.01) for _ in range(20)]
    for process in processes:
        suspended(process)
    until(lambda: not guests(), "their threads end")
    assert open_files() <= before
    assert not list(home.processes.glob("*/control"))
    for number, process in enumerate(processes):
        answer(process, b"%d" % number)


def test_memory_is_given_back_once_for_many_evictions(
    client: sojourn.Client, module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr("sojourn.host.residents.give_back", lambda: given.append(1))
    processes = [client.start(module(ECHO), idle_after=0.01) for _ in range(10)]
    for process in processes:
        suspended(process)
    until(lambda: given, "memory is given back")
    assert len(given) < len(processes)


def guests() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sojourn-guest"]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_is_written_while_it_is_evicted_is_read_once(client: sojourn.Client, module: Module) -> None:
    """Writers and the eviction race, in several processes at once; from every writer all comes, in order."""
    rng = random.Random(7)
    processes = [client.start(module(ECHO), idle_after=0.001) for _ in range(4)]
    sent = [b""] * len(processes)

    def write(number: int, seed: float) -> None:
        own = random.Random(seed)
        for turn in range(60):
            data = b"<%d %d>" % (turn, own.randrange(10**9)) * own.choice((1, 1, 1, 200))
            sent[number] += data
            processes[number].write(data, SOON_S)
            time.sleep(own.choice((0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.03)))
        processes[number].close_stdin()

    writers = [
        threading.Thread(target=write, args=(number, rng.random())) for number in range(len(processes))
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    for process, data in zip(processes, sent, strict=True):
        assert process.wait(SOON_S).exit_code == 0
        assert process.output.stdout == turned(data)
    assert max(record(process).epoch for process in processes) > 5  # they were away in between


def test_verbs_race_with_the_eviction(client: sojourn.Client, module: Module) -> None:
    process = client.start(module(ECHO), idle_after=0.001)
    rng, sent = random.Random(11), b""
    for turn in range(40):
        verb = rng.choice(
            (process.checkpoint, process.evict, process.resume, lambda: process.fork(start=False))
        )
        verb()
        data = b"%d;" % turn
        answer(process, data)
        sent += data
    assert process.output.stdout == turned(sent)


def test_two_hundred_that_wait(client: sojourn.Client, module: Module) -> None:
    path = module(ECHO)
    processes = [client.start(path, idle_after=0.02) for _ in range(200)]
    until(lambda: all(process.state is State.SUSPENDED for process in processes), "all are evicted")
    until(lambda: not guests(), "their threads end")
    for number, process in enumerate(processes):
        process.write(b"%d" % number)
    for number, process in enumerate(processes):
        assert process.read(timeout=SOON_S) == turned(b"%d" % number)
