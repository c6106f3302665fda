"""Names of functions that are not wanted are left out, and nothing else is touched."""

from __future__ import annotations

from sojourn.wasm.binary import Module, SectionId
from sojourn.wasm.name_section import keep_names

MAGIC = b"\0asm\1\0\0\0"


def custom(payload: bytes) -> bytes:
    return bytes([0, len(payload)]) + payload


def kept(*sections: bytes) -> list[bytes]:
    module = Module.parse(MAGIC + b"".join(sections))
    keep_names(module, lambda function: function in (1, 300))
    return [bytes(payload) for number, payload in module.sections if number == SectionId.CUSTOM]


def test_only_the_names_that_are_wanted_are_left() -> None:
    names = b"\x00\x02\x01m" + b"\x01\x0d\x04" + b"\x00\x01a" + b"\x01\x01b" + b"\x02\x00" + b"\xac\x02\x01d"
    locals_ = b"\x02\x03\x01\x00\x00"
    assert kept(custom(b"\x04name" + names + locals_), custom(b"\x04nama" + names)) == [
        b"\x04name" + b"\x01\x08\x02" + b"\x01\x01b" + b"\xac\x02\x01d",
        b"\x04nama" + names,
    ]


def test_a_section_without_names_of_functions_says_nothing() -> None:
    assert kept(custom(b"\x04name" + b"\x00\x02\x01m")) == [b"\x04name"]


def test_a_damaged_section_is_left_out() -> None:
    for damage in (b"\x01", b"\x01\x7f", b"\x01\x02\x05\x00", b"\x01\x03\x01\x01\x09", b"\x01\x02\x01\xff"):
        assert kept(custom(b"\x04name" + damage), custom(b"\x03two")) == [b"\x03two"]
