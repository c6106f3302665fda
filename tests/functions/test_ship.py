"""Shipping functions: what travels really runs elsewhere; what cannot travel says which name and line."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import functools
import json
import math
import operator
import re
import subprocess
import sys
import textwrap
import threading
import types
import xml.etree.ElementTree
from math import floor as round_down
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pandas as pd
import pytest
import shipping_helpers
from guest_process import AVAILABLE, Guest
from shipping_helpers import Sample, adder, twice

from sojourn.functions.ship import MANIFEST, Shipped, ship
from sojourn.model.errors import FunctionError, GuestError

if TYPE_CHECKING:
    from nowhere import Nothing

RATE = 0.25  # a quarter
TABLE = {"a": [1, 2], "é": (3, {4})}
NAN = [math.nan, -math.inf]
MATRIX = np.arange(4).reshape(2, 2)
DAY = datetime.date(2024, 2, 29)
WORDS = re.compile(r"\w+")
MISSING = object()
Pair = collections.namedtuple("Pair", "left right")
add_five = adder(5)
sine = np.sin
counter = 0
LOCK = threading.Lock()
OPEN_FILE = sys.stdin if sys.stdin is not None else sys.stdout
NUMBERS = np.zeros(1 << 18)


class Colour(enum.Enum):
    RED = "r"


@dataclasses.dataclass
class Point:
    x: float
    tags: list[str] = dataclasses.field(default_factory=list)

    def length(self) -> float:
        return helper(self.x)


class Base:
    def name(self) -> str:
        return "base"


class Derived(Base):
    def name(self) -> str:
        return "derived of " + super().name()


class Methods:
    RATE = 3

    @staticmethod
    def static(x):
        return x * RATE

    @classmethod
    def of_class(cls, x):
        return x * cls.RATE

    def plain(self, x):
        return x

    class Inner:
        @staticmethod
        def deep(x):
            return -x


class MoreMethods(Methods):
    RATE = 4


def removed_class() -> Any:
    """A static method whose class no name leads to."""
    method = Methods.Inner.deep
    method = types.FunctionType(method.__code__, method.__globals__)
    method.__qualname__ = "Gone.deep"
    return method


def captures_a_lock() -> Any:
    lock = LOCK

    def waits():
        return lock.acquire()

    return waits


def captures_a_class() -> Any:
    class Local:
        pass

    def makes():
        return Local()

    return makes


@functools.singledispatch
def kind_of(value):
    return "any"


@kind_of.register
def _(value: int):
    return "integer"


def uses_dispatch():
    return kind_of(1)


ORIGIN = Point(1.0, ["o"])
OPERATIONS = {"add": operator.add, "mine": lambda a, b: a * b, "point": Point, Colour.RED: math.sqrt}


def helper(value):
    return value * RATE


def is_even(number):
    return True if number == 0 else is_odd(number - 1)


def is_odd(number):
    return False if number == 0 else is_even(number - 1)


@twice
def doubled(value):
    return value + 1


@functools.cache
def fibonacci(number):
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


class Remote:
    """As sojourn's own wrapper of a decorated function is."""

    __module__ = "sojourn.client.functions"

    def __init__(self, function):
        self.__wrapped__ = function


def remote(**options):
    return Remote


remote.__module__ = "sojourn.client.functions"


@remote(memory="1G")
def remote_outer(value):
    return remote_inner(value) + 1


@remote()
@twice
def remote_inner(value):
    return value * 2


def uses_constants():
    return [RATE, TABLE, repr(NAN), DAY, WORDS.findall("a b"), Pair(1, 2).right, add_five(1)]


def uses_syntax(value):
    text = f"{helper(value):.{len(TABLE)}f}"
    match value:
        case Point(x=1.0):
            text += "point"
        case 4:
            text += str(RATE)
    return text, [helper(item) for item in range(2)], {item: is_odd(item) for item in range(2)}


def uses_classes():
    return Derived().name(), Point(4).length(), Colour.RED.value, ORIGIN.tags


def uses_table():
    values = OPERATIONS["add"](2, 3), OPERATIONS["mine"](2, 3), OPERATIONS["point"](1).x
    return (*values, OPERATIONS[Colour.RED](4))


def uses_modules():
    root = xml.etree.ElementTree.fromstring("<root/>")
    return root.tag, round_down(1.5), np.linalg.norm([3, 4]), int(sine(0)), shipping_helpers.SCALE


def uses_import_inside():
    import json as inner
    from collections import Counter

    return inner.dumps(Counter("aa"))


def uses_sample(value):
    return Sample(value)


def uses_default(value, sentinel=MISSING, rate=RATE, names=("a",), *, day=DAY):
    return value, sentinel is MISSING, rate, names, day


def uses_annotations(point: Point, nothing: Nothing | None = None) -> pd.DataFrame:
    later: Nothing = None
    point.x += 1 if later is None else 2
    return point


def counts():
    global counter
    counter += 1
    return counter


def multiline():
    return """
  indented
    more"""


@pytest.mark.parametrize(
    ("function", "args", "result"),
    [
        (uses_constants, (), [0.25, TABLE, "[nan, -inf]", DAY, ["a", "b"], 2, 6]),
        (uses_syntax, (4,), ("1.000.25", [0.0, 0.25], {0: False, 1: True})),
        (uses_classes, (), ("derived of base", 1.0, "r", ["o"])),
        (uses_table, (), (5, 6, 1, 2.0)),
        (uses_modules, (), ("root", 1, 5.0, 0, 10)),
        (uses_import_inside, (), '{"a": 2}'),
        (uses_default, (1,), (1, True, 0.25, ("a",), DAY)),
        (doubled, (3,), 8),
        (remote_outer, (3,), 13),
        (fibonacci, (10,), 55),
        (is_even, (7,), False),
        (multiline, (), "\n  indented\n    more"),
        (uses_sample, (2.5,), Sample(2.5)),
        (uses_annotations, (Point(1.0),), Point(2.0)),
        (lambda: int(MATRIX.sum()), (), 6),
        (len, ([1, 2],), 2),
        (math.hypot, (3, 4), 5.0),
        (np.sum, ([1, 2],), np.int64(3)),
        (functools.partial(uses_default, 1, rate=2), (), (1, True, 2, ("a",), DAY)),
        (Point, (3,), Point(3)),
    ],
)
def test_functions_give_the_same_result_elsewhere(
    guest: Guest, function: Any, args: Any, result: Any
) -> None:
    assert guest.call(function, *args) == result


def make_scaled(factor, offset=1):
    def scaled(value, extra=offset):
        """Docs
        with indentation."""
        return value * factor + offset + extra + helper(0)

    return scaled


def make_parity(yes):
    def even(number):
        return yes if number == 0 else odd(number - 1)

    def odd(number):
        return not yes if number == 0 else even(number - 1)

    return even


def make_counter():
    total = 10

    def count(step):
        nonlocal total
        total += step
        return total

    return count


def test_closures_carry_their_variables(guest: Guest) -> None:
    assert guest.call(make_scaled(3), 2) == 8
    assert guest.call(make_scaled(5, 7), 2) == 24
    assert guest.call(make_parity(True), 3) is False
    assert guest.call(make_parity("yes"), 2) == "yes"
    assert guest.call(make_counter(), 5) == 15


def test_lambdas_on_one_line_are_told_apart(guest: Guest) -> None:
    first, second = [lambda value: value + 1, lambda value: value + 2]
    assert (guest.call(first, 1), guest.call(second, 1)) == (2, 3)
    shifted = [lambda value, shift=shift: value + shift for shift in (10, 20)]
    assert [guest.call(function, 1) for function in shifted] == [11, 21]


def test_closures_made_by_an_undecorated_wrapper(guest: Guest) -> None:
    assert guest.call(adder(3), 1) == 4


def test_state_of_the_module_stays_in_the_guest(guest: Guest) -> None:
    program = ship(counts, AVAILABLE)
    assert [guest.call(program) for _ in range(3)] == [1, 2, 3]
    assert counter == 0


def fails(value):
    numbers = [value]

    return numbers[5]


def test_tracebacks_show_the_users_lines(guest: Guest) -> None:
    with pytest.raises(GuestError) as caught:
        guest.call(fails, 1)
    line = fails.__code__.co_firstlineno + 3
    assert caught.value.type_name == "IndexError"
    assert f'File "{__file__}", line {line}, in fails\n    return numbers[5]' in caught.value.traceback
    assert "sojourn_guest" not in caught.value.traceback
    with pytest.raises(GuestError) as caught:
        guest.call(make_scaled(None), 2)
    line = make_scaled.__code__.co_firstlineno + 4
    assert f'File "{__file__}", line {line}, in scaled' in caught.value.traceback


def text_of(program: Shipped) -> str:
    return program.files["sojourn_main.py"].decode()


def test_the_shipped_text_is_the_users_and_only_what_is_used() -> None:
    program = ship(helper, AVAILABLE)
    assert "def helper(value):\n    return value * RATE\n" in text_of(program)
    assert "RATE = 0.25" in text_of(program)
    assert "TABLE" not in text_of(program)
    assert program.entry == "sojourn_main:helper"
    assert set(program.files) == {"sojourn_main.py", MANIFEST}
    assert json.loads(program.files[MANIFEST])["entry"] == program.entry
    compile(text_of(program), "shipped", "exec")


def test_sojourns_own_decorators_stay_behind() -> None:
    text = text_of(ship(remote_outer, AVAILABLE))
    assert "remote(" not in text
    assert "@twice\ndef remote_inner" in text


def test_the_needed_packages_are_named() -> None:
    assert ship(helper, AVAILABLE).imports == ()
    assert ship(uses_modules, AVAILABLE).imports == ("numpy",)
    assert ship(lambda: MATRIX, AVAILABLE).imports == ("numpy",)
    assert ship(uses_annotations, AVAILABLE).imports == ("pandas",)


def test_the_digest_is_of_the_content() -> None:
    assert ship(helper, AVAILABLE).digest == ship(helper, AVAILABLE).digest
    assert ship(helper, AVAILABLE).digest != ship(is_even, AVAILABLE).digest
    assert ship(make_scaled(1), AVAILABLE).digest != ship(make_scaled(2), AVAILABLE).digest


def test_user_modules_travel_whole() -> None:
    program = ship(uses_sample, AVAILABLE)
    assert program.files["shipping_helpers.py"] == Path(shipping_helpers.__file__).read_bytes()
    assert "shipping_helpers:Sample" in program.classes


def test_classes_of_arguments_can_be_added(guest: Guest) -> None:
    program = ship(lambda value: value, AVAILABLE, classes=[Point, Sample, Colour])
    for value in (Point(1), Sample(2), Colour.RED):
        assert guest.call(program, value) == value


def uses_missing():
    return helper(not_defined_anywhere)  # noqa: F821


def uses_lock():
    with LOCK:
        return 1


def uses_file():
    return OPEN_FILE.read()


def uses_undeclared():
    return hypothesis.__version__


def uses_undeclared_inside():
    import hypothesis.strategies

    return hypothesis.strategies


def uses_numbers():
    return NUMBERS


async def asynchronous():
    return 1


def generator():
    yield 1


def uses_indirectly():
    return uses_lock()


LIVE = [1]
append = LIVE.append


def uses_method():
    append(1)


def line_in(function: Any, offset: int) -> int:
    return function.__code__.co_firstlineno + offset


REFUSED = [
    (uses_missing, r"uses_missing uses not_defined_anywhere \(line {}\), which does not exist", 1),
    (uses_lock, r"uses_lock uses LOCK \(line {}\), which is a lock", 1),
    (uses_indirectly, r"uses_lock uses LOCK", 1),
    (uses_file, r"uses OPEN_FILE \(line {}\), which is ", 1),
    (
        uses_undeclared,
        r"uses hypothesis \(line {}\) imports hypothesis, .*\n.*dependencies=\[\"hypothesis\"\]",
        1,
    ),
    (uses_undeclared_inside, r"\(line {}\) imports hypothesis", 1),
    (uses_numbers, r"uses NUMBERS \(line {}\), a constant of 2,", 1),
    (uses_dispatch, r"uses kind_of \(line {}\), whose implementations were registered", 1),
    (captures_a_lock(), r"waits uses lock \(line {}\), which is a lock", 1),
    (captures_a_class(), r"makes uses Local \(line {}\), a class whose source", 1),
    (uses_method, r"append \(line {}\), which is a method of a live object", 1),
]


@pytest.mark.parametrize(
    ("function", "words", "offset"), REFUSED, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_cannot_be_shipped_says_name_and_line(function: Any, words: str, offset: int) -> None:
    with pytest.raises(FunctionError) as caught:
        ship(function, AVAILABLE)
    assert re.search(words.format(line_in(function, offset)), str(caught.value))
    assert caught.value.hint


METHODS = [
    (Methods.static, (4,), 1.0),
    (Methods.of_class, (4,), 12),
    (MoreMethods.of_class, (4,), 16),
    (Methods.Inner.deep, (4,), -4),
    (Methods.plain, (None, 5), 5),
]


@pytest.mark.parametrize(
    ("method", "args", "result"), METHODS, ids=lambda value: getattr(value, "__qualname__", repr(value))
)
def test_methods_travel_with_their_class(guest: Guest, method: Any, args: Any, result: Any) -> None:
    assert guest.call(method, *args) == result


KINDS = [
    (asynchronous, "asynchronous"),
    (generator, "generator"),
    (Derived().name, "method of a live object"),
    (LIVE.append, "method of a live object"),
    (removed_class(), "is a method"),
    (5, "not a function"),
    (np.random.default_rng(1).normal, "method of a live object"),
]


@pytest.mark.parametrize(("target", "words"), KINDS, ids=[words for _, words in KINDS])
def test_kinds_of_callables_that_cannot_be_shipped(target: Any, words: str) -> None:
    with pytest.raises(FunctionError, match=words):
        ship(target, AVAILABLE)


def test_a_nested_class_is_refused() -> None:
    class Local:
        pass

    with pytest.raises(FunctionError, match="top level"):
        ship(lambda: Local(), AVAILABLE)


def test_changed_source_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "changing_module.py"
    file.write_text("def f(x):\n    return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import changing_module

    file.write_text("\n\n\ndef f(x):\n    return x\n")
    import linecache

    linecache.checkcache(str(file))
    with pytest.raises(FunctionError, match="any more"):
        ship(changing_module.f, AVAILABLE)
    monkeypatch.delitem(sys.modules, "changing_module")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of the user's with relative imports, a star import and a cycle."""
    files = {
        "shippkg/__init__.py": "from .core import work\n",
        "shippkg/core.py": """from .tools import *
from . import extra
def work(x):
    return tool(x) + extra.MORE
""",
        "shippkg/tools.py": """__all__ = ['tool']
def tool(x):
    from shippkg.core import extra
    return x * 2
""",
        "shippkg/extra.py": "import textwrap\nMORE = 100\n",
        "shippkg/unused.py": "raise RuntimeError\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    import shippkg

    yield shippkg
    for name in [name for name in sys.modules if name.partition(".")[0] == "shippkg"]:
        del sys.modules[name]


def test_packages_travel_with_what_they_import(guest: Guest, package: Any) -> None:
    work = package.work
    assert guest.call(lambda: work(1)) == 102
    program = ship(lambda: work(1), AVAILABLE)
    assert {name for name in program.files if name.startswith("shippkg/")} == {
        "shippkg/__init__.py",
        "shippkg/core.py",
        "shippkg/extra.py",
        "shippkg/tools.py",
    }


def test_programs_with_modules_of_one_name_do_not_mix(guest: Guest, tmp_path: Path) -> None:
    """Two programs each have a ``sojourn_main``; calls alternate between them."""
    programs = [ship(make_scaled(factor), AVAILABLE) for factor in (1, 100)]
    assert [guest.call(programs[turn % 2], 1) for turn in range(4)] == [3, 102, 3, 102]


def test_python_dash_c_and_sources_that_are_gone(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        from sojourn.functions.ship import ship
        N = 3
        def f(x):
            return x + N
        print(ship(f, frozenset()).files["sojourn_main.py"].decode())
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "def f(x):\n    return x + N\n" in done.stdout
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=False)
    assert "Put the function in a file" in done.stderr or "def f(x)" in done.stdout
