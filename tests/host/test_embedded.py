"""The embedded host when the home fails under it: a process still ends, and its end is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sojourn.bundle.build import build_wasm
from sojourn.host.embedded import EmbeddedHost
from sojourn.host.requests import LaunchRequest
from sojourn.host.streams import LoggedSink
from sojourn.model.errors import StoreError
from sojourn.model.limits import Limits
from sojourn.model.states import State
from sojourn.store.home import Home
from sojourn.store.output import STDOUT
from sojourn.store.table import ProcessTable
from sojourn.vm.process.streams import Collected, Given
from sojourn.vm.process.wasi.outside import Stopped

from ..cli.test_run_wasm import YES
from ..wat import wat

QUIET = '(module (func (export "_start")))'


class FullDisk:
    """A log on a disk that is full."""

    def write(self, stream: int, data: memoryview) -> None:
        raise StoreError("the disk is full", "Try: free some space")


def request(tmp_path: Path, text: str) -> LaunchRequest:
    path = tmp_path / "prog.wasm"
    path.write_bytes(wat(text))
    bundle = build_wasm(path)
    return LaunchRequest(bundle.program, bundle.contents, "prog")


def launch(host: EmbeddedHost, asked: LaunchRequest, out: Collected) -> Any:
    return host.launch(asked, stdin=Given(), stdout=out, stderr=Collected(0))


def test_output_that_cannot_be_kept_ends_the_process() -> None:
    sink = LoggedSink(Collected(10), FullDisk(), STDOUT)  # type: ignore[arg-type]
    with pytest.raises(Stopped, match=r"the disk is full\. Try: free some space"):
        sink.write(memoryview(b"x"))


@pytest.mark.engine
def test_a_disk_that_fills_up_is_named_in_the_end(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sojourn.store.output.OutputWriter.write", FullDisk.write)
    with EmbeddedHost(home) as host:
        process = launch(host, request(tmp_path, YES), Collected(1))
        ending = process.wait(30)
    assert ending.state is State.KILLED
    assert "the disk is full" in ending.reason


@pytest.mark.engine
def test_an_end_that_cannot_be_recorded_is_still_told(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    transition = ProcessTable.transition

    def full(self: ProcessTable, pid: str, source: Any, target: State, **more: Any) -> Any:
        if target.final:
            raise StoreError("the disk is full")
        return transition(self, pid, source, target, **more)

    monkeypatch.setattr(ProcessTable, "transition", full)
    with EmbeddedHost(home) as host:
        process = launch(host, request(tmp_path, QUIET), Collected(0))
        ending = process.wait(30)
        assert ending is not None
        assert ending.state is State.EXITED
    assert "could not be recorded: the disk is full" in caplog.text
    monkeypatch.undo()
    with EmbeddedHost(home), ProcessTable.open(home) as table:  # whoever looks next finds it lost
        assert table.get(process.pid).state is State.LOST


@pytest.mark.engine
def test_a_start_that_fails_leaves_nothing_but_its_record(home: Home, tmp_path: Path) -> None:
    asked = request(tmp_path, '(module (func (export "other")))')
    with EmbeddedHost(home) as host:
        with pytest.raises(Exception, match="_start"):
            launch(host, asked, Collected(0))
        assert not list(home.processes.glob("*/control"))
    with ProcessTable.open(home) as table:
        (record,) = table.list()
    assert record.state is State.FAILED
    assert record.ending is not None
    assert "_start" in record.ending.reason


@pytest.mark.engine
def test_old_output_is_forgotten_when_it_is_too_much(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(request(tmp_path, YES), limits=Limits(output_bytes=10_000))
    for _ in range(4):
        with EmbeddedHost(home) as host:
            launch(host, asked, Collected(0)).wait(30)
    with ProcessTable.open(home) as table:
        pids = [record.pid for record in table.list()]
    assert len(pids) == 4
    size = (home.processes / pids[0] / "output").stat().st_size
    monkeypatch.setattr("sojourn.host.embedded.KEPT_BYTES_MAX", 2 * size + size // 2)
    with EmbeddedHost(home), ProcessTable.open(home) as table:
        assert {record.pid for record in table.list()} == set(pids[:2])
    assert {path.name for path in home.processes.iterdir()} == set(pids[:2])
