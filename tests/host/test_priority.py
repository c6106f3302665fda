"""A process keeps its share of the processors, wherever it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sojourn.host.embedded import EmbeddedHost, HostedProcess
from sojourn.model.priority import Priority
from sojourn.store.home import Home
from sojourn.vm.process.streams import Collected, Given

from .test_embedded import launch, request

pytestmark = pytest.mark.engine

FOREVER = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'


def weight(process: HostedProcess) -> int:
    running: Any = process._running
    return int(running._machine.turn.weight)


@pytest.mark.parametrize("priority", Priority)
def test_priority_is_kept_over_lives(home: Home, tmp_path: Path, priority: Priority) -> None:
    streams: Any = {"stdin": Given(), "stdout": Collected(0), "stderr": Collected(0)}
    with EmbeddedHost(home) as host:
        asked = replace(request(tmp_path, FOREVER), priority=priority)
        process = launch(host, asked, Collected(0))
        assert weight(process) == priority.weight
        host.checkpoint(process, stop=True).result(60)
        again = host.resume(process.pid, **streams)
        assert (weight(again), again.request.priority) == (priority.weight, priority)
        host.checkpoint(again).result(60)
        (forked,) = host.fork(process.pid)
        assert weight(host.resume(forked, **streams)) == priority.weight
