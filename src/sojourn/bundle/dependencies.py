"""Dependencies of a program: what the runtime has is used from there, the rest are pure-Python wheels.

Resolving is pip's. It runs for the guest's Python and platform, sees the runtime's packages as installed, and
may take wheels only that run anywhere (``py3-none-any``). What it chose is locked by hash and kept, so that
it is asked once; the wheels' files then are files of the program.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pip
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sojourn.model.errors import DependencyError
from sojourn.model.program import SITE_PREFIX, TOTAL_BYTES_MAX, Locked, RuntimeInfo
from sojourn.model.progress import Progress
from sojourn.store.blobs import Blobs
from sojourn.store.files import write_atomic
from sojourn.store.home import Home

from .script_metadata import requirement, script_metadata

LOCK_FORMAT = 1
PIP_SECONDS_MAX = 600
_OFFLINE = re.compile(r"connection|network|resolve host|timed out|unreachable|name resolution", re.IGNORECASE)
_MISSING = re.compile(
    r"(?:No matching distribution found for "
    r"|no matching distributions available for your environment:\s+)(\S+)"
)
_LAUNCH = """
import sys
from pip._vendor.packaging import markers
known = markers.default_environment
markers.default_environment = lambda: {**known(), **MARKERS}
from pip._internal.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Dependencies:
    """Resolves what scripts name, for one runtime, keeping locks and wheels in a home."""

    def __init__(self, runtime: RuntimeInfo, home: Home, progress: Progress) -> None:
        self._runtime = runtime
        self._home = home
        self._progress = progress
        self._blobs = Blobs(home.blobs)

    def __call__(self, script: str) -> tuple[Sequence[Locked], dict[str, bytes]]:
        """The locked wheels of a script's inline metadata, and their files by name in the program.

        Raises:
            DependencyError: one cannot be had inside the runtime; named, with the reason.
        """
        metadata = script_metadata(script)
        if self._runtime.python_version not in metadata.requires_python:
            raise DependencyError(
                f"the script requires Python {metadata.requires_python}; the runtime has "
                f"{self._runtime.python_version}"
            )
        needed = self._not_inside(metadata.dependencies)
        if not needed:
            return (), {}
        locked = self._lock(needed)
        contents: dict[str, bytes] = {}
        for wheel in locked:
            for name, data in unpack_wheel(wheel.filename, self._wheel(wheel)).items():
                contents[SITE_PREFIX + name] = data
            if sum(map(len, contents.values())) > TOTAL_BYTES_MAX:
                raise DependencyError("the dependencies are larger together than a program may be")
        return locked, contents

    def _not_inside(self, requirements: Iterable[Requirement]) -> list[str]:
        """The requirements that apply to the guest and that the runtime does not meet.

        Raises:
            DependencyError: the runtime has another version than one asks for.
        """
        needed = []
        waiting = list(requirements)
        while waiting:
            wanted = waiting.pop()
            if wanted.marker is not None and not wanted.marker.evaluate(markers(self._runtime)):
                continue
            name = canonicalize_name(wanted.name)
            inside = self._runtime.packages.get(name)
            if inside is None:
                wanted.marker = None
                needed.append(str(wanted))
            elif not wanted.specifier.contains(inside, prereleases=True):
                raise DependencyError(
                    f"{wanted.name}{wanted.specifier} is asked for; the runtime has {inside}",
                    f"Try: a range that contains {inside}, or no version",
                )
            else:
                waiting += self._extras(name, wanted.extras)
        return sorted(needed)

    def _extras(self, name: str, extras: Iterable[str]) -> list[Requirement]:
        """What the extras of a package inside the runtime ask for."""
        found = []
        text = self._runtime.metadata.get(name, "")
        for line in re.findall(r"^Requires-Dist: (.+)$", text, re.MULTILINE):
            wanted = requirement(line.strip())
            for extra in extras:
                if wanted.marker and wanted.marker.evaluate({**markers(self._runtime), "extra": extra}):
                    wanted.marker = None
                    found.append(wanted)
                    break
        return found

    def _lock(self, needed: Sequence[str]) -> list[Locked]:
        key = json.dumps([LOCK_FORMAT, self._runtime.digest, needed])
        path = self._home.cache / f"lock-{hashlib.sha256(key.encode()).hexdigest()}.json"
        try:
            locked = [Locked(**item) for item in json.loads(path.read_bytes())]
            if all(self._blobs.has(f"sha256:{item.sha256}") for item in locked):
                return locked
        except (OSError, ValueError, TypeError):
            pass  # none yet, or not readable any more: it is made anew
        self._progress.begin(f"resolving {', '.join(needed)}", None, None)
        try:
            locked = self._resolve(needed)
        finally:
            self._progress.end()
        write_atomic(path, json.dumps([vars(item) for item in locked]).encode())
        return locked

    def _resolve(self, needed: Sequence[str]) -> list[Locked]:
        with tempfile.TemporaryDirectory(dir=self._home.tmp) as folder:
            work = Path(folder)
            report = work / "report.json"
            self._pip(work, needed, ["install", "--dry-run", "--report", str(report), *needed])
            items = json.loads(report.read_bytes())["install"]
            locked = [_locked(item) for item in items]
            pins = work / "requirements.txt"
            pins.write_text("".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in locked))
            arguments = ["download", "--no-deps", "--require-hashes", "--dest", str(work / "wheels")]
            self._pip(work, needed, [*arguments, "-r", str(pins)])
            for wheel in locked:
                data = (work / "wheels" / wheel.filename).read_bytes()
                if hashlib.sha256(data).hexdigest() != wheel.sha256:
                    raise DependencyError(f"{wheel.filename} is not the file that was resolved")
                self._blobs.put(data)
        return sorted(locked, key=lambda wheel: wheel.name)

    def _wheel(self, wheel: Locked) -> bytes:
        return self._blobs.get(f"sha256:{wheel.sha256}")

    def _pip(self, work: Path, needed: Sequence[str], arguments: Sequence[str]) -> None:
        major, minor, *_ = self._runtime.python_version.split(".")
        only = ["--only-binary=:all:", "--platform=any", "--implementation=py", "--abi=none"]
        result = self._run_pip(work, [*arguments, *only, f"--python-version={major}.{minor}"])
        if result.returncode == 0:
            return
        missing = _MISSING.search(result.stdout + result.stderr)
        if missing is not None and not _OFFLINE.search(result.stderr.partition("ERROR:")[0]):
            raise self._refusal(work, missing[1])
        if _OFFLINE.search(result.stderr):
            raise DependencyError(
                f"the package registry cannot be reached, and {', '.join(needed)} is not at hand",
                "Try: again with a network; what was resolved once is kept",
            )
        reason = next((line for line in result.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
        raise DependencyError(f"{', '.join(needed)} cannot be resolved: {reason.removeprefix('ERROR: ')}")

    def _refusal(self, work: Path, wanted: str) -> DependencyError:
        """Why there is no wheel for the guest: because there is no such package, or only native ones."""
        name = requirement(wanted.rstrip(",;")).name
        # Without the guest's platform: does it exist for any, in wheels or in source?
        found = self._run_pip(work, ["index", "versions", name])
        if found.returncode == 0:
            return DependencyError(
                f"{wanted} has native code that the runtime lacks: there is no pure-Python wheel of it",
                "Try: another package. What is inside the runtime: sojourn doctor --json",
            )
        return DependencyError(f"there is no package {wanted}", "Try: check the name")

    def _run_pip(self, work: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """pip on its own: it sees nothing installed but the runtime's packages."""
        stubs, own = work / "installed", work / "pip"
        if not stubs.exists():
            own.mkdir()
            (own / "pip").symlink_to(Path(pip.__file__).parent)
            _write_stubs(stubs, self._runtime.packages)
        launch = _LAUNCH.replace("MARKERS", repr(markers(self._runtime)))
        command = [sys.executable, "-S", "-c", launch, *arguments]
        quiet = ["--no-input", "--disable-pip-version-check", "--no-cache-dir"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(own), str(stubs)])}
        try:
            return subprocess.run(
                [*command, *quiet],
                env=environment,
                capture_output=True,
                text=True,
                timeout=PIP_SECONDS_MAX,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise DependencyError(f"pip took more than {PIP_SECONDS_MAX} s", "Try: again") from None


def markers(runtime: RuntimeInfo) -> dict[str, str]:
    """The environment markers of the guest."""
    major, minor, *_ = runtime.python_version.split(".")
    return {
        "implementation_name": "cpython",
        "implementation_version": runtime.python_version,
        "os_name": "posix",
        "platform_machine": "wasm32",
        "platform_release": "0.0.0",
        "platform_system": "wasi",
        "platform_version": "0.0.0",
        "python_full_version": runtime.python_version,
        "platform_python_implementation": "CPython",
        "python_version": f"{major}.{minor}",
        "sys_platform": "wasi",
    }


def _write_stubs(folder: Path, packages: Mapping[str, str]) -> None:
    """What pip takes for installed packages."""
    for name, version in packages.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "INSTALLER").write_text("sojourn\n")


def _locked(item: Mapping[str, Any]) -> Locked:
    download = item["download_info"]
    digest = download["archive_info"]["hashes"]["sha256"]
    filename = unquote(urlsplit(download["url"]).path).rpartition("/")[2]
    metadata = item["metadata"]
    return Locked(canonicalize_name(metadata["name"]), metadata["version"], filename, digest)


def unpack_wheel(filename: str, data: bytes) -> dict[str, bytes]:
    """The files that a pure-Python wheel installs, by their paths under site-packages.

    Raises:
        DependencyError: it is damaged, or larger than it may be.
    """
    found: dict[str, bytes] = {}
    total = 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for item in archive.infolist():
                name = _installed_name(item.filename)
                if item.is_dir() or name is None:
                    continue
                total += item.file_size
                if total > TOTAL_BYTES_MAX:
                    raise DependencyError(f"{filename} unpacks to more than a program may hold")
                with archive.open(item) as file:
                    found[name] = file.read(item.file_size)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error) as error:
        raise DependencyError(f"{filename} is not a wheel, or damaged: {error}") from None
    return found


def _installed_name(name: str) -> str | None:
    """Where a member of a wheel goes; None for what is not a library (scripts, headers, data)."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return name
    kind, _, inner = rest.partition("/")
    return inner if kind in ("purelib", "platlib") and inner else None
