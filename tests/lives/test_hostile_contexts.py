"""Contexts that are well formed, and lies: frames of other functions, in another order, with other
values; globals of other numbers and types. The host answers with a typed error, or a guest comes to some
end."""

from __future__ import annotations

import random
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sojourn.context import Context, Global
from sojourn.model.errors import SojournError
from sojourn.model.limits import Limits
from sojourn.model.states import Ending
from sojourn.store.checkpoints import Checkpoints
from sojourn.store.home import Home
from sojourn.vm.process.snapshots import put, take
from sojourn.vm.process.streams import Collected, Given, Streams

from .dense import PID, Dense, on_guest_thread

pytestmark = pytest.mark.native

_LIMITS = Limits(cpu_seconds=0.3, wall_seconds=5.0, memory_bytes=64 << 20)
SOURCE = Path(__file__).parent / "c" / "recursion.c"


class Liar(Dense):
    """Goes on with contexts that were changed."""

    def context_after(self, polls: int) -> tuple[Context, Any]:
        """A context of the guest after so many polls, and what the store says of it."""
        self.limits = Limits()
        streams = Streams(Given(), Collected(1 << 20), Collected(1 << 20))
        machine = self._machine(streams, None)
        assert self._live(machine, 0, first=True) is None
        for _ in range(polls):
            machine = self._moved(machine, streams)
            assert self._live(machine, 0, first=False) is None
        snapshot = take(machine)
        context = self._context(snapshot)
        saved = self._store.save(context, snapshot.views)
        machine.close()
        return saved.context, saved

    def attempt(self, stored: Any, changed: Context) -> Ending | SojournError | None:
        streams = Streams(Given(), Collected(1 << 20), Collected(1 << 20))
        self.limits = _LIMITS
        try:
            machine = self._machine(streams, changed)
        except SojournError as error:
            return error
        try:
            put(machine, replace_context(stored, changed), None, 1)
            return self._live(machine, None, first=False)
        except SojournError as error:
            return error
        finally:
            machine.close()


def replace_context(stored: Any, context: Context) -> Any:
    made = type(stored).__new__(type(stored))
    made.__dict__.update(stored.__dict__)
    made.context = context
    return made


def frames_of(records: bytes, sizes: list[int]) -> list[bytes]:
    found, at = [], 0
    for size in sizes:
        found.append(records[at : at + size])
        at += size
    return found


def lie(rng: random.Random, context: Context, pieces: list[bytes]) -> Context:
    """The context with something changed; ``pieces`` are its records, one by one."""
    kind = rng.randrange(7)
    pieces = list(pieces)
    if kind == 0:  # a value
        data = bytearray(context.records)
        for _ in range(rng.choice((1, 4, 30))):
            data[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
        return replace(context, records=bytes(data), frames=())
    if kind == 1:  # another function or site
        at = rng.randrange(len(pieces))
        site, function = struct.unpack("<II", pieces[at][-8:])
        site, function = rng.choice(
            ((site + 1, function), (site, function + 1), (0, rng.randrange(200)), (site, 1 << 31))
        )
        pieces[at] = pieces[at][:-8] + struct.pack("<II", site, function)
    elif kind == 2:
        rng.shuffle(pieces)
    elif kind == 3:
        del pieces[rng.randrange(len(pieces))]
    elif kind == 4:
        pieces *= rng.choice((2, 50, 3000))
    elif kind == 5:
        values = list(context.globals)
        values[rng.randrange(len(values))] = rng.choice(
            (Global("i32", rng.randrange(1 << 32)), Global("i64", 1), Global("f64", 1 << 63))
        )
        return replace(context, globals=tuple(values[: rng.choice((len(values), 0, 1))]))
    else:
        pieces.append(rng.randbytes(rng.randrange(200)))
    return replace(context, records=b"".join(pieces), frames=())


def test_lies(tmp_path: Path, home: Home) -> None:
    target = tmp_path / "program.wasm"
    command = ["clang", "--target=wasm32-wasi", "-O1", str(SOURCE), "-o", str(target), "-lm"]
    subprocess.run([*command, "-Wl,-z,stack-size=1048576"], check=True, capture_output=True)
    program = Liar(home, target.read_bytes())
    rng = random.Random(41)

    def body() -> set[str]:
        outcomes = set()
        for polls in (0, 3, 40, 200):
            context, saved = program.context_after(polls)
            with Checkpoints(home.checkpoints).load(PID, saved.digest) as stored:
                machine = program._machine(Streams(Given(), Collected(0), Collected(0)), context)
                sizes = list(machine.instance.stack(context.records).sizes)[::-1]
                machine.close()
                pieces = frames_of(context.records, sizes)
                assert b"".join(pieces) == context.records
                for _ in range(60):
                    changed = lie(rng, context, pieces)
                    found = program.attempt(stored, changed)
                    if isinstance(found, Ending):
                        assert "internal" not in found.reason, found
                        outcomes.add(found.reason.partition(":")[0] or "ended")
                    else:
                        outcomes.add(type(found).__name__)
        return outcomes

    outcomes = on_guest_thread(body)
    assert "ContextError" in outcomes
    assert len(outcomes) > 2
