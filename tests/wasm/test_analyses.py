"""The analyses against plain ones: which locals are live, and that every cycle of calls has a poll."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from sojourn.wasm.base import analysed, make_resumable
from sojourn.wasm.binary import Module
from sojourn.wasm.callgraph import calls_of
from sojourn.wasm.events import (
    BR,
    BR_IF,
    BR_ON_NON_NULL,
    BR_ON_NULL,
    BR_TABLE,
    ELSE,
    IF,
    LOOP,
    RETURN,
    RETURN_CALL,
    RETURN_CALL_INDIRECT,
    RETURN_CALL_REF,
    THROW,
    THROW_REF,
    TRY_TABLE,
    UNREACHABLE,
    Body,
    Event,
)
from sojourn.wasm.index_spaces import IndexSpaces

from ..wat import wat
from .test_features import CASES as FEATURES
from .test_resumable import CASES
from .worlds import run_file

_ENDS = {UNREACHABLE, RETURN, THROW, THROW_REF, RETURN_CALL, RETURN_CALL_INDIRECT, RETURN_CALL_REF}
_FORKS = {BR_IF, BR_ON_NULL, BR_ON_NON_NULL}


def target(body: Body, at: Event, label: int) -> int:
    """The event at which a branch from ``at`` goes on."""
    opener = at.outer
    for _ in range(label):
        assert opener is not None
        opener = opener.outer
    assert opener is not None
    return body.events.index(opener) + 1 if opener.kind == LOOP else opener.close + 1


def successors(body: Body, position: int) -> set[int]:
    """Where control may go behind an event; positions are of events, the code before one belongs to it."""
    event = body.events[position]
    found = {target(body, event, label) for label in event.labels}
    if event.kind in (BR, BR_TABLE):
        return found
    if event.kind in _ENDS:
        return set()
    if event.kind == TRY_TABLE:
        found = set()  # below, from everything inside
    if event.kind == ELSE:
        assert event.opener is not None
        return {event.opener.close}
    if event.kind == IF:
        found = {event.other + 1 if event.other >= 0 else event.close}
    return found | {position + 1}


def caught(body: Body, event: Event, before: list[int]) -> int:
    """What is live where an exception thrown at an event may go on."""
    live = 0
    opener = event.outer
    while opener is not None:
        if opener.kind == TRY_TABLE:
            for label in opener.labels:
                live |= before[target(body, opener, label)]
        opener = opener.outer
    return live


def naive(body: Body) -> dict[int, int]:
    """What is live behind each event that is a site (at it, for the head of a loop): a plain fixed point."""
    events = body.events
    edges = [successors(body, position) for position in range(len(events))]
    before = [0] * (len(events) + 1)

    def behind(position: int) -> int:
        live = caught(body, events[position], before)
        for successor in edges[position]:
            live |= before[successor]
        return live

    changed = True
    while changed:
        changed = False
        for position in reversed(range(len(events))):
            event = events[position]
            live = event.use | behind(position) & ~event.define | caught(body, event, before)
            changed |= live != before[position]
            before[position] = live
    return {event.site: behind(events.index(event)) for event in body.sites}


@pytest.mark.parametrize("name", [*CASES, *FEATURES])
def test_what_is_live_is_what_a_plain_analysis_finds(name: str) -> None:
    code = wat(f"(module {({**CASES, **FEATURES})[name][0]})")
    made = make_resumable(code, everywhere=True)
    module = Module.parse(code)
    spaces = IndexSpaces.of(module)
    bodies, starts = module.bodies()
    sites = 0
    for place in range(len(starts) - 1):
        function = place + spaces.functions_imported
        body = analysed(spaces, made.suspensions, function, bytes(bodies), starts[place])
        wanted = naive(body)
        for event in body.sites:
            missing = wanted[event.site] & ~event.live
            assert not missing, f"function {function}, site {event.site}: {missing:b} would be lost"
            assert event.live == wanted[event.site], "more is saved than is needed"
            sites += 1
    assert sites


@pytest.mark.parametrize("seed", range(40))
def test_every_cycle_of_calls_has_a_poll(seed: int) -> None:
    """Functions without loops that call each other at random, some through a table, some in their tail."""
    rng = random.Random(seed)
    count = rng.randrange(2, 25)
    text = ["(type $t (func)) (type $u (func (param i32)))"]
    in_table = [index for index in range(count) if rng.random() < 0.3]
    text.append(f"(table {count} funcref) (elem (i32.const 0) func {' '.join(map(str, in_table))})")
    for _ in range(count):
        calls = []
        for _ in range(rng.randrange(4)):
            how = rng.random()
            if how < 0.7:
                calls.append(f"(call {rng.randrange(count)})")
            elif how < 0.9:
                calls.append("(call_indirect (type $t) (i32.const 0))")
            else:
                calls.append(f"(if (i32.const 1) (then (return_call {rng.randrange(count)})))")
        text.append(f"(func (type $t) {' '.join(calls)})")
    code = wat(f"(module {' '.join(text)})")
    where = make_resumable(code).suspensions
    bodies, starts = Module.parse(code).bodies()
    callees: list[set[int]] = []
    for place in range(count):
        calls_ = calls_of(bytes(bodies), starts[place])
        callees.append(set(calls_.functions) | (set(in_table) if calls_.types else set()))
    silent = {index for index in range(count) if not where.entries[index]}
    while True:  # take away what calls nobody that is left; what stays is a cycle without a poll
        ended = {index for index in silent if not callees[index] & silent}
        if not ended:
            break
        silent -= ended
    assert not silent
    for index in range(count):  # and who can reach a poll is known to be able to suspend
        reached, waiting = {index}, [index]
        while waiting:
            new = callees[waiting.pop()] - reached
            reached |= new
            waiting += new
        assert bool(where.functions[index]) == any(where.entries[other] for other in reached)


@pytest.mark.soak
def test_the_specifications_own_suite() -> None:
    """Scripts of the WebAssembly specification, from a checkout that ``WASM_SPEC_TESTS`` names."""
    folder = os.environ.get("WASM_SPEC_TESTS")
    if not folder:
        pytest.skip("set WASM_SPEC_TESTS to the folder test/core of the WebAssembly specification")
    totals: Counter[str] = Counter()
    wrong = []
    for path in sorted(Path(folder).rglob("*.wast")):
        tally = run_file(str(path))
        totals.update(modules=tally.modules, assertions=tally.assertions, resumes=tally.resumes)
        wrong += [f"{path.name}: {line}" for line in tally.wrong]
    assert not wrong, "\n".join(wrong[:20])
    assert totals["resumes"] > totals["modules"], "the suite was hardly run"
