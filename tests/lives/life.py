"""Some lives of one process within one operating-system process: a program for ``lives.py`` to start.

It takes an order (JSON) as its argument: begins a process, or goes on with a suspended one; evicts it
after so many milliseconds; goes on with it, so often as it is told to; and then ends, the process suspended
or over. What the process writes is in its log. All is done by what the commands themselves call.
"""

from __future__ import annotations

import json
import random
import sys
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from sojourn.bundle.build import build_script, build_wasm
from sojourn.cli.grants import directory_grants
from sojourn.host.embedded import EmbeddedHost, HostedProcess
from sojourn.host.programs import runtime
from sojourn.host.requests import LaunchRequest
from sojourn.host.streams import FdSource
from sojourn.model.limits import Limits
from sojourn.store.home import Home
from sojourn.vm.process.streams import Collected


def request_of(order: dict[str, Any]) -> LaunchRequest:
    path = Path(order["program"])
    made = build_wasm(path) if path.suffix == ".wasm" else build_script(path, runtime=runtime())
    return LaunchRequest(
        made.program,
        made.contents,
        order.get("name", path.name),
        tuple(order.get("args", ())),
        directory_grants(tuple(order.get("grants", ()))),
        limits=Limits(**order.get("limits", {})),
    )


def evicted(host: EmbeddedHost, process: HostedProcess) -> bool:
    """Evict a process; False when it ended before it could be."""
    try:
        host.checkpoint(process, stop=True).result(120)
    except CancelledError:
        return False
    return True


def live(order: dict[str, Any]) -> dict[str, Any]:
    """What became of the process after the lives that were asked for; ``lives`` is how many there were."""
    rng = random.Random(order["seed"])
    lives, pid = 0, order.get("pid")
    with FdSource(0) as stdin, EmbeddedHost(Home.open(Path(order["home"]))) as host:
        streams = {"stdin": stdin, "stdout": Collected(0), "stderr": Collected(0)}
        while lives < order["lives"]:
            lives += 1
            if pid is None:
                process = host.launch(request_of(order), **streams)
                pid = process.pid
            else:
                process = host.resume(pid, **streams)
            wait_s = rng.choice((0.0, rng.expovariate(1) * order["mean_ms"] / 1e3))
            ending = process.wait(wait_s if order["mean_ms"] else None)
            if ending is not None or not evicted(host, process):
                ending = process.wait()
                assert ending is not None
                process.recorded.result(60)
                return {"pid": pid, "lives": lives, "ending": ending.to_dict()}
    return {"pid": pid, "lives": lives}


if __name__ == "__main__":
    print(json.dumps(live(json.loads(sys.argv[1]))))
