"""What runs inside the virtual machine, on the guest's own Python.

The files here are never imported by the host: they are sent. ``function_server_files`` puts together
the package that answers function calls in the guest (``serve``), with the codec both sides share.
"""

from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from sojourn.functions.codec import GUEST_FILES, Registry, encode
from sojourn.functions.protocol import Connection
from sojourn.functions.ship import ship

GUEST_PACKAGE = "sojourn_guest"
_MSGPACK_FILES = ("__init__.py", "exceptions.py", "ext.py", "fallback.py")


def function_server_files() -> dict[str, bytes]:
    """Path to content of all a guest needs beside its standard library, to be put on its ``sys.path``.

    There, ``sojourn_guest.serve.serve(fd_in, fd_out)`` is the loop. msgpack goes along in its pure form.
    """
    functions = resources.files("sojourn.functions")
    files = {f"{GUEST_PACKAGE}/{name}": functions.joinpath(name).read_bytes() for name in GUEST_FILES}
    files[f"{GUEST_PACKAGE}/__init__.py"] = b'"""Answers function calls inside the guest."""\n'
    files[f"{GUEST_PACKAGE}/serve.py"] = Path(__file__).with_name("serve.py").read_bytes()
    files[f"{GUEST_PACKAGE}/rehearsal"] = _rehearsal()
    spec = find_spec("msgpack")
    assert spec is not None and spec.origin is not None  # a dependency of ours
    for name in _MSGPACK_FILES:
        files[f"msgpack/{name}"] = Path(spec.origin).with_name(name).read_bytes()
    return files


def _rehearsal() -> bytes:
    """What a host sends for one call: an image answers it a few times while it is made."""
    value = encode([[1, 2.5], {"text": "a"}], Registry({}))
    _, messages = Connection().call(ship(_sample, frozenset()), value)
    return b"".join(bytes(part) for message in messages for part in message.parts())


def _sample(number: int, other: float, text: str) -> dict[str, object]:
    return {text: [number + other, None, True]}
