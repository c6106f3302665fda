"""Peeling: the code that goes on at one site of a body, and nothing before it.

Nothing in it asks where to go: the blocks around the site are opened, and what is left of each is written,
innermost
first. Before, with the site ``*`` inside of a loop, and what comes out::

    block $a                     block $a
      A                            block $x               ;; behind the loop
      loop $b                        block $b             ;; a branch to the head of the loop ends here
        B                              *
        *                              C
        C                              br $x
      end                            end
      D                              loop $b  B * C  end  ;; all further turns
    end                            end
    E                              D
                                 end
                                 E

The second copy of a large loop would make such code slow to compile, and it is needed when a program goes
on. So for the head of each large loop the base module has a *continuation*: this very code, as a function
whose parameters are all locals of the body. What goes on inside of the loop ends its turn and calls the
continuation in its tail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .binary import uleb
from .emit import Emitter, Target, slot_declarations, slot_kinds
from .events import ENTRY, LOOP, TRY_TABLE, Body, Event
from .frames import Layouts, global_get, i32_const, load_code, local_get, local_set
from .index_spaces import (
    FuncType,
    IndexSpaces,
    encode_type,
    family,
    heap_type,
    is_defaultable,
    is_reference,
    sleb_bytes,
)

CONTINUATION_BYTES_MIN = 8 << 10  # of a loop
CONTINUATION_LOOPS_MAX = 4  # around it and itself: each is in the continuation once more
_CONTINUATION_VALUES_MAX = 256
_END, _BLOCK, _RETURN_CALL = b"\x0b", b"\x02", b"\x12"
_I32_SUB_LOAD = b"\x6b\x28\x42"


def path_to(site: Event) -> list[Event]:
    """The openers of the blocks around a site, outermost first; the function itself is left out."""
    path = [site] if site.kind == LOOP else []
    opener = site.outer
    while opener is not None and opener.kind != ENTRY:
        path.append(opener)
        opener = opener.outer
    return path[::-1]


def peeled_bytes_max(body: Body, code_bytes: int) -> int:
    """About how much code the largest twin of a body has: every loop around its site is in it once more.

    Args:
        code_bytes: how much code the whole body became.
    """
    around: dict[int, int] = {id(body.events[0]): 0}
    most = 0
    for event in body.events:
        if event.close >= 0 and event.outer is not None:
            own = body.events[event.close].end - event.start if event.kind == LOOP else 0
            around[id(event)] = found = around[id(event.outer)] + own
            most = max(most, found)
    return code_bytes + most * code_bytes // max(1, body.end - body.first)


def continuable(body: Body, site: Event) -> bool:
    """Whether a site is the head of a loop for which the base module has a continuation."""
    if (
        site.kind != LOOP
        or site.loops > CONTINUATION_LOOPS_MAX
        or body.events[site.close].end - site.start < CONTINUATION_BYTES_MIN
    ):
        return False
    values = continuation_type(body).params
    simple = all(
        len(opener.signature.results) < 2 and len(opener.signature.params) < 2 for opener in path_to(site)
    )
    return simple and len(values) <= _CONTINUATION_VALUES_MAX and all(map(is_defaultable, values))


def continuation_type(body: Body) -> FuncType:
    """What a continuation takes, all locals and slots, and gives: the results of the function."""
    return FuncType((*body.locals, *slot_kinds(body)), body.events[0].signature.results)


def twin_type(results: tuple[int, ...], spaces: IndexSpaces) -> FuncType:
    """The type of the twin of a function with these results.

    Who calls it by an indirect call may know supertypes only of the results, so they become the top of their
    hierarchy.
    """
    kinds = [family(kind, spaces.types) if is_reference(kind) else kind for kind in results]
    return FuncType((), tuple(kinds))


class Peeling:
    """Writes what is left of one body behind a site.

    Args:
        tags: the types of the module's exception tags.
        continuation: the number, encoded, of the continuation for the loop with that site.
    """

    def __init__(
        self,
        body: Body,
        target: Target,
        tags: Sequence[FuncType],
        continuation: Callable[[int], bytes] | None = None,
    ) -> None:
        self._body = body
        self._continuation = continuation
        self._target = target
        self._tags = tags
        self._layouts = Layouts(body)
        self._emitter = Emitter(body, target, self._layouts, relabel=True)
        self._parts = self._emitter.parts
        self._positions = {id(event): position for position, event in enumerate(body.events)}

    def twin(self, site: Event) -> bytes:
        """The code of a function that loads the record of a site and goes on there."""
        body = self._body
        count, declared = self._declarations(site)
        groups, kinds = self._layouts.groups(site), (*body.locals, *slot_kinds(body))
        loads = load_code(self._target.control, groups, self._tags, kinds.__getitem__)
        self._parts += [uleb(count), declared, *loads]
        if self._continuation is not None and continuable(self._body, site):
            self._continue(site)
            self._parts.append(_END)
        else:
            self._peel(path_to(site), site)
        return b"".join(self._parts)

    def continued(self, site: Event) -> bytes:
        """The code of a continuation, whose parameters are all locals and slots."""
        self._parts.append(b"\0")
        self._peel(path_to(site), site)
        return b"".join(self._parts)

    def _declarations(self, site: Event) -> tuple[int, bytes]:
        """All locals of the function, its parameters among them, the slots, and what ``_cast`` uses."""
        body = self._body
        params = body.locals[: body.params]
        count, declared = body.declared
        more, slots = slot_declarations(body)
        own = b"".join(b"\x01" + encode_type(kind) for kind in params)
        results = twin_type(site.signature.results, body.spaces).results
        if results == site.signature.results:
            results = ()
        used = b"".join(b"\x01" + encode_type(kind) for kind in results)
        return len(params) + count + more + len(results), own + declared + slots + used

    def _continue(self, loop: Event) -> None:
        """Call the continuation for the head of a loop in place of going on here."""
        assert self._continuation is not None
        everything = range(len(self._body.locals) + len(self._body.slots))
        self._parts += [*map(local_get, everything), _RETURN_CALL, self._continuation(loop.site)]

    def _peel(self, path: list[Event], site: Event) -> None:
        """Open the peeled blocks around the site, outermost first, then write what is left of each,
        innermost first."""
        emitter = self._emitter
        emitter.enter()
        floor = 0
        for opener in path:
            self._push(site, floor, opener.base)
            floor = opener.base
            self._open(opener)
        self._push(site, floor, len(site.held))
        if site.kind not in (LOOP, ENTRY):
            self._result(site)
        position = self._positions[id(site)] + 1
        branch = self._else_before(path[-1] if path else None, position)
        for place in range(len(path) - 1, -1, -1):
            opener = path[place]
            stop = branch if branch is not None else opener.close
            self._rest(position, stop)
            self._close(opener)
            position = opener.close + 1
            branch = self._else_before(path[place - 1] if place else None, position)
        self._rest(position, self._body.events[0].close)
        self._parts.append(_END)

    def _else_before(self, opener: Event | None, position: int) -> int | None:
        """The ELSE at which a then branch that we are in ends."""
        if opener is not None and opener.other >= position:
            return opener.other
        return None

    def _push(self, site: Event, first: int, last: int) -> None:
        for height in range(first, last):
            kind = site.held[height]
            self._parts.append(local_get(self._body.slots[height, kind]))
            if not is_defaultable(kind):
                self._parts.append(b"\xd4")

    def _open(self, opener: Event) -> None:
        emitter, target = self._emitter, self._target
        signature = opener.signature
        results = target.block(FuncType((), signature.results))
        if opener.kind == LOOP:
            self._parts += (_BLOCK, results)
            emitter.depth += 1
            self._parts += (_BLOCK, target.block(FuncType((), signature.params)))
        elif opener.kind == TRY_TABLE:
            self._parts.append(emitter.try_table(opener, results))
        else:
            self._parts += (_BLOCK, results)
        emitter.enter()

    def _close(self, opener: Event) -> None:
        emitter = self._emitter
        if opener.kind != LOOP:
            self._parts.append(_END)
            emitter.labels.pop()
            emitter.depth -= 1
            return
        self._parts += (b"\x0c\x01", _END)  # leave the loop; what branches to its head comes out here
        emitter.labels.pop()
        emitter.depth -= 1
        if self._continuation is not None and continuable(self._body, opener):
            heights = range(opener.base, opener.base + len(opener.signature.params))
            keys = zip(heights, opener.signature.params, strict=True)
            self._parts += [local_set(self._body.slots[key]) for key in reversed(list(keys))]
            self._continue(opener)
            self._parts.append(_END)
            emitter.depth -= 1
            return
        events, first = self._body.events, self._positions[id(opener)]
        loop = events[first : opener.close + 1]
        emitter.run([_without_copy(opener), *loop[1:]], opener.start, events[opener.close].end)
        self._parts.append(_END)
        emitter.depth -= 1

    def _rest(self, first: int, last: int) -> None:
        """The events from ``first`` to before ``last``, and the code around them."""
        events = self._body.events
        self._emitter.run(events[first:last], events[first - 1].end, events[last].start)

    def _result(self, site: Event) -> None:
        """Call the twin of the frame above for the result of the call; leave again if it did."""
        control = self._target.control
        results = site.signature.results
        kind = twin_type(results, self._body.spaces)
        self._parts += [
            *(global_get(control.resume), i32_const(4), _I32_SUB_LOAD, uleb(control.memory), b"\0"),
            *(b"\x11", uleb(self._target.type_index(kind)), uleb(control.twins)),
        ]
        self._emitter.check(site)
        if kind.results != results:
            self._cast(kind.results, results)

    def _cast(self, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        """Give the values on the stack the types that they really have."""
        first = len(self._body.locals) + len(self._body.slots)
        self._parts += [local_set(first + place) for place in reversed(range(len(given)))]
        for place, (top, kind) in enumerate(zip(given, wanted, strict=True)):
            self._parts.append(local_get(first + place))
            if kind != top:
                cast = b"\xfb\x17" if is_defaultable(kind) else b"\xfb\x16"
                self._parts.append(cast + sleb_bytes(heap_type(kind)))


def _without_copy(event: Event) -> Event:
    """What lies under a loop was copied before the site was reached, and is not on the stack that the loop
    sees
    here."""
    copied = Event(event.kind, event.start, event.end, event.use, event.define)
    for name in ("live", "held", "site", "has_site", "close", "base", "signature"):
        setattr(copied, name, getattr(event, name))
    return copied
