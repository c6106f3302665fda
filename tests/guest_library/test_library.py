"""CPython's own tests of its library, in the sandbox: no test does worse than under the runtime's own runner.

They come from the folder that ``SOJOURN_CPYTHON_TESTS`` names (the one that holds the package ``test``; best
of the guest's version), or from the Python that runs this, when it has them.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from .outcomes import Outcomes, by_its_own_runner, in_sandbox

VARIABLE = "SOJOURN_CPYTHON_TESTS"
MODULES = (
    *(
        "json",
        "re",
        "zipfile",
        "tempfile",
        "io",
        "os",
        "shutil",
        "posixpath",
        "genericpath",
        "fileio",
        "file",
    ),
    *(
        "bufio",
        "memoryio",
        "glob",
        "fnmatch",
        "pathlib",
        "stat",
        "filecmp",
        "fileinput",
        "linecache",
        "tarfile",
    ),
    *(
        "gzip",
        "bz2",
        "lzma",
        "zlib",
        "zipapp",
        "zoneinfo",
        "datetime",
        "time",
        "calendar",
        "strptime",
        "signal",
    ),
    *("select", "selectors", "sqlite3", "dbm", "shelve", "pickle", "copy", "plistlib", "tomllib", "csv"),
    *("configparser", "builtin", "exceptions", "warnings", "sys", "runpy", "importlib", "ast", "grammar"),
    *(
        "functools",
        "itertools",
        "collections",
        "dict",
        "list",
        "set",
        "str",
        "bytes",
        "int",
        "float",
        "decimal",
    ),
    *(
        "fractions",
        "statistics",
        "random",
        "uuid",
        "hashlib",
        "base64",
        "struct",
        "array",
        "codecs",
        "locale",
    ),
    *("logging", "argparse", "enum", "dataclasses", "typing", "weakref", "gc", "atexit", "contextlib"),
    *("asyncio.test_queues", "asyncio.test_locks", "asyncio.test_timeouts", "asyncio.test_taskgroups"),
    *("asyncio.test_runners", "email", "xml_etree", "urllib", "ipaddress", "unicodedata", "generators"),
)
# Differ from run to run by what they measure, wherever they run.
UNSTEADY = frozenset({"test.test_tracemalloc.TestTracemallocEnabled.test_snapshot"})


def folder() -> Path | None:
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    spec = find_spec("test")
    found = Path(spec.origin).parent.parent if spec is not None and spec.origin is not None else None
    return found if found is not None and (found / "test/test_json").is_dir() else None


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package ``test`` and nothing beside it, such as the library of another version."""
    source = folder()
    if source is None:
        pytest.skip(f"no tests of CPython here; name their folder in {VARIABLE}")
    copy = tmp_path_factory.mktemp("cpython")
    shutil.copytree(source / "test", copy / "test", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MODULES)
def test_module(name: str, runtime_home: Path, alone: Path) -> None:
    module = f"test.test_{name}"
    ours = in_sandbox(alone, module, runtime_home)
    own = by_its_own_runner(alone, module)
    worse = [test for test in ours.worse_than(own) if test not in UNSTEADY]
    assert not worse, ours.errors
    assert ours.by_test or not own.by_test


def test_outcomes_are_compared_test_by_test() -> None:
    lines = '@outcome ["a", "began"]\nnoise\n@outcome ["a", "passed"]\n'
    own = Outcomes.read(lines + '@outcome ["b", "skipped"]\n@outcome ["<module>", "ended"]\n', "")
    assert own.by_test == {"a": "passed", "b": "skipped"}
    assert own.worse_than(own) == []
    assert Outcomes.read(lines, "").worse_than(own) == ["b", "<module>"]
    failed = Outcomes.read('@outcome ["a", "failed"]\n' + lines + '@outcome ["<module>", "ended"]\n', "")
    assert failed.by_test["a"] == "failed"
    assert failed.worse_than(own) == ["a", "b"]
    assert own.worse_than(failed) == []
