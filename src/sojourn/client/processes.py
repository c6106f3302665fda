"""Starting processes, and finding those that there are."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from sojourn.bundle.build import Include
from sojourn.bundle.contents import Bundle
from sojourn.host.embedded import EmbeddedHost
from sojourn.host.inbox import Inbox
from sojourn.host.programs import code_program, module_program, program_at
from sojourn.host.requests import LaunchRequest
from sojourn.host.residents import Residents
from sojourn.model.errors import UsageError
from sojourn.model.grants import DirectoryGrant, EnvironmentGrant, SecretGrant
from sojourn.model.limits import Limits
from sojourn.model.progress import Progress, Silent
from sojourn.store.home import Home
from sojourn.vm.process.monitor import ProcessMonitor

from .process import Process


class Processes:
    """The processes of one client. Nothing is opened before the first is asked for."""

    def __init__(
        self, home: Home, monitor: ProcessMonitor, progress: Progress | None, idle_after_s: float | None
    ) -> None:
        self._home = home
        self._monitor = monitor
        self._progress = progress or Silent()
        self._lock = threading.Lock()
        self._residents: Residents | None = None
        self._closed = False
        self.idle_after_s = idle_after_s

    @property
    def residents(self) -> Residents:
        with self._lock:
            if self._residents is None:
                if self._closed:
                    raise UsageError("the client is closed", "Try: use it inside its with block")
                self._residents = Residents(EmbeddedHost(self._home, monitor=self._monitor))
            return self._residents

    def start(
        self,
        program: Path | str | None,
        *,
        code: str | None,
        module: str | None,
        args: Sequence[str],
        grants: Sequence[DirectoryGrant | EnvironmentGrant | SecretGrant],
        environment: Mapping[str, str],
        limits: Limits,
        stdin: bytes | None,
        include: Sequence[Include | Path | str],
        name: str | None,
        use_image: bool,
        checkpoint_every: float | None,
        idle_after: float | None,
    ) -> Process:
        for what, seconds in (("checkpoint_every", checkpoint_every), ("idle_after", idle_after)):
            if seconds is not None and not 0 < seconds < float("inf"):
                raise UsageError(f"{what}: {seconds!r} is no time", f"Try: {what}=30.0, in seconds, or None")
        bundle, shown = self._bundle(program, code, module, [_included(item) for item in include])
        named = [EnvironmentGrant(key, value) for key, value in environment.items()]
        request = LaunchRequest(
            bundle.program,
            bundle.contents,
            name or shown,
            tuple(args),
            tuple(grant for grant in grants if isinstance(grant, DirectoryGrant)),
            (*(grant for grant in grants if isinstance(grant, EnvironmentGrant)), *named),
            tuple(grant for grant in grants if isinstance(grant, SecretGrant)),
            limits,
            use_image,
        )
        resident = self.residents.start(
            request, Inbox(stdin), idle_after_s=idle_after, every_s=checkpoint_every
        )
        return Process(self, resident.pid)

    def _bundle(
        self, program: Path | str | None, code: str | None, module: str | None, include: Sequence[Include]
    ) -> tuple[Bundle, str]:
        if [program, code, module].count(None) != 2:
            raise UsageError("a process has one program", "Try: a path, or code=..., or module=...")
        if code is not None:
            return code_program(code, include, self._home, self._progress), "-c"
        if module is not None:
            return module_program(module, include, self._home, self._progress), f"-m {module}"
        assert program is not None
        return program_at(Path(program), include, self._home, self._progress)

    def find(self, pid: str) -> Process:
        host = self.residents.host
        host.look_for_dead_hosts()
        return Process(self, host.table.resolve(pid))

    def all(self, *, ended: bool) -> list[Process]:
        host = self.residents.host
        host.look_for_dead_hosts()
        return [Process(self, record.pid) for record in host.table.list(live=None if ended else True)]

    def resume(
        self,
        target: Path | str,
        timeout: float | None,
        grants: Sequence[DirectoryGrant],
        limits: Mapping[str, int | float] | None,
    ) -> Process:
        path = Path(target)
        if not path.is_file() and (grants or limits):
            raise UsageError("grants and limits are for files", f"Try: resume({str(target)!r})")
        adopted = self.residents.host.adopt(path, grants, limits) if path.is_file() else None
        process = self.find(str(target)) if adopted is None else Process(self, adopted)
        process.resume(timeout)
        return process

    def close(self) -> None:
        with self._lock:
            self._closed = True
            residents, self._residents = self._residents, None
        if residents is not None:
            residents.close()


def _included(item: Include | Path | str) -> Include:
    return item if isinstance(item, tuple) else (Path(item), None)
