"""Checkpoint, resume, fork and evict of Python programs: what went on elsewhere is what was never stopped."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from .commands import Commands, until

pytestmark = pytest.mark.runtime

# Generators, exceptions, a class, numpy: all of it in the middle of something whenever it is stopped.
COMPUTING = """
import sys
import numpy as np

class Odd(Exception):
    pass

def values():
    a = np.arange(1000)
    for i in range(120):
        a = (a * 31 + i) % 1009
        try:
            if i % 3 == 1:
                raise Odd(i)
            yield int(a.sum())
        except Odd as error:
            yield from sorted({error.args[0], int(np.sort(a)[7]), 1 << 70})
        finally:
            a = a + 1

total = 0
for number, value in enumerate(values()):
    for k in range(60_000):
        total = (total * 33 + value + k) % 1000003
    print(number, total, flush=True)
print("done", file=sys.stderr)
sys.exit(7)
"""


@pytest.fixture
def cli(runtime_home: Path, tmp_path: Path) -> Commands:
    return Commands(runtime_home, tmp_path)


def script(cli: Commands, text: str, name: str = "program.py") -> str:
    path = cli.folder / name
    path.write_text(text)
    return str(path)


def undisturbed(cli: Commands, text: str) -> bytes:
    """Both streams of the program, as its log has them."""
    name = f"undisturbed {cli.folder.name}"
    cli("run", "--name", name, script(cli, text))
    record = next(record for record in cli.json("ps", "-a") if record["name"] == name)
    return cli.output(record["pid"])


def test_a_chain_of_lives_writes_what_one_life_does(cli: Commands) -> None:
    """Each life in a fresh operating-system process, ended at a moment that nobody chose."""
    path, rng = script(cli, COMPUTING), random.Random()
    expected = undisturbed(cli, COMPUTING)
    heard, statuses = b"", []
    command = ["run", "--name", "chain", path]
    for _ in range(3):
        with cli.running(*command) as life:
            pid = cli.named("chain")
            cli.until_output(pid, len(cli.output(pid)) + rng.randrange(200))
            cli.evict(pid)
            out, _ = life.communicate(timeout=30)
        heard += out
        statuses.append(life.returncode)
        command = ["resume", pid]
    last = cli("resume", pid)
    assert (last.returncode, last.stderr) == (7, "done\n")
    assert statuses == [148] * 3
    assert cli.output(pid) == expected
    assert heard + last.stdout.encode() + b"done\n" == expected
    record = cli.record(pid)
    assert record.ending is not None
    assert record.ending.exit_code == 7
    assert not cli.folder_of(pid).exists()  # nothing can go on from there


WAITING = {
    "input": ("print('?', flush=True)\nprint('<' + input() + '>')", "heard\n", "?\n<heard>\n"),
    "sleep": ("import time\nprint('?', flush=True)\ntime.sleep(8)\nprint('slept')", "", "?\nslept\n"),
    "select": (
        "import select, sys\nprint('?', flush=True)\nprint(len(select.select([sys.stdin], [], [], 60)[0]), "
        "sys.stdin.readline())",
        "x\n",
        "?\n1 x\n\n",
    ),
    "asyncio": (
        "import asyncio\nasync def main():\n    print('?', flush=True)\n"
        "    print(await asyncio.gather(*(asyncio.sleep(n, n) for n in (1, 7, 8))))\nasyncio.run(main())",
        "",
        "?\n[1, 7, 8]\n",
    ),
}


@pytest.mark.parametrize("name", WAITING)
def test_a_process_that_waits_goes_on_waiting(cli: Commands, name: str) -> None:
    code, stdin, expected = WAITING[name]
    with cli.running("run", "--name", name, "-c", code) as first:
        pid = cli.named(name)
        cli.until_output(pid, 2)
        cli.evict(pid)
        assert first.wait(30) == 148
    with cli.running("resume", pid):  # and once more, in the same wait
        cli.named(name)
        cli.evict(pid)
    done = cli("resume", pid, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, "")
    assert cli.output(pid).decode() == expected


def test_a_host_that_is_killed_loses_nothing_that_was_stored(cli: Commands) -> None:
    """Killed at random moments, mostly while a checkpoint is being written: a half-written one is never used,
    and the log has each byte once."""
    path, rng = script(cli, COMPUTING), random.Random()
    expected = undisturbed(cli, COMPUTING)
    with cli.running("run", "--checkpoint-every", "0.01s", "--name", "killed", path) as first:
        pid = cli.named("killed")
        until(lambda: list(cli.folder_of(pid).glob("*.context")), "a checkpoint")
        cli.until_output(pid, rng.randrange(1, 1000))
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert cli.record(pid).state == "suspended"
    done = cli("resume", pid)
    assert (done.returncode, done.stderr) == (7, "done\n")
    assert cli.output(pid) == expected


def test_what_was_written_before_a_checkpoint_outlives_the_host(cli: Commands) -> None:
    """The log gathers small writes for a while; a checkpoint says that they are written."""
    code = "import time\nfor i in range(10**9):\n    print(i, flush=True)\n    time.sleep(0.0005)"
    with cli.running("run", "--name", "gathered", "-c", code, stdout=subprocess.DEVNULL) as first:
        pid = cli.named("gathered")
        cli.until_output(pid, 100)
        cli.json("checkpoint", pid)
        first.send_signal(signal.SIGKILL)
        first.wait()
    with cli.running("resume", pid, stdout=subprocess.DEVNULL):
        cli.named("gathered")
        before = len(cli.output(pid))
        cli.until_output(pid, before + 100)
        lines = cli.output(pid).decode().splitlines()
        cli("kill", pid)
    assert [int(line) for line in lines[:-1]] == list(range(len(lines) - 1))


def test_ctrl_z_suspends_and_says_how_to_go_on(cli: Commands) -> None:
    master, slave = pty.openpty()
    options = {"stdin": slave, "stdout": slave, "stderr": slave, "start_new_session": True}
    code = "print('ready', flush=True)\nprint('got', input())"
    with cli.running(
        "run", "--name", "ctrl-z", "-c", code, **options, preexec_fn=lambda: _own_terminal(slave)
    ) as process:
        os.close(slave)
        pid = cli.named("ctrl-z")
        cli.until_output(pid, 5)
        os.write(master, b"\x1a")
        assert process.wait(30) == 148
        shown = _all_of(master)
    assert f"{pid} is suspended; go on with: sojourn resume {pid}" in shown
    done = cli("resume", pid, stdin="it\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "got it\n", "")


def _own_terminal(slave: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


def _all_of(master: int) -> str:
    data = b""
    try:
        while piece := os.read(master, 4096):
            data += piece
    except OSError:  # the other end is closed
        pass
    os.close(master)
    return data.decode()


def test_a_file_holds_all_of_it(cli: Commands, tmp_path: Path) -> None:
    """Resumed where there is neither its image nor its program, in another home."""
    path, expected = script(cli, COMPUTING), undisturbed(cli, COMPUTING)
    other = Commands(tmp_path / "elsewhere", tmp_path)
    (other.home / "cache").parent.mkdir(mode=0o700)
    shutil.copytree(cli.home / "cache", other.home / "cache", copy_function=os.link)
    with cli.running("run", "--name", "exported", path):
        pid = cli.named("exported")
        cli.until_output(pid, 200)
        made = cli.json("checkpoint", pid, "-o", "half.context")
        assert made["file"] == "half.context"
        cli("kill", pid)
    before = cli.output(pid)
    done = other("resume", "half.context")
    assert (done.returncode, done.stderr) == (7, "done\n")
    assert expected.endswith(done.stdout.encode() + b"done\n")
    assert before.startswith(expected[: len(expected) - len(done.stdout) - 5])
    assert not list((other.home / "images").iterdir())  # what goes on needs none, and none was made


def test_forks_go_on_each_for_itself(cli: Commands) -> None:
    path, expected = script(cli, COMPUTING), undisturbed(cli, COMPUTING)
    with cli.running("run", "--name", "parent", path) as parent:
        pid = cli.named("parent")
        cli.until_output(pid, 100)
        forks = cli.json("fork", pid, "-n", "3")["forks"]
        assert len(set(forks)) == 3
        assert {cli.record(fork).state for fork in forks} == {"suspended"}
        out, _ = parent.communicate(timeout=60)
    assert out + b"done\n" == expected
    tails = [cli("resume", fork) for fork in forks]
    assert {done.returncode for done in tails} == {7}
    assert len({done.stdout for done in tails}) == 1
    assert expected.endswith(tails[0].stdout.encode() + b"done\n")


def suspended(cli: Commands, name: str, code: str, *flags: str, after: int = 1) -> str:
    """The pid of a process that was started and evicted once it had written ``after`` bytes."""
    with cli.running("run", "--name", name, *flags, "-c", code):
        pid = cli.named(name)
        cli.until_output(pid, after)
        cli.evict(pid)
    return pid


ASKING = "print('?', flush=True)\nprint('<' + input() + '>')"


def test_of_two_who_resume_at_once_one_does(cli: Commands) -> None:
    pid = suspended(cli, "twice", ASKING)
    with cli.running("resume", pid) as one, cli.running("resume", pid) as two:
        until(lambda: one.poll() is not None or two.poll() is not None, "one is refused")
        loser, winner = (one, two) if one.poll() is not None else (two, one)
        assert loser.returncode == 2
        assert b"resumed" in (loser.stderr.read() if loser.stderr else b"")
        out, err = winner.communicate(b"yes\n", timeout=60)
        assert (winner.returncode, out, err) == (0, b"<yes>\n", b"")


def test_only_suspended_processes_are_resumed(cli: Commands) -> None:
    with cli.running("run", "--name", "runs", "-c", ASKING) as process:
        pid = cli.named("runs")
        done = cli("resume", pid)
        assert done.returncode == 2
        assert f"process {pid} is running" in done.stderr
        process.communicate(b"x\n", timeout=30)
    for verb in ("resume", "checkpoint", "evict", "fork"):
        done = cli(verb, pid)
        assert done.returncode == 2
        assert f"process {pid} is exited" in done.stderr
        assert "Try: sojourn ps" in done.stderr
        assert cli(verb, "zzzz").returncode == 2


def test_a_grant_that_is_gone_is_an_error_before_anything_runs(cli: Commands, tmp_path: Path) -> None:
    granted = tmp_path / "granted"
    granted.mkdir()
    code = "print('?', flush=True)\ninput()\nprint(open('/data/word').read())"
    pid = suspended(cli, "grant", code, "--grant", f"dir:{granted}=/data")
    granted.rename(tmp_path / "moved")
    done = cli("resume", pid, stdin="\n")
    assert done.returncode == 2
    assert str(granted) in done.stderr
    assert done.stdout == ""
    assert cli.record(pid).state == "suspended"
    (tmp_path / "moved").rename(granted)
    (granted / "word").write_text("found")
    assert cli("resume", pid, stdin="\n").stdout == "found\n"


def _of_format(data: bytes, number: int) -> bytes:
    """What a Sojourn with another format would have written (``context.format``: the prelude)."""
    prelude = data[:8] + number.to_bytes(2, "little") + data[10:24]
    return prelude + zlib.crc32(prelude).to_bytes(4, "little") + data[28:]


def test_files_that_are_no_contexts_are_refused(cli: Commands, tmp_path: Path) -> None:
    mine = f"damaged {secrets.token_hex(8)}"  # the home is shared with other runs
    pid = suspended(cli, mine, ASKING)
    assert cli("checkpoint", pid, "-o", "good.context").returncode == 0
    good = (tmp_path / "good.context").read_bytes()
    flipped, rng = bytearray(good), random.Random(4)
    flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
    cases = {
        "empty": b"",
        "text": b"print('hello')\n" * 100,
        "cut": good[: len(good) * 2 // 3],
        "flipped": bytes(flipped),
        "header": good[:200] + bytes([good[200] ^ 1]) + good[201:],
        "newer": _of_format(good, 9),
    }
    kinds = {"empty": "NotAContextError", "text": "NotAContextError", "newer": "OtherVersionError"}
    for name, data in cases.items():
        path = tmp_path / f"{name}.context"
        path.write_bytes(data)
        done = cli("resume", "--json", str(path), stdin="x\n")
        assert done.returncode == 2, (name, done.stderr)
        assert done.stdout == ""
        error = json.loads(done.stderr)
        assert error["error"] == kinds.get(name, "DamagedContextError"), name
        assert error["message"]
        assert error["hint"]
        assert "Traceback" not in done.stderr
    assert [record["pid"] for record in cli.json("ps", "-a") if record["name"] == mine] == [pid]
    assert cli("resume", str(tmp_path / "good.context"), stdin="x\n").stdout == "<x>\n"


def test_a_stored_checkpoint_that_is_damaged_is_refused(cli: Commands) -> None:
    pid = suspended(cli, "rotten", ASKING)
    for path in cli.folder_of(pid).glob("*.pack"):
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 4
        path.write_bytes(data)
    done = cli("resume", pid, stdin="x\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not what it was" in done.stderr
    assert cli.record(pid).state == "suspended"


def test_secrets_are_in_no_checkpoint(cli: Commands) -> None:
    os.environ["SOJOURN_TEST_SECRET"] = "xyzzy-secret-value"
    environment = {**os.environ, "SOJOURN_HOME": str(cli.home)}
    flags = ("--secret", "SOJOURN_TEST_SECRET")
    with cli.running("run", "--name", "secretive", *flags, "-c", ASKING, env=environment) as process:
        pid = cli.named("secretive")
        cli.until_output(pid, 2)
        for verb in ("checkpoint", "evict", "fork"):
            done = cli(verb, pid)
            assert done.returncode == 2
            assert "holds secrets (SOJOURN_TEST_SECRET)" in done.stderr
        assert not cli.folder_of(pid).exists()
        out, _ = process.communicate(b"still here\n", timeout=60)
        assert out == b"?\n<still here>\n"


def test_logs_follow_a_process_through_its_lives(cli: Commands) -> None:
    """Across a host that dies as well: what the process writes again is shown once."""
    path, expected = script(cli, COMPUTING), undisturbed(cli, COMPUTING)
    with cli.running("run", "--checkpoint-every", "0.02s", "--name", "followed", path) as first:
        pid = cli.named("followed")
        with cli.running("logs", "-f", pid, stderr=subprocess.STDOUT) as follower:
            until(lambda: list(cli.folder_of(pid).glob("*.context")), "a checkpoint")
            cli.until_output(pid, 500)
            first.send_signal(signal.SIGKILL)
            first.wait()
            with cli.running("resume", pid):
                cli.named("followed")
                cli("evict", pid)
            cli("resume", pid)
            seen, _ = follower.communicate(timeout=60)
    assert seen == expected


def test_a_suspended_process_can_be_killed(cli: Commands) -> None:
    pid = suspended(cli, "to kill", ASKING)
    shown = next(line for line in cli("ps").stdout.splitlines() if pid in line)
    assert re.search(r"suspended +- +- +to kill", shown)
    assert cli.json("kill", "--reason", "enough", pid) == [{"pid": pid, "state": "killed"}]
    record = cli.json("inspect", pid)
    assert (record["state"], record["ending"]["reason"]) == ("killed", "enough")
    assert not cli.folder_of(pid).exists()
    assert cli("resume", pid).returncode == 2


def test_memory_and_recursion_go_on(cli: Commands) -> None:
    code = (
        "import sys, time\nsys.setrecursionlimit(10**6)\n"
        "def down(n):\n    if n:\n        return down(n - 1) + 1\n"
        "    print('deep', flush=True)\n    return int(input())\n"
        "big = bytearray(b'sojourn' * 3_000_000)\n"
        "print(down(900))\nprint(len(big), big[-7:], big.count(b'journ'))"
    )
    pid = suspended(cli, "deep", code)
    done = cli("resume", pid, stdin="5\n")
    assert (done.stderr, done.stdout) == ("", "905\n21000000 bytearray(b'sojourn') 3000000\n")


def test_how_it_ended_can_be_read_by_machines(cli: Commands) -> None:
    pid = suspended(cli, "json", "print('?', flush=True)\ninput()\nraise SystemExit('bad')")
    done = cli("resume", "--json", pid, stdin="\n")
    assert done.returncode == 1
    words, _, ending = done.stderr.partition("{")
    assert words == "bad\n"
    assert json.loads("{" + ending)["exit_code"] == 1


def test_several_are_evicted_with_one_command(cli: Commands) -> None:
    with cli.running("run", "--name", "one", "-c", ASKING), cli.running("run", "--name", "two", "-c", ASKING):
        pids = [cli.named(name) for name in ("one", "two")]
        assert [found["pid"] for found in cli.json("evict", *pids)] == pids
    for pid in pids:
        assert cli("resume", pid, stdin=f"{pid}\n").stdout == f"<{pid}>\n"
    assert sys.executable


def test_a_fork_whose_host_is_killed_writes_nothing_twice(cli: Commands) -> None:
    """Its log has what it wrote itself, by the offsets that its output has."""
    code = "import time\nfor i in range(10**9):\n    print(i, flush=True)\n    time.sleep(0.0005)"
    quiet = {"stdout": subprocess.DEVNULL}
    with cli.running("run", "--name", "forked", "-c", code, **quiet):
        pid = cli.named("forked")
        cli.until_output(pid, 1000)
        [fork] = cli.json("fork", pid)["forks"]
        cli("kill", pid)
    with cli.running("resume", fork, **quiet):
        cli.named("forked")
        cli.until_output(fork, 100)
        cli.evict(fork)
    with cli.running("resume", "--checkpoint-every", "0.05s", fork, **quiet) as host:
        cli.named("forked")
        before = {path.name for path in cli.folder_of(fork).glob("*.context")}
        until(lambda: {p.name for p in cli.folder_of(fork).glob("*.context")} - before, "a checkpoint")
        cli.until_output(fork, len(cli.output(fork)) + 100)
        host.send_signal(signal.SIGKILL)
        host.wait()
    assert cli.record(fork).state == "suspended"
    with cli.running("resume", fork, **quiet):
        cli.named("forked")
        cli.until_output(fork, len(cli.output(fork)) + 1000)
        cli("kill", fork)
    whole = cli.output(pid) + b"\n"
    lines = [int(line) for line in cli.output(fork).split()[:-1]]
    assert lines == list(range(lines[0], lines[0] + len(lines)))
    assert f"\n{lines[0] - 1}\n".encode() in whole
