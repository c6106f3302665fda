"""Build programs from what a person names: a script, a module, code, standard input, a Wasm module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sojourn.model.program import RuntimeInfo

from .contents import Bundle

Include = tuple[Path, str | None]


def build_script(path: Path, *, runtime: RuntimeInfo, includes: Sequence[Include] = (), resolver=None) -> Bundle: ...


def build_code(text: str, *, runtime: RuntimeInfo, search_path: Path | None = None, includes: Sequence[Include] = (), resolver=None) -> Bundle: ...


def build_stdin(text: bytes, *, runtime: RuntimeInfo, search_path: Path | None = None, includes: Sequence[Include] = (), resolver=None) -> Bundle: ...


def build_module(name: str, *, runtime: RuntimeInfo, search_path: Path | None = None, includes: Sequence[Include] = (), resolver=None) -> Bundle: ...


def build_wasm(path: Path, *, includes: Sequence[Include] = ()) -> Bundle: ...
