# ruff: noqa: T201 - a script that talks to a person
"""Add to the record of what a start needs what is missing there, without recording everything anew.

To be run when our half of the runtime (``vm/process/guest``) calls what it did not call before: a first start
then waits for whole parts, for the sake of a few functions. Here every function that is not in the base is a
part of its own, so what is asked for while an image is made and a program prints a line is exactly what is
missing (a minute of processor time). ``scripts/record_functions.py`` records all layers from the beginning.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from record_functions import LAYERS, OUT, differences

from sojourn.model.limits import Limits
from sojourn.model.progress import Silent
from sojourn.store.home import Home
from sojourn.vm.process import compiled, completing
from sojourn.vm.process.compiled import CompiledModules
from sojourn.vm.process.engine import THREAD_STACK_BYTES, Instance
from sojourn.vm.process.partition import Recorded, recorded
from sojourn.vm.process.runtime import PythonRuntime, PythonStart
from sojourn.vm.process.streams import Collected, Given, Streams
from sojourn.wasm.binary import FUNCTION, Module


def one_by_one(record: Recorded, module: bytes) -> list[Sequence[int]]:
    """In place of ``partition.deferred``: each function in a part of its own."""
    parsed = Module.parse(module)
    first = sum(1 for item in parsed.imports() if item.kind == FUNCTION)
    resident = set(record.layers[0].functions)
    return [[f] for f in range(first, first + len(parsed.bodies()[1]) - 1) if f not in resident]


def asked_for(home: Home) -> set[int]:
    """The functions outside of the base that the start of a program calls."""
    found: set[int] = set()
    bring = Instance._part

    def note(self: Instance, number: int) -> object:
        assert self.module.parts is not None
        found.update(self.module.parts.plan.parts[number - 1])
        return bring(self, number)

    Instance._part = note  # type: ignore[method-assign]
    compiled.deferred = one_by_one
    completing.begin = lambda _: None
    PythonRuntime._ahead = lambda self, imports: None  # type: ignore[method-assign]
    runtime = PythonRuntime(home, CompiledModules(home, Silent()), Silent())
    image = runtime.image(())
    output = Collected(1 << 20)
    machine = runtime.start(image, Limits(), Streams(Given(), output, output))
    ending = machine.run(runtime.entry(PythonStart("code", LAYERS[0][2], ("-c",)), image))
    machine.close()
    print(ending, output.text())
    return found


def main() -> None:
    content = json.loads(OUT.read_text())
    ((digest, layers),) = content.items()
    record = recorded(digest)
    assert record is not None
    with tempfile.TemporaryDirectory() as folder:
        missing = asked_for(Home.open(Path(folder) / "home"))
    for place, layer in enumerate(record.layers):
        functions = set(layer.functions)
        functions = functions - missing if place else functions | missing
        layers[layer.name]["functions"] = differences(functions)
    OUT.write_text(json.dumps(content, indent=1) + "\n")
    print(len(missing), "functions were missing")


if __name__ == "__main__":
    # Guests run on this thread, so it needs the stack that the engine may use.
    threading.stack_size(THREAD_STACK_BYTES)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
