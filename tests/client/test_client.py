"""Functions in real sandboxes."""

from __future__ import annotations

import dataclasses
import enum
import io
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, as_completed, wait
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sojourn
from sojourn.client.sandbox import Forwarded

pytestmark = pytest.mark.runtime
FACTOR = 3


def scaled(x: float, by: float = FACTOR) -> float:
    return x * by


def spectrum(x):
    import numpy as np

    return np.abs(np.fft.rfft(x))


def fails(x):
    return 1 // x


def spin():
    while True:
        pass


FLOOD = """
import sys, sojourn

def flood():
    while True:
        print("x" * 1000)

with sojourn.Client(sandboxes=1) as client:
    try:
        client.submit(sojourn.function(deadline_s=1.0)(flood)).result(60)
    except TimeoutError as error:
        print(type(error).__name__, file=sys.stderr, flush=True)
    client.close()
    print("closed", file=sys.stderr, flush=True)
"""


@dataclasses.dataclass
class Point:
    x: int


class Colour(enum.Enum):
    RED = 1


def identity(value):
    return value


def loaded():
    import sys

    return "pandas" in sys.modules


def leaves(status):
    import os

    os._exit(status)


def exits(status):
    raise SystemExit(status)


def hoards():
    held = []
    while True:
        held.append(bytearray(16 << 20))


def recurses(depth):
    return [recurses(depth)]


def breaks_the_stream():
    import os

    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b"not a message at all")
        except OSError:
            continue


def holds(path):
    """Begins, says so, and never ends."""
    with open(path, "w"):
        pass
    while True:
        pass


def pid():
    import os

    return os.getpid(), os.urandom(8)


@pytest.fixture(scope="module")
def client(runtime_home: Path) -> Iterator[sojourn.Client]:
    with sojourn.Client(runtime_home, sandboxes=2) as client:
        yield client


def test_a_function_with_its_constants(client: sojourn.Client) -> None:
    assert client.submit(scaled, 2).result(60) == 6
    assert client.submit(scaled, 2, by=0.5).result(60) == 1.0


def test_arrays_and_frames_go_both_ways(client: sojourn.Client) -> None:
    x = np.random.default_rng(1).normal(size=4096)
    np.testing.assert_allclose(client.submit(spectrum, x).result(60), np.abs(np.fft.rfft(x)))
    frame = pd.DataFrame({"a": [1, 2, 3], "b": list("xyz")})
    pd.testing.assert_frame_equal(client.submit(lambda f: f[f.a > 1], frame).result(60), frame[frame.a > 1])


def test_map_keeps_the_order(client: sojourn.Client) -> None:
    assert list(client.map(scaled, range(500))) == [3 * n for n in range(500)]


def test_an_exception_comes_with_the_guests_traceback(client: sojourn.Client) -> None:
    with pytest.raises(sojourn.GuestError) as caught:
        client.submit(fails, 0).result(60)
    assert caught.value.type_name == "ZeroDivisionError"
    assert "return 1 // x" in caught.value.traceback


def test_what_cannot_be_shipped_is_named_at_once(client: sojourn.Client) -> None:
    lock = threading.Lock()
    with pytest.raises(sojourn.FunctionError, match="lock"):
        client.submit(lambda: lock.locked())


def test_a_value_that_cannot_cross(client: sojourn.Client) -> None:
    with pytest.raises(sojourn.CodecError):
        client.submit(scaled, object()).result(60)
    with pytest.raises(sojourn.CodecError):
        client.submit(lambda: object()).result(60)
    assert client.submit(scaled, 1).result(60) == 3


def test_a_deadline_ends_the_guest(client: sojourn.Client) -> None:
    late = sojourn.function(deadline_s=0.3)(spin)
    with pytest.raises(TimeoutError, match="0.3"):
        client.submit(late).result(60)
    assert client.submit(scaled, 1).result(60) == 3


def test_cancelling_ends_a_call_that_runs(client: sojourn.Client) -> None:
    futures = [client.submit(spin) for _ in range(4)]
    assert all(future.cancel() for future in futures)
    with pytest.raises(CancelledError):
        futures[0].result(1)
    assert client.submit(scaled, 1).result(60) == 3


def test_a_limit_fails_the_call_and_only_it(runtime_home: Path) -> None:
    with sojourn.Client(runtime_home, sandboxes=1, limits=sojourn.Limits(cpu_seconds=1)) as client:
        with pytest.raises(sojourn.ProcessFailedError, match="cpu_seconds"):
            client.submit(spin).result(60)
        assert client.submit(scaled, 1).result(60) == 3


def test_fresh_sandboxes_share_nothing(client: sojourn.Client) -> None:
    fresh = sojourn.function(fresh=True)(pid)
    assert len({random for _, random in (client.submit(fresh).result(60) for _ in range(5))}) == 5


def test_a_large_array(client: sojourn.Client) -> None:
    x = np.arange(8 << 20, dtype=np.float64)
    assert (client.submit(lambda a: a + 1, x).result(120) == x + 1).all()


def test_a_grant(runtime_home: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("granted")
    grant = sojourn.DirectoryGrant(str(tmp_path), "/data")
    with sojourn.Client(runtime_home, grants=[grant]) as client:
        assert client.submit(lambda: open("/data/x").read()).result(60) == "granted"  # noqa: SIM115


def test_leaving_with_an_error_cancels(runtime_home: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(KeyError), sojourn.Client(runtime_home) as client:
        future = client.submit(spin)
        raise KeyError
    assert future.cancelled() or future.exception() is not None
    assert time.monotonic() - begun < 60


def test_classes_that_only_the_arguments_are_of(client: sojourn.Client) -> None:
    value = [Point(1), {"c": Colour.RED}]
    assert client.submit(identity, value).result(60) == value
    assert client.submit(lambda point: point.x + 1, Point(4)).result(60) == 5


def test_the_image_has_the_packages_of_the_arguments(runtime_home: Path) -> None:
    with sojourn.Client(runtime_home, sandboxes=1) as client:
        assert client.submit(lambda frame: loaded(), pd.DataFrame({"a": [1]})).result(60) is True
        assert client.submit(loaded).result(60) is False
        make = client._pool._make
        kinds: list[Any] = []
        client._pool._make = lambda slot: kinds.append(slot.kind) or make(slot)  # type: ignore[func-returns-value]
        assert client.submit(identity, pd.Series([1])).result(60).tolist() == [1]
        assert [kind.imports for kind in kinds] == [("numpy", "pandas")]


DEATHS = {
    "os._exit": (leaves, (3,), sojourn.ProcessFailedError, "status 3"),
    "sys.exit": (exits, (3,), sojourn.GuestError, "SystemExit"),
    "memory": (hoards, (), (sojourn.GuestError, sojourn.ProcessFailedError), "(?i)memory"),
    "recursion": (
        recurses,
        (1,),
        (sojourn.GuestError, sojourn.ProcessFailedError),
        "(?i)recursion|trap|stack",
    ),
    "nonsense in the stream": (breaks_the_stream, (), sojourn.SojournError, "not a Sojourn message"),
}


@pytest.mark.parametrize(("function", "args", "error", "words"), DEATHS.values(), ids=DEATHS)
def test_a_guest_that_dies_fails_its_call_and_no_other(
    client: sojourn.Client, function: Any, args: Any, error: Any, words: str
) -> None:
    def mixed(number):
        return function(*args) if number == 5 else number

    futures = [client.submit(mixed, number) for number in range(12)]
    with pytest.raises(error, match=words):
        futures[5].result(120)
    others = [number for number in range(12) if number != 5]
    assert [futures[number].result(120) for number in others] == others


def test_waiting_for_cancelled_calls_ends(client: sojourn.Client) -> None:
    futures = [client.submit(spin) for _ in range(3)] + [client.submit(scaled, 2)]
    for future in futures[:3]:
        assert future.cancel()
    done, left = wait(futures, timeout=60)
    assert (len(done), len(left)) == (4, 0)
    assert set(as_completed(futures, timeout=60)) == set(futures)


def test_a_cancelled_call_stops_its_guest(client: sojourn.Client, runtime_home: Path, tmp_path: Path) -> None:
    grant = sojourn.DirectoryGrant(str(tmp_path), "/out", writable=True)
    with sojourn.Client(runtime_home, sandboxes=1, grants=[grant]) as client:
        running = client.submit(holds, "/out/begun")
        queued = [client.submit(holds, f"/out/never-{number}") for number in range(3)]
        until(lambda: (tmp_path / "begun").exists())
        assert all(future.cancel() for future in [*queued, running])
        assert client.submit(scaled, 1).result(60) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.01)


def test_map_takes_endless_input_and_closes_early(client: sojourn.Client) -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield number

    results = client.map(scaled, numbers())
    assert taken > 0, "the first calls are made at once"
    assert [next(results) for _ in range(5)] == [0, 3, 6, 9, 12]
    results.close()  # type: ignore[attr-defined]
    assert taken <= 5 + 256
    assert client.submit(scaled, 1).result(60) == 3


def test_map_over_nothing_and_over_several(client: sojourn.Client) -> None:
    assert list(client.map(scaled, [])) == []
    assert list(client.map(scaled, [1, 2, 3], [10, 20])) == [10, 40]


def test_map_refuses_at_once_and_fails_in_order(client: sojourn.Client) -> None:
    lock = threading.Lock()
    with pytest.raises(sojourn.FunctionError, match="lock"):
        client.map(lambda x: lock.locked(), [1])
    results = client.map(fails, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1, 0]
    with pytest.raises(sojourn.GuestError, match="ZeroDivisionError"):
        next(results)
    with pytest.raises(TimeoutError):
        list(client.map(lambda x: spin(), [1], timeout=0.2))


def test_many_threads_submit_at_once(client: sojourn.Client) -> None:
    results: dict[int, list[Any]] = {}

    def use(thread: int) -> None:
        results[thread] = [client.submit(scaled, thread, by=n).result(120) for n in range(20)]

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == {thread: [thread * n for n in range(20)] for thread in range(8)}


def test_a_future_can_submit_the_next(client: sojourn.Client) -> None:
    chain: list[Any] = []
    all_done = threading.Event()

    def then(future: Any) -> None:
        chain.append(future.result())
        if len(chain) == 5:
            all_done.set()
        else:
            client.submit(scaled, future.result()).add_done_callback(then)

    client.submit(scaled, 1).add_done_callback(then)
    assert all_done.wait(60)
    assert chain == [3, 9, 27, 81, 243]


def test_a_closed_client_says_so(runtime_home: Path) -> None:
    client = sojourn.Client(runtime_home)
    client.close()
    client.close()
    with pytest.raises(sojourn.ProcessFailedError, match="closed"):
        client.submit(scaled, 1)


def test_what_a_function_prints_comes_out_here(
    client: sojourn.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(text):
        import os
        import sys

        print(text)
        for byte in text.encode():  # one byte at a time
            os.write(2, bytes([byte]))
        sys.stdout.close()
        return text

    # A sandbox of its own, made while standard output is captured.
    assert client.submit(sojourn.function(fresh=True)(speak), "héllo ☃").result(60) == "héllo ☃"
    assert capsys.readouterr() == ("héllo ☃\n", "héllo ☃")


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "closed"])
def test_a_program_without_output_loses_no_result(stream: Any) -> None:
    if stream is not None:
        stream.close()
    assert Forwarded(stream).write(memoryview(b"text")) == 4


def test_output_that_nobody_reads_is_not_taken() -> None:
    reading, writing = os.pipe()
    with open(writing, "w", encoding="utf-16") as stream, open(reading, "rb") as reader:
        sink = Forwarded(stream)
        assert sink.fileno() == writing
        while taken := sink.write(memoryview(b"x" * 5000)):
            assert taken <= 5000
        reader.read(1 << 13)
        assert sink.write(memoryview(b"x" * 5000)) > 0


def test_a_guest_whose_output_nobody_reads_is_ended_by_its_deadline() -> None:
    program = [sys.executable, "-c", FLOOD]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "TimeoutError\n"
        assert process.stderr.readline() == "closed\n"
        assert process.stdout is not None
        process.stdout.close()
        process.wait(60)
