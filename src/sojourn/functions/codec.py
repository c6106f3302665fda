"""The value codec: Python values to a message and back, without pickle.

Runs unchanged on the host (CPython ≥ 3.11) and inside the guest (CPython 3.15 under WASI, msgpack's
pure-Python fallback): ``GUEST_FILES`` names the files of this folder that travel, installed there as
one package. Standard library and msgpack only; numpy and pandas are looked at only where the value
(encoding) or the message (decoding) already calls for them. It does no I/O.

The header is msgpack. ``None``, booleans, integers of 64 bits, floats, strings, bytes and lists are
themselves; a map with string keys is a dict; a map of one *integer* key is a tagged value: the tag
says what the payload is. Large bytes, strings, arrays and long lists of one plain type lie outside
the header, in buffers, each used exactly once.

Invariants: a decoder never imports a module, and never makes a class, that the *peer* names: it
looks names up in tables (``Registry``, the tags below). Whatever the bytes, it returns a value or
raises ``CodecError``, and the objects it makes take at most ``OBJECT_BYTES_MAX`` beside the buffers,
so a small message cannot fill the machine. Cycles are refused; a value referred to twice is sent twice.
"""

from __future__ import annotations

import array
import datetime
import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack

from .wire import CodecError, Message

GUEST_FILES = ("wire.py", "codec.py", "scalars.py", "arrays.py", "frames.py")
"""The files of this folder that make up the codec, in the guest as on the host."""

DEPTH_MAX = 100
NODES_MAX = 20_000_000
# A list in the header is cut into runs of this many items, so that a hostile count allocates little: what
# msgpack has read of a list before it is complete, and therefore counted, is bounded by this alone.
RUN_ITEMS_MAX = 4_096
MAP_ITEMS_MAX = 1_024
# From this size on, bytes and text leave the header; from this length on, a list of numbers or text.
BUFFER_BYTES_MIN = 16_384
COLUMN_ITEMS_MIN = 1_024
SAME_HASH_MAX = 64
INTEGER_BYTES_MAX = 1 << 20

# What a decoder may make. The costs are those of CPython on 64 bits, rounded up; one item is a reference
# and the largest plain value that so few bytes can name (a short string).
OBJECT_BYTES_MAX = 1 << 30
LIST_BYTES, ITEM_BYTES = 64, 72
MAP_BYTES, PAIR_BYTES = 160, 176
SET_BYTES, SET_ITEM_BYTES = 216, 64
SMALL_BYTES, COLLECTION_BYTES = 256, 1_024
_WIDE = re.compile(rb"[\xf0-\xff]")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")

_TUPLE, _DICT, _SET, _FROZENSET, _INTEGER, _BYTES, _BYTEARRAY, _TEXT, _RUNS, _COLUMN = range(1, 11)
_SCALAR, _INSTANCE, _ARRAY, _FRAME = range(11, 15)

Tree = Any
Lower = Callable[["Encoder", Any], Tree]
Raise = Callable[["Decoder", Any], Any]


class Registry:
    """The user's classes whose instances may cross, under the names both sides know them by.

    Args:
        classes: name on the wire to class.
        collect: when true, encoding an instance of an unknown class notes the class in ``wanted``
            (name to class) instead of failing, so that it can be shipped first.

    Attributes:
        packages: what the other side needs to decode what was encoded: ``numpy``, ``pandas``.
    """

    def __init__(self, classes: Mapping[str, type] | None = None, collect: bool = False) -> None:
        self.by_name: dict[str, type] = dict(classes or {})
        self.by_class: dict[type, str] = {cls: name for name, cls in self.by_name.items()}
        self.collect = collect
        self.wanted: dict[str, type] = {}
        self.packages: set[str] = set()

    def name_of(self, cls: type) -> str:
        """The class's name on the wire.

        Raises:
            CodecError: the class is not one of the shipped ones.
        """
        name = self.by_class.get(cls)
        if name is not None:
            return name
        if not self.collect:
            raise CodecError(
                f"a value of class {cls.__module__}.{cls.__qualname__} cannot cross: "
                "the class was not shipped with the function",
                "Name the class in the function, for example in its annotations.",
            )
        name = f"{cls.__module__}:{cls.__qualname__}"
        self.wanted[name] = cls
        return name

    def find(self, name: Any) -> type:
        """The class of this name.

        Raises:
            CodecError: there is none.
        """
        cls = self.by_name.get(name) if isinstance(name, str) else None
        if cls is None:
            raise CodecError(
                f"the class {name!r} is not known here", "Name the class in the shipped function."
            )
        return cls


def encode(value: Any, registry: Registry | None = None) -> Message:
    """Make a message of ``value``. Its buffers are the value's own memory where possible.

    Raises:
        CodecError: the value, or something inside it, cannot cross; the message names its type.
    """
    encoder = Encoder(registry or Registry())
    tree = encoder.lower(value)
    try:
        header = msgpack.packb(tree, use_bin_type=True, unicode_errors="surrogatepass", default=_wide_integer)
    except (ValueError, OverflowError, TypeError, RecursionError) as error:
        raise CodecError(f"the value cannot be sent: {error}") from error
    return Message(header, encoder.buffers)


def decode(header: bytes, buffers: Sequence[memoryview] = (), registry: Registry | None = None) -> Any:
    """Make the value of a message. Arrays are built directly on ``buffers``, and keep them.

    Raises:
        CodecError: the bytes are no value, or need a class that ``registry`` does not hold.
    """
    decoder = Decoder(buffers, registry or Registry())
    try:
        value = msgpack.unpackb(
            header,
            raw=False,
            timestamp=3,
            strict_map_key=False,
            object_pairs_hook=decoder.map,
            list_hook=decoder.row,
            ext_hook=_no_extension,
            unicode_errors="surrogatepass",
            max_array_len=RUN_ITEMS_MAX,
            max_map_len=MAP_ITEMS_MAX,
        )
    except CodecError:
        raise
    except ImportError as error:
        raise CodecError(
            f"the value needs {error.name or 'a package'}, which is not installed here",
            "Install it: pip install 'sojourn[arrays]'.",
        ) from error
    # Constructors of many types, and classes of the user's, see hostile arguments here: whatever
    # they raise, the answer is the same.
    except Exception as error:
        raise CodecError(f"not a value: {type(error).__name__}: {error}") from error
    if decoder.unused:
        raise CodecError(f"not a value: {len(decoder.unused)} buffers are not part of it")
    return value


def _no_extension(code: int, _data: bytes) -> Any:
    raise CodecError(f"not a value: unknown extension {code}")


def _wide_integer(value: Any) -> Tree:
    """msgpack calls this for what it cannot pack itself: integers beyond 64 bits."""
    if type(value) is not int:
        raise CodecError(f"a value of type {type(value).__name__} cannot cross")
    length = value.bit_length() // 8 + 1
    if length > INTEGER_BYTES_MAX:
        raise CodecError(f"an integer of {length:,} bytes is too large (at most {INTEGER_BYTES_MAX:,})")
    return {_INTEGER: value.to_bytes(length, "little", signed=True)}


class Encoder:
    """Turns one value into a tree of what msgpack knows, and collects the buffers."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.buffers: list[memoryview] = []
        self._open: set[int] = set()
        self._nodes = 0

    def lower(self, value: Any) -> Tree:
        """The tree for ``value``.

        Raises:
            CodecError: the value cannot cross.
        """
        kind = type(value)
        if kind in _PLAIN:
            return value
        lower = _LOWER.get(kind)
        if lower is None:
            return _lower_other(self, value)
        if kind not in _CONTAINERS:
            return lower(self, value)
        return self.inside(value, lower)

    def inside(self, value: Any, lower: Lower) -> Tree:
        """Lower a value that holds others: refuses cycles, and more than ``DEPTH_MAX`` levels."""
        if id(value) in self._open:
            raise CodecError(
                f"a {type(value).__name__} that contains itself cannot cross", "Send it without the cycle."
            )
        self.count(1)
        if len(self._open) >= DEPTH_MAX:
            raise CodecError(f"a value nested more than {DEPTH_MAX} levels deep cannot cross", "Flatten it.")
        self._open.add(id(value))
        try:
            return lower(self, value)
        finally:
            self._open.discard(id(value))

    def count(self, nodes: int) -> None:
        """Bound the work: a small value that refers to its parts many times over can be huge."""
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            raise CodecError(
                f"a value of more than {NODES_MAX:,} parts is too large",
                "Pass a numpy array or a data frame.",
            )

    def items(self, values: Sequence[Any]) -> Tree:
        """The tree for a list of values; decodes to a list."""
        self.count(len(values))
        kinds = set(map(type, values))
        if len(values) >= COLUMN_ITEMS_MIN and len(kinds) == 1:
            column = self._column(values, kinds.pop())
            if column is not None:
                return column
        if kinds <= _PLAIN:
            return _runs(values if isinstance(values, list) else list(values))
        return _runs([self.lower(value) for value in values])

    def _column(self, values: Sequence[Any], kind: type) -> Tree | None:
        """A long list of one plain type, as a buffer; None when it does not fit one."""
        if kind is str:
            lengths = array.array("I", map(len, values))
            text = "".join(values).encode("utf-8", "surrogatepass")
            return {_COLUMN: ["s", self.buffer(memoryview(text)), self.buffer(_little(lengths))]}
        code = {int: "q", float: "d"}.get(kind)
        if code is None:
            return None
        try:
            return {_COLUMN: [code, self.buffer(_little(array.array(code, values)))]}
        except OverflowError:
            return None

    def buffer(self, view: memoryview) -> int:
        """Send ``view`` beside the header; the number that stands for it."""
        self.buffers.append(view.cast("B") if view.nbytes else memoryview(b""))
        return len(self.buffers) - 1


def _little(values: array.array[Any]) -> memoryview:
    if sys.byteorder == "big":
        values.byteswap()
    return memoryview(values).cast("B")


def _runs(items: list[Tree]) -> Tree:
    if len(items) <= RUN_ITEMS_MAX:
        return items
    cuts = range(0, len(items), RUN_ITEMS_MAX)
    return {_RUNS: _runs([items[cut : cut + RUN_ITEMS_MAX] for cut in cuts])}


def _lower_str(encoder: Encoder, value: str) -> Tree:
    if len(value) < BUFFER_BYTES_MIN:
        return value
    return {_TEXT: encoder.buffer(memoryview(value.encode("utf-8", "surrogatepass")))}


def _lower_bytes(encoder: Encoder, value: bytes) -> Tree:
    return value if len(value) < BUFFER_BYTES_MIN else {_BYTES: encoder.buffer(memoryview(value))}


def _lower_dict(encoder: Encoder, value: dict[Any, Any]) -> Tree:
    if len(value) <= MAP_ITEMS_MAX and set(map(type, value)) <= {str}:
        return dict(zip(value, map(encoder.lower, value.values()), strict=True))
    return {_DICT: [encoder.items(list(value)), encoder.items(list(value.values()))]}


_PLAIN: frozenset[type] = frozenset({type(None), bool, int, float})
_CONTAINERS: set[type] = {list, tuple, dict, set, frozenset}
_LOWER: dict[type, Lower] = {
    str: _lower_str,
    bytes: _lower_bytes,
    bytearray: lambda encoder, value: {_BYTEARRAY: encoder.buffer(memoryview(bytes(value)))},
    list: lambda encoder, value: encoder.items(value),
    tuple: lambda encoder, value: {_TUPLE: encoder.items(value)},
    dict: _lower_dict,
    set: lambda encoder, value: {_SET: encoder.items(list(value))},
    frozenset: lambda encoder, value: {_FROZENSET: encoder.items(list(value))},
}


def _lower_other(encoder: Encoder, value: Any) -> Tree:
    """Values of less common types: the families are asked in turn, those of absent packages not at all."""
    from . import arrays, frames, scalars

    scalar = scalars.lower(encoder, value)
    if scalar is not None:
        return {_SCALAR: scalar}
    if "pandas" in sys.modules and frames.is_frame_value(value):
        encoder.registry.packages.add("pandas")
        return {_FRAME: encoder.inside(value, frames.lower)}
    if "numpy" in sys.modules and arrays.is_array_value(value):
        encoder.registry.packages.add("numpy")
        return {_ARRAY: arrays.lower(encoder, value)}
    instance = encoder.inside(value, scalars.lower_instance)
    if instance is not None:
        return {_INSTANCE: instance}
    raise CodecError(
        f"a value of type {_type_name(value)} cannot cross the boundary of the virtual machine",
        "Convert it to plain values, arrays, data frames or dataclasses first.",
    )


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class Decoder:
    """Turns maps into values while msgpack reads; what is inside a map has been turned already.

    Every list and map is counted when it is complete, and everything else when it is made: the sum is
    an upper bound of what the value takes, and work stops when it passes ``OBJECT_BYTES_MAX``.
    """

    def __init__(self, buffers: Sequence[memoryview], registry: Registry) -> None:
        self.registry = registry
        self.unused: dict[int, memoryview] = dict(enumerate(buffers))
        self.zones: dict[str, datetime.tzinfo] = {}
        self._left_bytes = OBJECT_BYTES_MAX

    def charge(self, size_bytes: int) -> None:
        """Count what is about to be made, before it takes memory or time.

        Raises:
            CodecError: it is too much for one value.
        """
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise CodecError(
                f"a value of so many parts is too large (at most {OBJECT_BYTES_MAX:,} bytes of them)",
                "Pass a numpy array or a data frame, or several smaller values.",
            )

    def row(self, items: list[Any]) -> list[Any]:
        self.charge(LIST_BYTES + ITEM_BYTES * len(items))
        return items

    def map(self, pairs: list[tuple[Any, Any]]) -> Any:
        if len(pairs) == 1 and type(pairs[0][0]) is int:
            tag, payload = pairs[0]
            raiser = _RAISE.get(tag)
            if raiser is None:
                raise CodecError(f"not a value: unknown tag {tag}")
            if tag >= _SCALAR and type(payload) is list:  # a list that ends here; what is made counts itself
                self._left_bytes += LIST_BYTES + ITEM_BYTES * len(payload)
            return raiser(self, payload)
        self.charge(MAP_BYTES + PAIR_BYTES * len(pairs))
        if not {type(key) for key, _ in pairs} <= {str}:
            raise CodecError("not a value: a map key that is not a string")
        value = dict(pairs)
        if len(value) != len(pairs):
            raise CodecError("not a value: a map with the same key twice")
        return value

    def buffer(self, number: Any) -> memoryview:
        """The buffer of this number, which nothing else can then have.

        Raises:
            CodecError: there is none, or it is taken.
        """
        view = self.unused.pop(number, None) if type(number) is int else None
        if view is None:
            raise CodecError("not a value: a buffer that is not there, or is used twice")
        return view


def _list_of(payload: Any) -> list[Any]:
    if type(payload) is not list:
        raise CodecError("not a value: a list was expected")
    return payload


def fields_of(payload: Any, count: int) -> list[Any]:
    """``payload``, once it is known to be a list of ``count`` items.

    Raises:
        CodecError: it is not.
    """
    if type(payload) is not list or len(payload) != count:
        raise CodecError(f"not a value: a list of {count} was expected")
    return payload


def hashable(keys: list[Any]) -> list[Any]:
    """``keys``, once they are known not to be chosen to make a dict or set quadratic.

    Raises:
        CodecError: many different keys have the same hash.
    """
    if len(keys) > SAME_HASH_MAX and set(map(type, keys)) != {str}:
        most = Counter(map(hash, keys)).most_common(1)[0][1]
        if most > SAME_HASH_MAX:
            raise CodecError("not a value: too many keys with the same hash")
    return keys


def _raise_dict(decoder: Decoder, payload: Any) -> dict[Any, Any]:
    keys, values = map(_list_of, fields_of(payload, 2))
    decoder.charge(MAP_BYTES + PAIR_BYTES * len(keys))
    value = dict(zip(hashable(keys), values, strict=True))
    if len(value) != len(keys):
        raise CodecError("not a value: a dict with the same key twice")
    return value


def _raise_set(decoder: Decoder, payload: Any) -> set[Any]:
    items = _list_of(payload)
    decoder.charge(SET_BYTES + SET_ITEM_BYTES * len(items))
    value = set(hashable(items))
    if len(value) != len(items):
        raise CodecError("not a value: a set with the same item twice")
    return value


def _raise_integer(decoder: Decoder, payload: Any) -> int:
    if type(payload) is not bytes or len(payload) > INTEGER_BYTES_MAX:
        raise CodecError("not a value: an integer that is not one")
    decoder.charge(SMALL_BYTES + 2 * len(payload))
    return int.from_bytes(payload, "little", signed=True)


def _raise_runs(decoder: Decoder, payload: Any) -> list[Any]:
    runs: list[list[Any]] = list(map(_list_of, _list_of(payload)))
    decoder.charge(LIST_BYTES + 8 * sum(map(len, runs)))  # what they hold has been counted
    return list(itertools.chain.from_iterable(runs))


def _raise_text(decoder: Decoder, view: memoryview) -> str:
    """Text of a buffer. Four bytes for each character are spent on all when only one of them needs it."""
    width = 4 if _WIDE.search(view) else 2 if _NOT_ASCII.search(view) else 1
    decoder.charge(SMALL_BYTES + (width - 1) * view.nbytes)
    return str(view, "utf-8", "surrogatepass")


def _raise_column(decoder: Decoder, payload: Any) -> list[Any]:
    match payload:
        case ["s", text, lengths]:
            whole, sizes = _raise_text(decoder, decoder.buffer(text)), decoder.buffer(lengths)
            decoder.charge(LIST_BYTES + ITEM_BYTES * sizes.nbytes // 4)
            return _cut_text(whole, _from_little("I", sizes))
        case ["q" | "d" as code, number]:
            view = decoder.buffer(number)
            decoder.charge(LIST_BYTES + 40 * view.nbytes // 8)
            return _from_little(code, view).tolist()
    raise CodecError("not a value: an unknown kind of column")


def _from_little(code: str, view: memoryview) -> array.array[Any]:
    values = array.array(code)
    values.frombytes(view)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _cut_text(text: str, lengths: array.array[int]) -> list[str]:
    if sum(lengths) != len(text):
        raise CodecError("not a value: text and its lengths disagree")
    ends = itertools.accumulate(lengths)
    return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _raise_scalar(decoder: Decoder, payload: Any) -> Any:
    from . import scalars

    return scalars.raise_(decoder, payload)


def _raise_instance(decoder: Decoder, payload: Any) -> Any:
    from . import scalars

    return scalars.raise_instance(decoder, payload)


def _raise_array(decoder: Decoder, payload: Any) -> Any:
    from . import arrays

    return arrays.raise_(decoder, payload)


def _raise_frame(decoder: Decoder, payload: Any) -> Any:
    from . import frames

    return frames.raise_(decoder, payload)


_RAISE: dict[int, Raise] = {
    _TUPLE: lambda _decoder, payload: tuple(_list_of(payload)),
    _DICT: _raise_dict,
    _SET: _raise_set,
    _FROZENSET: lambda decoder, payload: frozenset(_raise_set(decoder, payload)),
    _INTEGER: _raise_integer,
    _BYTES: lambda decoder, payload: bytes(decoder.buffer(payload)),
    _BYTEARRAY: lambda decoder, payload: bytearray(decoder.buffer(payload)),
    _TEXT: lambda decoder, payload: _raise_text(decoder, decoder.buffer(payload)),
    _RUNS: _raise_runs,
    _COLUMN: _raise_column,
    _SCALAR: _raise_scalar,
    _INSTANCE: _raise_instance,
    _ARRAY: _raise_array,
    _FRAME: _raise_frame,
}
