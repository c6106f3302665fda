"""A stored process for a person: what ``host.inspecting`` says, with where it is at the end, next to the
prompt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import click

from sojourn.model.limits import LIMITS

from .common import duration, print_table, printable, size

_REPEATED_MAX = 3  # as a traceback: more of the same line are counted
_SHOWN_MAX = 40  # native frames, when nobody asked for all
_NUMBER_SHOWN = 12  # characters of a digest
_WIDTH = 11


def show_context(context: dict[str, Any], *, whole: bool = False) -> None:
    """Print all of it; ``whole`` leaves out no native frame."""
    _show_identity(context)
    _show_state(context)
    _show_tables(context)
    click.echo()
    python = context["python"]
    if python is not None:
        _show_python(python)
    if context["native"]:
        if python is not None:
            click.echo()
        _show_native(context["native"], whole)
    for problem in (context["native_problem"], context["python_problem"] if _is_python(context) else ""):
        if problem:
            click.echo(printable(f"no frames: {problem}"))


def _is_python(context: dict[str, Any]) -> bool:
    entry = context["program"]["entry"]
    return entry is not None and entry["kind"] != "wasm"


def _field(name: str, value: str) -> None:
    click.echo(f"{click.style(name.ljust(_WIDTH), bold=True)} {printable(value)}")


def _show_identity(context: dict[str, Any]) -> None:
    program = context["program"]
    entry = program["entry"]
    what = program["problem"] if entry is None else f"{entry['kind']} {_first_line(entry['target'])}"
    args = " ".join(context["args"])
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(context["created_s"]))
    ago = duration(max(0.0, time.time() - context["created_s"]))
    _field("process", f"{context['pid']} ({context['name']})")
    _field("program", f"{what} {args}".rstrip() + f" ({_short(program['digest'])})")
    _field("checkpoint", f"{_short(context['checkpoint'])} of {created}, {ago} ago")
    after = "" if context["parent"] is None else f", after {_short(context['parent'])}"
    number = f"number {context['sequence']} of epoch {context['epoch']}{after}"
    _field("", f"{number}, transform {context['transform']}")


def _show_state(context: dict[str, Any]) -> None:
    for memory in context["memory"]:
        base = memory["base"]
        parts = [f"{size(memory['own_bytes'])} its own"]
        if base["kind"] != "none":
            parts.append(f"{size(memory['base_bytes'])} as in the {base['kind']} {_short(base['digest'])}")
        parts.append(f"{size(memory['zero_bytes'])} zero")
        _field("memory", f"{size(memory['bytes'])}: {', '.join(parts)}")
    stored = [f"{name} {size(count)}" for name, count in context["bytes"].items() if name != "total"]
    _field("stored", f"{size(context['bytes']['total'])}: {', '.join(stored)}")
    used, limits = context["used"], context["limits"]
    _field("used", ", ".join(_amounts(used, limits, ("cpu_seconds", "wall_seconds", "memory_bytes"))))
    _field("", ", ".join(_amounts(used, limits, ("output_bytes", "file_bytes", "descriptors", "host_calls"))))
    realtime = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(context["clocks"]["realtime_s"]))
    _field("clocks", f"{realtime}; monotonic {context['clocks']['monotonic_s']:.1f} s")
    if context["waits_in"]:
        _field("waits in", context["waits_in"])


def _amounts(used: dict[str, Any], limits: dict[str, Any], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        unit = LIMITS[name].unit
        have, most = (_amount(unit, value[name]) for value in (used, limits))
        yield f"{name.partition('_')[0] if unit != 'count' else name.replace('_', ' ')} {have} of {most}"


def _amount(unit: str, value: float) -> str:
    if unit == "s":
        return duration(value)
    return size(value) if unit == "B" else f"{value:,.0f}"


def _show_tables(context: dict[str, Any]) -> None:
    rows = []
    for row in context["descriptors"]:
        where = row["stream"] or row["path"]
        offset = "" if row["offset"] is None else f"{row['offset']:,}"
        rows.append((str(row["number"]), row["kind"], where, offset, " ".join(row["flags"])))
    _table(("FD", "KIND", "WHERE", "OFFSET", "FLAGS"), rows)
    mounts = [
        (row["path"], row["kind"], "read, write" if row["writable"] else "read") for row in context["mounts"]
    ]
    _table(("MOUNT", "KIND", "FOR"), mounts)
    _table(("GRANT", "WHAT", "BINDING"), [_grant(grant) for grant in context["grants"]])


def _grant(grant: dict[str, Any]) -> tuple[str, str, str]:
    if grant["kind"] != "dir":
        return grant["kind"], grant["name"], f"by {grant['binding']}"
    how = "read, write" if grant["writable"] else "read"
    return "dir", f"{grant['path']} at {grant['guest_path']} ({how})", f"by {grant['binding']}"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        click.echo()
        print_table(headers, rows)


def _show_python(python: dict[str, Any]) -> None:
    for number, thread in enumerate(python["threads"]):
        if number:
            click.echo()
        which = f" thread {number}" if len(python["threads"]) > 1 else ""
        click.echo(f"Python {python['version']}{which}, most recent call last:")
        frames = list(thread)
        while len(frames) > 1 and frames[0]["internal"]:  # what started the program
            frames.pop(0)
        for line in traceback_lines(frames):
            click.echo(printable(line))
    if python["cut"]:
        click.echo(printable(f"There may be more: {python['cut']}."))


def traceback_lines(frames: Iterable[dict[str, Any]]) -> Iterator[str]:
    """As Python's own traceback shows frames, the outermost first."""
    for (file, line, function), group in groupby(frames, lambda f: (f["file"], f["line"], f["function"])):
        same = list(group)
        where = "?" if line is None else line
        for frame in same[:_REPEATED_MAX]:
            yield f'  File "{file}", line {where}, in {function}'
            if frame["source"]:
                yield f"    {frame['source']}"
        if len(same) > _REPEATED_MAX:
            yield _repeated(len(same) - _REPEATED_MAX)


def _repeated(count: int) -> str:
    return f"  [Previous line repeated {count} more time{'s' if count > 1 else ''}]"


def _show_native(frames: list[dict[str, Any]], whole: bool) -> None:
    click.echo("WebAssembly, most recent call last:")
    lines = []
    for (name, _), group in groupby(frames, lambda frame: (frame["name"], frame["site"])):
        same = list(group)
        lines += [f"  {name}"] * min(len(same), _REPEATED_MAX)
        if len(same) > _REPEATED_MAX:
            lines.append(_repeated(len(same) - _REPEATED_MAX))
    if not whole and len(lines) > _SHOWN_MAX:
        half = _SHOWN_MAX // 2
        left = len(lines) - 2 * half
        lines[half:-half] = [f"  … {left} more lines; sojourn inspect --native shows them"]
    for line in lines:
        click.echo(printable(line))


def _short(digest: str) -> str:
    kind, colon, number = digest.rpartition(":")
    return f"{kind}{colon}{number[:_NUMBER_SHOWN]}"


def _first_line(target: str) -> str:
    line, _, rest = target.partition("\n")
    return f"{line} …" if rest else line
