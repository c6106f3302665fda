"""``sojourn inspect`` of processes and their checkpoints: where they are, and what they are made of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sojourn.cli.context_view import traceback_lines
from sojourn.context import Context
from sojourn.store.checkpoints import Checkpoints
from sojourn.store.home import Home
from sojourn.vm.process.snapshots import TRANSFORM

from ..wat import wat
from .commands import Commands
from .test_run_wasm import CAT, SPIN

# Where each of these stands when it waits, outermost first; ``# name`` in the text marks a line.
PLACES = """
import asyncio, functools, sys
import numpy as np

def ask(x=0):
    print("?", flush=True)
    return input()  # ask

class Thing:
    def __lt__(self, other):
        return bool(ask())  # lt

    @functools.cached_property
    def value(self):
        return [ask() for _ in range(1)]  # value

    @classmethod
    def deep(cls, n):
        if n == 0:
            return ask()  # bottom
        return cls.deep(n - 1)  # deep

def steps():
    yield 1
    yield ask()  # steps

async def inner():
    await asyncio.sleep(0)
    ask()  # inner

async def outer():
    await inner()  # outer

def place(which):
    if which == "deep":
        Thing.deep(1500)  # call deep
    elif which == "lt":
        sorted([Thing(), Thing()])  # call lt
    elif which == "key":
        max([1], key=lambda x: (  # call key
            x,
            ask(),  # key
        ))
    elif which == "value":
        Thing().value  # call value
    elif which == "vectorize":
        np.vectorize(ask)(np.arange(3))  # call vectorize
    elif which == "steps":
        list(x for x in steps())  # call steps
    elif which == "async":
        asyncio.run(outer())  # call async

sys.setrecursionlimit(5000)
place(sys.argv[1])  # main
"""
# Which frames there are, as (function, mark); only those of the program.
EXPECTED: dict[str, list[tuple[str, str]]] = {
    "deep": [*[("Thing.deep", "deep")] * 1500, ("Thing.deep", "bottom")],
    "lt": [("Thing.__lt__", "lt")],
    "key": [("place.<locals>.<lambda>", "key")],
    "value": [("Thing.value", "value")],
    "vectorize": [],
    "steps": [("place.<locals>.<genexpr>", "call steps"), ("steps", "steps")],
    "async": [("outer", "outer"), ("inner", "inner")],
}


@pytest.fixture
def cli(runtime_home: Path, tmp_path: Path) -> Commands:
    return Commands(runtime_home, tmp_path)


def marks(text: str) -> dict[str, int]:
    """The line of each mark."""
    return {line.rpartition("# ")[2]: at for at, line in enumerate(text.splitlines(), 1) if "  # " in line}


def in_program(frames: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(frame["function"], frame["line"]) for frame in frames if frame["file"] == "/program/places.py"]


@pytest.mark.runtime
@pytest.mark.parametrize("which", EXPECTED)
def test_the_traceback_of_a_python_program(cli: Commands, which: str) -> None:
    """Of one that waits for input, deep in something; it then goes on as if nobody had looked."""
    (cli.folder / "places.py").write_text(PLACES)
    name = f"{which} {cli.folder.name}"
    with cli.running("run", "--name", name, "places.py", which) as process:
        pid = cli.named(name)
        cli.until_output(pid, 2)
        value = cli.json("inspect", pid)
        again = cli.json("inspect", "--last", pid)
        shown = cli("inspect", pid).stdout
        _, err = process.communicate(b"\n" * 10, timeout=60)
    line = marks(PLACES)
    python = value["context"]["python"]
    (frames,) = python["threads"]
    expected = [("<module>", "main"), ("place", f"call {which}"), *EXPECTED[which], ("ask", "ask")]
    assert in_program(frames) == [(function, line[mark]) for function, mark in expected]
    assert (python["version"], python["cut"]) == ("3.15.0", "")
    assert frames[-1]["source"] == "return input()  # ask"
    assert [frame["internal"] for frame in frames[:4]] == [True, True, True, False]
    assert again["context"]["checkpoint"] == value["context"]["checkpoint"]
    assert shown.endswith(
        f'  File "/program/places.py", line {line["ask"]}, in ask\n    return input()  # ask\n'
    )
    assert "_sojourn_agent" not in shown
    assert ("[Previous line repeated 1497 more times]" in shown) == (which == "deep")
    assert err == b""
    assert value["state"] == "running"


@pytest.mark.runtime
def test_one_that_computes_is_where_it_computes(cli: Commands) -> None:
    text = (
        "def spin():\n    n = 0\n    print('?', flush=True)\n    while True:\n        n = hash((n, n))\n"
        "class C:\n    def __init__(self):\n        spin()\nC()\n"
    )
    name = f"spins {cli.folder.name}"
    with cli.running("run", "--name", name, "-c", text):
        pid = cli.named(name)
        cli.until_output(pid, 2)
        context = cli.json("inspect", pid)["context"]
        assert cli("kill", pid).returncode == 0
    frames = [frame for frame in context["python"]["threads"][0] if not frame["internal"]]
    assert [(f["function"], f["file"]) for f in frames] == [
        ("<module>", "<string>"),
        ("C.__init__", "<string>"),
        ("spin", "<string>"),
    ]
    assert [frame["line"] for frame in frames[:2]] == [9, 8]
    assert frames[2]["line"] in (4, 5)
    assert frames[1]["source"] == "spin()"
    assert context["native"] is None
    assert context["used"]["cpu_seconds"] > 0


@pytest.mark.runtime
def test_everything_about_a_suspended_process_and_its_file(cli: Commands, tmp_path: Path) -> None:
    granted = tmp_path / "granted"
    granted.mkdir()
    (granted / "words").write_text("one two three")
    text = (
        "import sys\nf = open('/data/words')\nf.read(4)\ng = open('/tmp/mine', 'a')\ng.write('x' * 10)\n"
        "g.flush()\nprint('?', flush=True)\ninput()"
    )
    (tmp_path / "prog.py").write_text(text)
    name = f"whole {tmp_path.name}"
    flags = ("--grant", f"dir:{granted}=/data", "--env", "LEVEL=3", "--cpu", "90s")
    with cli.running("run", "--name", name, *flags, "prog.py", "a b", "c"):
        pid = cli.named(name)
        cli.until_output(pid, 2)
        assert cli("checkpoint", pid).returncode == 0
        cli.evict(pid)
    assert cli("checkpoint", pid, "-o", "whole.context").returncode == 0
    value = cli.json("inspect", "--native", pid)
    context = value["context"]
    assert value["state"] == "suspended"
    assert (context["pid"], context["name"], context["args"]) == (pid, name, ["a b", "c"])
    assert (context["epoch"], context["sequence"], context["transform"]) == (1, 1, TRANSFORM)
    assert re.fullmatch("[0-9a-f]{64}", context["parent"])
    assert context["program"]["entry"] == {"kind": "script", "target": "prog.py"}
    (memory,) = context["memory"]
    assert memory["base"]["kind"] == "image"
    assert memory["own_bytes"] + memory["base_bytes"] + memory["zero_bytes"] == memory["bytes"]
    assert 0 < memory["own_bytes"] < memory["base_bytes"]
    total = sum(count for part, count in context["bytes"].items() if part != "total")
    assert total == context["bytes"]["total"] > memory["own_bytes"]
    by_path = {row["path"]: row for row in context["descriptors"]}
    assert by_path["/data/words"]["offset"] == 13  # Python reads ahead
    assert by_path["/data/words"]["mount"] == "/data"
    assert (by_path["/tmp/mine"]["flags"], by_path["/tmp/mine"]["mount"]) == (["append"], "private")
    assert [row["stream"] for row in context["descriptors"][:3]] == ["stdin", "stdout", "stderr"]
    assert {"path": "/data", "kind": "directory", "writable": False} in context["mounts"]
    assert [(g["kind"], g["binding"]) for g in context["grants"]] == [("dir", "identifier"), ("env", "value")]
    assert context["limits"]["cpu_seconds"] == 90
    used = context["used"]
    assert (used["output_bytes"], used["memory_bytes"]) == (2, memory["bytes"])
    assert used["file_bytes"] > 10
    assert used["descriptors"] == len(context["descriptors"])
    names = [frame["name"] for frame in context["native"]]
    assert names[0] == "PyObject_CallOneArg"
    assert "_PyEval_EvalFrameDefault" in names
    assert names[-1] == "wasi_snapshot_preview1.fd_read"

    file = cli.json("inspect", str(tmp_path / "whole.context"))["context"]
    different = {"checkpoint", "memory", "bytes", "native"}
    assert {k: v for k, v in file.items() if k not in different} == {
        k: v for k, v in context.items() if k not in different
    }
    assert file["memory"][0]["base"] == {"kind": "none", "digest": ""}
    assert file["bytes"]["program"] > 0
    shown = cli("inspect", "--native", pid).stdout
    for words in (
        *(pid, name, "script prog.py a b c", "number 1 of epoch 1", "as in the image", "of 90 s", "append"),
        *(
            "/data/words",
            f"{granted} at /data (read)",
            "by identifier",
            "by value",
            "in <module>\n    input()",
        ),
        "  wasi_snapshot_preview1.fd_read\n",
    ):
        assert words in shown, words
    assert cli("kill", pid).returncode == 0


@pytest.mark.runtime
def test_what_is_missing_here_takes_away_only_what_depends_on_it(cli: Commands, tmp_path: Path) -> None:
    """A file in another home, a checkpoint without its image, one whose frames another version saved."""
    name = f"missing {tmp_path.name}"
    with cli.running("run", "--name", name, "-c", "def f():\n    print('?', flush=True)\n    input()\nf()"):
        pid = cli.named(name)
        cli.until_output(pid, 2)
        cli.evict(pid)
    assert cli("checkpoint", pid, "-o", "f.context").returncode == 0
    elsewhere = Commands(tmp_path / "other home", tmp_path)
    context = elsewhere.json("inspect", "--native", "f.context")["context"]
    assert [f["function"] for f in context["python"]["threads"][0] if not f["internal"]] == ["<module>", "f"]
    assert context["native"] is None
    assert "not compiled here" in context["native_problem"]

    other = Home.open(elsewhere.home)
    with Checkpoints(cli.home / "checkpoints").latest(pid) as stored:  # type: ignore[union-attr]
        Checkpoints(other.checkpoints).save(stored.context, previous=stored)
        older = replace(stored.context, transform=TRANSFORM - 1)
        other_pid = replace(older, pid="aaaabbbb")
        saved = Checkpoints(other.checkpoints).save(other_pid, previous=stored)
    described = _described(other, pid)
    assert described["python"] is None
    assert "not here" in described["python_problem"]
    assert "is not here" in described["program"]["problem"]
    assert "is not here" in described["native_problem"]
    described = _described(other, "aaaabbbb")
    assert f"version {TRANSFORM - 1}" in described["native_problem"]
    assert described["checkpoint"] == saved.digest
    assert cli("kill", pid).returncode == 0


def _described(home: Home, pid: str) -> dict[str, Any]:
    from sojourn.host.inspecting import describe

    stored = Checkpoints(home.checkpoints).latest(pid)
    assert stored is not None
    with stored:
        return describe(home, stored, native=True)


@pytest.mark.runtime
def test_a_process_that_cannot_be_stored_says_why(cli: Commands) -> None:
    name = f"secretive {cli.folder.name}"
    environment = {**os.environ, "SOJOURN_HOME": str(cli.home), "SOJOURN_TEST_SECRET": "xyzzy"}
    flags = ("--secret", "SOJOURN_TEST_SECRET")
    code = "print('?', flush=True)\ninput()"
    with cli.running("run", "--name", name, *flags, "-c", code, env=environment) as process:
        pid = cli.named(name)
        cli.until_output(pid, 2)
        value = cli.json("inspect", pid)
        process.communicate(b"\n", timeout=60)
    assert value["context"] is None
    assert "holds secrets" in value["context_problem"]
    assert cli.json("inspect", pid)["context"] is None  # it has ended


# -- other programs ------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Commands:
    """In a home of its own: these compile in no time."""
    return Commands(tmp_path / "home", tmp_path)


NESTED = """(module (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "\\40\\00\\00\\00\\01\\00\\00\\00")
  (func $down (param i32) (if (local.get 0)
    (then (call $down (i32.sub (local.get 0) (i32.const 1))) (i32.store (i32.const 99) (i32.const 1)))
    (else (call $wait) (i32.store (i32.const 95) (i32.const 1)))))
  (func $wait (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 32)))
    (i32.store (i32.const 98) (i32.const 1)))
  (func $twice (call $down (i32.const 60)) (i32.store (i32.const 97) (i32.const 1)))
  (func (export "_start") (call $twice) (i32.store (i32.const 96) (i32.const 1))))"""


@pytest.mark.engine
def test_the_functions_of_a_webassembly_program(small: Commands) -> None:
    (small.folder / "nested.wasm").write_bytes(wat(NESTED))
    with small.running("run", "nested.wasm") as process:
        pid = small.named("nested.wasm")
        value = small.json("inspect", pid)
        shown = small("inspect", pid).stdout
        process.communicate(b"x", timeout=30)
    assert process.returncode == 0
    context = value["context"]
    assert [frame["name"] for frame in context["native"]] == [
        *("function 4", "twice", *["down"] * 61, "wait", "wasi_snapshot_preview1.fd_read")
    ]
    assert context["python"] is None
    assert (context["native_problem"], context["program"]["entry"]["kind"]) == ("", "wasm")
    assert context["memory"][0]["base"]["kind"] == "module"
    assert "  [Previous line repeated 57 more times]\n" in shown
    assert shown.endswith("  wait\n  wasi_snapshot_preview1.fd_read\n")


@pytest.mark.engine
def test_a_loop_without_memory_and_a_stream(small: Commands) -> None:
    for name, text, expected in (("spin", SPIN, ["function 0"]), ("cat", CAT, None)):
        (small.folder / f"{name}.wasm").write_bytes(wat(text))
        with small.running("run", f"{name}.wasm"):
            pid = small.named(f"{name}.wasm")
            context = small.json("inspect", pid)["context"]
            assert expected is None or [frame["name"] for frame in context["native"]] == expected
            assert len(context["memory"]) == (name == "cat")
            assert small("kill", pid).returncode == 0


@pytest.mark.native
def test_the_functions_of_a_c_program(small: Commands) -> None:
    source = small.folder / "deep.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n"
        "__attribute__((noinline)) int compare(const void *a, const void *b) "
        "{ return getchar() + *(int *)a - *(int *)b; }\n"
        "__attribute__((noinline)) int order(int *v, int n) "
        "{ qsort(v, n, sizeof *v, compare); return v[0]; }\n"
        'int main(void) { int v[] = {3, 1, 2}; puts("?"); fflush(stdout); return order(v, 3) > 3; }\n'
    )
    compiler = [shutil.which("clang") or "clang", "--target=wasm32-wasi"]
    # In two steps: asked to optimise, clang hands what it has linked to binaryen, which drops all names.
    for flags in (("-O1", "-c", "deep.c"), ("-o", "deep.wasm", "deep.o")):
        subprocess.run([*compiler, *flags], cwd=small.folder, check=True, capture_output=True)
    with small.running("run", "deep.wasm") as process:
        pid = small.named("deep.wasm")
        small.until_output(pid, 2)
        names = [frame["name"] for frame in small.json("inspect", pid)["context"]["native"]]
        process.communicate(b"\n" * 20, timeout=30)
    wanted = iter(names)
    assert all(name in wanted for name in ("__original_main", "order", "qsort", "compare")), names
    assert names[-1] == "wasi_snapshot_preview1.fd_read"


# -- bad files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    folder = tmp_path_factory.mktemp("good")
    small = Commands(folder / "home", folder)
    (folder / "nested.wasm").write_bytes(wat(NESTED))
    with small.running("run", "nested.wasm"):
        pid = small.named("nested.wasm")
        assert small("checkpoint", pid, "-o", "good.context").returncode == 0
        assert small("kill", pid).returncode == 0
    yield (folder / "good.context").read_bytes()


def refused(small: Commands, data: bytes, name: str = "bad.context") -> str:
    """The type of the error that inspecting such a file ends with."""
    (small.folder / name).write_bytes(data)
    done = small("inspect", "--json", name)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout
    error = json.loads(done.stderr)
    assert error["message"]
    assert error["hint"]
    return str(error["error"])


@pytest.mark.engine
def test_each_kind_of_bad_file_has_its_error(small: Commands, context_file: bytes) -> None:
    from .test_checkpoints import _of_format

    assert refused(small, b"") == "NotAContextError"
    assert refused(small, b"import this\n") == "NotAContextError"
    assert refused(small, _of_format(context_file, 9)) == "OtherVersionError"
    assert refused(small, _of_format(context_file, 9), "without suffix") == "OtherVersionError"
    assert refused(small, context_file[:-1]) == "DamagedContextError"
    for at in range(40, len(context_file), len(context_file) // 12):
        flipped = context_file[:at] + bytes([context_file[at] ^ 1]) + context_file[at + 1 :]
        assert refused(small, flipped) == "DamagedContextError", at


@pytest.mark.engine
def test_frames_of_another_version_are_not_gone_on_with(small: Commands, context_file: bytes) -> None:
    data = _rewritten(small, context_file, transform=TRANSFORM + 1)
    (small.folder / "newer.context").write_bytes(data)
    done = small("resume", "--json", "newer.context")
    assert (done.returncode, json.loads(done.stderr)["error"]) == (2, "OtherVersionError")
    context = small.json("inspect", "newer.context")["context"]
    assert f"version {TRANSFORM + 1} of the transform" in context["native_problem"]
    assert context["memory"]
    (pid,) = (record["pid"] for record in small.json("ps") if record["state"] == "suspended")
    assert small("kill", pid).returncode == 0


HOSTILE: dict[str, dict[str, Any]] = {
    "no host": {"host": None},
    "args a number": {"host": {"args": 7}},
    "no descriptors": {"descriptors": []},
    "a descriptor a number": {"descriptors": {"open": [7], "directories": []}},
    "a flag a text": {"descriptors": {"open": [{"number": 1, "kind": "file", "flags": "x"}]}},
    "a path a list": {"descriptors": {"open": [{"number": 1, "kind": "file", "flags": 0, "path": [1]}]}},
    "a mount a text": {"mounts": ["x"]},
    "no clocks": {"clocks": 3},
    "a clock a text": {"clocks": {"monotonic_ns": 0, "wall_ns": 0, "cpu_ns": "x"}},
    "calls a map": {"host_calls": {}},
    "usage missing": {"usage": {}},
    "left a text": {"left_call": "x"},
    "a program that is none": {"program": b"PK\3\4"},
}


@pytest.mark.engine
@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_with_right_checksums_is_damaged(
    small: Commands, context_file: bytes, change: dict[str, Any]
) -> None:
    assert refused(small, _rewritten(small, context_file, system=change)) == "DamagedContextError"


@pytest.mark.engine
@pytest.mark.parametrize(
    "change",
    [
        {"grants": [{"kind": "dir", b"x": 1}]},
        {"grants": [{7: 8}]},
        {"limits": {"cpu_seconds": "x"}},
        {"limits": {7: 1}},
        {"limits": {"none": 1, b"x": 2}},
    ],
)
def test_hostile_grants_and_limits_are_damaged(
    small: Commands, context_file: bytes, change: dict[str, Any]
) -> None:
    data = _rewritten(small, context_file, **change)
    assert refused(small, data) == "DamagedContextError"
    done = small("resume", "bad.context")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def _rewritten(small: Commands, data: bytes, **changes: Any) -> bytes:
    """The file with other values in it, as somebody who knows the format would write it."""
    path = small.folder / "rewritten.context"
    path.write_bytes(data)
    store = Checkpoints(small.folder / "none")
    with store.open_file(path) as stored:
        context: Context = stored.context
        if "system" in changes:
            changes["system"] = context.system | changes["system"]
        stored.context = replace(context, **changes)
        store.export(stored, path, {})
    return path.read_bytes()


# -- the words -----------------------------------------------------------------------------------------


def test_repeated_lines_are_counted_as_python_counts_them() -> None:
    def frame(line: int) -> dict[str, Any]:
        return {"file": "p.py", "line": line, "function": "f", "source": f"x{line}"}

    lines = list(traceback_lines([frame(1), *[frame(2)] * 3, *[frame(3)] * 4, *[frame(4)] * 9]))
    assert lines.count('  File "p.py", line 2, in f') == 3
    assert lines.count("    x3") == 3
    assert lines.count("  [Previous line repeated 1 more time]") == 1
    assert lines[-1] == "  [Previous line repeated 6 more times]"
