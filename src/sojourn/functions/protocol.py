"""The host's half of a function call: values to requests, replies to events. No I/O.

Theory of operation. One guest serves one stream of messages, in order. A message's header is a
msgpack list ``[kind, number, facts, value]``: ``facts`` is a small map, ``value`` the header of an
encoded value (``codec``), whose buffers are the message's. ``number`` ties a reply to its request.

======== =============================== ==========================================
request  facts                           reply
======== =============================== ==========================================
load     digest, files                   loaded
call     digest, entry; value: args      returned (value) · raised · refused
exit     –                               bye
======== =============================== ==========================================

A request that the guest cannot make sense of is *refused*: the guest goes on. ``files`` of a program
travel once; calls name it by digest. Replies come in the order of the requests, so the oldest open
request is the only one whose reply may come: anything else is a ``CodecError`` and the end of the
connection. ``TRANSITIONS`` says which is allowed when.

Invariants: nothing a guest sends is trusted; no class is made that the program did not ship.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgpack

from sojourn.model.errors import CodecError, FunctionError, GuestError

from .codec import Registry, decode, encode
from .wire import Message

TEXT_CHARACTERS_MAX = 1 << 20

TRANSITIONS: dict[str, dict[str, str]] = {
    "open": {"load": "open", "call": "open", "exit": "closing", "reply": "open", "fault": "closed"},
    "closing": {"reply": "closing", "bye": "closed", "fault": "closed"},
    "closed": {"fault": "closed"},
}
"""State to what may happen to where that leads."""

REPLIES: dict[str, frozenset[str]] = {
    "load": frozenset({"loaded", "refused"}),
    "call": frozenset({"returned", "raised", "refused"}),
    "exit": frozenset({"bye"}),
}
"""Kind of request to the kinds of its possible replies."""


class Program(Protocol):
    """What a connection needs to know of a shipped function (``ship.Shipped`` is one)."""

    @property
    def files(self) -> Mapping[str, bytes]: ...
    @property
    def entry(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def classes(self) -> Mapping[str, type]: ...


@dataclass(frozen=True)
class Returned:
    """The call of this number gave ``value``."""

    number: int
    value: Any


@dataclass(frozen=True)
class Raised:
    """The call of this number raised; ``error`` carries the guest's type name, message and traceback."""

    number: int
    error: GuestError


@dataclass(frozen=True)
class Refused:
    """The call of this number had no result: a value could not cross, or its request was refused."""

    number: int
    error: CodecError


@dataclass(frozen=True)
class Closed:
    """The guest has ended its loop, as asked."""


Event = Returned | Raised | Refused | Closed


@dataclass
class _Open:
    kind: str
    number: int
    digest: str = ""
    registry: Registry = field(default_factory=Registry)


class Connection:
    """One conversation with one guest.

    Args:
        loaded: digests of programs that the guest has already (it may start from an image that does).
    """

    def __init__(self, loaded: Sequence[str] = ()) -> None:
        self.state = "open"
        self._loaded = set(loaded)
        self._open: deque[_Open] = deque()
        self._next_number = 1

    @property
    def waiting(self) -> int:
        """How many calls have no reply yet."""
        return sum(request.kind == "call" for request in self._open)

    def call(
        self, program: Program, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[int, list[Message]]:
        """The number of a call, and the messages to write for it (its arrays are not copied).

        Raises:
            CodecError: an argument cannot cross; nothing has changed then.
        """
        self._check("call")
        registry = Registry(program.classes)
        value = encode([tuple(args), dict(kwargs)], registry)
        messages = [] if program.digest in self._loaded else [self._load(program)]
        facts = {"digest": program.digest, "entry": program.entry}
        number = self._request("call", program.digest, registry)
        return number, [*messages, _message("call", number, facts, value)]

    def _load(self, program: Program) -> Message:
        self._step("load")
        number = self._request("load", program.digest, Registry())
        self._loaded.add(program.digest)
        return _message("load", number, {"digest": program.digest, "files": dict(program.files)})

    def exit(self) -> Message:
        """The message that ends the guest's loop once it has answered everything before."""
        self._step("exit")
        return _message("exit", self._request("exit", "", Registry()), {})

    def receive(self, message: Message) -> Event | None:
        """What a reply means; None when it is no news to the caller.

        Raises:
            CodecError: the guest broke the protocol; the connection is closed.
        """
        try:
            return self._receive(message)
        except CodecError:
            self._step("fault")
            raise

    def _receive(self, message: Message) -> Event | None:
        kind, number, facts, value = open_message(message)
        if not self._open or self._open[0].number != number or kind not in REPLIES[self._open[0].kind]:
            raise CodecError(f"the guest sent {kind!r} for request {number}, which was not expected")
        self._step("bye" if kind == "bye" else "reply")
        request = self._open.popleft()
        match kind:
            case "bye":
                return Closed()
            case "raised":
                return Raised(number, _guest_error(facts))
            case "refused":
                return self._refused(request, facts)
            case "returned":
                return _returned(request, value, message.buffers)
        return None

    def _refused(self, request: _Open, facts: Mapping[str, Any]) -> Event | None:
        if request.kind == "load":
            # The call that follows is refused as well, and says so; the next one loads again.
            self._loaded.discard(request.digest)
            return None
        return Refused(request.number, CodecError(_text(facts, "message"), _text(facts, "hint")))

    def _request(self, kind: str, digest: str, registry: Registry) -> int:
        number = self._next_number
        self._next_number += 1
        self._open.append(_Open(kind, number, digest, registry))
        return number

    def _check(self, event: str) -> None:
        if event not in TRANSITIONS[self.state]:
            raise FunctionError(f"the connection to the guest is {self.state}: {event} is not possible")

    def _step(self, event: str) -> None:
        self._check(event)
        self.state = TRANSITIONS[self.state][event]


def _returned(request: _Open, value: bytes, buffers: list[memoryview]) -> Event:
    try:
        return Returned(request.number, decode(value, buffers, request.registry))
    except CodecError as error:
        return Refused(request.number, error)


def _guest_error(facts: Mapping[str, Any]) -> GuestError:
    return GuestError(_text(facts, "type"), _text(facts, "message"), _text(facts, "traceback"))


def _text(facts: Mapping[str, Any], name: str) -> str:
    text = facts.get(name)
    if type(text) is not str or len(text) > TEXT_CHARACTERS_MAX:
        raise CodecError(f"the guest sent a reply without {name}, or with too much of it")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _message(kind: str, number: int, facts: Mapping[str, Any], value: Message | None = None) -> Message:
    inner = value or Message(b"")
    header = msgpack.packb([kind, number, facts, inner.header], use_bin_type=True)
    return Message(header, inner.buffers)


def open_message(message: Message) -> tuple[str, int, dict[str, Any], bytes]:
    """The kind, number, facts and value header of a message.

    Raises:
        CodecError: it has another form.
    """
    seen: list[Any] = []

    def flat(container: Any) -> Any:
        """One list that holds one map, and nothing below: or a short header could become many objects."""
        seen.append(None)
        if len(seen) > (2 if isinstance(container, list) else 1):
            raise ValueError("lists or maps inside one another")
        return container

    try:
        parts = msgpack.unpackb(
            message.header,
            raw=False,
            unicode_errors="surrogatepass",
            list_hook=flat,
            object_hook=flat,
            max_array_len=4,
            max_map_len=64,
        )
    except (
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
        MemoryError,
        msgpack.UnpackException,
    ) as error:
        raise CodecError(f"not a message: {error}") from error
    match parts:
        case [str() as kind, int() as number, dict() as facts, bytes() as value]:
            return kind, number, facts, value
    raise CodecError("not a message: its parts are not those of one")
