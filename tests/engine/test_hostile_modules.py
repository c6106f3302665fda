"""Mutated modules: refused with a typed error, or run to some end within their limits. Never a crash."""

from __future__ import annotations

import random

import pytest

from sojourn.model.errors import ModuleError
from sojourn.vm.process import engine
from sojourn.vm.process.preparing import prepare

from ..wasm.test_instrument import EVERYTHING, GROW
from ..wat import wat
from .test_engine import on_guest_thread

pytestmark = pytest.mark.engine


class EnoughError(Exception):
    pass


def attempt(data: bytes) -> str:
    """What becomes of a module: the name of how it ended."""
    checks = iter(range(3))

    def check() -> None:
        if next(checks, None) is None:
            raise EnoughError

    try:
        engine.check_valid(data)
        module = engine.compile_module(prepare(data))
        made = engine.Instance(module, {}, check, 1 << 20, 1000)
    except (ModuleError, MemoryError) as error:
        return type(error).__name__
    try:
        for name in module.functions:
            try:
                made.call(name)
            except (engine.GuestTrapError, EnoughError, TypeError, ValueError) as error:
                return type(error).__name__
            except Exception as error:
                assert "WasmtimeError" in type(error).__name__, error
        return "ran"
    finally:
        made.close()


def mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(changed))
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            del changed[at : at + rng.randint(1, 4)]
        elif kind == 2:
            changed[at:at] = rng.randbytes(rng.randint(1, 4))
        else:
            changed[at] ^= 1 << rng.randrange(8)
        if not changed:
            break
    return bytes(changed)


def run(seed: int, count: int) -> set[str]:
    rng = random.Random(seed)
    originals = [
        wat(GROW),
        wat(EVERYTHING),
        wat('(module (memory 1) (func (export "_start") (loop (br 0))))'),
    ]
    outcomes: set[str] = set()

    def body() -> None:
        for _ in range(count):
            outcomes.add(attempt(mutate(rng, rng.choice(originals))))

    error = on_guest_thread(body)
    assert error is None, error
    return outcomes


def test_some_mutated_modules() -> None:
    assert {"ModuleError", "ran"} <= run(1, 600)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_mutated_modules(seed: int) -> None:
    run(seed, 1000)
