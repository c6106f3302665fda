"""Random valid modules, made by Debian's ``wasm-opt`` from random bytes: straight, resumable, left at each
poll, each resume in a fresh instance. All give the same values, traps, calls of the host and memory."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from sojourn.wasm.base import make_resumable
from sojourn.wasm.binary import FUNCTION, Module, UnsupportedFeatureError
from sojourn.wasm.index_spaces import F32, F64, I32, I64, IndexSpaces

from ..wat import wat
from .living import ENGINE
from .worlds import World, outcome

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("wasm-opt") is None, reason="Debian's binaryen is not installed"),
]

_FEATURES = ("simd", "bulk-memory", "multivalue", "tail-call", "sign-ext")
_MORE = ("nontrapping-float-to-int", "mutable-globals")
_NOTHING = '(module (func (export "f") (param v128)))'
_CALLS_MAX = 12


class Logging(World):
    """A world whose host has the functions that these modules log with."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.log: list[Any] = []

    def externals(self, store: wasmtime.Store, module: str, name: str) -> Any:
        kind = name.removeprefix("log-")
        if kind == "v128":
            return wasmtime.Instance(store, wasmtime.Module(ENGINE, wat(_NOTHING)), []).exports(store)["f"]
        taken = wasmtime.FuncType([getattr(wasmtime.ValType, kind)()], [])
        return wasmtime.Func(store, taken, lambda value: self.log.append(repr(value)))


def made(rng: random.Random, folder: Path) -> bytes:
    """A random module."""
    (folder / "bytes").write_bytes(rng.randbytes(rng.choice((60, 300, 1500, 4000))))
    flags = [f"--enable-{name}" for name in (*_FEATURES, *_MORE)]
    level = rng.choice(("-O0", "-O1", "-O3"))
    command = ["wasm-opt", "-ttf", str(folder / "bytes"), *flags, level, "-o", str(folder / "module")]
    subprocess.run(command, check=True, capture_output=True)
    return (folder / "module").read_bytes()


def values(rng: random.Random, kinds: Sequence[int]) -> list[Any]:
    """Arguments, as ``signatures`` takes them: floats by their bits; of numbers only."""
    found: list[Any] = []
    for kind in kinds:
        if kind in (F32, F64):
            code = "<fi" if kind == F32 else "<dq"
            value = rng.choice((0.0, -1.5, 3e30, 7.25, float("inf")))
            found.append(struct.unpack("<" + code[2], struct.pack(code[:2], value))[0])
        elif kind in (I32, I64):
            most = (1 << (31 if kind == I32 else 63)) - 1
            bits = rng.choice((0, 1, 5, rng.randrange(1 << 31), most))
            found.append(rng.choice((bits, -bits)))
        else:
            raise ValueError(kind)
    return found


def compare(seed: int, folder: Path, tally: Counter[str]) -> None:
    """One module; what is different is an assertion that names the seed."""
    rng = random.Random(seed)
    code = made(rng, folder)
    everywhere = rng.random() < 0.5
    try:
        wasmtime.Module.validate(ENGINE, code)
    except wasmtime.WasmtimeError:  # an old Binaryen writes some types as they were proposed once
        tally["not valid"] += 1
        return
    try:
        resumable = make_resumable(code, everywhere=everywhere)
    except UnsupportedFeatureError as error:
        tally[error.feature] += 1
        return
    wasmtime.Module.validate(ENGINE, resumable.code)
    worlds = [Logging(kind) for kind in ("original", "straight", "left")]
    begun = [
        outcome(lambda w=world: w.make(code, None if w.kind == "original" else resumable, False))  # type: ignore[misc]
        for world in worlds
    ]
    kinds = {found if found[0] != "values" else "values" for found in begun}
    assert len(kinds) == 1, f"seed {seed}: {begun}"
    if kinds != {"values"}:
        tally["not instantiated"] += 1
        return
    instances: list[Any] = [found[1] for found in begun]
    original = Module.parse(code)
    spaces = IndexSpaces.of(original)
    functions = [(name, index) for name, kind, index in original.exports() if kind == FUNCTION]
    for name, index in functions[:_CALLS_MAX]:
        try:
            args = values(rng, spaces.signature(index).params)
        except ValueError:
            continue
        call = lambda i, n=name, a=args: outcome(lambda: i.call(n, *a))  # noqa: E731
        results = [call(instance) for instance in instances]
        if any(
            "stack" in str(result) or result == ("trap", wasmtime.TrapCode.STACK_OVERFLOW)
            for result in results
        ):
            tally["stack overflow"] += 1
            return  # it comes sooner where frames are larger
        logs = [world.log for world in worlds]
        assert results[0] == results[1] == results[2], f"seed {seed}: {name}{args}: {results}"
        assert logs[0] == logs[1] == logs[2], f"seed {seed}: {name}{args}"
        tally[results[0][0]] += 1
    tally["resumes"] += instances[2].program.resumes


def test_some_random_modules(tmp_path: Path) -> None:
    tally: Counter[str] = Counter()
    for seed in range(25):
        compare(seed, tmp_path, tally)
    assert tally["values"] > 20
    assert tally["resumes"] > 100


@pytest.mark.soak
def test_very_many_random_modules(tmp_path: Path) -> None:
    first = int(os.environ.get("SOJOURN_SEED", random.randrange(1 << 32)))
    tally: Counter[str] = Counter()
    for seed in range(first, first + int(os.environ.get("SOJOURN_MODULES", "2000"))):
        compare(seed, tmp_path, tally)
    print(tally)
