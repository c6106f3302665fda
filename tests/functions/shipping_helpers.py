"""A module of the user's, for the tests: shipped whole when a function imports it."""

from __future__ import annotations

import dataclasses
import functools
import math

try:
    import module_that_nobody_has
except ImportError:
    module_that_nobody_has = None

SCALE = 10


@dataclasses.dataclass
class Sample:
    value: float

    def scaled(self) -> float:
        return math.floor(self.value * SCALE)


def twice(function):
    @functools.wraps(function)
    def wrapper(*args):
        return 2 * function(*args)

    return wrapper


def adder(amount):
    return lambda value: value + amount
