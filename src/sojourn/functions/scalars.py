"""The codec's less common plain values: dates, numbers, paths, collections, and the user's own classes.

Part of the codec (see ``codec``): runs in the guest too, standard library only, does no I/O apart
from looking up a time zone in the machine's own database.

Theory: each kind has a name, a way down to a list of simpler values, and a way up. The way up gets
whatever the peer sent: constructors that check their arguments are relied on, all others are guarded.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import re
import traceback
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .codec import _CONTAINERS, COLLECTION_BYTES, PAIR_BYTES, SMALL_BYTES, fields_of, hashable
from .wire import CodecError

if TYPE_CHECKING:
    from .codec import Decoder, Encoder

FRACTION_BITS_MAX = 1 << 16
PATH_CHARACTERS_MAX = 1 << 16
FLAG_BITS_MAX = 1_024
_ZONE_BYTES = 16_384  # looking one up costs more than keeping it
_ZONE_KEY = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_PLAIN_TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, object)
}
_FACTORIES: dict[type | None, str] = {None: "", **{kind: name for name, kind in _PLAIN_TYPES.items()}}


class RemoteError(Exception):
    """An exception that was sent as a value: what it was, in words; never its class.

    Attributes:
        type_name: its class name, such as ``"ValueError"``.
        message: its text.
        traceback: its traceback as text.
    """

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback


def lower(encoder: Encoder, value: Any) -> list[Any] | None:
    """The list for a value of one of this module's kinds; None for any other."""
    kind = type(value)
    if kind in _DOWN:
        name, down = _DOWN[kind]
        if kind in _COLLECTIONS:
            return [name, *encoder.inside(value, lambda inner, item: list(map(inner.lower, down(item))))]
        return [name, *map(encoder.lower, down(value))]
    if isinstance(value, BaseException):
        return ["error", *map(encoder.lower, _error_down(value))]
    if isinstance(value, datetime.tzinfo) and isinstance(zone := getattr(value, "zone", None), str):
        return ["zone", zone]  # pytz
    if isinstance(value, type) and _PLAIN_TYPES.get(value.__name__) is value:
        return ["type", value.__name__]
    return None


def raise_(decoder: Decoder, payload: Any) -> Any:
    """The value of such a list.

    Raises:
        CodecError: it is none (or whatever a constructor raises; ``decode`` makes that the same).
    """
    if type(payload) is not list or not payload or type(payload[0]) is not str or payload[0] not in _UP:
        raise CodecError("not a value: an unknown kind of scalar")
    name, *parts = payload
    decoder.charge(_cost_bytes(name, parts))
    return _zone_once(decoder, parts) if name == "zone" else _UP[name](*parts)


def _cost_bytes(name: str, parts: list[Any]) -> int:
    if name in _HOLDING:
        return COLLECTION_BYTES + PAIR_BYTES * max(
            (len(part) for part in parts if type(part) is list), default=0
        )
    if name == "fraction":
        return SMALL_BYTES + sum(4 * part.bit_length() for part in parts if type(part) is int)
    return SMALL_BYTES


def _zone_once(decoder: Decoder, parts: list[Any]) -> datetime.tzinfo:
    """A zone is looked up once for each message, however many moments are in it."""
    (key,) = fields_of(parts, 1)
    if type(key) is not str or key not in decoder.zones:
        decoder.charge(_ZONE_BYTES)
        decoder.zones[key] = _zone_up(key)
    return decoder.zones[key]


def _error_down(error: BaseException) -> list[Any]:
    if isinstance(error, RemoteError):
        return [error.type_name, error.message, error.traceback]
    return [type(error).__name__, str(error), "".join(traceback.format_exception(error))]


def _error_up(type_name: Any, message: Any, text: Any) -> RemoteError:
    _only(str, type_name, message, text)
    return RemoteError(type_name, message, text)


def _only(kind: type, *values: Any) -> None:
    for value in values:
        if type(value) is not kind:
            raise CodecError(f"not a value: {kind.__name__} expected, {type(value).__name__} found")


def _datetime_down(value: datetime.datetime) -> list[Any]:
    date = [value.year, value.month, value.day]
    return [*date, value.hour, value.minute, value.second, value.microsecond, value.tzinfo, value.fold]


def _datetime_up(*parts: Any) -> datetime.datetime:
    year, month, day, hour, minute, second, microsecond, tzinfo, fold = fields_of(list(parts), 9)
    _only(int, year, month, day, hour, minute, second, microsecond)
    return datetime.datetime(year, month, day, hour, minute, second, microsecond, tzinfo, fold=fold)


def _time_up(*parts: Any) -> datetime.time:
    hour, minute, second, microsecond, tzinfo, fold = fields_of(list(parts), 6)
    _only(int, hour, minute, second, microsecond)
    return datetime.time(hour, minute, second, microsecond, tzinfo, fold=fold)


def _date_up(year: Any, month: Any, day: Any) -> datetime.date:
    _only(int, year, month, day)
    return datetime.date(year, month, day)


def _timedelta_up(days: Any, seconds: Any, microseconds: Any) -> datetime.timedelta:
    _only(int, days, seconds, microseconds)
    return datetime.timedelta(days, seconds, microseconds)


def _timezone_down(value: datetime.timezone) -> list[Any]:
    offset = value.utcoffset(None)
    # No public attribute tells an explicit name from the derived one.
    named = value.tzname(None) != datetime.timezone(offset).tzname(None)
    return [offset, value.tzname(None) if named else None]


def _timezone_up(offset: Any, name: Any) -> datetime.timezone:
    if name is None:
        return datetime.UTC if not offset else datetime.timezone(offset)
    return datetime.timezone(offset, name)


def _zone_up(key: Any) -> datetime.tzinfo:
    import zoneinfo

    if type(key) is not str or _ZONE_KEY.fullmatch(key) is None:
        raise CodecError("not a value: not the name of a time zone")
    try:
        return zoneinfo.ZoneInfo(key)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise CodecError(f"the time zone {key!r} is not known here", "Install the tzdata package.") from error


def _zone_down(value: Any) -> list[Any]:
    if not value.key:
        raise CodecError("a time zone without a name cannot cross", "Use zoneinfo.ZoneInfo(name).")
    return [value.key]


def _decimal_up(text: Any) -> decimal.Decimal:
    _only(str, text)
    return decimal.Decimal(text)


def _fraction_down(value: fractions.Fraction) -> list[Any]:
    _check_fraction(value.numerator, value.denominator)
    return [value.numerator, value.denominator]


def _fraction_up(numerator: Any, denominator: Any) -> fractions.Fraction:
    _only(int, numerator, denominator)
    _check_fraction(numerator, denominator)
    return fractions.Fraction(numerator, denominator)


def _check_fraction(numerator: int, denominator: int) -> None:
    # Reducing a fraction takes time quadratic in its length.
    if max(numerator.bit_length(), denominator.bit_length()) > FRACTION_BITS_MAX:
        raise CodecError(f"a fraction of more than {FRACTION_BITS_MAX:,} bits is too large")


def _complex_up(real: Any, imaginary: Any) -> complex:
    _only(float, real, imaginary)
    return complex(real, imaginary)


def _uuid_up(data: Any) -> uuid.UUID:
    _only(bytes, data)
    return uuid.UUID(bytes=data)


def _range_up(start: Any, stop: Any, step: Any) -> range:
    _only(int, start, stop, step)
    return range(start, stop, step)


def _slice_up(start: Any, stop: Any, step: Any) -> slice:
    return slice(start, stop, step)


def _path_up(kind: Callable[[str], Any]) -> Callable[[Any], Any]:
    def up(text: Any) -> Any:
        _only(str, text)
        if len(text) > PATH_CHARACTERS_MAX:
            raise CodecError(f"a path of more than {PATH_CHARACTERS_MAX:,} characters is too large")
        return kind(text)

    return up


def _pairs_down(value: Any) -> list[Any]:
    return [list(value), list(value.values())]


def _pairs_up(kind: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def up(keys: Any, values: Any) -> Any:
        _only(list, keys, values)
        return kind(dict(zip(hashable(keys), values, strict=True)))

    return up


def _deque_up(items: Any, length_max: Any) -> deque[Any]:
    _only(list, items)
    return deque(items, length_max)


def _default_down(value: defaultdict[Any, Any]) -> list[Any]:
    name = _FACTORIES.get(value.default_factory)  # type: ignore[arg-type]
    if name is None:
        raise CodecError(
            "a defaultdict whose default is made by a function of your own cannot cross",
            "Send dict(value) and make the defaultdict again on the other side.",
        )
    return [name, list(value), list(value.values())]


def _default_up(name: Any, keys: Any, values: Any) -> defaultdict[Any, Any]:
    _only(list, keys, values)
    factory = _PLAIN_TYPES[name] if name else None
    return defaultdict(factory, zip(hashable(keys), values, strict=True))


_HOLDING = {"ordereddict", "counter", "deque", "defaultdict"}
_COLLECTIONS: set[type] = {OrderedDict, Counter, deque, defaultdict, slice}
_DOWN: dict[type, tuple[str, Callable[[Any], list[Any]]]] = {
    type(...): ("...", lambda value: []),
    complex: ("complex", lambda value: [value.real, value.imag]),
    decimal.Decimal: ("decimal", lambda value: [str(value)]),
    fractions.Fraction: ("fraction", _fraction_down),
    uuid.UUID: ("uuid", lambda value: [value.bytes]),
    range: ("range", lambda value: [value.start, value.stop, value.step]),
    slice: ("slice", lambda value: [value.start, value.stop, value.step]),
    datetime.datetime: ("datetime", _datetime_down),
    datetime.date: ("date", lambda value: [value.year, value.month, value.day]),
    datetime.time: (
        "time",
        lambda value: [value.hour, value.minute, value.second, value.microsecond, value.tzinfo, value.fold],
    ),
    datetime.timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    datetime.timezone: ("timezone", _timezone_down),
    pathlib.PurePosixPath: ("posixpath", lambda value: [str(value)]),
    pathlib.PureWindowsPath: ("windowspath", lambda value: [str(value)]),
    type(pathlib.Path()): ("path", lambda value: [str(value)]),
    OrderedDict: ("ordereddict", _pairs_down),
    Counter: ("counter", _pairs_down),
    deque: ("deque", lambda value: [list(value), value.maxlen]),
    defaultdict: ("defaultdict", _default_down),
}
_UP: dict[str, Callable[..., Any]] = {
    "...": lambda: ...,
    "type": lambda name: _PLAIN_TYPES[name],
    "error": _error_up,
    "complex": _complex_up,
    "decimal": _decimal_up,
    "fraction": _fraction_up,
    "uuid": _uuid_up,
    "range": _range_up,
    "slice": _slice_up,
    "datetime": _datetime_up,
    "date": _date_up,
    "time": _time_up,
    "timedelta": _timedelta_up,
    "timezone": _timezone_up,
    "zone": _zone_up,
    "posixpath": _path_up(pathlib.PurePosixPath),
    "windowspath": _path_up(pathlib.PureWindowsPath),
    "path": _path_up(pathlib.Path),
    "ordereddict": _pairs_up(OrderedDict),
    "counter": _pairs_up(Counter),
    "deque": _deque_up,
    "defaultdict": _default_up,
}


def _register_zoneinfo() -> None:
    try:
        import zoneinfo
    except ImportError:  # a runtime built without it has no zones to send either
        return
    _DOWN[zoneinfo.ZoneInfo] = ("zone", _zone_down)


_register_zoneinfo()


def lower_instance(encoder: Encoder, value: Any) -> list[Any] | None:
    """The list for an instance of one of the user's own classes; None when its kind cannot cross.

    Raises:
        CodecError: of such a kind, but its class is not known on the other side.
    """
    cls = type(value)
    if isinstance(value, enum.Flag):
        return [encoder.registry.name_of(cls), "flag", value.value]
    if isinstance(value, enum.Enum):
        return [encoder.registry.name_of(cls), "enum", value.name]
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        return [encoder.registry.name_of(cls), "tuple", encoder.items(list(value))]
    if dataclasses.is_dataclass(cls) and not isinstance(value, _NOT_ONLY_FIELDS):
        present = [field.name for field in dataclasses.fields(cls) if hasattr(value, field.name)]
        state = [getattr(value, name) for name in present]
        return [encoder.registry.name_of(cls), "data", present, encoder.items(state)]
    return None


_NOT_ONLY_FIELDS = (int, float, str, bytes, *_CONTAINERS)


def raise_instance(decoder: Decoder, payload: Any) -> Any:
    """The instance of such a list. Its fields are set as they were; ``__init__`` does not run.

    Raises:
        CodecError: the class is unknown here, or the parts do not fit it.
    """
    if type(payload) is not list or len(payload) < 3:
        raise CodecError("not a value: an instance without parts")
    cls = decoder.registry.find(payload[0])
    decoder.charge(SMALL_BYTES)
    match payload[1:]:
        case ["enum", str() as name] if issubclass(cls, enum.Enum):
            return cls.__members__[name]
        case ["flag", int() as number] if issubclass(cls, enum.Flag) and number.bit_length() <= FLAG_BITS_MAX:
            return cls(number)
        case ["tuple", list() as items] if issubclass(cls, tuple):
            return tuple.__new__(cls, fields_of(items, len(getattr(cls, "_fields", ()))))
        case ["data", list() as names, list() as state] if dataclasses.is_dataclass(cls):
            return _raise_data(cls, names, state)
    raise CodecError(f"not a value: parts that do not fit {cls.__qualname__}")


def _raise_data(cls: type, names: list[Any], state: list[Any]) -> Any:
    known = {field.name for field in dataclasses.fields(cls)}
    value: Any = object.__new__(cls)
    for name, part in zip(names, state, strict=True):
        if name not in known:
            raise CodecError(f"not a value: {cls.__qualname__} has no field {name!r}")
        object.__setattr__(value, name, part)
    return value
