"""In the guest: runs the test module that the argument names, and tells each outcome as soon as it is known.

Nothing of what it writes depends on time, addresses or chance, so two runs can be compared byte for byte.
"""

import os
import random
import sys
import unittest

sys.path.insert(0, "/tests")
os.chdir("/tmp")


def tell(outcome, test, error=None):
    kind = "" if error is None else f" {error[0].__name__}"
    os.write(1, f"{outcome} {test}{kind}\n".encode("utf-8", "replace"))


class Told(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        tell("began", test.id())

    def addSuccess(self, test):
        tell("passed", test.id())

    def addError(self, test, err):
        tell("error", test.id(), err)

    def addFailure(self, test, err):
        tell("failed", test.id(), err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            tell("failed", test.id(), err)

    def addSkip(self, test, reason):
        tell("skipped", test.id())

    def addExpectedFailure(self, test, err):
        tell("as expected", test.id())

    def addUnexpectedSuccess(self, test):
        tell("unexpectedly", test.id())


try:
    suite = unittest.defaultTestLoader.loadTestsFromName(sys.argv[1])
except unittest.SkipTest:
    tell("skipped", sys.argv[1])
else:
    sys.stderr = open("/tmp/stderr", "w")  # noqa: SIM115 - times and addresses
    random.seed(1)
    suite.run(Told())
tell("ended", sys.argv[1])
sys.stderr = sys.__stderr__
