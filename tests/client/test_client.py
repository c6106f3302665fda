"""Functions in real sandboxes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sojourn

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
