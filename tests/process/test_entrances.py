"""Exports that the interpreter's module gets from its name section."""

from __future__ import annotations

import pytest

from sojourn.model.errors import RuntimeUnavailableError
from sojourn.vm.process.entrances import ENTRANCES, function_numbers, with_entrances
from sojourn.wasm import Module
from sojourn.wasm.binary import SectionId

from ..wat import wat

FIRST, SECOND = ENTRANCES
NAMED = f"""(module (import "a" "b" (func $imported))
  (func $other) (func ${FIRST}) (func ${SECOND}) (func (export "turn") call $other))"""


def exported(code: bytes) -> dict[str, int]:
    return {name: number for name, _, number in Module.parse(code).exports()}


def test_named_functions_become_exports() -> None:
    assert exported(with_entrances(wat(NAMED))) == {"turn": 4, FIRST: 2, SECOND: 3}


def test_an_export_that_is_there_is_not_made_twice() -> None:
    once = with_entrances(wat(NAMED))
    assert with_entrances(once) == once


def test_a_module_without_them_is_refused_by_name() -> None:
    with pytest.raises(RuntimeUnavailableError, match=f"no function {FIRST}"):
        with_entrances(wat("(module (func $other))"))
    with pytest.raises(RuntimeUnavailableError, match=f"no function {SECOND}"):
        with_entrances(wat(f"(module (func ${FIRST}))"))


@pytest.mark.parametrize("code", [b"", b"no module", wat(NAMED)[:-3]])
def test_what_is_no_module_is_a_damaged_runtime(code: bytes) -> None:
    with pytest.raises(RuntimeUnavailableError):
        with_entrances(code)


def test_a_name_section_that_lies_about_its_size_is_a_typed_error() -> None:
    module = Module.parse(wat(NAMED))
    module.sections[-1] = (SectionId.CUSTOM, b"\x04name\x01\x05\xff\xff\xff\xff\x0f")
    with pytest.raises(RuntimeUnavailableError, match="damaged"):
        with_entrances(module.encode())


def test_other_custom_sections_and_other_names_are_passed_over() -> None:
    module = Module.parse(wat(NAMED))
    module.sections.insert(0, (SectionId.CUSTOM, b"\x05other\xff\xff"))
    assert function_numbers(module, [SECOND, "absent"]) == {SECOND: 3}
    assert function_numbers(Module.parse(wat("(module)")), [FIRST]) == {}
