"""The host's half of a function call: values to requests, replies to events. No I/O.

Theory of operation. One guest serves one stream of messages, in order. A message has a kind, a number that
ties a reply to its request, facts (a small msgpack map, or nothing), and the header of an encoded value
(``codec``), whose buffers are the message's; ``wire`` has the form.

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
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack

from sojourn.model.errors import CodecError, FunctionError, GuestError

from .codec import Registry, decode
from .wire import Message, seal, unseal

TEXT_CHARACTERS_MAX = 1 << 20
FACTS_MAX = 8

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
    digest: str


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
        self._facts: dict[str, bytes] = {}
        self._registries: dict[str, Registry] = {}

    @property
    def waiting(self) -> int:
        """How many calls have no reply yet."""
        return sum(request.kind == "call" for request in self._open)

    def call(self, program: Program, value: Message) -> tuple[int, list[Message]]:
        """The number of a call, and the messages to write for it.

        Args:
            value: ``[arguments, named arguments]``, encoded with the program's classes.
        """
        self._check("call")
        messages = [] if program.digest in self._loaded else [self._load(program)]
        facts = self._facts.get(program.digest)
        if facts is None:
            facts = _packed({"digest": program.digest, "entry": program.entry})
            self._facts[program.digest] = facts
            self._registries[program.digest] = Registry(program.classes)
        number = self._request("call", program.digest)
        messages.append(seal("call", number, facts, value))
        return number, messages

    def _load(self, program: Program) -> Message:
        self._step("load")
        number = self._request("load", program.digest)
        self._loaded.add(program.digest)
        return seal("load", number, _packed({"digest": program.digest, "files": dict(program.files)}))

    def exit(self) -> Message:
        """The message that ends the guest's loop once it has answered everything before."""
        self._step("exit")
        return seal("exit", self._request("exit", ""))

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
        kind, number, facts, value = unseal(message)
        if not self._open or self._open[0].number != number or kind not in REPLIES[self._open[0].kind]:
            raise CodecError(f"the guest sent {kind!r} for request {number}, which was not expected")
        self._step("bye" if kind == "bye" else "reply")
        request = self._open.popleft()
        match kind:
            case "bye":
                return Closed()
            case "raised":
                return Raised(number, _guest_error(open_facts(facts)))
            case "refused":
                return self._refused(request, open_facts(facts))
            case "returned":
                return self._returned(request, value, message.buffers)
        return None

    def _refused(self, request: _Open, facts: Mapping[str, Any]) -> Event | None:
        if request.kind == "load":
            # The call that follows is refused as well, and says so; the next one loads again.
            self._loaded.discard(request.digest)
            return None
        return Refused(request.number, CodecError(_text(facts, "message"), _text(facts, "hint")))

    def _returned(self, request: _Open, value: bytes, buffers: list[memoryview]) -> Event:
        try:
            return Returned(request.number, decode(value, buffers, self._registries[request.digest]))
        except CodecError as error:
            return Refused(request.number, error)

    def _request(self, kind: str, digest: str) -> int:
        number = self._next_number
        self._next_number += 1
        self._open.append(_Open(kind, number, digest))
        return number

    def _check(self, event: str) -> None:
        if event not in TRANSITIONS[self.state]:
            raise FunctionError(f"the connection to the guest is {self.state}: {event} is not possible")

    def _step(self, event: str) -> None:
        self._check(event)
        self.state = TRANSITIONS[self.state][event]


def _guest_error(facts: Mapping[str, Any]) -> GuestError:
    return GuestError(_text(facts, "type"), _text(facts, "message"), _text(facts, "traceback"))


def _text(facts: Mapping[str, Any], name: str) -> str:
    text = facts.get(name)
    if type(text) is not str or len(text) > TEXT_CHARACTERS_MAX:
        raise CodecError(f"the guest sent a reply without {name}, or with too much of it")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _packed(facts: Mapping[str, Any]) -> bytes:
    return bytes(msgpack.packb(facts, use_bin_type=True))


def open_facts(data: bytes) -> dict[str, str]:
    """The facts of a reply: a flat map of texts.

    Raises:
        CodecError: something else.
    """

    def flat(pairs: list[tuple[Any, Any]]) -> dict[str, str]:
        if not all(type(part) is str for pair in pairs for part in pair):
            raise ValueError("facts that are no texts")
        return dict(pairs)

    try:
        facts = msgpack.unpackb(
            data,
            raw=False,
            unicode_errors="surrogatepass",
            object_pairs_hook=flat,
            max_array_len=0,
            max_map_len=FACTS_MAX,
        )
    except (ValueError, TypeError, OverflowError, MemoryError, msgpack.UnpackException) as error:
        raise CodecError(f"not a message: {error}") from error
    if type(facts) is not dict:
        raise CodecError("not a message: facts that are none")
    return facts
