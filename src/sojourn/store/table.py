"""The process table: what processes there are and were, in one SQLite file that all OS processes share.

Theory of operation. Nobody reads a record, decides, and writes it back: a state changes by one statement
that names the states it may come from (``transition``), so of two that want to change it exactly one does.
Which changes there can be is ``model.states.TRANSITIONS``; the table adds nothing to that. A process
in a final state has an ending that says the same, one in another state has none.
"""

from __future__ import annotations

import difflib
import json
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from sojourn.model.errors import StoreError, UnknownProcessError
from sojourn.model.states import TRANSITIONS, Ending, State

from .files import translated
from .home import Home
from .records import ProcessRecord, could_be_pid, new_pid

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 10.0
NEAR_MATCHES_MAX = 5
_PID_ATTEMPTS_MAX = 16
_COLUMNS = tuple(field.name for field in fields(ProcessRecord))
_AS_JSON = frozenset({"name", "ending", "limits", "grants", "args"})  # a name may hold what TEXT cannot
_FINAL = tuple(str(state) for state in State if state.final)
_SCHEMA = """
CREATE TABLE processes (
    pid TEXT PRIMARY KEY, name TEXT NOT NULL, program TEXT NOT NULL, state TEXT NOT NULL,
    created_s REAL NOT NULL, started_s REAL, ended_s REAL, host_id TEXT, os_pid INTEGER,
    epoch INTEGER NOT NULL, ending TEXT NOT NULL, limits TEXT NOT NULL, grants TEXT NOT NULL,
    args TEXT NOT NULL, image TEXT, output_bytes INTEGER NOT NULL, cpu_s REAL NOT NULL,
    memory_bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX by_state ON processes (state);
CREATE INDEX by_age ON processes (created_s);
"""
_FROM_ALL = f"SELECT {', '.join(_COLUMNS)} FROM processes"  # noqa: S608 - our own names only
_RETURNING = f"RETURNING {', '.join(_COLUMNS)}"


class ProcessTable:
    """The processes of one home. Safe to use from several threads and OS processes."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def open(cls, home: Home) -> ProcessTable:
        """Open the table of ``home``, made when it is not there.

        Raises:
            StoreError: damaged, of another version of Sojourn, or the disk is full or not ours to write.
        """
        path = home.database
        with translated(path):
            _make(path)
        with _typed_errors(path):
            connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                if _version(connection) == 0:
                    with home.lock("processes.db"):
                        _create(connection)
                _check_version(path, _version(connection))
                connection.execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        with self._lock, _typed_errors(self._path):
            self._connection.close()

    def __enter__(self) -> ProcessTable:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def unused_pid(self, rng: Callable[[int], bytes] = os.urandom) -> str:
        """A name that no process here has."""
        for _ in range(_PID_ATTEMPTS_MAX):
            pid = new_pid(rng)
            if not self._rows("SELECT 1 FROM processes WHERE pid = ?", pid):
                return pid
        raise RuntimeError("the random numbers repeat themselves")

    def insert(self, record: ProcessRecord) -> None:
        """Add a new process.

        Raises:
            ValueError: the pid is taken, the ending belies the state, or a grant holds a secret's value.
        """
        _check_ending(record.state, record.ending)
        _check_grants(record.grants)
        columns, marks = ", ".join(_COLUMNS), ", ".join("?" * len(_COLUMNS))
        values = [_to_column(name, getattr(record, name)) for name in _COLUMNS]
        try:
            self._rows(f"INSERT INTO processes ({columns}) VALUES ({marks})", *values)  # noqa: S608
        except sqlite3.IntegrityError:
            raise ValueError(f"there is a process {record.pid} already") from None

    def get(self, pid: str) -> ProcessRecord:
        """Raises ``UnknownProcessError`` when there is no process of exactly this pid."""
        rows = self._rows(f"{_FROM_ALL} WHERE pid = ?", pid)
        if not rows:
            raise self._unknown(pid)
        return self._record(rows[0])

    def resolve(self, prefix: str) -> str:
        """The pid that begins with what a person typed.

        Raises:
            UnknownProcessError: none does, or several do; the hint names those that come near.
        """
        wanted = prefix.strip().lower()
        if not could_be_pid(wanted):
            raise self._unknown(prefix)
        found = self._rows(
            "SELECT pid FROM processes WHERE pid >= ? AND pid < ? ORDER BY pid LIMIT ?",
            wanted,
            wanted + "{",  # comes after all letters
            NEAR_MATCHES_MAX + 1,
        )
        if not found:
            raise self._unknown(prefix)
        pids = [str(row[0]) for row in found]
        if len(pids) > 1 and wanted not in pids:
            shown = ", ".join(pids[:NEAR_MATCHES_MAX]) + (", …" if len(pids) > NEAR_MATCHES_MAX else "")
            raise UnknownProcessError(
                f"several processes begin with {prefix!r}: {shown}", "Try: a longer pid"
            )
        return pids[0]

    def transition(
        self,
        pid: str,
        from_states: State | Collection[State],
        to_state: State,
        *,
        of_epoch: int | None = None,
        **changes: Any,
    ) -> ProcessRecord | None:
        """Change the state, and fields with it, if the process is in one of ``from_states`` now.

        Args:
            of_epoch: only while this is its epoch, so that an earlier owner changes nothing.
            changes: further fields of the record. A final state needs ``ending``.

        Returns:
            The record as it is afterwards; None when it was in another state or epoch, and nothing changed.

        Raises:
            ValueError: no such change can be (our bug).
            UnknownProcessError: there is no such process.
        """
        sources = {from_states} if isinstance(from_states, State) else set(from_states)
        for state in sources:
            if to_state not in TRANSITIONS[state]:
                raise ValueError(f"a process cannot go from {state} to {to_state}")
        _check_ending(to_state, changes.get("ending"))
        setting, values = _assignments({**changes, "state": to_state})
        where = f"pid = ? AND state IN ({', '.join('?' * len(sources))}) AND epoch = coalesce(?, epoch)"
        rows = self._rows(
            f"UPDATE processes SET {setting} WHERE {where} {_RETURNING}",  # noqa: S608
            *values,
            pid,
            *(str(state) for state in sources),
            of_epoch,
        )
        if rows:
            return self._record(rows[0])
        self.get(pid)
        return None

    def update(self, pid: str, **changes: Any) -> bool:
        """Change fields other than ``state`` and ``ending``; False when there is no such process."""
        if not changes or changes.keys() & {"state", "ending", "pid"}:
            raise ValueError("a state is changed by transition only")
        setting, values = _assignments(changes)
        sql = f"UPDATE processes SET {setting} WHERE pid = ? RETURNING pid"  # noqa: S608
        return bool(self._rows(sql, *values, pid))

    def prune(self, *, keep_newest: int = 0, ended_before_s: float | None = None) -> tuple[str, ...]:
        """Forget processes that have ended, but not the ``keep_newest`` that ended last.

        Args:
            ended_before_s: only those that ended before this time, in seconds since 1970.

        Returns:
            Their pids; the caller removes what else it keeps of them.
        """
        marks = ", ".join("?" * len(_FINAL))
        sql = f"""DELETE FROM processes WHERE pid IN (
            SELECT pid FROM processes WHERE state IN ({marks})
            ORDER BY coalesce(ended_s, created_s) DESC, pid LIMIT -1 OFFSET ?
        ) AND coalesce(ended_s, created_s) < coalesce(?, 9e999) RETURNING pid"""  # noqa: S608
        return tuple(str(row[0]) for row in self._rows(sql, *_FINAL, max(0, keep_newest), ended_before_s))

    def list(self, *, live: bool | None = None, count_max: int = -1) -> list[ProcessRecord]:
        """Processes, the newest first; ``live`` True for those that have not ended, False for the others."""
        marks = ", ".join("?" * len(_FINAL))
        where = {None: "1", True: f"state NOT IN ({marks})", False: f"state IN ({marks})"}[live]
        rows = self._rows(
            f"{_FROM_ALL} WHERE {where} ORDER BY created_s DESC, pid LIMIT ?",
            *(_FINAL if live is not None else ()),
            count_max,
        )
        return [self._record(row) for row in rows]

    def _record(self, row: tuple[Any, ...]) -> ProcessRecord:
        try:
            return _to_record(row)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(
                f"{self._path} is damaged: the record of process {row[0]!r} cannot be read",
                _aside(self._path),
            ) from error

    def _rows(self, sql: str, *values: Any) -> Any:
        with self._lock, _typed_errors(self._path):
            return self._connection.execute(sql, values).fetchall()

    def _unknown(self, pid: str) -> UnknownProcessError:
        pids = [
            str(row[0]) for row in self._rows("SELECT pid FROM processes ORDER BY created_s DESC LIMIT 1000")
        ]
        near = difflib.get_close_matches(pid.lower(), pids, NEAR_MATCHES_MAX, 0.5)
        hint = f"Did you mean: {', '.join(near)}" if near else "Try: sojourn ps --all"
        return UnknownProcessError(f"there is no process {pid!r}", hint)


def _make(path: Path) -> None:
    """Make the file, if there is none. It is never opened for that: whoever closes a descriptor of it takes
    away the locks that all connections of this OS process have on it."""
    with suppress(FileExistsError):
        os.mknod(path, stat.S_IFREG | 0o600)
    if not stat.S_ISREG(path.lstat().st_mode):
        raise StoreError(f"{path} is no file", _aside(path))


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables, unless somebody has meanwhile."""
    if _version(connection) != 0:
        return
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def _check_version(path: Path, version: int) -> None:
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} is of another version of Sojourn (schema {version}; this one reads {SCHEMA_VERSION})",
            "Try: the version of Sojourn that made it, or set SOJOURN_HOME to another directory",
        )


def _assignments(changes: dict[str, Any]) -> tuple[str, list[Any]]:
    unknown = changes.keys() - set(_COLUMNS)
    if unknown:
        raise ValueError(f"a process has no {', '.join(sorted(unknown))}")
    if "grants" in changes:
        _check_grants(changes["grants"])
    return ", ".join(f"{name} = ?" for name in changes), [_to_column(*item) for item in changes.items()]


def _check_ending(state: State, ending: Ending | None) -> None:
    if (ending.state if ending else None) != (state if state.final else None):
        raise ValueError(f"a process that is {state} cannot have the ending {ending}")


def _check_grants(grants: list[dict[str, Any]]) -> None:
    if any(grant.get("kind") == "secret" and "value" in grant for grant in grants):
        raise ValueError("a secret's value must not be recorded")


def _to_column(name: str, value: Any) -> Any:
    if name == "ending":
        value = value.to_dict() if value is not None else None
    return json.dumps(value) if name in _AS_JSON else value


def _to_record(row: tuple[Any, ...]) -> ProcessRecord:
    value = dict(zip(_COLUMNS, row, strict=True))
    for name in _AS_JSON:
        value[name] = json.loads(value[name])
    value["state"] = State(value["state"])
    value["ending"] = Ending.from_dict(value["ending"]) if value["ending"] is not None else None
    for name, kinds in _KINDS.items():
        if not isinstance(value[name], kinds):
            raise TypeError(f"{name} is {value[name]!r}")
    _check_ending(value["state"], value["ending"])
    return ProcessRecord(**value)


_NUMBER, _MAYBE_TEXT = (int, float), (str, type(None))
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("pid", "name", "program"), (str,)),
    **dict.fromkeys(("host_id", "image"), _MAYBE_TEXT),
    **dict.fromkeys(("created_s", "cpu_s"), _NUMBER),
    **dict.fromkeys(("started_s", "ended_s"), (*_NUMBER, type(None))),
    **dict.fromkeys(("epoch", "output_bytes", "memory_bytes"), (int,)),
    "os_pid": (int, type(None)),
    "limits": (dict,),
    "grants": (list,),
    "args": (list,),
}


_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_ELSEWHERE = "Try: free some space, or set SOJOURN_HOME to a directory that you may write"


def _aside(path: Path) -> str:
    """What to do about a damaged table."""
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    return f"Try: mv {path} {aside} (the record of past processes is lost)"


@contextmanager
def _typed_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says about the disk and the file into ``StoreError``. Broken rules of ours pass."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in _DAMAGED or code == sqlite3.SQLITE_ERROR:
            raise StoreError(f"{path} is damaged: {error}", _aside(path)) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreError(
                f"{path} is locked by another process", "Try: end it, then start again"
            ) from error
        raise StoreError(f"cannot use {path}: {error}", _ELSEWHERE) from error
