"""How a module is split that is too large to be compiled before its first line runs.

For a module whose functions were recorded as it ran (``recorded.json``, written by
``scripts/record_functions.py``) the base has what its start needs; a *layer* has what the import of one
package needs besides, and what programs with it commonly do; all other functions lie in *pieces* of equal
size in the order of the file, in which libraries lie one after another. A module that was not recorded is
not split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from sojourn.wasm.binary import FUNCTION, Module

PIECE_BYTES = 512 << 10  # of code: half a second of two processors
PLAIN = "plain"  # the layer of what programs without packages commonly do
_RECORDED = Path(__file__).with_name("recorded.json")


@dataclass(frozen=True)
class Layer:
    """What one package needs: functions, and the layers of packages that it imports."""

    name: str
    needs: tuple[str, ...]
    functions: tuple[int, ...]


@dataclass(frozen=True)
class Recorded:
    """What was recorded of one module. Layer ``n`` (from 1 on) is part ``n``; layer 0 is the base.

    Attributes:
        digest: names the record and how it is used.
    """

    layers: tuple[Layer, ...]
    digest: str

    def parts_for(self, packages: Iterable[str]) -> list[int]:
        """The parts that imports of ``packages`` will need, those needed first before the others."""
        wanted: set[str] = set()
        waiting = [package.partition(".")[0] for package in packages]
        needs = {layer.name: layer.needs for layer in self.layers}
        while waiting:
            name = waiting.pop()
            if name not in wanted:
                wanted.add(name)
                waiting += needs.get(name, ())
        return [number for number, layer in enumerate(self.layers) if number and layer.name in wanted]


@cache
def recorded(digest: str) -> Recorded | None:
    """What was recorded of the module with ``digest``, if anything was."""
    text = _RECORDED.read_bytes()
    found = json.loads(text).get(digest)
    if found is None:
        return None
    layers = [
        Layer(name, tuple(layer["needs"]), tuple(accumulate(map(int, layer["functions"].split()))))
        for name, layer in found.items()
    ]
    return Recorded(tuple(layers), hashlib.sha256(text + b"%d" % PIECE_BYTES).hexdigest())


def deferred(record: Recorded, module: bytes) -> list[Sequence[int]]:
    """The functions of each part: those of the layers behind the first, then the pieces.

    Raises:
        MalformedModuleError: not a module.
    """
    parsed = Module.parse(module)
    first = sum(1 for item in parsed.imports() if item.kind == FUNCTION)
    _, starts = parsed.bodies()
    taken = {function for layer in record.layers for function in layer.functions}
    parts: list[Sequence[int]] = [layer.functions for layer in record.layers[1:]]
    piece: list[int] = []
    size = 0
    for function in range(first, first + len(starts) - 1):
        if function in taken:
            continue
        piece.append(function)
        size += starts[function - first + 1] - starts[function - first]
        if size >= PIECE_BYTES:
            parts.append(piece)
            piece, size = [], 0
    return [*parts, piece] if piece else parts
