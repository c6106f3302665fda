"""What calls need beside their function: classes and packages that only the arguments are of."""

from __future__ import annotations

import dataclasses
import enum
from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from sojourn.client.functions import Functions
from sojourn.functions.codec import Registry, decode
from sojourn.model.errors import CodecError, FunctionError

AVAILABLE = frozenset({"numpy", "pandas"})


class Colour(enum.Enum):
    RED = 1


class Mode(enum.Flag):
    R = 1
    W = 2


@dataclasses.dataclass
class Inner:
    colour: Colour


@dataclasses.dataclass
class Outer:
    inner: Inner
    more: Any = None


class Pair(NamedTuple):
    left: Any
    right: Any


Made = namedtuple("Made", "p q")


def identity(value):
    return value


def plain(value):
    return value


@pytest.fixture
def functions() -> Functions:
    return Functions(lambda: AVAILABLE)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (Outer(Inner(Colour.RED)), {"Outer", "Inner", "Colour"}),
        ([Pair(1, Made(2, 3))], {"Pair", "Made"}),
        ({"a": Mode.R | Mode.W}, {"Mode"}),
        (Outer(Inner(Colour.RED), {Pair(1, 2): (Made(1, 2),)}), {"Outer", "Inner", "Colour", "Pair", "Made"}),
    ],
    ids=repr,
)
def test_classes_that_only_arguments_are_of_are_shipped(
    functions: Functions, value: Any, names: set[str]
) -> None:
    program, _, message = functions.prepare(identity, (value,), {})
    assert {cls.__name__ for cls in program.classes.values()} >= names
    back = decode(message.header, message.buffers, Registry(program.classes))
    assert back == [[value], {}]
    again, _, _ = functions.prepare(identity, (value,), {})
    assert again is program, "its calls remain of one kind"


def test_a_class_that_comes_later_is_added_to_those_before(functions: Functions) -> None:
    functions.prepare(identity, (Colour.RED,), {})
    functions.prepare(identity, (), {"value": Pair(1, 2)})
    program, _, _ = functions.prepare(identity, (1,), {})
    assert {cls.__name__ for cls in program.classes.values()} >= {"Colour", "Pair"}


def test_the_image_holds_the_packages_of_function_and_arguments(functions: Functions) -> None:
    assert functions.prepare(plain, (1,), {})[1] == ()
    assert functions.prepare(plain, (np.float64(1),), {})[1] == ("numpy",)
    assert functions.prepare(plain, (pd.Series([1]),), {})[1] == ("numpy", "pandas")
    assert functions.prepare(plain, (1,), {})[1] == ("numpy", "pandas"), "so one sandbox serves all its calls"
    assert functions.prepare(lambda: np.arange(3), (), {})[1] == ("numpy",)


def test_arguments_may_be_changed_after_submit(functions: Functions) -> None:
    array, data = np.arange(5_000), bytearray(b"x" * 50_000)
    _, _, message = functions.prepare(plain, (array, data), {})
    array[:], data[:] = 0, b"y" * 50_000
    back = decode(message.header, [memoryview(bytearray(buffer)) for buffer in message.buffers])[0]
    assert (back[0] == np.arange(5_000)).all()
    assert back[1] == b"x" * 50_000


def test_a_class_that_cannot_be_shipped_is_named(functions: Functions) -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    with pytest.raises(FunctionError, match="Local"):
        functions.prepare(plain, (Local(1),), {})
    with pytest.raises(CodecError, match="type object"):
        functions.prepare(plain, (object(),), {})


def test_two_classes_of_one_name_are_not_mistaken(functions: Functions) -> None:
    def make() -> Any:
        return dataclasses.make_dataclass("Twin", ["x"])

    with pytest.raises((FunctionError, CodecError), match="Twin"):
        functions.prepare(plain, ([make()(1), make()(2)],), {})
