"""Where a program would notice that it is not run by ``python``: variables, flags, statuses, deep data."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..conftest import Sojourn

pytestmark = pytest.mark.runtime


@pytest.mark.parametrize(
    ("code", "status", "last"),
    [
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
        ("import signal; signal.raise_signal(signal.SIGINT)", 130, "KeyboardInterrupt"),
        ("import sys; sys.exit(2 ** 70)", 255, ""),
        ("import sys; sys.exit(-1)", 255, ""),
        ("import sys; sys.exit(1.5)", 1, "1.5"),
        ("import jsn", 1, "ModuleNotFoundError: No module named 'jsn'"),
    ],
)
def test_endings(sojourn: Sojourn, code: str, status: int, last: str) -> None:
    done = sojourn("run", "-c", code)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.rpartition("\n")[0].rpartition("\n")[2] == last


def test_modules_are_found_along_pythonpath(sojourn: Sojourn, tmp_path: Path) -> None:
    (tmp_path / "lib/pack").mkdir(parents=True)
    (tmp_path / "lib/pack/__init__.py").write_text("")
    (tmp_path / "lib/pack/tool.py").write_text("import sys; print(__name__, sys.argv[1:])")
    (tmp_path / "lib/json.py").write_text("mine = True")
    granted = ("run", "--grant", "dir:lib=/lib", "--env", "PYTHONPATH=/lib:/absent")
    assert sojourn(*granted, "-m", "pack.tool", "a").stdout == "__main__ ['a']\n"
    code = "import sys, pack.tool; at = sys.path.index('/lib'); print(sys.path[at:at + 2], at > 0)"
    assert sojourn(*granted, "-c", code).stdout == "pack.tool []\n['/lib', '/absent'] True\n"


def test_variables_of_the_interpreter_are_heeded(sojourn: Sojourn) -> None:
    code = (
        "import sys, asyncio; print(sys.stdout.encoding, sys.stdout.errors, sys.stderr.errors)\n"
        "print(sys.flags.ignore_environment, sys.flags.isolated, sys.flags.no_site, sys.flags.safe_path)\n"
        "print(asyncio.new_event_loop().get_debug())\n"
        "import warnings; warnings.warn('old', DeprecationWarning)"
    )
    variables = (
        "PYTHONIOENCODING=ascii:replace",
        "PYTHONWARNINGS=error::DeprecationWarning",
        "PYTHONASYNCIODEBUG=1",
    )
    done = sojourn("run", *(part for variable in variables for part in ("--env", variable)), "-c", code)
    assert done.stdout == "ascii replace backslashreplace\n0 0 0 False\nTrue\n"
    assert done.returncode == 1
    assert done.stderr.endswith("DeprecationWarning: old\n")


@pytest.mark.parametrize(
    "step",
    [
        *("x = [x]", "x = (x,)", "x = {1: x}", "x = map(str, x)", "x = iter([x])", "x = lambda x=x: x"),
        "y = x; x = Exception(); x.__context__ = y if isinstance(y, Exception) else None",
    ],
)
def test_data_nested_deeply_is_made_and_freed(sojourn: Sojourn, step: str) -> None:
    """CPython's C code frees it by recursion; on other systems 100,000 levels are no trouble."""
    code = f"x = []\nfor _ in range(100_000):\n  {step}\nx = y = None\nprint('freed')"
    done = sojourn("run", "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "freed\n", "")


@pytest.mark.parametrize(
    "attempt",
    [
        "json.loads('[' * 100_000)",
        "json.dumps(x)",
        "repr(x)",
        "x == y",
        "copy.deepcopy(x)",
        "pickle.dumps(x)",
        "ast.parse('-' * 100_000 + '1')",
        "A()",
        "A() + 1",
        "sorted([1, 2], key=by)",
    ],
)
def test_recursion_too_deep_is_an_error_that_a_program_can_catch(sojourn: Sojourn, attempt: str) -> None:
    code = f"""
import ast, copy, json, pickle, sys
sys.setrecursionlimit(100_000)
x, y = [], []
for _ in range(100_000):
    x, y = [x], [y]
class A:
    def __init__(self): self.next = A()
    def __add__(self, other): return self + other
def by(_): return sorted([1, 2], key=by)
try:
    {attempt}
except (RecursionError, MemoryError) as error:
    print(type(error).__name__)
"""
    done = sojourn("run", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("RecursionError\n", "MemoryError\n")


def test_a_high_recursion_limit_is_reached(sojourn: Sojourn) -> None:
    code = (
        "import sys; sys.setrecursionlimit(200_000)\ndef depth(n): return n and 1 + depth(n - 1)\n"
        "print(depth(150_000))"
    )
    assert sojourn("run", "-c", code).stdout == "150000\n"
