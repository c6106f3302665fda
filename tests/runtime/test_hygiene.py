"""Two processes from one image share nothing that must be of one process only (DESIGN 4.3)."""

from __future__ import annotations

import time

import pytest

from sojourn.model.states import Ending, State
from sojourn.store.home import Home
from sojourn.vm.process.runtime import PythonRuntime

from .conftest import MakeRuntime, execute

pytestmark = pytest.mark.runtime

# Expressions that must differ between any two processes.
FRESH = [
    "random.random()",
    "random.getrandbits(128)",
    "random.gauss(0, 1)",
    "random.Random().random()",
    "random.SystemRandom().random()",
    "os.urandom(16)",
    "secrets.token_hex(16)",
    "secrets.randbelow(1 << 64)",
    "uuid.uuid1()",
    "uuid.uuid1().node",
    "(uuid.uuid1().clock_seq, uuid.getnode())",
    "uuid.uuid4()",
    "uuid.uuid6()",
    "uuid.uuid7()",
    "tempfile.mktemp()",
    "next(tempfile._get_candidate_names())",
    "numpy.random.rand()",
    "numpy.random.randn()",
    "numpy.random.RandomState().rand()",
    "numpy.random.default_rng().random()",
    "numpy.random.default_rng().bit_generator.seed_seq.entropy",
    "numpy.random.SeedSequence().entropy",
    "numpy.random.Philox().random_raw()",
    "random.sample(range(1 << 30), 4)",
]
IMPORTS = ("numpy",)


def values(runtime: PythonRuntime, expressions: list[str], imports: tuple[str, ...], names: str) -> list[str]:
    code = f"import {names}\n" + "\n".join(f"print(repr({e}))" for e in expressions)
    ending, text = execute(runtime, code, imports)
    assert ending == Ending(State.EXITED, 0), text
    return text.splitlines()


def test_nothing_random_is_shared(runtime: PythonRuntime) -> None:
    names = "numpy.random, os, random, secrets, tempfile, uuid"
    runs = [values(runtime, FRESH, IMPORTS, names) for _ in range(4)]
    for number, expression in enumerate(FRESH):
        assert len({run[number] for run in runs}) == len(runs), expression


def test_the_whole_sequence_differs_and_not_only_its_start(runtime: PythonRuntime) -> None:
    code = (
        "import random, numpy\n"
        "print(*(random.getrandbits(64) for _ in range(2000)), *numpy.random.rand(2000))"
    )
    first, second = (set(execute(runtime, code, IMPORTS)[1].split()) for _ in range(2))
    assert len(first) == 4000
    assert not first & second


def test_random_numbers_are_as_random_as_ever(runtime: PythonRuntime) -> None:
    code = (
        "import random, numpy, collections\n"
        "n = 20000\n"
        "for draw in (random.random, numpy.random.rand):\n"
        "    bins = collections.Counter(int(draw() * 10) for _ in range(n))\n"
        "    print(sum((bins[i] - n / 10) ** 2 / (n / 10) for i in range(10)))"
    )
    # The chi-squared of 9 degrees of freedom is above 60 once in 10**9 runs.
    assert all(float(line) < 60 for line in execute(runtime, code, IMPORTS)[1].split())


def test_clock_and_identity_are_the_process_s_own(runtime: PythonRuntime) -> None:
    code = "import os, time, logging; print(os.getpid(), time.time(), logging._startTime / 1e9)"
    before = time.time()
    results = [execute(runtime, code, identity=n)[1].split() for n in (17, 18)]
    assert [int(fields[0]) for fields in results] == [17, 18]
    for fields in results:
        assert before <= float(fields[2]) <= float(fields[1]) <= time.time()


def test_the_environment_and_arguments_of_the_making_are_gone(runtime: PythonRuntime) -> None:
    code = (
        "import os, sys\n"
        "print(dict(os.environ), sys.argv, '' in sys.path, any('sojourn' in path for path in sys.path))"
    )
    assert execute(runtime, code)[1] == "{} ['-c'] False False\n"


LIBRARY = b"""
import random, uuid
import numpy as np
from random import Random
from secrets import randbits

own = Random()
drawn_from = Random(); drawn_from.random(); drawn_from.gauss(0, 1)
fixed = Random(7)
again = Random(); again.seed(5)
unfixed = Random(5); unfixed.seed()
class Mine(Random):
    pass
mine = Mine()
legacy = np.random.RandomState()
legacy_fixed = np.random.RandomState(42)
modern = np.random.default_rng()
modern_fixed = np.random.default_rng(42)
modern_large = np.random.default_rng(1 << 200)
twister = np.random.Generator(np.random.MT19937())
philox = np.random.Generator(np.random.Philox())
sfc = np.random.Generator(np.random.SFC64())
child = np.random.default_rng().spawn(1)[0]
child_fixed = np.random.default_rng(3).spawn(1)[0]
child_drawn = np.random.default_rng(); child_drawn.random()
uuid.uuid1(); uuid.uuid6(); uuid.uuid7()
try:
    from sklearn.utils import check_random_state
    checked = check_random_state(None)
    checked_fixed = check_random_state(11)
except ImportError:
    checked, checked_fixed = legacy, legacy_fixed
bits = randbits
"""
OWN = [
    *("own.random()", "drawn_from.random()", "drawn_from.gauss(0, 1)", "unfixed.random()", "mine.random()"),
    *("legacy.rand()", "modern.random()", "twister.random()", "philox.random()", "sfc.random()"),
    *("child.random()", "child_drawn.random()", "checked.rand()", "bits(64)"),
    *("uuid.uuid1()", "uuid.uuid6()", "uuid.uuid7()"),
]
FIXED = [
    *("fixed.random()", "again.random()", "legacy_fixed.rand()", "modern_fixed.random()"),
    *("modern_large.random()", "child_fixed.random()", "checked_fixed.rand()"),
]


def library_values(runtime: PythonRuntime, expressions: list[str], module: str) -> list[str]:
    code = f"from {module} import *\nimport {module} as m\n" + "\n".join(
        f"print(repr(m.{e}))" for e in expressions
    )
    ending, text = execute(runtime, code, (module,))
    assert ending == Ending(State.EXITED, 0), text
    return text.splitlines()


def test_generators_that_imports_made(home: Home, make_runtime: MakeRuntime) -> None:
    """Those without a seed differ in every process; those with one are what the library made of them."""
    runtime = make_runtime(home, {"hygiene_library.py": LIBRARY})
    assert runtime.image(("hygiene_library",)).info.failed == {}
    runs = [library_values(runtime, OWN, "hygiene_library") for _ in range(3)]
    for number, expression in enumerate(OWN):
        assert len({run[number] for run in runs}) == len(runs), expression
    fixed = [library_values(runtime, FIXED, "hygiene_library") for _ in range(2)]
    assert fixed[0] == fixed[1]
    assert fixed[0][0] == "0.32383276483316237"  # random.Random(7), on any Python
    assert fixed[0][2] == "np.float64(0.3745401188473625)" or fixed[0][2] == "0.3745401188473625"


def test_a_seed_that_an_import_gives_to_everybody_stays(home: Home, make_runtime: MakeRuntime) -> None:
    library = b"import random, numpy\nrandom.seed(7)\nnumpy.random.seed(42)\n"
    runtime = make_runtime(home, {"seeding_library.py": library})
    code = "import random, numpy; print(random.random(), float(numpy.random.rand()))"
    for _ in range(2):
        text = execute(runtime, code, ("seeding_library",))[1]
        assert text == "0.32383276483316237 0.3745401188473625\n"


def test_the_keys_of_multiprocessing_are_fresh(home: Home, make_runtime: MakeRuntime) -> None:
    runtime = make_runtime(home, {"forking_library.py": b"import multiprocessing.process\n"})
    code = "import multiprocessing.process as p; print(bytes(p.current_process().authkey).hex())"
    assert len({execute(runtime, code, ("forking_library",))[1] for _ in range(3)}) == 3
