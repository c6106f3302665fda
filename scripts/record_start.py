# ruff: noqa: T201 - a script that talks to a person
"""Add to the record what a start and the common packages need and is missing there, without recording
everything anew.

To be run when our half of the runtime (``vm/process/guest``) calls what it did not call before: a first start
then waits for whole parts, for the sake of a few functions. Here every function that is not in the record is
a part of its own, so what is asked for while an image is made and a program prints a line is exactly what is
missing (two minutes of processor time). ``scripts/record_functions.py`` records all layers from the
beginning.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
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

TOGETHER = ("start", "plain", "numpy", "pandas")  # layers that stay together, but for the first pass


def one_by_one(layers: Sequence[str], record: Recorded, module: bytes) -> list[Sequence[int]]:
    """In place of ``partition.deferred``: each function that is in none of ``layers`` is a part by itself."""
    parsed = Module.parse(module)
    first = sum(1 for item in parsed.imports() if item.kind == FUNCTION)
    kept = [layer.functions for layer in record.layers if layer.name in layers]
    known = {function for functions in kept for function in functions}
    others = [[f] for f in range(first, first + len(parsed.bodies()[1]) - 1) if f not in known]
    return [*kept[1:], *others]


def asked_for(home: Home, layers: Sequence[str], wanted: Sequence[str]) -> list[set[int]]:
    """For each of some layers, the functions in none of ``layers`` that its programs call."""
    found: list[set[int]] = []
    bring = Instance._part

    def note(self: Instance, number: int) -> object:
        assert self.module.parts is not None
        if number >= len(layers):
            found[-1].update(self.module.parts.plan.parts[number - 1])
        return bring(self, number)

    Instance._part = note  # type: ignore[method-assign]
    compiled.deferred = partial(one_by_one, layers)
    completing.begin = lambda _: None
    PythonRuntime._ahead = lambda self, imports: None  # type: ignore[method-assign]
    runtime = PythonRuntime(home, CompiledModules(home, Silent()), Silent())
    imports = {name: packages for name, packages, _ in LAYERS}
    for name in wanted:
        found.append(set())
        image = runtime.image(imports[name])
        output = Collected(1 << 20)
        machine = runtime.start(image, Limits(), Streams(Given(), output, output))
        ending = machine.run(runtime.entry(PythonStart("code", LAYERS[0][2], ("-c",)), image))
        machine.close()
        print(name, ending, output.text(), flush=True)
    Instance._part = bring  # type: ignore[method-assign]
    return found


def add(missing: Sequence[set[int]], names: Sequence[str]) -> None:
    """To the record: what is missing in each of these layers is in no other from now on."""
    content = json.loads(OUT.read_text())
    ((digest, layers),) = content.items()
    recorded.cache_clear()
    record = recorded(digest)
    assert record is not None
    taken: set[int] = set()
    for functions in missing:
        functions -= taken
        taken |= functions
    for layer in record.layers:
        functions = set(layer.functions) - taken
        if layer.name in names:
            functions |= missing[names.index(layer.name)]
        layers[layer.name]["functions"] = differences(functions)
    OUT.write_text(json.dumps(content, indent=1) + "\n")
    recorded.cache_clear()
    print({name: len(functions) for name, functions in zip(names, missing, strict=True)}, "were missing")


def main() -> None:
    for layers, wanted in ((TOGETHER[:1], TOGETHER[:1]), (TOGETHER, TOGETHER[2:])):
        with tempfile.TemporaryDirectory() as folder:
            add(asked_for(Home.open(Path(folder) / "home"), layers, wanted), wanted)


if __name__ == "__main__":
    # Guests run on this thread, so it needs the stack that the engine may use.
    threading.stack_size(THREAD_STACK_BYTES)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
