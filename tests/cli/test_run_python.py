"""``sojourn run`` with Python programs, as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..conftest import Sojourn

pytestmark = pytest.mark.runtime


def test_code_with_arguments_and_status(sojourn: Sojourn) -> None:
    done = sojourn("run", "-c", "import sys; print(sys.argv); sys.exit(7)", "a", "--json", "-c")
    assert (done.returncode, done.stdout) == (7, "['-c', 'a', '--json', '-c']\n")


def test_a_script_with_local_modules_and_data(sojourn: Sojourn, tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(
        "import sys, helper\nfrom pkg import inner\nprint(helper.x, inner.y, sys.argv[1:])\n"
        "print(open('/program/words.txt').read())\n"
        "assert __name__ == '__main__' and __file__.endswith('prog.py')\n"
    )
    (tmp_path / "helper.py").write_text("x = 1\n")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("")
    (tmp_path / "pkg/inner.py").write_text("from . import deep\ny = deep.z + 1\n")
    (tmp_path / "pkg/deep.py").write_text("z = 1\n")
    (tmp_path / "words.txt").write_text("data")
    done = sojourn("run", "--include", "words.txt", "prog.py", "--flag", "v")
    assert (done.stdout, done.returncode) == ("1 2 ['--flag', 'v']\ndata\n", 0), done.stderr


def test_module_and_stdin(sojourn: Sojourn) -> None:
    assert sojourn("run", "-m", "json.tool", stdin="[1]").stdout == "[\n    1\n]\n"
    assert sojourn("run", "-", "x", stdin="import sys; print(sys.argv)").stdout == "['-', 'x']\n"


@pytest.mark.parametrize(
    ("code", "status", "stderr"),
    [
        ("1/0", 1, "ZeroDivisionError: division by zero"),
        ("def f(:", 1, "SyntaxError"),
        ("import sys; sys.exit('words')", 1, "words\n"),
        ("import os; os._exit(9)", 9, ""),
        ("exit()", 0, ""),
        ("raise SystemExit(300)", 44, ""),
    ],
)
def test_ends_as_python_does(sojourn: Sojourn, code: str, status: int, stderr: str) -> None:
    done = sojourn("run", "-c", code)
    assert done.returncode == status
    assert stderr in done.stderr
    assert "_sojourn_agent" not in done.stderr


def test_what_happens_at_exit(sojourn: Sojourn) -> None:
    code = (
        "import atexit\nclass A:\n  def __del__(self): print('deleted')\n"
        "a = A()\natexit.register(print, 'at exit')\n"
        "f = open('/tmp/x', 'w')\nf.write('unflushed')\nprint('end')"
    )
    assert sojourn("run", "-c", code).stdout == "end\nat exit\ndeleted\n"


@pytest.mark.parametrize(
    "code",
    [
        "import sys; del sys.modules['__main__']",
        "import sys; sys.modules.clear()",
        "import atexit; atexit.register(lambda: 1/0)",
        "import sys; sys.stdout.close()",
        "import sys, json; json.loads = None; sys.excepthook = None; 1/0",
        "import os; os.close(1); os.close(2)",
    ],
)
def test_a_program_that_breaks_its_interpreter_never_shows_a_secret(sojourn: Sojourn, code: str) -> None:
    done = sojourn("run", "--secret", "TOKEN", "-c", code, TOKEN="hush-2")
    assert "hush-2" not in done.stdout + done.stderr
    assert "_sojourn_agent" not in done.stderr


def test_nothing_is_granted_by_default(sojourn: Sojourn) -> None:
    code = (
        "import os, socket, subprocess\nprint(dict(os.environ), sorted(os.listdir('/')))\n"
        "for path in ('/etc/passwd', '/root', '../etc/passwd'):\n"
        "  try: open(path)\n  except OSError as e: print('no')\n"
        "try: subprocess.run(['ls'])\nexcept (OSError, AttributeError): print('no')\n"
        "try: socket.create_connection(('127.0.0.1', 22), 1)\nexcept (OSError, AttributeError): print('no')\n"
    )
    done = sojourn("run", "-c", code, EDITOR="vi")
    assert done.stdout.splitlines()[1:] == ["no"] * 5, done.stderr
    assert done.stdout.startswith("{} ['home', ")


def test_grants(sojourn: Sojourn, tmp_path: Path) -> None:
    for name in ("ro", "rw"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    code = (
        "print(open('ro/file').read(), open('/w/file').read())\n"
        "open('/w/new', 'w').write('x')\nopen('/ro/new', 'w')"
    )
    done = sojourn("run", "--grant", "dir:ro", "--grant", "dir:rw=/w:rw", "-c", code)
    assert done.stdout == "ro rw\n"
    assert "Read-only file system" in done.stderr
    assert (tmp_path / "rw/new").read_text() == "x"
    assert not (tmp_path / "ro/new").exists()


def test_environment_and_secrets(sojourn: Sojourn) -> None:
    code = "import os; print(os.environ['A'], os.environ['TOKEN'])"
    done = sojourn(
        "run", "--name", "secretive", "--env", "A=b=c", "--secret", "TOKEN", "-c", code, TOKEN="hush-1"
    )
    assert done.stdout == "b=c hush-1\n"
    records = sojourn("ps", "-a", "--json").stdout
    assert "secretive" in records
    assert "hush-1" not in records


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["missing.py"], "missing.py"),
        (["--grant", "dir:missing", "-c", "1"], "there is no such file"),
        (["--grant", "what", "-c", "1"], "--grant dir:PATH"),
        (["--grant", "dir:/tmp=/a", "--grant", "dir:/usr=/a/", "-c", "1"], "two grants"),
        (["--grant", "dir:/tmp=a", "--grant", "dir:/usr=./a", "-c", "1"], "two grants"),
        (["--grant", "dir:/tmp=.", "-c", "1"], "hide Python's own library"),
        (["--grant", "dir:/tmp=/", "-c", "1"], "hide"),
        (["--cpu", "0", "-c", "1"], "below the least"),
        (["--memory", "0", "-c", "1"], "below the least"),
        (["--memory", "1M", "-c", "1"], "interpreter itself"),
        (["--memory", "much", "-c", "1"], "not a size"),
        (["--net", "-c", "1"], "network"),
        (["--secret", "NOT_THERE", "-c", "1"], "no secret NOT_THERE"),
        (["--env", "A", "-c", "1"], "--env A=VALUE"),
        ([], "no program"),
    ],
)
def test_bad_requests_name_the_fix(sojourn: Sojourn, args: list[str], words: str) -> None:
    done = sojourn("run", *args)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_memory_limit_is_named(sojourn: Sojourn) -> None:
    done = sojourn("run", "--memory", "200M", "--json", "-c", "x = bytearray(10**9)")
    ending = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, ending["limit"]) == (125, "memory_bytes")
    assert "MemoryError" in done.stderr


def test_deep_recursion_is_the_guests_error(sojourn: Sojourn) -> None:
    done = sojourn("run", "-c", "def f(): f()\nf()")
    assert done.returncode == 1
    assert "RecursionError" in done.stderr


def test_two_starts_share_no_randomness_and_no_clock(sojourn: Sojourn) -> None:
    code = (
        "import random, uuid, os, secrets, tempfile, time, numpy as np\n"
        "print(random.random(), uuid.uuid4(), uuid.uuid1(), os.urandom(8), secrets.token_hex(8), "
        "tempfile.mkdtemp(), np.random.rand(), np.random.default_rng().random(), os.getpid(), sep='\\n')\n"
        "print(time.time())"
    )
    one, two = (sojourn("run", "-c", code).stdout.splitlines() for _ in range(2))
    assert len(one) == 10
    assert all(a != b for a, b in zip(one, two, strict=True))
    assert float(two[-1]) > float(one[-1])


def test_a_bundle_is_the_same_bytes_and_runs(sojourn: Sojourn, tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text("import helper; print(helper.x)\n")
    (tmp_path / "helper.py").write_text("x = 5\n")
    for name in ("a", "b"):
        assert sojourn("pack", "prog.py", "-o", f"{name}.sojourn").returncode == 0
    assert (tmp_path / "a.sojourn").read_bytes() == (tmp_path / "b.sojourn").read_bytes()
    assert sojourn("run", "a.sojourn").stdout == "5\n"
    described = json.loads(sojourn("inspect", "a.sojourn", "--json").stdout)
    assert [file["name"] for file in described["files"]] == ["helper.py", "prog.py"]
