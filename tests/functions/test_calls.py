"""Calls end to end: the host's protocol against the real guest loop on another interpreter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from guest_process import AVAILABLE, Guest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.functions.codec import encode
from sojourn.functions.protocol import REPLIES, TRANSITIONS, Closed, Connection, Raised, Refused, Returned
from sojourn.functions.ship import ship
from sojourn.functions.wire import Message, seal, unseal
from sojourn.model.errors import CodecError, FunctionError, GuestError


def identity(value):
    return value


def exits():
    raise SystemExit(3)


def prints(text):
    print(text)


def returns_generator():
    return (item for item in [])


def raises_strangely():
    class StrangeError(Exception):
        def __str__(self):
            raise ValueError

    raise StrangeError


def raises_at_length():
    raise ValueError("x" * 1_000_000 + "\ud800")


def endless():
    return endless()


def pythons() -> list[str]:
    """This interpreter and whatever other versions are here and start."""
    found = [shutil.which(f"python3.{minor}") for minor in (12, 13, 14, 15)]
    managed = Path("~/.pyenv/versions").expanduser().glob("3.1[2-9]*/bin/python3")
    candidates = [*filter(None, found), *map(str, managed)]
    check = ["-I", "-c", "import sys; assert sys.version_info >= (3, 12)"]
    works = [
        path
        for path in candidates
        if subprocess.run([path, *check], capture_output=True, check=False).returncode == 0
    ]
    return [sys.executable, *works]


@pytest.mark.parametrize("python", pythons())
def test_a_bare_interpreter_serves_calls(tmp_path: Path, python: str) -> None:
    guest = Guest(tmp_path, python, isolated=True)
    value = {"text": "é" * 30_000, 1: [None, (1, 2)], "long": list(range(3_000))}
    assert guest.call(identity, value) == value
    assert guest.call(prints, "out") is None
    assert guest.close() == (b"out\n", b"")
    assert guest.process.returncode == 0


def test_large_arrays_go_both_ways(guest: Guest) -> None:
    array = np.arange(1 << 21, dtype="f8").reshape(1 << 10, -1)
    back = guest.call(identity, array)
    assert np.array_equal(back, array)
    back[0, 0] = 7.0


@pytest.mark.parametrize(
    ("function", "type_name"),
    [
        (exits, "SystemExit"),
        (raises_strangely, "StrangeError"),
        (raises_at_length, "ValueError"),
        (endless, "RecursionError"),
    ],
)
def test_whatever_is_raised_is_reported_and_the_loop_goes_on(
    guest: Guest, function: Any, type_name: str
) -> None:
    with pytest.raises(GuestError) as caught:
        guest.call(function)
    assert caught.value.type_name == type_name
    assert len(str(caught.value)) < 500_000
    assert guest.call(identity, 1) == 1


def test_results_that_cannot_cross_are_refused(guest: Guest) -> None:
    with pytest.raises(CodecError, match="generator cannot cross"):
        guest.call(returns_generator)
    assert guest.call(identity, 1) == 1


def test_arguments_that_cannot_cross_leave_the_connection_as_it_was(guest: Guest) -> None:
    with pytest.raises(CodecError, match="type object"):
        guest.call(identity, object())
    assert guest.call(identity, 1) == 1


def test_calls_can_be_sent_ahead(guest: Guest) -> None:
    program = ship(identity, AVAILABLE)
    numbers = []
    for value in range(20):
        number, messages = guest.connection.call(program, encode([[value], {}]))
        numbers.append(number)
        for message in messages:
            guest.send(message)
    events = [event for _ in range(20) if (event := guest.connection.receive(guest.reply())) is not None]
    while len(events) < 20:
        if (event := guest.connection.receive(guest.reply())) is not None:
            events.append(event)
    assert events == [Returned(number, value) for value, number in enumerate(numbers)]
    assert guest.connection.waiting == 0


def test_an_unloaded_program_is_refused_by_the_guest(tmp_path: Path) -> None:
    program = ship(identity, AVAILABLE)
    guest = Guest(tmp_path, isolated=True)
    guest.connection = Connection(loaded=[program.digest])
    with pytest.raises(CodecError, match="not loaded"):
        guest.call(program, 1)
    guest.close()


BAD_REQUESTS = {
    "nothing": b"",
    "nonsense": b"\xc1" * 20,
    "not a request": seal("returned", 5).header,
    "no facts": seal("call", 5).header,
    "facts that are none": seal("call", 5, b"\xc1").header,
    "facts cut off": seal("call", 5, b"abc").header[:-1],
    "no manifest": seal("load", 5, msgpack.packb({"digest": "d", "files": {}})).header,
    "no value": seal("call", 5, msgpack.packb({"digest": "d", "entry": "e:f"})).header,
}


@pytest.mark.parametrize("header", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_never_ends_the_loop(guest: Guest, header: bytes) -> None:
    guest.send(Message(header))
    assert unseal(guest.reply())[0] == "refused"
    assert guest.call(identity, 1) == 1


def test_exit_ends_the_loop(tmp_path: Path) -> None:
    guest = Guest(tmp_path, isolated=True)
    guest.send(guest.connection.exit())
    assert guest.connection.receive(guest.reply()) == Closed()
    assert guest.connection.state == "closed"
    with pytest.raises(FunctionError, match="closed"):
        guest.connection.call(ship(identity, AVAILABLE), encode([[], {}]))
    guest.close()


def reply(kind: str, number: int, facts: dict[str, Any], value: Message | None = None) -> Message:
    return seal(kind, number, msgpack.packb(facts), value)


def opened() -> tuple[Connection, int]:
    """A connection with one call open, its program loaded."""
    program = ship(identity, AVAILABLE)
    connection = Connection(loaded=[program.digest])
    number, _ = connection.call(program, encode([[1], {}]))
    return connection, number


def test_replies_become_events() -> None:
    connection, number = opened()
    assert connection.receive(reply("returned", number, {}, encode([1]))) == Returned(number, [1])
    connection, number = opened()
    event = connection.receive(reply("raised", number, {"type": "E", "message": "m", "traceback": "t"}))
    assert isinstance(event, Raised)
    assert (event.error.type_name, event.error.traceback) == ("E", "t")


def test_a_value_that_is_none_fails_that_call_only() -> None:
    connection, number = opened()
    assert isinstance(connection.receive(reply("returned", number, {}, Message(b"\xc1"))), Refused)
    assert connection.state == "open"


@pytest.mark.parametrize(
    ("kind", "shift", "facts"),
    [("returned", 1, {}), ("loaded", 0, {}), ("bye", 0, {}), ("raised", 0, {"type": 1}), ("call", 0, {})],
)
def test_a_guest_that_breaks_the_protocol_is_cut_off(kind: str, shift: int, facts: dict[str, Any]) -> None:
    connection, number = opened()
    with pytest.raises(CodecError):
        connection.receive(reply(kind, number + shift, facts, encode(1)))
    assert connection.state == "closed"


@given(st.binary(max_size=100))
def test_random_replies_are_refused(header: bytes) -> None:
    connection = Connection()
    with pytest.raises(CodecError):
        connection.receive(Message(header))
    assert connection.state == "closed"


def test_the_tables_are_closed() -> None:
    assert {state for row in TRANSITIONS.values() for state in row.values()} <= set(TRANSITIONS)
    assert set(REPLIES) <= {event for row in TRANSITIONS.values() for event in row}
