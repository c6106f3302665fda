"""A storm over many processes: their hosts are killed, they are evicted, forked, resumed, exported, all at
random and many at once. In the end each must have written every line once, in order, and ended as it should.

    python -m tests.lives.storm --seconds 3600 --processes 200 --seed 1

Each process is a program whose output is known from its arguments alone (``expected``); so its log, from the
offset at which it begins, must be that piece of it: always, whatever has happened, and whole once it ended.
Everything is done by commands, each an operating-system process, as a person would.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sojourn.store.checkpoints import Checkpoints
from sojourn.store.home import Home
from sojourn.store.hosts import Hosts
from sojourn.store.output import read_output
from sojourn.store.table import ProcessTable

from ..wat import wat

COMMAND_TIMEOUT_S = 200.0
_POLL_S = 0.01
_SHARED = """
import sys, zlib
name, count = sys.argv[1], int(sys.argv[2])
state = zlib.crc32(name.encode())
def line(i):
    global state
    state = zlib.crc32(f"{state} {i}".encode())
    print(i, name, state, flush=True)
"""
_END = "\nprint('end', name, flush=True)\nsys.exit(state % 100)\n"
PROGRAMS = {
    "numpy": _SHARED
    + """
import numpy as np
a = np.arange(4000, dtype=np.int64)
for i in range(count):
    for k in range(40):
        a = (a * 31 + k) % 65521
        if k % 10 == 0:
            b = np.sort(a)
    line(i)
"""
    + _END,
    "sleeps": _SHARED
    + "\nimport time\nfor i in range(count):\n    time.sleep(i % 7 * 0.01)\n    line(i)\n"
    + _END,
    "asyncio": _SHARED
    + """
import asyncio
async def make(queue):
    for i in range(count):
        await asyncio.sleep(0.01 * (i % 5))
        await queue.put(i)
    await queue.put(None)
async def main():
    queue = asyncio.Queue(3)
    async with asyncio.TaskGroup() as group:
        group.create_task(make(queue))
        while (i := await queue.get()) is not None:
            line(i)
asyncio.run(main())
"""
    + _END,
    "files": _SHARED
    + """
import json, re
kept = open("/tmp/kept", "w+")
data = open("/data/lines")
for i in range(count):
    number = int(data.readline())
    kept.write(json.dumps({"n": number}) + "\\n")
    kept.flush()
    kept.seek(0)
    text = kept.read()
    assert number == i and len(re.findall("n", text)) == i % 200 + 1, (number, i)
    if i % 200 == 199:
        kept.seek(0)
        kept.truncate()
    line(i)
"""
    + _END,
}
# A command of WASI: 40 lines of nine digits, each after a loop; its end status is 7.
COUNTING = """(module
 (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
 (memory (export "memory") 1)
 (global $n (mut i32) (i32.const 0))
 (func $digits (param $value i32) (local $at i32)
  (local.set $at (i32.const 40))
  (loop $next
   (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $value) (i32.const 10))))
   (local.set $value (i32.div_u (local.get $value) (i32.const 10)))
   (local.set $at (i32.sub (local.get $at) (i32.const 1)))
   (br_if $next (i32.gt_u (local.get $at) (i32.const 31)))))
 (func (export "_start") (local $k i32) (local $sum i32)
  (i32.store (i32.const 0) (i32.const 32)) (i32.store (i32.const 4) (i32.const 10))
  (i32.store8 (i32.const 41) (i32.const 10))
  (loop $lines
   (local.set $k (i32.const 0))
   (loop $work
    (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 1664525)) (local.get $k)))
    (br_if $work (i32.lt_u (local.tee $k (i32.add (local.get $k) (i32.const 1))) (i32.const 30000000))))
   (call $digits (i32.rem_u (local.get $sum) (i32.const 1000000000)))
   (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
   (global.set $n (i32.add (global.get $n) (i32.const 1)))
   (br_if $lines (i32.lt_u (global.get $n) (i32.const 40))))
  (call $exit (i32.const 7))))"""
_FACTOR, _LINES, _TURNS = 1664525, 40, 30_000_000


def affine(turns: int) -> tuple[tuple[int, ...], ...]:
    """What so many turns of the inner loop of ``COUNTING`` do to (sum, k, 1), as a matrix."""
    step = ((_FACTOR, 1, 0), (0, 1, 1), (0, 0, 1))
    found = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    while turns:
        if turns & 1:
            found = _product(found, step)
        step = _product(step, step)
        turns >>= 1
    return found


def counted() -> tuple[bytes, int]:
    """What ``COUNTING`` writes, and its status."""
    turn, total, out = affine(_TURNS), 0, []
    for _ in range(_LINES):
        total = (turn[0][0] * total + turn[0][2]) % (1 << 32)
        out.append(f"{total % 1_000_000_000:09d}\n")
    return "".join(out).encode(), 7


def _product(a: tuple[tuple[int, ...], ...], b: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    rows = range(3)
    return tuple(tuple(sum(a[i][k] * b[k][j] for k in rows) % (1 << 32) for j in rows) for i in rows)


def expected(kind: str, name: str, count: int) -> tuple[bytes, int]:
    """All that a process writes, and its exit status."""
    if kind == "counting":
        return counted()
    state, out = zlib.crc32(name.encode()), []
    for i in range(count):
        state = zlib.crc32(f"{state} {i}".encode())
        out.append(f"{i} {name} {state}\n")
    return "".join([*out, f"end {name}\n"]).encode(), state % 100


# What a command may rightly answer when a process is not there yet, or not there any more.
_REFUSALS = ("ended before", "nothing to store", "not running", "no host runs", "no checkpoint", "is running")


def _refused(errors: str) -> bool:
    return any(words in errors for words in _REFUSALS)


def _threads_of(process: subprocess.Popen[bytes] | None) -> str:
    """What each thread of an OS process does: its name, state, processor time, where it waits."""
    lines = []
    for task in sorted(Path(f"/proc/{process.pid}/task").iterdir()) if process else []:
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        wait = (task / "wchan").read_text()
        lines.append(f"{(task / 'comm').read_text().strip()} {fields[0]} {fields[11]} {wait}")
    return "\n".join(lines)


class FaultError(AssertionError):
    """Something was lost, came twice, or was not what it was said to be."""


@dataclass
class Tracked:
    """A process as this side knows it. ``life`` is the command that hosts it now, if any."""

    pid: str
    home: Path
    output: bytes
    status: int
    life: subprocess.Popen[bytes] | None = None
    stored: bool = False  # whether a checkpoint of it was there for certain
    ended: bool = False
    story: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Storm:
    """The processes and what is done to them.

    Args:
        cache: compiled code to begin with.
    """

    def __init__(self, folder: Path, cache: Path, processes: int, seed: int) -> None:
        self.folder = folder
        self.processes = processes
        self.rng = random.Random(seed)
        self.tally: Counter[str] = Counter()
        self.tracked: list[Tracked] = []
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._number = 0
        self.homes = [folder / "home", folder / "elsewhere"]
        for home in self.homes:
            home.mkdir(mode=0o700)
            for shared in (cache, cache.parent / "locks"):
                (home / shared.name).symlink_to(shared.resolve())
        for kind, text in PROGRAMS.items():
            (folder / f"storm_{kind}.py").write_text(text)
        (folder / "counting.wasm").write_bytes(wat(COUNTING))
        (folder / "data").mkdir()
        (folder / "data" / "lines").write_text("".join(f"{i}\n" for i in range(100_000)))

    # -- commands ---------------------------------------------------------------------------------------

    def _start(self, home: Path, *args: str) -> subprocess.Popen[bytes]:
        environment = {"PATH": "/usr/bin:/bin", "SOJOURN_HOME": str(home), "SOJOURN_COMPLETE": "0"}
        errors = (self.folder / f"stderr-{time.monotonic_ns()}-{threading.get_ident()}").open("w+b")
        process = subprocess.Popen(
            [sys.executable, "-m", "sojourn", *args],
            *(-1, None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if args[0] not in ("run", "resume") else subprocess.DEVNULL,
            stderr=errors,
            env=environment,
            cwd=self.folder,
        )
        process.errors = errors  # type: ignore[attr-defined]
        return process

    def _finished(self, process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
        """Status, output and errors of a command."""
        out, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
        errors = process.errors  # type: ignore[attr-defined]
        errors.seek(0)
        text = errors.read().decode("utf-8", "replace")
        errors.close()
        Path(errors.name).unlink(missing_ok=True)
        if "Traceback" in text or "internal error" in text:
            raise FaultError(f"{process.args}: {text[-3000:]}")
        return process.returncode, (out or b"").decode(), text

    def _command(self, home: Path, *args: str) -> tuple[int, str, str]:
        return self._finished(self._start(home, *args))

    def state(self, one: Tracked) -> str:
        home = Home.open(one.home)
        with ProcessTable.open(home) as table:
            Hosts(home).reap(table)
            return str(table.get(one.pid).state)

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + COMMAND_TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise FaultError(f"in vain: {what}")
            time.sleep(_POLL_S)

    # -- what must hold ---------------------------------------------------------------------------------

    def check_output(self, one: Tracked, *, whole: bool) -> None:
        """Its log is a piece of what it should write; to the end when ``whole``."""
        pieces = list(read_output(one.home / "processes" / one.pid / "output"))
        data = b"".join(piece.data for piece in pieces)
        begin = pieces[0].offset if pieces else 0
        place = begin
        for piece in pieces:
            if piece.offset != place:
                raise FaultError(f"a gap in the log of {one.pid} at {place}")
            place = piece.next_offset
        wanted = one.output[begin:] if whole else one.output[begin:place]
        if data != wanted:
            at = next((i for i, (a, b) in enumerate(zip(data, wanted, strict=False)) if a != b), -1)
            raise FaultError(
                f"{one.pid}: {len(data)} bytes from {begin} on, not {len(wanted)}; they differ at {at}: "
                f"{data[max(0, at - 100) : at + 100]!r}, not {wanted[max(0, at - 100) : at + 100]!r}"
            )

    def _settled(self, one: Tracked) -> None:
        """Its life has ended: its state is what its status says, its log what it should be."""
        life, one.life = one.life, None
        assert life is not None
        status, _, errors = self._finished(life)
        state = self.state(one)
        one.story.append(f"life ended with {status}, {state}: {errors.strip()[-200:]}")
        if status == -signal.SIGKILL:
            allowed = {"suspended", "exited"} if one.stored else {"suspended", "lost", "exited"}
        elif status == 148:
            allowed = {"suspended"}
        elif status == one.status:
            allowed = {"exited"}
        elif status == 2 and "resumed" in errors:  # somebody else was quicker
            allowed = {"suspended", "running", "exited"}
        else:
            raise FaultError(f"{one.pid} ended with {status}: {errors[-1000:]}")
        if state not in allowed:
            raise FaultError(f"{one.pid} is {state}, not one of {allowed}")
        if state in ("exited", "lost"):
            one.ended = True
            self.tally[f"ended: {state}"] += 1
        self.check_output(one, whole=state == "exited")

    # -- what is done -----------------------------------------------------------------------------------

    def launch(self) -> None:
        kind = self.rng.choice([*PROGRAMS, "counting"])
        with self._lock:
            self._number += 1
            name = f"p{self._number}"
        count = self.rng.choice((60, 200, 500))
        output, status = expected(kind, name, count)
        home = self.homes[0]
        program = ["counting.wasm"] if kind == "counting" else [f"storm_{kind}.py", name, str(count)]
        flags = ["--checkpoint-every", f"{self.rng.choice((0.05, 0.5, 2))}s"]
        life = self._start(home, "run", "--name", name, *flags, "--grant", "dir:data=/data", *program)
        pid = ""

        def known() -> bool:
            nonlocal pid
            if life.poll() is not None:
                raise FaultError(f"{name} did not start: {self._finished(life)}")
            with ProcessTable.open(Home.open(home)) as table:
                pid = next((r.pid for r in table.list(live=True) if r.name == name), "")
            return bool(pid)

        self._until(f"{name} is recorded", known)
        self._add(Tracked(pid, home, output, status, life, story=[f"{kind} {name} {count} {flags}"]))

    def _add(self, one: Tracked) -> None:
        with self._lock:
            self.tracked.append(one)

    def _has_checkpoint(self, one: Tracked) -> bool:
        return bool(Checkpoints(one.home / "checkpoints").all(one.pid))

    def kill(self, one: Tracked) -> None:
        """End its host, without a word."""
        assert one.life is not None
        one.stored = one.stored or self._has_checkpoint(one)
        one.life.send_signal(signal.SIGKILL)
        self._settled(one)

    def evict(self, one: Tracked) -> None:
        status, _, errors = self._command(one.home, "evict", one.pid)
        assert one.life is not None
        if status == 0:
            one.stored = True
        elif not _refused(errors):
            raise FaultError(f"evict {one.pid}: {errors}")
        if status == 0 or one.life.poll() is not None:
            self._settled(one)

    def evict_and_kill(self, one: Tracked) -> None:
        """Its host dies while it is being evicted."""
        assert one.life is not None
        one.stored = one.stored or self._has_checkpoint(one)
        command = self._start(one.home, "evict", one.pid)
        time.sleep(self.rng.random() * 0.8)
        one.life.send_signal(signal.SIGKILL)
        self._settled(one)
        status, _, errors = self._finished(command)
        if status == 0 and self.state(one) not in ("suspended", "exited"):
            raise FaultError(f"{one.pid} was evicted, and is {self.state(one)}: {errors}")

    def checkpoint(self, one: Tracked) -> None:
        status, _, errors = self._command(one.home, "checkpoint", one.pid)
        if status == 0:
            one.stored = True
        elif not _refused(errors):
            raise FaultError(f"checkpoint {one.pid}: {errors}")

    def fork(self, one: Tracked) -> None:
        if len(self.tracked) > 1.2 * self.processes:
            return
        status, out, errors = self._command(one.home, "fork", one.pid, "--json")
        if status:
            if not _refused(errors):
                raise FaultError(f"fork {one.pid}: {errors}")
            return
        for pid in json.loads(out)["forks"]:
            made = Tracked(pid, one.home, one.output, one.status, None, True, story=[*one.story, "forked"])
            if self.state(made) != "suspended":
                raise FaultError(f"a fork, {pid}, is {self.state(made)}")
            self._add(made)

    def export(self, one: Tracked) -> None:
        """To a file, and on from there in the other home."""
        if one.home != self.homes[0] or len(self.tracked) > 1.2 * self.processes:
            return
        path = self.folder / f"{one.pid}-{time.monotonic_ns()}.context"
        status, _, errors = self._command(one.home, "checkpoint", one.pid, "-o", str(path))
        if status:
            if not _refused(errors):
                raise FaultError(f"checkpoint -o {one.pid}: {errors}")
            return
        one.stored = True
        home = self.homes[1]
        with ProcessTable.open(Home.open(home)) as table:
            before = {record.pid for record in table.list()}
        life = self._start(home, "resume", str(path))
        pid = ""

        def known() -> bool:
            nonlocal pid
            with ProcessTable.open(Home.open(home)) as table:
                mine = (r.pid for r in table.list() if r.os_pid == life.pid and r.pid not in before)
                pid = next(mine, "")
            return bool(pid) or life.poll() is not None

        self._until("the file is a process", known)
        if not pid and not known():
            raise FaultError(f"resume {path}: {self._finished(life)}")
        self._add(Tracked(pid, home, one.output, one.status, life, True, story=[*one.story, "exported"]))
        path.unlink()

    def resume(self, one: Tracked) -> None:
        every = ["--checkpoint-every", "0.2s"] if self.rng.random() < 0.5 else []
        one.life = self._start(one.home, "resume", *every, one.pid)
        one.stored = True

    def resume_twice(self, one: Tracked) -> None:
        """Of two who resume it at once one does."""
        both = [self._start(one.home, "resume", one.pid) for _ in range(2)]
        one.stored = True

        def decided() -> bool:
            return any(life.poll() is not None for life in both)

        self._until(f"one of two resumes of {one.pid} is refused", decided)
        loser = next(life for life in both if life.poll() is not None)
        one.life = next(life for life in both if life is not loser)
        status, _, errors = self._finished(loser)
        if status == 2 and "resumed" in errors:
            return
        if status in (one.status, 148):  # it was quick: then the other finds it ended, or may take it
            other = one.life.wait(COMMAND_TIMEOUT_S)
            if other not in (2, one.status):
                raise FaultError(f"resume twice: {status} and {other}")
            self._finished(one.life)
            one.life = None
            one.ended = self.state(one) == "exited"
            self.check_output(one, whole=one.ended)
            return
        raise FaultError(f"resume twice, {one.pid}: {status} {errors}")

    def resume_and_kill(self, one: Tracked) -> None:
        """Its new host dies at once."""
        self.resume(one)
        time.sleep(self.rng.random() * 0.8)
        self.kill(one)

    RUNNING = (kill, kill, evict, evict, evict_and_kill, checkpoint, fork, export)
    SUSPENDED = (resume, resume, resume, resume_twice, resume_and_kill, fork, export)

    def turn(self) -> None:
        """Do something to one process."""
        with self._lock:
            active = [one for one in self.tracked if not one.ended]
        if len(active) < self.processes:
            self.launch()
            self.tally["launch"] += 1
            return
        one = self.rng.choice(active)
        if not one.lock.acquire(blocking=False):
            return
        try:
            if one.ended:
                return
            if one.life is not None and one.life.poll() is not None:
                self._settled(one)
                return
            if one.life is not None and self.rng.random() < 0.8 and not self._has_checkpoint(one):
                return  # killed now, it would only be lost
            if one.life is None:
                choices, running = self.SUSPENDED, self._hosted()
                if running > self.hosted_max:
                    return
            else:
                choices = self.RUNNING
            action = self.rng.choice(choices)
            one.story.append(f"{time.monotonic():.3f} {action.__name__}")
            self.tally[action.__name__] += 1
            action(self, one)
        except Exception as error:
            one.story += (repr(error), _threads_of(one.life))
            raise FaultError("\n".join(one.story)) from error
        finally:
            one.lock.release()

    hosted_max = 12

    def _hosted(self) -> int:
        with self._lock:
            return sum(one.life is not None and not one.ended for one in self.tracked)

    def check_states(self) -> None:
        """What ``ps`` says is what is."""
        for one in list(self.tracked):
            if not one.lock.acquire(blocking=False):
                continue
            try:
                state = self.state(one)
                if one.ended and state not in ("exited", "lost"):
                    raise FaultError(f"{one.pid} has ended, and is {state}")
                if not one.ended and one.life is None and state != "suspended":
                    raise FaultError(f"{one.pid} stands still, and is {state}: {one.story}")
                self.check_output(one, whole=state == "exited")
            finally:
                one.lock.release()

    def _worker(self, deadline_s: float) -> None:
        while time.monotonic() < deadline_s and not self.failures:
            try:
                if self._hosted() > self.hosted_max and self.rng.random() < 0.7:
                    time.sleep(_POLL_S)
                self.turn()
                if self.rng.random() < 0.02:
                    self.check_states()
            except Exception as error:
                import traceback

                self.failures.append("".join(traceback.format_exception(error)))

    def run(self, seconds: float, workers: int = 6) -> None:
        """Let it blow for so long, then see every process to its end.

        Raises:
            FaultError: something did not hold.
        """
        deadline_s = time.monotonic() + seconds
        threads = [threading.Thread(target=self._worker, args=(deadline_s,)) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        try:
            if self.failures:
                raise FaultError(self.failures[0])
            self._calm()
        finally:
            for one in self.tracked:
                if one.life is not None:
                    one.life.kill()
                    one.life.wait()

    def _calm(self) -> None:
        """Resume all that are left, and wait for their ends."""
        self.check_states()
        left = [one for one in self.tracked if not one.ended]
        while left:
            for one in left[: self.hosted_max]:
                if one.life is None:
                    self.resume(one)
            for one in left[: self.hosted_max]:
                life = one.life
                assert life is not None
                self._until(f"{one.pid} ends", lambda life=life: life.poll() is not None)  # type: ignore[misc]
                self._settled(one)
                if not one.ended:
                    raise FaultError(
                        f"{one.pid} was resumed to its end, and is {self.state(one)}: {one.story}"
                    )
            left = left[self.hosted_max :]
        self.check_states()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--folder", type=Path, required=True, help="made; everything lies in it")
    parser.add_argument("--cache", type=Path, required=True, help="compiled code to begin with")
    given = parser.parse_args()
    given.folder.mkdir()
    storm = Storm(given.folder, given.cache, given.processes, given.seed)
    try:
        storm.run(given.seconds, given.workers)
    finally:
        print(f"seed {given.seed}: {dict(storm.tally)}, {len(storm.tracked)} processes")


if __name__ == "__main__":
    main()
