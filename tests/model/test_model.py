"""Limits, grants and states: values that cannot be wrong once they exist."""

from __future__ import annotations

import itertools

import pytest

from sojourn.host.status import exit_status
from sojourn.model.errors import GrantError, LimitError, UsageError
from sojourn.model.grants import DirectoryGrant, EnvironmentGrant, SecretGrant, parse_grant
from sojourn.model.limits import LIMITS, Limits, parse_limit
from sojourn.model.priority import parse_priority
from sojourn.model.states import TRANSITIONS, Ending, State, advance


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("memory_bytes", "512M", 512 << 20),
        ("memory_bytes", "1.5GiB", 3 << 29),
        ("output_bytes", "10", 10),
        ("cpu_seconds", "90", 90.0),
        ("cpu_seconds", "250ms", 0.25),
        ("wall_seconds", "2h", 7200.0),
        ("host_calls", "1000", 1000),
    ],
)
def test_limits_as_they_are_typed(name: str, text: str, value: float) -> None:
    assert parse_limit(name, text) == value


@pytest.mark.parametrize("text", ["", "much", "-1", "1X", "1e9", "0x10", "1 2", "NaN", "9" * 400])
@pytest.mark.parametrize("name", list(LIMITS))
def test_what_is_no_limit(name: str, text: str) -> None:
    with pytest.raises(LimitError, match=LIMITS[name].flag):
        parse_limit(name, text)


@pytest.mark.parametrize("name", list(LIMITS))
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, True, 1e300])
def test_limits_that_cannot_be(name: str, value: object) -> None:
    with pytest.raises(LimitError) as caught:
        Limits(**{name: value})  # type: ignore[arg-type]
    assert "Try: --" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("memory_bytes", 268_435_456, "268,435,456 B"),
        ("cpu_seconds", 0.25, "0.25 s"),
        ("wall_seconds", 2.0, "2 s"),
        ("descriptors", 1024, "1,024"),
        ("host_calls", 1e300, "1e+300"),
    ],
)
def test_a_limit_is_said_to_the_last_digit(name: str, value: float, words: str) -> None:
    assert LIMITS[name].amount(value) == words


def test_every_limit_has_a_description_and_goes_out_and_in() -> None:
    limits = Limits(cpu_seconds=2)
    assert set(limits.to_dict()) == set(LIMITS)
    assert Limits.from_dict(limits.to_dict()) == limits
    with pytest.raises(LimitError, match="no such limit"):
        Limits.from_dict({"speed": 1})
    with pytest.raises(LimitError, match="no such limit: 7, b'x'"):
        Limits.from_dict({7: 1, b"x": 2})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("dir:data", ("data", None, False)),
        ("dir:/a/b=/c:rw", ("/a/b", "/c", True)),
        ("dir:a=b:ro", ("a", "b", False)),
        ("dir:with:colon=/x", ("with:colon", "/x", False)),
    ],
)
def test_grants_as_they_are_typed(text: str, parsed: tuple[str, str | None, bool]) -> None:
    assert parse_grant(text) == parsed


@pytest.mark.parametrize("text", ["", "data", "dir:", "dir:=x", "dir:a=", "file:a", "dir::rw"])
def test_what_is_no_grant(text: str) -> None:
    with pytest.raises(GrantError):
        parse_grant(text)


@pytest.mark.parametrize("path", ["", "/a/../b", "..", "a\0b", "/x\ny", "/" + "a" * 5000])
def test_guest_paths_that_cannot_be(path: str) -> None:
    with pytest.raises(GrantError):
        DirectoryGrant("/tmp", path)


@pytest.mark.parametrize(
    ("guest_path", "place"),
    [
        ("/", "/"),
        (".", "/"),
        ("./", "/"),
        ("a", "/a"),
        ("./a/./b//", "/a/b"),
        ("/a/b", "/a/b"),
        ("..a", "/..a"),
    ],
)
def test_where_a_guest_path_is(guest_path: str, place: str) -> None:
    grant = DirectoryGrant("/tmp", guest_path)
    assert (grant.guest_path, grant.place) == (guest_path, place)


@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "Ä"])
def test_variables_that_cannot_be(name: str) -> None:
    with pytest.raises(GrantError):
        EnvironmentGrant(name, "x")
    with pytest.raises(GrantError):
        SecretGrant(name)


def test_states_go_only_where_the_table_says() -> None:
    for source, target in itertools.product(State, State):
        if target in TRANSITIONS[source]:
            assert advance(source, target) is target
        else:
            with pytest.raises(ValueError):
                advance(source, target)


def test_every_state_is_reached_and_final_ones_are_left_by_none() -> None:
    reached = {target for targets in TRANSITIONS.values() for target in targets}
    assert reached == set(State) - {State.QUEUED}
    assert {state for state in State if state.final} == {State.EXITED, State.FAILED, State.KILLED, State.LOST}


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (Ending(State.EXITED, 7), 7),
        (Ending(State.FAILED, 1, "memory_bytes"), 125),
        (Ending(State.FAILED, reason="trap: unreachable"), 134),
        (Ending(State.KILLED, reason="interrupted"), 130),
        (Ending(State.KILLED, reason="its output is closed"), 141),
        (Ending(State.KILLED, reason="somebody"), 137),
        (Ending(State.LOST), 1),
    ],
)
def test_exit_status(ending: Ending, status: int) -> None:
    assert exit_status(ending) == status
    assert Ending.from_dict(ending.to_dict()) == ending


def test_priorities_are_shares() -> None:
    assert [parse_priority(text).weight for text in ("low", "normal", "high")] == [1, 4, 16]
    with pytest.raises(UsageError, match="no priority 'urgent'") as caught:
        parse_priority("urgent")
    assert caught.value.hint == "Try: one of low, normal, high"
