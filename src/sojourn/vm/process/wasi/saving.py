"""What of a guest is not in the engine, as plain data, and back: one entry for each component.

``save_system`` only reads. ``restore_system`` fills a ``System`` that was made the usual way, with the
streams, grants and secrets of this place: live handles come in with it and are never in the state.

Not saved, on purpose: random numbers (the host gives fresh ones), the real-time clock (the host's), values of
secrets (named, and given again), and what a stream's other end has or wants.
"""

from __future__ import annotations

from typing import Any

from sojourn.model.errors import GrantError

from .checking import U64_MAX, damaged, fields, items, number, raw
from .descriptors_state import restore_descriptors, save_descriptors
from .files_state import restore_files, save_files
from .kernel import LeftCall
from .mounts import MountTree
from .outside import LimitReached
from .places import Places
from .poll import SUBSCRIPTION_BYTES, SUBSCRIPTIONS_MAX
from .system import System

COMPONENTS = ("mounts", "files", "descriptors", "texts", "left_call", "usage")
TEXTS_MAX = 1 << 16
TEXT_BYTES_MAX = 1 << 24
_USED_MAX = 1 << 62
_TIME_MAX_NS = 1 << 62
_ARGUMENTS = 4  # of poll_oneoff


def save_system(system: System, tree: MountTree) -> dict[str, Any]:
    """The state of ``system``, whose guest stands still, and of ``tree``, over which it was made.

    Raises:
        GrantError: something of the host that is open could not be opened again; names it.
    """
    places = Places(tree, system.preopened)
    return {
        "mounts": places.save_mounts(),
        "files": save_files(tree.private),
        "descriptors": {
            **save_descriptors(system.table, places),
            "extra": list(system.extra_numbers),
        },
        "texts": {
            "args": list(system.args),
            "environ": [[name, None if name in system.secrets else value] for name, value in system.environ],
        },
        "left_call": _save_left(system.left_call),
        "usage": {"output_bytes": system.output.used, "file_bytes": tree.private.quota.used},
    }


def restore_system(state: Any, system: System, tree: MountTree) -> None:
    """Make ``system`` and ``tree`` what they were. Both were made for this: with the grants and bundles of
    the process, its streams, and an environment that has the values of its secrets. When this raises, both
    are to be closed.

    Raises:
        GrantError: a grant, a secret or an open file is missing here or is another one; names it.
        ContextError: the state is damaged.
        LimitReached: the process has already more than a limit of this place allows at one time.
    """
    saved = fields(state, COMPONENTS, "the state of the system")
    places = Places(tree, system.preopened)
    placeholders = places.check_mounts(saved["mounts"])
    texts = _restored_texts(saved["texts"], system)
    system.close()
    held = restore_files(saved["files"], tree.private)
    tree.replace_placeholders(placeholders)
    _restore_usage(saved["usage"], system, tree, held)
    _restore_descriptors(saved["descriptors"], system, places)
    _need_holders(tree)
    system.set_texts(*texts)
    system.left_call = _restored_left(saved["left_call"])


def _restore_usage(state: Any, system: System, tree: MountTree, held: int) -> None:
    saved = fields(state, ("output_bytes", "file_bytes"), "what was used")
    system.output.used = number(saved["output_bytes"], "the output so far", _USED_MAX)
    quota = tree.private.quota
    if number(saved["file_bytes"], "the bytes of files", _USED_MAX) < held:
        raise damaged(f"{held:,} bytes of files are held, more than were counted")
    quota.used = saved["file_bytes"]
    if quota.used > quota.most:
        raise LimitReached("file_bytes")


def _restore_descriptors(state: Any, system: System, places: Places) -> None:
    saved = fields(state, ("open", "directories", "extra"), "the descriptors")
    extra = items(saved["extra"], "the numbers of further streams", TEXTS_MAX)
    if len(extra) != len(system.extra_numbers):
        raise damaged(f"there are {len(extra)} further streams, not {len(system.extra_numbers)}")
    system.extra_numbers = tuple(number(value, "a descriptor", U64_MAX) for value in extra)
    both = {name: saved[name] for name in ("open", "directories")}
    restore_descriptors(both, system.table, places, system.streams)


def _need_holders(tree: MountTree) -> None:
    """Without a name and without a handle an inode would be there for ever."""
    for inode in tree.private.inodes.values():
        if not inode.nlink and not inode.opens:
            raise damaged(f"inode {inode.ino} has neither a name nor a descriptor")


# -- arguments and environment -------------------------------------------------------------------------

_Texts = tuple[list[bytes], list[tuple[bytes, bytes]]]


def _restored_texts(state: Any, system: System) -> _Texts:
    saved = fields(state, ("args", "environ"), "arguments and environment")
    given = dict(system.environ)
    args = [_text(value) for value in items(saved["args"], "the arguments", TEXTS_MAX)]
    environ = []
    for pair in items(saved["environ"], "the environment", TEXTS_MAX):
        if len(items(pair, "a variable", 2)) != 2:
            raise damaged("a variable has no value")
        name = _text(pair[0])
        if pair[1] is None and name not in given:
            shown = name.decode("utf-8", "backslashreplace")
            raise GrantError(f"the secret {shown} is not given here", f"Try: --secret {shown}")
        environ.append((name, given[name] if pair[1] is None else _text(pair[1])))
    return args, environ


def _text(value: Any) -> bytes:
    if b"\0" in raw(value, "an argument or variable", TEXT_BYTES_MAX):
        raise damaged("an argument or variable contains a NUL byte")
    return bytes(value)


# -- the call in which the guest was left --------------------------------------------------------------


def _save_left(call: LeftCall | None) -> dict[str, Any] | None:
    if call is None:
        return None
    return {
        "name": call.name,
        "arguments": list(call.arguments),
        "asked": call.asked,
        "begun_ns": call.begun_ns,
    }


def _restored_left(state: Any) -> LeftCall | None:
    if state is None:
        return None
    saved = fields(state, ("name", "arguments", "asked", "begun_ns"), "the call that was left")
    arguments = items(saved["arguments"], "the arguments of the call that was left", _ARGUMENTS)
    if saved["name"] != "poll_oneoff" or len(arguments) != _ARGUMENTS:
        raise damaged("a call was left that does not exist")
    return LeftCall(
        "poll_oneoff",
        tuple(number(value, "an argument") for value in arguments),
        raw(saved["asked"], "what the call that was left asked", SUBSCRIPTION_BYTES * SUBSCRIPTIONS_MAX),
        number(saved["begun_ns"], "when the call that was left began", _TIME_MAX_NS),
    )
