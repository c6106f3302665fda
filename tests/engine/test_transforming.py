"""Worker processes do what would be done here, and are begun only for what is worth their start."""

from __future__ import annotations

import random

import pytest

from sojourn.vm.process import transforming
from sojourn.vm.process.transforming import Transformer
from sojourn.wasm import base
from sojourn.wasm.base import Resumable, make_resumable, serially
from sojourn.wasm.binary import Module
from sojourn.wasm.index_spaces import IndexSpaces
from sojourn.wasm.parts import make_part

from ..wat import wat

pytestmark = pytest.mark.engine

CALLS = "".join(
    f"(func $f{number} (param i32) (result i32) (loop $l (br_if $l (call $f{(number * 7 + 3) % 60} "
    f"(i32.const {number})))) (i32.const {number}))"
    for number in range(60)
)
CODE = wat(f"(module {CALLS})")


def made(run: base.Runner, seed: int | None = None) -> Resumable:
    functions = list(range(60))
    if seed is not None:
        random.Random(seed).shuffle(functions)
    deferred = [] if seed is None else [functions[:15], functions[15:40]]
    return make_resumable(CODE, run=run, deferred=deferred)


def test_workers_do_what_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_CHUNK_BYTES", 200)
    monkeypatch.setattr(transforming, "PARALLEL_SPANS_MIN", 2)
    with Transformer(CODE) as run:
        run._cpus = 2
        assert made(run) == made(serially)
        assert run._workers is not None
        split = made(run, 1)
        assert split == made(serially, 1)
        for number in (1, 2):
            assert make_part(split, number, run) == make_part(split, number)


def test_few_functions_are_done_here() -> None:
    assert len(IndexSpaces.of(Module.parse(CODE)).functions) == 60
    with Transformer(CODE) as run:
        run._cpus = 2
        assert made(run) == made(serially)
        assert run._workers is None
