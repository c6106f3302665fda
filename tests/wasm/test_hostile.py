"""Modules made to hurt: huge, deep, or not valid. What comes is a typed error, or a base module; in time that
grows with the size of the input, which the deadline of a test shows for quadratic behaviour."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

from sojourn.wasm.base import make_resumable
from sojourn.wasm.binary import ORDER, MalformedModuleError, UnsupportedFeatureError, uleb
from sojourn.wasm.twins import SiteError, Twins

from ..wat import wat
from .living import ENGINE
from .test_features import CASES as FEATURES
from .test_resumable import CASES

TYPED = (MalformedModuleError, UnsupportedFeatureError)


def vector(items: list[bytes]) -> bytes:
    return uleb(len(items)) + b"".join(items)


def body(code: bytes, locals_: tuple[bytes, ...] = ()) -> bytes:
    content = vector(list(locals_)) + code + b"\x0b"
    return uleb(len(content)) + content


def module(bodies: list[bytes], types: tuple[bytes, ...] = (b"\x60\0\0",), kinds: bytes = b"") -> bytes:
    kinds = kinds or bytes(len(bodies))
    sections = {1: vector(list(types)), 3: uleb(len(kinds)) + kinds, 10: vector(bodies)}
    parts = [bytes([n]) + uleb(len(sections[n])) + sections[n] for n in ORDER if n in sections]
    return b"\0asm\x01\0\0\0" + b"".join(parts)


LOOP = b"\x03\x40\x0b"
UNARY = b"\x60\x01\x7f\x01\x7f"
N = 10_000
EXTREMES = {
    "functions": module([body(LOOP)] + [body(b"\x10" + uleb(i)) for i in range(3 * N)]),
    "locals": module(
        [body(LOOP * 50 + b"".join(b"\x20" + uleb(i) + b"\x1a" for i in range(N)), (uleb(4 * N) + b"\x7f",))]
    ),
    "blocks": module([body(b"\x02\x40" * N + LOOP + b"\x0b" * N)]),
    "conditions": module([body(b"\x41\x01\x04\x40" * N + LOOP + b"\x0b" * N)]),
    "catches": module([body(b"\x02\x40" + b"\x1f\x40\x01\x02\0" * N + LOOP + b"\x0b" * N + b"\x0b")]),
    "operands under blocks": module(
        [body(b"\x20\0" + b"\x20\0\x02\0" * N + LOOP + b"\x0b\x6a" * N)], (UNARY,)
    ),
    "a branch table": module(
        [body(b"\x03\x40\x02\x40\x20\0\x0e" + uleb(N) + b"\0\x01" * (N // 2) + b"\0\x0b\x0b\x20\0")], (UNARY,)
    ),
    "parameters and results": module(
        [body(LOOP + b"".join(b"\x20" + uleb(i) for i in range(1000)) + b"\x10\0" * 5)],
        (b"\x60" + vector([b"\x7f"] * 1000) * 2,),
    ),
    "loops": module([body(LOOP * 3 * N)]),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_are_taken(name: str) -> None:
    made = make_resumable(EXTREMES[name])
    function = next(index for index, yes in enumerate(made.suspensions.functions) if yes)
    assert Twins(made).make(function, 0)


@pytest.mark.engine
@pytest.mark.parametrize("name", ["blocks", "catches", "a branch table", "parameters and results"])
def test_what_comes_of_extremes_is_valid(name: str) -> None:
    wasmtime.Module.validate(ENGINE, make_resumable(EXTREMES[name]).code)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "code",
    [
        b"\x03\x40" * N + b"\x0b" * N + b"\x20\0",
        b"\x03\x40" * N + b"\x20\0\x1a" + b"\x20\0\x0d\0\x0b" * N + b"\x20\0",
        b"\x20\0" + b"\x03\0" * N + b"\x0b" * N,
    ],
)
def test_loops_too_deep_are_refused(code: bytes) -> None:
    with pytest.raises(UnsupportedFeatureError, match="loops so deep"):
        make_resumable(module([body(code)], (UNARY,)))


def test_more_code_than_engines_allow_is_refused() -> None:
    code = LOOP * 200 + b"".join(b"\x20" + uleb(i) + b"\x1a" for i in range(4 * N))
    with pytest.raises(UnsupportedFeatureError, match="more code than engines allow in function 0"):
        make_resumable(module([body(code, (uleb(4 * N) + b"\x7f",))]))


# name: a module that is refused, of some megabytes at most
LARGE = {
    "calls": lambda: module([body(LOOP), body(b"\x10\0" * 1_500_000)]),
    "more calls than that": lambda: module([body(LOOP), body(b"\x10\0" * 3_500_000)]),
    "loops": lambda: module([body(LOOP * 1_000_000)]),
    "blocks": lambda: module([body(b"\x02\x40" * 2_000_000 + LOOP + b"\x0b" * 2_000_000)]),
    "locals alive in loops": lambda: module(
        [
            body(
                LOOP * 5000 + b"".join(b"\x20" + uleb(i) + b"\x1a" for i in range(50_000)),
                (uleb(50_000) + b"\x7f",),
            )
        ]
    ),
    "few locals in many loops": lambda: module(
        [body((LOOP + b"\x20\0\x1a") * 300_000 + b"\x20\x63\x1a" * 100, (uleb(100) + b"\x7f",))]
    ),
}
_MAKE = """
import resource, sys
from sojourn.wasm.base import make_resumable
from sojourn.wasm.binary import UnsupportedFeatureError
with open(sys.argv[1], "rb") as file:
    code = file.read()
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
try:
    make_resumable(code)
except UnsupportedFeatureError as error:
    print(error.feature)
"""
LARGE_MEMORY_BYTES = 800 << 20


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", LARGE)
def test_what_is_too_large_is_refused_in_little_memory(name: str, tmp_path: Path) -> None:
    """Before it is made: the interpreter and its libraries are in the bound, too."""
    (tmp_path / "module").write_bytes(LARGE[name]())
    command = [sys.executable, "-c", _MAKE, str(tmp_path / "module"), str(LARGE_MEMORY_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("more "), done.stderr[-1000:]


@pytest.mark.parametrize(
    "code",
    [
        b"\x0c\x05",  # a label that does not exist
        b"\x0e\0\x07",
        b"\x20\x05\x1a",  # a local
        b"\x23\x05\x1a",  # a global
        b"\x10\x05",  # a function
        b"\x11\x05\0",  # a type
        b"\x11\0\x05",  # a table
        b"\x13\x63\0",
        b"\x14\x07",
        b"\x25\0\x1a",
        b"\xd2\x09\x1a",
        b"\xfc\x08\x03\x07",  # segments and memories
        b"\xfc\x09\x07",
        b"\xfc\x0c\x05\x09",
        b"\xfc\x0f\x07",
        b"\xfb\0\x07",  # collected objects
        b"\xfb\x02\0\x09",
        b"\xfb\x09\x07\x07",
        b"\x3f\x04\x1a",
        b"\x6a\x1a",  # an empty stack
        b"\x1b",
        b"\x05",  # an else without if
        b"\x0b\x0b",  # too many ends
        b"\x1f\x40\x01\0\x07\0\x0b",  # a tag
        b"\x08\x07",
        b"\x06\x40\x0b",  # the old exceptions
        b"\xff",
    ],
)
def test_what_is_not_there_is_a_typed_error_or_stays_invalid(code: bytes) -> None:
    original = module([body(LOOP + code)])
    try:
        made = make_resumable(original).code
    except TYPED:
        return
    with pytest.raises(wasmtime.WasmtimeError):
        wasmtime.Module.validate(ENGINE, made)


def test_our_private_names_are_not_for_others() -> None:
    with pytest.raises(MalformedModuleError, match="private name"):
        make_resumable(wat('(module (func (export "resumable:f0")))'))


def _samples() -> list[bytes]:
    texts = [text for text, _ in [*CASES.values(), *FEATURES.values()]]
    return [wat(f"(module {text})") for text in texts]


def _mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(8, len(changed))
        what = rng.random()
        if what < 0.6:
            changed[at] = rng.randrange(256)
        elif what < 0.75:
            del changed[at : at + rng.randrange(1, 4)]
        elif what < 0.9:
            changed[at:at] = rng.randbytes(rng.randrange(1, 4))
        else:
            del changed[at:]
        if len(changed) < 10:
            break
    return bytes(changed)


def _survives(data: bytes) -> None:
    """A typed error, or a module; valid if the input was, and so are its twins."""
    try:
        made = make_resumable(data, everywhere=True)
    except TYPED:
        return
    try:
        wasmtime.Module.validate(ENGINE, data)
    except wasmtime.WasmtimeError:
        return
    wasmtime.Module.validate(ENGINE, made.code)
    twins = Twins(made)
    for function, yes in enumerate(made.suspensions.functions):
        for site in range(40 if yes else 0):
            try:
                twin = twins.make(function, site)
            except SiteError:
                break
            wasmtime.Module.validate(ENGINE, twin)


@pytest.mark.engine
def test_mutated_modules_are_refused_or_made() -> None:
    rng = random.Random(20)
    samples = _samples()
    for _ in range(1500):
        _survives(_mutated(rng, rng.choice(samples)))


@pytest.mark.soak
def test_very_many_mutated_modules_are_refused_or_made() -> None:
    rng = random.Random()
    samples = _samples()
    for _ in range(50_000):
        data = _mutated(rng, rng.choice(samples))
        try:
            _survives(data)
        except Exception as error:
            raise AssertionError(data.hex()) from error


def test_modules_cut_short_are_typed_errors() -> None:
    for data in _samples()[::4]:
        for end in range(8, len(data) - 1):
            try:
                make_resumable(data[:end])
            except TYPED:
                continue
