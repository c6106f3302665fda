"""``sojourn doctor``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from sojourn.model.errors import SojournError

from .common import Examples, json_option, print_json, size

if TYPE_CHECKING:
    from sojourn.store.home import Home

_DISK_BYTES = 2_000_000_000
_MEMORY_BYTES = 5_000_000_000
# (module (func (export "_start")))
_TINY = bytes.fromhex(
    "0061736d010000000104016000000302010007 0a01065f73746172740000 0a040102000b".replace(" ", "")
)


@dataclass(frozen=True)
class Finding:
    """One check. ``fix`` says what to do when it is not fine."""

    what: str
    fine: bool
    detail: str
    fix: str = ""


@click.command(
    cls=Examples,
    help="Say what works on this machine, and what to install for the rest.",
    examples="sojourn doctor\nsojourn doctor --json    # with the packages inside the runtime",
)
@json_option
def doctor(as_json: bool) -> None:
    findings = [_guarded(name, check) for name, check in _CHECKS]
    if as_json:
        print_json({"checks": [asdict(finding) for finding in findings], "packages": _packages()})
    else:
        for finding in findings:
            mark = click.style("ok  ", fg="green") if finding.fine else click.style("FAIL", fg="red")
            click.echo(f"{mark}  {finding.what}: {finding.detail}")
            if finding.fix:
                click.echo(f"      {finding.fix}")
    if not all(finding.fine for finding in findings):
        sys.exit(1)


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except SojournError as error:
        return Finding(name, False, error.message, error.hint)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", sys.version_info >= (3, 11), f"{version} at {sys.executable}")


def _home() -> Finding:
    from sojourn.store.home import Home

    home = Home.open()
    free = shutil.disk_usage(home.path).free
    fix = (
        ""
        if free > _DISK_BYTES
        else "Compiled code and images need about 1 GB: free some space, or set SOJOURN_HOME"
    )
    return Finding("home", free > _DISK_BYTES, f"{home.path}, {size(free)} free", fix)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fix = "" if total > _MEMORY_BYTES else "Compiling the Python runtime needs about 5 GB, once"
    return Finding("memory", total > _MEMORY_BYTES, f"{size(total)}, {os.cpu_count()} processors", fix)


def _engine() -> Finding:
    from sojourn.vm.process import engine
    from sojourn.vm.process.preparing import prepare

    module = engine.compile_module(prepare(_TINY))
    instance = engine.Instance(module, {}, lambda: None, 1 << 20, 1)
    instance.call("_start")
    instance.close()
    return Finding("engine", True, f"{engine.fingerprint()}; compiled and ran a module")


def _runtime() -> Finding:
    from sojourn.vm.process.artifacts import find_python

    found = find_python()
    detail = f"CPython {found.python_version} with {len(found.packages)} packages, {found.digest[:19]}…"
    return Finding("Python runtime", True, detail)


def _compiled() -> Finding:
    from sojourn.model.progress import Silent
    from sojourn.store.home import Home
    from sojourn.vm.process.artifacts import find_python
    from sojourn.vm.process.compiled import CompiledModules, base_estimate_s, estimate_s
    from sojourn.vm.process.partition import recorded

    found, home = find_python(), Home.open()
    modules, record = CompiledModules(home, Silent()), recorded(found.module_digest)
    if modules.path(found.module_digest).exists():
        return Finding("compiled runtime", True, "there, whole")
    split = modules.split_path(found.module_digest)
    if split is not None and split.exists():
        return Finding("compiled runtime", True, f"there, in parts; {_completing(home)}")
    if record is None:
        seconds = estimate_s(found.module.stat().st_size)
    else:
        seconds = base_estimate_s(found.module.read_bytes(), record)
    about = f"not yet; the first Python program will wait about {seconds or 0:.0f} s for it"
    return Finding("compiled runtime", True, about, "To do it now: sojourn image build")


def _completing(home: Home) -> str:
    """What is to be expected of the whole runtime, when there are only parts of it."""
    from sojourn.vm.process.completing import ATTEMPTS_MAX, attempts

    if attempts(home) >= ATTEMPTS_MAX:
        return "the whole could not be compiled in the background (remove the cache to try again)"
    return "the whole is compiled in the background, and used when it is there"


def _packages() -> dict[str, str]:
    from sojourn.vm.process.artifacts import find_python

    try:
        return dict(sorted(find_python().packages.items()))
    except SojournError:
        return {}


_CHECKS: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("Python", _python),
    ("home", _home),
    ("memory", _memory),
    ("engine", _engine),
    ("Python runtime", _runtime),
    ("compiled runtime", _compiled),
)
