"""Processes for tests of a host alone: one that waits for input, and records without anybody behind them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sojourn.bundle.build import build_wasm
from sojourn.host.embedded import EmbeddedHost, HostedProcess
from sojourn.host.keeping import Keeper
from sojourn.host.requests import LaunchRequest
from sojourn.host.streams import FdSource
from sojourn.model.states import State
from sojourn.store.checkpoints import Saved
from sojourn.store.home import Home
from sojourn.store.records import ProcessRecord
from sojourn.store.table import ProcessTable
from sojourn.vm.process.streams import Collected

from ..cli.test_run_wasm import CAT
from ..context.samples import context
from ..wat import wat

HOST_PART = {"name": "prog", "args": ["a", "b"], "use_image": True}


def request(folder: Path, text: str = CAT, name: str = "prog", **more: Any) -> LaunchRequest:
    """A program of one module, as text."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.wasm"
    path.write_bytes(wat(text))
    bundle = build_wasm(path)
    return LaunchRequest(bundle.program, bundle.contents, name, **more)


@contextmanager
def waiting(host: EmbeddedHost, asked: LaunchRequest) -> Iterator[HostedProcess]:
    """A process that waits for input, until the end of the block."""
    reading, writing = os.pipe()
    with FdSource(reading) as stdin:
        process = host.launch(asked, stdin=stdin, stdout=Collected(0), stderr=Collected(0))
        try:
            yield process
        finally:
            process.kill("the test is over")
            assert process.wait(30) is not None
    os.close(writing)
    os.close(reading)


def store(home: Home, asked: LaunchRequest, pid: str, **changes: Any) -> Saved:
    """A checkpoint of a process that never ran, as if a host had stored it."""
    values = {
        "pid": pid,
        "program": asked.program.digest,
        "memories": (),
        "grants": asked.grants(),
        "limits": asked.limits.to_dict(),
        "secrets": (),
        "system": {"host": HOST_PART},
    }
    return Keeper(home).store.save(context(**(values | changes)))


def record(
    table: ProcessTable, asked: LaunchRequest, pid: str, state: State = State.SUSPENDED, **more: Any
) -> None:
    table.insert(ProcessRecord(pid, asked.name, asked.program.digest, state, created_s=1.0, **more))
