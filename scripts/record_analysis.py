"""Record the analysis of the Python runtime: ``src/sojourn/vm/process/analysed.json``.

To be run for each version of the runtime and of the transform (ten seconds): ``python
scripts/record_analysis.py``. With an old record everything works, but a first start takes longer.
"""

from __future__ import annotations

from sojourn.vm.process.analysed import FILE, as_recorded
from sojourn.vm.process.artifacts import find_python
from sojourn.vm.process.preparing import suspends
from sojourn.wasm import instrument
from sojourn.wasm.base import analysis_of


def main() -> None:
    artifacts = find_python()
    analysis = analysis_of(instrument(artifacts.read_module()).code, suspends)
    FILE.write_text(as_recorded(artifacts.module_digest, analysis))


if __name__ == "__main__":
    main()
