"""Asking the host of a process, from elsewhere: through its FIFO and a file with the answer."""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sojourn.host import asking
from sojourn.host.asking import answer, end_suspended, reply_path, request_checkpoint, request_kill
from sojourn.model.errors import (
    ContextError,
    DamagedContextError,
    GuestError,
    ProcessFailedError,
    ProcessStateError,
    SojournError,
    StoreError,
)
from sojourn.model.states import State
from sojourn.store.control import ControlReceiver
from sojourn.store.home import Home
from sojourn.store.hosts import Hosts
from sojourn.store.table import ProcessTable

from .living import record, request, store

PID = "aaaabbbb"
Handle = Callable[[dict[str, Any]], None]


@pytest.fixture
def asked(tmp_path: Path) -> Any:
    return request(tmp_path / "programs")


@contextmanager
def served(home: Home, asked: Any, handle: Handle | None) -> Iterator[list[dict[str, Any]]]:
    """A process with a host that does with each request what ``handle`` does; None: it does not listen.

    Gives the requests that came.
    """
    came: list[dict[str, Any]] = []
    over = threading.Event()
    with Hosts(home).register() as presence, ProcessTable.open(home) as table:
        record(table, asked, PID, State.RUNNING, host_id=presence.host_id)
        receiver = ControlReceiver(home.processes / PID / "control") if handle else None

        def listen() -> None:
            assert receiver is not None and handle is not None
            while not over.is_set():
                if select.select([receiver], [], [], 0.01)[0]:
                    for message in receiver.receive_nowait():
                        came.append(message)
                        handle(message)

        thread = threading.Thread(target=listen)
        if receiver is not None:
            thread.start()
        try:
            yield came
        finally:
            over.set()
            if receiver is not None:
                thread.join()
                receiver.close()


def replying(home: Home, reply: Any) -> Handle:
    """Answers as a host does: with a checkpoint or an error."""

    def handle(message: dict[str, Any]) -> None:
        done: Future[Any] = Future()
        if isinstance(reply, BaseException):
            done.set_exception(reply)
        else:
            done.set_result(SimpleNamespace(digest=reply))
        answer(reply_path(home, PID, message["token"]), done)

    return handle


def leftovers(home: Home) -> list[str]:
    return [path.name for path in (home.processes / PID).iterdir() if path.name.startswith("reply")]


def test_a_checkpoint_is_asked_for_and_answered(home: Home, asked: Any) -> None:
    with served(home, asked, replying(home, "d" * 64)) as came:
        assert request_checkpoint(home, PID, stop=True, timeout_s=20) == "d" * 64
        assert request_checkpoint(home, PID, stop=False, timeout_s=20) == "d" * 64
    assert [(message["request"], message["stop"]) for message in came] == [
        ("checkpoint", True),
        ("checkpoint", False),
    ]
    assert came[0]["token"] != came[1]["token"]
    assert leftovers(home) == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ContextError("too large", "Try: less"), ContextError),
        (DamagedContextError("cut off", ""), DamagedContextError),
        (StoreError("the disk is full", "Try: free some space"), StoreError),
        (GuestError("ValueError", "x", "traceback"), ProcessFailedError),
        (ZeroDivisionError("a bug"), ProcessFailedError),
    ],
)
def test_an_error_of_the_host_is_raised_here_as_what_it_was(
    home: Home, asked: Any, error: Exception, kind: type[SojournError]
) -> None:
    with served(home, asked, replying(home, error)), pytest.raises(SojournError) as caught:
        request_checkpoint(home, PID, stop=False, timeout_s=20)
    assert type(caught.value) is kind
    assert str(error).partition("\n")[0] in caught.value.message
    assert caught.value.hint == getattr(error, "hint", "")
    assert leftovers(home) == []


def test_a_process_that_no_host_runs_cannot_be_asked(home: Home, asked: Any) -> None:
    with ProcessTable.open(home) as table:
        record(table, asked, PID)
        record(table, asked, "ccccdddd", State.RUNNING, host_id="zzzzzzzz")  # its host has died
    for pid in (PID, "ccccdddd"):
        with pytest.raises(ProcessStateError, match=f"no host runs process {pid}"):
            request_checkpoint(home, pid, stop=False, timeout_s=20)
        assert not request_kill(home, pid, "enough")


def test_a_kill_reaches_the_host_with_its_reason(home: Home, asked: Any) -> None:
    with served(home, asked, lambda message: None) as came:
        assert request_kill(home, PID, "enough")
        while not came:
            threading.Event().wait(0.001)
    assert came == [{"request": "kill", "reason": "enough"}]


def test_a_host_that_has_just_begun_may_not_listen_yet(
    home: Home, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, attempts = asking.send_control, []

    def late(path: Path, message: dict[str, object]) -> bool:
        attempts.append(path)
        return len(attempts) > 2 and send(path, message)

    monkeypatch.setattr(asking, "send_control", late)
    with served(home, asked, replying(home, "d" * 64)):
        assert request_checkpoint(home, PID, stop=False, timeout_s=20) == "d" * 64
    assert len(attempts) == 3


def test_a_host_that_lives_and_never_listens_is_given_up(
    home: Home, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "REACH_TIMEOUT_S", 0.0)
    with served(home, asked, None), pytest.raises(ProcessStateError, match="no host runs"):
        request_checkpoint(home, PID, stop=False, timeout_s=20)


def test_a_host_that_does_not_answer_is_not_waited_for_for_ever(home: Home, asked: Any) -> None:
    with (
        served(home, asked, lambda message: None),
        pytest.raises(ProcessFailedError, match="did not answer within 0.05 s"),
    ):
        request_checkpoint(home, PID, stop=False, timeout_s=0.05)


def test_a_process_that_ends_before_it_was_stored(
    home: Home, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_LOOK_S", 0.01)
    monkeypatch.setattr(asking, "_GRACE_S", 0.01)

    def ends(message: dict[str, Any]) -> None:
        with ProcessTable.open(home) as table:
            table.transition(PID, State.RUNNING, State.SUSPENDED, host_id=None)

    with (
        served(home, asked, ends),
        pytest.raises(ProcessFailedError, match="ended before it could be stored"),
    ):
        request_checkpoint(home, PID, stop=False, timeout_s=60)


def test_an_answer_on_its_way_is_taken_after_the_process_has_stopped(
    home: Home, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_LOOK_S", 0.0)
    looked = threading.Event()
    serves = asking._served

    def seen(*arguments: Any) -> bool:
        found = serves(*arguments)
        if not found:
            looked.set()
        return found

    monkeypatch.setattr(asking, "_served", seen)

    def stops(message: dict[str, Any]) -> None:
        with ProcessTable.open(home) as table:
            table.transition(PID, State.RUNNING, State.SUSPENDED, host_id=None)
        assert looked.wait(20)
        replying(home, "d" * 64)(message)

    with served(home, asked, stops):
        assert request_checkpoint(home, PID, stop=True, timeout_s=60) == "d" * 64


def test_a_process_that_was_cancelled_is_said_to_have_ended(home: Home, tmp_path: Path) -> None:
    done: Future[Any] = Future()
    done.cancel()
    answer(tmp_path / "reply", done)
    assert "ended before" in json.loads((tmp_path / "reply").read_bytes())["error"]
    answer(tmp_path / "gone" / "reply", done)  # the process has been forgotten meanwhile
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    "token", ["", "../../../etc/passwd", "0123456789abcdeg", "0" * 17, "0123456789ABCDEF"]
)
def test_a_token_of_somebody_else_leads_nowhere(home: Home, token: str) -> None:
    assert reply_path(home, PID, token) == home.processes / PID / "reply-none"


def test_only_a_suspended_process_is_ended_and_its_checkpoints_go(home: Home, asked: Any) -> None:
    with ProcessTable.open(home) as table:
        record(table, asked, PID)
        record(table, asked, "ccccdddd", State.RUNNING)
        for pid in (PID, "ccccdddd"):
            store(home, asked, pid)
        assert end_suspended(home, table, PID, "enough")
        ended = table.get(PID)
        assert (ended.state, ended.ending.reason if ended.ending else "") == (State.KILLED, "enough")
        assert not end_suspended(home, table, PID, "again")
        assert not end_suspended(home, table, "ccccdddd", "enough")
        assert table.get("ccccdddd").state is State.RUNNING
    assert [path.name for path in home.checkpoints.iterdir()] == ["ccccdddd"]
