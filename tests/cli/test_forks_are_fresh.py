"""Processes that go on from one checkpoint share nothing that must be of one process only (DESIGN 4.3), and
what a program seeded itself goes on as if it had never been stopped."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import time
from pathlib import Path

import pytest

from .commands import Commands, until

pytestmark = pytest.mark.runtime
FORKS = 3

# All that may hold something from before the checkpoint does: caches, half pairs of normal numbers, bits.
BEFORE = """
import copy, os, pickle, random, secrets, sys, tempfile, time, uuid
import numpy as np

def make():
    made = {
        "random": random.Random(), "pcg": np.random.default_rng(), "legacy": np.random.RandomState(),
        "philox": np.random.Generator(np.random.Philox()), "sfc": np.random.Generator(np.random.SFC64()),
        "dxsm": np.random.Generator(np.random.PCG64DXSM()),
        "twister": np.random.Generator(np.random.MT19937()),
        "seeded again": random.Random(5), "legacy again": np.random.RandomState(5),
    }
    made["seeded again"].seed()
    made["legacy again"].seed()
    return made

own = make()
for _ in range(300):  # most of them gone at once
    make()
uuid.uuid1(), uuid.uuid6(), uuid.uuid7(), tempfile.mktemp(), os.getpid(), secrets.token_hex()
random.gauss(), np.random.randn()
for generator in own.values():
    if isinstance(generator, random.Random):
        generator.gauss()
    elif isinstance(generator, np.random.RandomState):
        generator.randn()
    else:
        generator.integers(9, dtype=np.uint32)
"""
EXPRESSIONS = [
    *("random.gauss()", "random.random()", "random.getrandbits(128)", "random.sample(range(1 << 30), 4)"),
    *("os.urandom(16)", "secrets.token_hex(16)", "random.SystemRandom().random()", "os.getpid()"),
    *("uuid.uuid1()", "uuid.uuid6()", "uuid.uuid7()", "uuid.uuid4()", "uuid.getnode()", "uuid.uuid8()"),
    *("uuid.uuid1(clock_seq=1).node", "tempfile.mktemp()", "next(tempfile._get_candidate_names())"),
    *("float(np.random.randn())", "float(np.random.rand())", "np.random.default_rng().random()"),
    *("own['random'].gauss()", "own['random'].random()", "own['seeded again'].random()"),
    *("own['legacy'].randn()", "own['legacy'].rand()", "own['legacy again'].rand()"),
    "int(own['pcg'].integers(1 << 32, dtype=np.uint32))",
    "int(own['philox'].integers(1 << 32, dtype=np.uint32))",
    "int(own['sfc'].integers(1 << 32, dtype=np.uint32))",
    *("own['pcg'].random()", "own['philox'].random()", "own['sfc'].random()", "own['dxsm'].random()"),
    *("own['twister'].random()", "own['pcg'].spawn(1)[0].random()"),
]
DRAWING = f"{BEFORE}\nprint('?', flush=True)\ninput()\n" + "\n".join(
    f"print(repr({expression}))" for expression in EXPRESSIONS
)

# What was seeded, in every way there is.
SEEDED = """
import copy, pickle, random, sys
import numpy as np
random.seed(1)
np.random.seed(1)
state = random.Random(9).getstate()
own = [random.Random(2), random.Random(), random.Random(), random.Random("text"), copy.copy(random.Random(3))]
own[1].seed(4)
own[2].setstate(state)
legacy = [np.random.RandomState(2), np.random.RandomState()]
legacy += [copy.deepcopy(legacy[0]), pickle.loads(pickle.dumps(np.random.RandomState(8)))]
legacy[1].set_state(np.random.RandomState(6).get_state())
modern = [np.random.default_rng(3), np.random.default_rng(4).spawn(1)[0]]
for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64, np.random.MT19937):
    given = kind()
    given.state = kind(7).state
    modern += [np.random.Generator(kind(11)), np.random.Generator(given)]
    modern += [copy.deepcopy(modern[-1]), pickle.loads(pickle.dumps(modern[-1]))]
def draw():
    yield random.random(), random.gauss(), random.getrandbits(70)
    yield float(np.random.randn()), float(np.random.rand())
    for generator in own:
        yield generator.gauss(), generator.random()
    for generator in legacy:
        yield float(generator.randn()), float(generator.rand())
    for generator in modern:
        yield int(generator.integers(1 << 32, dtype=np.uint32)), generator.random()
        yield generator.standard_normal()
list(draw())
"""
SEEDED_WAITING = (
    SEEDED + "print('?', flush=True)\ninput()\nfor _ in range(3):\n    print(*draw(), sep='\\n')\n"
)
SEEDED_COMPUTING = SEEDED + (
    "for number in range(200):\n"
    "    total = np.random.RandomState(number).rand(1000).sum() + random.Random(number).random()\n"
    "    total += copy.deepcopy(modern[0]).random(1000).sum()\n"
    "    total += np.random.rand(200000).sum() + sum(random.random() for _ in range(100000))\n"
    "    print(number, repr(float(total)), *draw(), flush=True)\n"
)


@pytest.fixture
def cli(runtime_home: Path, tmp_path: Path) -> Commands:
    return Commands(runtime_home, tmp_path)


def unique(name: str) -> str:
    """The home is shared with other runs."""
    return f"{name} {secrets.token_hex(8)}"


def suspended(cli: Commands, name: str, code: str, *flags: str, after: int = 1) -> str:
    name = unique(name)
    path = cli.folder / f"{name}.py"
    path.write_text(code)
    with cli.running("run", "--name", name, *flags, str(path)):
        pid = cli.named(name)
        cli.until_output(pid, after)
        cli.evict(pid)
    return pid


def lines(cli: Commands, *command: str) -> list[str]:
    done = cli(*command, stdin="\n")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def all_differ(lives: list[list[str]], expressions: list[str] = EXPRESSIONS) -> None:
    assert {len(life) for life in lives} == {len(expressions)}
    for number, expression in enumerate(expressions):
        assert len({life[number] for life in lives}) == len(lives), expression


@pytest.mark.parametrize("flags", [(), ("--no-image",)], ids=["image", "cold"])
def test_forks_draw_different_numbers(cli: Commands, flags: tuple[str, ...]) -> None:
    pid = suspended(cli, "drawing", DRAWING, *flags)
    forks = cli.json("fork", pid, "-n", str(FORKS))["forks"]
    all_differ([lines(cli, "resume", one) for one in (pid, *forks)])


def test_a_file_that_is_adopted_twice_makes_two_processes(cli: Commands) -> None:
    pid = suspended(cli, "adopted", DRAWING)
    assert cli("checkpoint", pid, "-o", "one.context").returncode == 0
    all_differ([lines(cli, "resume", one) for one in ("one.context", "one.context", pid)])


def test_the_same_process_resumed_twice_draws_others_and_keeps_its_number(cli: Commands) -> None:
    """Its host dies, so it goes on from the same checkpoint once more."""
    code = DRAWING + "\nsys.stdout.flush()\ninput()"
    pid = suspended(cli, "twice", code)
    lives = []
    for _ in range(2):
        with cli.running("resume", pid) as life:
            assert life.stdin is not None
            life.stdin.write(b"\n")
            life.stdin.flush()
            cli.until_output(pid, 2 + 10 * len(EXPRESSIONS))
            found = [life.stdout.readline().decode().rstrip() for _ in EXPRESSIONS] if life.stdout else []
            life.send_signal(signal.SIGKILL)
            life.wait()
        lives.append(found)
    number = EXPRESSIONS.index("os.getpid()")
    assert lives[0][number] == lives[1][number]
    others = [life[:number] + life[number + 1 :] for life in lives]
    all_differ(others, EXPRESSIONS[:number] + EXPRESSIONS[number + 1 :])


def test_forks_in_the_middle_of_computing_draw_different_numbers(cli: Commands) -> None:
    """Left where nobody chose, mostly inside a draw of many numbers."""
    names = [
        "random.random()",
        "float(np.random.rand())",
        "own['pcg'].random()",
        "uuid.uuid1()",
        "uuid.uuid4()",
    ]
    code = (
        f"{BEFORE}\nfor number in range(200):\n"
        "    np.random.rand(50000), own['pcg'].random(50000), [random.random() for _ in range(5000)]\n"
        f"    print({', '.join(names)}, np.random.rand(50000)[-1], sep='|', flush=True)\n"
    )
    pid = suspended(cli, "computing", code, after=500)
    forks = cli.json("fork", pid, "-n", str(FORKS))["forks"]
    lives = [lines(cli, "resume", fork)[1:] for fork in forks]  # the first line may have been begun before
    for rows in zip(*(reversed(life) for life in lives), strict=False):
        drawn = [row.split("|") for row in rows]
        assert all(len(set(column)) == FORKS for column in zip(*drawn, strict=True)), rows


@pytest.mark.parametrize("flags", [(), ("--no-image",)], ids=["image", "cold"])
def test_what_was_seeded_goes_on_as_undisturbed(cli: Commands, flags: tuple[str, ...]) -> None:
    path = cli.folder / "seeded.py"
    path.write_text(SEEDED_WAITING)
    expected = lines(cli, "run", *flags, str(path))[1:]
    pid = suspended(cli, "seeded", SEEDED_WAITING, *flags)
    forks = cli.json("fork", pid, "-n", "2")["forks"]
    for one in (pid, *forks):
        assert lines(cli, "resume", one) == expected


def test_what_was_seeded_goes_on_from_anywhere(cli: Commands) -> None:
    path = cli.folder / "computing.py"
    path.write_text(SEEDED_COMPUTING)
    expected = lines(cli, "run", str(path))
    pid = suspended(cli, "computing seeded", SEEDED_COMPUTING, after=100)
    for _ in range(3):
        with cli.running("resume", pid) as life:
            until(lambda: life.poll() is not None or cli.record(pid).state != "suspended", "it runs again")
            cli("evict", pid)  # it may be through by now
            assert life.wait(60) in (0, 148)
        if cli.record(pid).state != "suspended":
            break
    else:
        lines(cli, "resume", pid)
    assert cli.output(pid).decode().splitlines() == expected


WATCHING = """
import gc, signal, sys
events = []
for number in range(1, signal.NSIG):
    try:
        signal.signal(number, lambda number, frame: events.append(number))
    except (OSError, ValueError):
        pass
import os
log = os.open("/tmp/log", os.O_RDWR | os.O_CREAT | os.O_NONBLOCK)
signal.set_wakeup_fd(log, warn_on_full_buffer=False) if hasattr(signal, "set_wakeup_fd") else None
def trace(frame, event, argument):
    events.append((frame.f_code.co_name, event, frame.f_lineno))
    return trace
def work(n):
    return sum(sorted(range(n), key=lambda value: -value)[:3])
sys.settrace(trace)
sys.setprofile(lambda frame, event, argument: events.append((frame.f_code.co_name, event)))
for _ in range(20):
    work(1000)
print("?", flush=True)
input()
for _ in range(20):
    work(1000)
sys.setprofile(None)
sys.settrace(None)
import hashlib
print(len(events), hashlib.sha256(repr(events).encode()).hexdigest())
print(os.lseek(log, 0, 2), len(gc.get_objects()))
"""


def test_nothing_that_a_program_watches_tells(cli: Commands) -> None:
    path = cli.folder / "watching.py"
    path.write_text(WATCHING)
    expected = lines(cli, "run", str(path))[1:]
    pid = suspended(cli, "watching", WATCHING)
    assert lines(cli, "resume", pid) == expected


def test_clocks(cli: Commands) -> None:
    """The time of day is the host's; the monotonic clock stood still meanwhile, and never runs backwards."""
    code = (
        "import time\nprint(time.monotonic(), time.perf_counter(), flush=True)\ninput()\n"
        "print(time.monotonic(), time.perf_counter(), time.time())"
    )
    pid = suspended(cli, "clocks", code)
    before = time.time()
    first = [float(word) for word in re.findall(rb"[0-9.]+", cli.output(pid))]
    second = [float(word) for word in lines(cli, "resume", pid)[0].split()]
    assert before <= second[2] <= time.time()
    assert all(
        0 <= later - earlier < time.time() - before + 60
        for earlier, later in zip(first, second, strict=False)
    )


def test_a_file_in_another_home(cli: Commands, tmp_path: Path) -> None:
    """Where there is no image that would say where the ledger lies."""
    other = Commands(tmp_path / "elsewhere", tmp_path)
    other.home.mkdir(mode=0o700)
    shutil.copytree(cli.home / "cache", other.home / "cache", copy_function=os.link)
    pid = suspended(cli, "far", DRAWING)
    assert cli("checkpoint", pid, "-o", "far.context").returncode == 0
    all_differ([lines(other, "resume", "far.context"), lines(cli, "resume", pid)])
