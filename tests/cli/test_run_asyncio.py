"""asyncio in the sandbox: all that timers and descriptors allow, and clear errors for the rest."""

from __future__ import annotations

import pytest

from ..conftest import Sojourn

pytestmark = pytest.mark.runtime


def test_tasks_queues_timeouts_and_order(sojourn: Sojourn) -> None:
    code = """
import asyncio, time

async def late(seconds, value):
    await asyncio.sleep(seconds)
    return value

async def main():
    begun = time.monotonic()
    print(await asyncio.gather(late(0.2, "a"), late(0.1, "b")), 0.2 <= time.monotonic() - begun)
    queue = asyncio.Queue(1)
    async def produce():
        for number in range(3):
            await queue.put(number)
    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        print([await queue.get() for _ in range(3)])
    try:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    except TimeoutError:
        print("timeout")
    done, pending = await asyncio.wait([asyncio.ensure_future(late(n, n)) for n in (0, 60)],
                                       return_when=asyncio.FIRST_COMPLETED)
    print(len(done), len(pending))
    loop = asyncio.get_running_loop()
    called = loop.create_future()
    loop.call_soon_threadsafe(called.set_result, "called")
    print(await called)

asyncio.run(main())
with asyncio.Runner(debug=True) as runner:
    print(runner.run(late(0, 1)), runner.run(late(0, 2)))
"""
    done = sojourn("run", "-c", code)
    assert done.stdout.splitlines() == [
        "['a', 'b'] True",
        "[0, 1, 2]",
        "timeout",
        "1 1",
        "called",
        "1 2",
    ], done.stderr
    assert (done.returncode, done.stderr) == (0, "")


def test_standard_streams_are_pipes_of_the_loop(sojourn: Sojourn) -> None:
    code = """
import asyncio, sys

async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    async for line in reader:
        writer.write(b"> " + line)
        await writer.drain()
    writer.close()

asyncio.run(main())
"""
    done = sojourn("run", "-c", code, stdin="one\ntwo\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "> one\n> two\n", "")


def test_a_signal_that_the_program_raises_reaches_its_handler(sojourn: Sojourn) -> None:
    code = """
import asyncio, signal

async def main():
    loop = asyncio.get_running_loop()
    raised = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, raised.set)
    loop.call_later(0.01, signal.raise_signal, signal.SIGTERM)
    await raised.wait()
    print(loop.remove_signal_handler(signal.SIGTERM), loop.remove_signal_handler(signal.SIGTERM))
    loop.call_later(0.01, signal.raise_signal, signal.SIGINT)
    await asyncio.sleep(60)

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    done = sojourn("run", "-c", code)
    assert (done.stdout, done.stderr) == ("True False\ninterrupted\n", "")


def test_waiting_for_nothing_is_an_error_and_tasks_are_cancelled(sojourn: Sojourn) -> None:
    code = """
import asyncio

async def main():
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned up")

asyncio.run(main())
"""
    done = sojourn("run", "-c", code)
    assert (done.returncode, done.stdout) == (1, "cleaned up\n")
    assert "RuntimeError: the event loop would wait for ever" in done.stderr


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        ("asyncio.to_thread(print)", "RuntimeError: can't start new thread"),
        ("asyncio.open_connection('localhost', 80)", "OSError: [Errno 58] there is no network"),
        ("asyncio.create_subprocess_exec('ls')", "OSError: [Errno 58] there are no other processes"),
        ("asyncio.create_subprocess_shell('ls')", "OSError: [Errno 58] there are no other processes"),
    ],
)
def test_what_asyncio_cannot_do_says_so(sojourn: Sojourn, attempt: str, error: str) -> None:
    code = f"""
import asyncio

async def main():
    try:
        await {attempt}
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}")

asyncio.run(main())
print("ended")
"""
    done = sojourn("run", "-c", code)
    first, *rest = done.stdout.splitlines()
    assert first.startswith(error)
    assert (rest, done.returncode, done.stderr) == (["ended"], 0, "")


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        ("import socket; socket.create_connection(('localhost', 80))", "there is no network"),
        ("import socket; socket.gethostbyname('localhost')", "there is no network"),
        ("import urllib.request as r; r.urlopen('http://localhost')", "there is no network"),
        ("import multiprocessing as m; m.Process(target=print).start()", "there are no other processes"),
        ("import multiprocessing as m; m.get_context('spawn').Pool(2)", "there are no other processes"),
        ("import multiprocessing as m; m.Pipe()", "there are no other processes"),
        ("import subprocess; subprocess.run(['ls'])", "does not support processes"),
    ],
)
def test_network_and_processes_are_refused_by_an_os_error(sojourn: Sojourn, attempt: str, error: str) -> None:
    done = sojourn("run", "-c", f"try:\n  {attempt}\nexcept OSError as error:\n  print(error)")
    assert error in done.stdout, done.stderr


def test_adapted_modules_keep_their_own_loader(sojourn: Sojourn) -> None:
    code = (
        "import asyncio.unix_events as u, socket as s\n"
        "print({type(m.__loader__).__name__ for m in (u, s)}, u.__spec__.loader is u.__loader__)"
    )
    assert sojourn("run", "-c", code).stdout == "{'zipimporter'} True\n"
