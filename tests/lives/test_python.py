"""Python programs, and CPython's own test modules, in many lives: the same bytes as undisturbed.

Of the programs some run always, with a few lives each; ``make soak`` runs all of them, and the modules, with
hundreds. The seed of when a life ends is ``SOJOURN_SEED``; it is printed when a test fails.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from ..guest_library.test_library import MODULES, folder
from .lives import Course, Runner

pytestmark = pytest.mark.runtime

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))
ALWAYS = ("control", "sorting", "stores", "texts")
DRIVER = Path(__file__).parent / "module_driver.py"
MODULE_LIMITS = {"memory_bytes": 2 << 30, "cpu_seconds": 1200, "wall_seconds": 2400}
# What takes minutes undisturbed, or measures time.
LEFT_OUT = frozenset({"zipfile", "tarfile", "asyncio.test_runners", "time"})


@pytest.fixture
def runner(runtime_home: Path) -> Runner:
    return Runner(runtime_home)


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("SOJOURN_SEED", random.randrange(1 << 32)))


def compared(one: Course, other: Course, seed: int) -> None:
    assert other.output[1] == one.output[1], f"SOJOURN_SEED={seed}"
    assert other.output[2] == one.output[2], f"SOJOURN_SEED={seed}"
    assert other.ending == one.ending, f"SOJOURN_SEED={seed}"


@pytest.mark.parametrize("name", ALWAYS)
def test_a_program_in_a_few_lives(runner: Runner, seed: int, name: str) -> None:
    program = DRIVER.parent / "programs" / f"{name}.py"
    course = runner.run(program, seed=seed, mean_ms=150, lives_each=4, lives_max=12)
    assert course.lives > 1
    compared(runner.undisturbed(program), course, seed)


@pytest.mark.soak
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_in_hundreds_of_lives(runner: Runner, seed: int, program: Path) -> None:
    course = runner.run(program, seed=seed, mean_ms=10, lives_each=20, lives_max=300)
    compared(runner.undisturbed(program), course, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [name for name in MODULES if name not in LEFT_OUT])
def test_a_module_of_cpythons_tests(runner: Runner, seed: int, name: str) -> None:
    tests = folder()
    if tests is None:
        pytest.skip("no tests of CPython here; SOJOURN_CPYTHON_TESTS names their folder")
    order = {
        "args": [f"test.test_{name}"],
        "grants": [f"dir:{tests / 'test'}=/tests/test"],
        "limits": MODULE_LIMITS,
    }
    one = runner.undisturbed(DRIVER, **order)
    course = runner.run(DRIVER, seed=seed, mean_ms=60, lives_each=20, lives_max=300, **order)
    compared(one, course, seed)
