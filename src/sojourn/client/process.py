"""A handle on a process: its streams, its verbs, its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import NamedTuple, Protocol

from sojourn.host.asking import END_TIMEOUT_S, end_process, store_now
from sojourn.host.embedded import EmbeddedHost
from sojourn.host.residents import Resident, Residents
from sojourn.model.errors import ProcessStateError, UsageError
from sojourn.model.states import Ending, State
from sojourn.store.output import STDOUT, Cursor, read_output

LOOK_S = 0.02  # how often a process of another host is looked at
VERB_TIMEOUT_S = 60.0
_REAP_S = 1.0
FORKS_MAX = 10_000


class ProcessOutput(NamedTuple):
    """What a process has written so far."""

    stdout: bytes
    stderr: bytes


class Owner(Protocol):
    """The client that a handle belongs to."""

    @property
    def residents(self) -> Residents: ...

    @property
    def idle_after_s(self) -> float | None: ...


class Process:
    """A handle on one process, by its ``pid``. Thread-safe; several handles may be on one process.

    It may run here, in another program of this user, or nowhere, suspended: the verbs work wherever it is.
    Only what runs here, or is resumed here, can be written to.

    All waits take a ``timeout`` in seconds (None: for ever) and raise ``TimeoutError`` when it is over. Any
    method raises ``StoreError`` when the home cannot be used.

    Each handle reads the output from the beginning; a process that was evicted, resumed or recovered
    goes on where it was, and no byte comes twice.
    """

    def __init__(self, owner: Owner, pid: str) -> None:
        self._owner = owner
        self._pid = pid
        self._cursor = Cursor(self._host.home.processes / pid / "output")
        self._reading = threading.Lock()
        self._read = bytearray()  # of its standard output, and not given to anybody yet

    @property
    def pid(self) -> str:
        """Its name, for ever; also for the command line."""
        return self._pid

    @property
    def state(self) -> State:
        """What is true now; ``suspended`` while it is evicted."""
        return self._host.record(self._pid).state

    @property
    def ending(self) -> Ending | None:
        """How it ended; None while it has not."""
        return self._host.record(self._pid).ending

    def __repr__(self) -> str:
        return f"<Process {self._pid}>"

    @property
    def _host(self) -> EmbeddedHost:
        return self._owner.residents.host

    @property
    def _resident(self) -> Resident | None:
        return self._owner.residents.find(self._pid)

    # its input

    def write(self, data: bytes, timeout: float | None = None) -> None:
        """Append to its standard input. An evicted process comes back to read it.

        Waits only while many megabytes are there that it has not read.

        Raises:
            BrokenPipeError: its input is closed, or it has ended.
            ProcessStateError: another program runs it.
            TimeoutError: it does not read.
        """
        self._mine().inbox.put(data, _end(timeout))

    def close_stdin(self) -> None:
        """Let it find the end of its standard input, behind what was written.

        Raises:
            ProcessStateError: another program runs it.
        """
        resident = self._resident
        if resident is not None or not self.state.final:
            self._mine().inbox.close()

    def _mine(self) -> Resident:
        """The process, here; taken over by this host if it is suspended."""
        resident = self._resident
        if resident is not None:
            return resident
        state = self.state
        if state.final:
            raise BrokenPipeError(f"process {self._pid} has ended: {state}")
        if state is not State.SUSPENDED:
            raise ProcessStateError(
                f"another program runs process {self._pid} and has its standard input",
                "Try: evict() it first, then write: it goes on here",
            )
        return self._owner.residents.take(self._pid, idle_after_s=self._owner.idle_after_s)

    # its output

    @property
    def output(self) -> ProcessOutput:
        """All that it has written so far, read or not."""
        resident = self._resident
        if resident is not None:
            resident.flush()
        parts: dict[bool, list[bytes]] = {True: [], False: []}
        for piece in read_output(self._host.home.processes / self._pid / "output"):
            parts[piece.stream == STDOUT].append(piece.data)
        return ProcessOutput(b"".join(parts[True]), b"".join(parts[False]))

    def read(self, size: int = -1, timeout: float | None = None) -> bytes:
        """The next bytes of its standard output, at least one; ``b""`` when it has ended and all was read.

        Args:
            size: at most so many; -1: all that are there.
        """
        return self._next(lambda there: len(there) if size < 0 else min(size, len(there)), timeout)

    def readline(self, timeout: float | None = None) -> bytes:
        """The next line of its standard output, with its end; ``b""`` when it has ended and all was read."""
        return self._next(lambda there: there.find(b"\n") + 1, timeout)

    def lines(self, timeout: float | None = None) -> Iterator[bytes]:
        """The lines of its standard output, until it ends.

        Args:
            timeout: for each line.
        """
        while line := self.readline(timeout):
            yield line

    def __iter__(self) -> Iterator[bytes]:
        return self.lines()

    def _next(self, measure: Callable[[bytearray], int], timeout: float | None) -> bytes:
        """The next bytes, as many as ``measure`` says; as long as that is 0, more are read."""
        end_s = _end(timeout)
        if not self._reading.acquire(timeout=-1 if end_s is None else max(0.0, end_s - time.monotonic())):
            raise TimeoutError("another thread reads the output of this handle")
        try:
            seen = -1
            while not (size := measure(self._read)) and (left := self._more(seen, end_s)) is not None:
                seen = left
            size = size or len(self._read)
            data = bytes(self._read[:size])
            del self._read[:size]
            return data
        finally:
            self._reading.release()

    def _more(self, seen: int, end_s: float | None) -> int | None:
        """Read what is new, or wait for it; None when nothing comes any more."""
        resident = self._resident
        ended = resident is None and self.state.final  # asked before the look, so that nothing is missed
        found = [piece.data for piece in self._cursor.read() if piece.stream == STDOUT]
        if found:
            self._read += b"".join(found)
            return seen
        if ended:
            return None
        if end_s is not None and time.monotonic() >= end_s:
            raise TimeoutError(f"process {self._pid} has written nothing more in time")
        if resident is not None:
            return resident.wait_output(seen, end_s)
        time.sleep(LOOK_S)
        return -1

    # its verbs

    def wait(self, timeout: float | None = None) -> Ending:
        """Wait for its end, and say how it ended. A suspended process does not end.

        Raises:
            SojournError: it was evicted and could not come back; it stays suspended, and the error says why.
        """
        end_s = _end(timeout)
        look_s = 0.0
        while True:
            resident = self._resident
            ending = resident.wait(end_s) if resident is not None else self.ending
            if ending is not None:
                return ending
            now_s = time.monotonic()
            if end_s is not None and now_s >= end_s:
                raise TimeoutError(f"process {self._pid} has not ended within {timeout:g} s")
            if now_s >= look_s:
                look_s = now_s + _REAP_S
                self._host.look_for_dead_hosts()
            time.sleep(LOOK_S)

    def kill(self, reason: str = "killed by its client", timeout: float | None = END_TIMEOUT_S) -> Ending:
        """End it, wherever it is; return how it ended, which is not by this when it had ended before."""
        resident = self._resident
        if resident is not None:
            resident.kill(reason)
        elif not self.state.final:
            left_s = END_TIMEOUT_S if timeout is None else timeout
            end_process(self._host.home, self._host.table, self._pid, reason, left_s)
        return self.wait(timeout)

    def checkpoint(self, path: Path | str | None = None, timeout: float | None = VERB_TIMEOUT_S) -> str:
        """Store it, while it goes on if it runs; return the digest of the checkpoint.

        Args:
            path: also write a file that holds all of it, for ``Client.resume`` or ``sojourn resume`` on any
                machine.

        Raises:
            ContextError: a process of this kind cannot be stored; the error says why.
            ProcessFailedError: it ended before it could be stored.
            ProcessStateError: it has ended.
        """
        digest = self._store(stop=False, end_s=_end(timeout))
        if path is not None:
            self._host.keeper.export(self._pid, Path(path))
        return digest

    def evict(self, timeout: float | None = VERB_TIMEOUT_S) -> None:
        """Store it and free its memory. It is suspended, its clocks stand still, until ``resume``; or until
        something is written to it, which it then comes back to read.

        Raises: as ``checkpoint``.
        """
        self._store(stop=True, end_s=_end(timeout))

    def _store(self, *, stop: bool, end_s: float | None) -> str:
        while (resident := self._resident) is not None:
            if not resident.settled(end_s):
                raise TimeoutError(f"process {self._pid} is still coming back")
            saved = resident.evict() if stop else resident.checkpoint()
            if saved is None:
                break  # it is not in memory, and so has been stored as it is
            try:
                return saved.result(None if end_s is None else max(0.0, end_s - time.monotonic())).digest
            except CancelledError:  # this life of it ended first: by an eviction, or for good
                continue
        left_s = VERB_TIMEOUT_S if end_s is None else max(0.0, end_s - time.monotonic())
        host = self._host
        return store_now(host.home, host.table, self._pid, stop=stop, timeout_s=left_s)

    def resume(self, timeout: float | None = VERB_TIMEOUT_S) -> None:
        """Go on with it, here, if it is suspended; return when it runs. One that runs is left alone.

        Raises:
            ContextError: it cannot go on here. Nothing of it has run, and it stays suspended.
            GrantError: a grant cannot be bound again.
            ProcessStateError: it has ended, or somebody else goes on with it.
        """
        state = self.state
        if state.final:
            raise ProcessStateError(f"process {self._pid} has ended: {state}", "Try: start it again")
        if state is not State.SUSPENDED and self._resident is None:
            return
        resident = self._mine()
        resident.resume()
        if not resident.settled(_end(timeout)):
            raise TimeoutError(f"process {self._pid} is still coming back")

    def fork(
        self, count: int = 1, *, start: bool = True, timeout: float | None = VERB_TIMEOUT_S
    ) -> list[Process]:
        """New processes that go on where it is now, each with an empty standard input, its own output from
        here on, and fresh randomness. It goes on itself, if it runs.

        Args:
            start: they run, here. False: they are suspended until ``resume``, or until something is written
                to them; they cost a little disk and no memory.

        Raises: as ``checkpoint``; ``UsageError`` when ``count`` cannot be.
        """
        if not 0 < count <= FORKS_MAX:
            raise UsageError(f"{count} forks", f"Try: 1 to {FORKS_MAX:,} at one time")
        end_s = _end(timeout)
        forks = [Process(self._owner, pid) for pid in self._forked(count, end_s)]
        if start:
            for fork in forks:
                fork._mine().resume()
            for fork in forks:
                fork.resume(None if end_s is None else max(0.0, end_s - time.monotonic()))
        return forks

    def _forked(self, count: int, end_s: float | None) -> list[str]:
        while (resident := self._resident) is not None and resident.settled(end_s):
            try:
                made = resident.fork(count, None if end_s is None else max(0.0, end_s - time.monotonic()))
            except CancelledError:
                continue
            if made is None:
                break
            return made
        self._store(stop=False, end_s=end_s)
        return self._host.fork(self._pid, count)


def _end(timeout: float | None) -> float | None:
    """When a wait of so many seconds ends, by ``time.monotonic()``."""
    return None if timeout is None else time.monotonic() + timeout
