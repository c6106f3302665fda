"""How many permits there are: processors that may be used, and quotas of control groups."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from sojourn.vm.process import permits
from sojourn.vm.process.permits import Permits, _quota, usable_processors


def groups(tmp_path: Path, lines: str, files: dict[str, str]) -> float | None:
    told, root = tmp_path / "cgroup", tmp_path / "groups"
    told.write_text(lines)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return _quota(told, root)


@pytest.mark.parametrize(
    ("lines", "files", "quota"),
    [
        ("0::/a/b", {"a/b/cpu.max": "150000 100000", "a/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5),
        ("0::/a/b", {"cpu.max": "300000 100000"}, 3.0),  # a container, that sees its own group as the root
        ("0::/a", {}, None),
        ("3:cpu,cpuacct:/x", {"cpu,cpuacct/x/cpu.cfs_quota_us": "-1"}, None),
        (
            "4:memory:/y\n3:cpu,cpuacct:/x\n0::/",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "200000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            2.0,
        ),
        ("0::/a", {"a/cpu.max": "nonsense"}, None),
        ("", {}, None),
    ],
)
def test_quotas(tmp_path: Path, lines: str, files: dict[str, str], quota: float | None) -> None:
    assert groups(tmp_path, lines, files) == quota


def test_a_quota_limits_the_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(permits, "_quota", lambda *_: None)
    assert usable_processors() == 8
    monkeypatch.setattr(permits, "_quota", lambda *_: 2.5)
    assert usable_processors() == 3
    monkeypatch.setattr(permits, "_quota", lambda *_: 0.01)
    assert usable_processors() == 1


def test_a_wait_that_is_given_up_leaves_no_trace() -> None:
    """What ``patience`` raises comes out, and the permit goes to the next as if nobody had waited."""
    shared = Permits(1)
    one, two, three = (shared.turn() for _ in range(3))
    for turn in (one, two, three):
        turn.enter_thread()
    one.take(lambda: 1.0)

    def impatient() -> float:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        two.take(impatient)
    assert shared.waiting() == 0
    got = threading.Event()
    thread = threading.Thread(target=lambda: (three.take(lambda: 60.0), got.set()))
    thread.start()
    while not shared.waiting():
        pass
    assert one.give()
    thread.join(60)
    assert got.is_set()
    assert not two.give()
    assert three.give()
    assert shared._turns.holders == 0


def test_who_lost_its_permit_is_asked_to_go_as_soon_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on without one when its call is over: it must not do so for ever."""
    monkeypatch.setattr(permits, "STUCK_NS", 0)
    shared = Permits(1)
    turn, go, has = shared.turn(), threading.Event(), threading.Event()

    def sleeps() -> None:
        turn.enter_thread()
        turn.take(lambda: 60.0)
        has.set()
        go.wait(60)

    sleeper = threading.Thread(target=sleeps)
    sleeper.start()
    assert has.wait(60)
    other = shared.turn()
    other.enter_thread()
    got = threading.Event()
    waiter = threading.Thread(target=lambda: (other.take(lambda: 60.0), got.set()))
    waiter.start()
    deadline_s = time.monotonic() + 60
    while not got.is_set():
        assert not turn.is_over(lambda: False)  # it cannot go now
        assert time.monotonic() < deadline_s
    third = shared.turn()
    third.enter_thread()
    last = threading.Thread(target=lambda: third.take(lambda: 60.0))
    last.start()
    while not shared.waiting():
        assert time.monotonic() < deadline_s
    assert turn.is_over(lambda: True)
    assert not turn.give()
    assert not turn.is_over(lambda: True)  # it has been back
    other.give()
    go.set()
    for thread in (sleeper, waiter, last):
        thread.join(60)
    third.give()


def test_a_ring_has_the_waiter_asked_again() -> None:
    shared = Permits(1)
    one, two = shared.turn(), shared.turn()
    one.enter_thread()
    one.take(lambda: 60.0)
    asked = threading.Event()
    stop = threading.Event()
    out: list[BaseException] = []

    def patience() -> float:
        asked.set()
        if stop.is_set():
            raise InterruptedError
        return 60.0

    def wait() -> None:
        try:
            two.enter_thread()
            two.take(patience)
        except InterruptedError as error:
            out.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert asked.wait(60)
    stop.set()
    two.ring()
    thread.join(60)
    assert len(out) == 1
    one.give()
