"""The codec's pandas values: data frames, series, indexes, extension arrays and scalars.

Part of the codec (see ``codec``): runs in the guest too. Encoding happens only when pandas is loaded
already; decoding loads it. Everything goes down to numpy arrays, lists and names through pandas'
public interface, so the two sides may have different versions of it.

Theory: a kind is a name and the list of simpler values that makes it; a table of constructors goes
the other way. A frame of one numpy type goes as one two-dimensional array, any other column by column.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .codec import SMALL_BYTES
from .wire import CodecError

if TYPE_CHECKING:
    from .codec import Decoder, Encoder

# A frame, series, index or array of pandas takes this much even when empty, and a third of a millisecond.
_HEAVY_BYTES = 8_192
_LIGHT = frozenset({"timestamp", "timedelta", "period", "interval", "nat", "na"})
_CLOSED = ("left", "right", "both", "neither")


def is_frame_value(value: Any) -> bool:
    """Whether ``value`` is of one of pandas' own classes."""
    return type(value).__module__.partition(".")[0] == "pandas"


def lower(encoder: Encoder, value: Any) -> list[Any]:
    """The list for a pandas value.

    Raises:
        CodecError: of a kind that cannot cross, such as a column of Arrow's or a sparse one.
    """
    import pandas as pd

    if value is pd.NaT or value is pd.NA:
        return ["nat" if value is pd.NaT else "na"]
    for kind, down in _downs():
        if type(value) is kind or (kind is pd.Index and isinstance(value, pd.Index)):
            name, *parts = down(value)
            return [name, *map(encoder.lower, parts)]
    raise CodecError(f"a pandas {type(value).__name__} cannot cross", _hint(value))


def _hint(value: Any) -> str:
    name = type(value).__name__
    if "Arrow" in name:
        return 'Convert it with .convert_dtypes(dtype_backend="numpy_nullable").'
    if "Sparse" in name:
        return "Convert it with .sparse.to_dense()."
    return "Send a data frame, a series, an index, or plain values."


def _downs() -> list[tuple[type, Callable[[Any], list[Any]]]]:
    import pandas as pd

    return [
        (pd.DataFrame, _frame_down),
        (pd.Series, lambda value: ["series", _data_of(value), value.index, value.name, *_marks(value)]),
        (pd.RangeIndex, lambda value: ["range", value.start, value.stop, value.step, value.name]),
        (pd.MultiIndex, _multi_down),
        (pd.Index, _index_down),
        (pd.Timestamp, _timestamp_down),
        (pd.Timedelta, lambda value: ["timedelta", value.to_timedelta64()]),
        (pd.Period, lambda value: ["period", value.ordinal, value.freqstr]),
        (pd.Interval, lambda value: ["interval", value.left, value.right, value.closed]),
        (pd.Categorical, lambda value: ["categorical", value.codes, value.categories, value.ordered]),
        (pd.arrays.DatetimeArray, _datetimes_down),
        (pd.arrays.TimedeltaArray, lambda value: ["timedeltas", value.to_numpy()]),
        (pd.arrays.PeriodArray, lambda value: ["periods", value.asi8, value.freqstr]),
        (pd.arrays.IntervalArray, lambda value: ["intervals", value.left, value.right, value.closed]),
        (pd.arrays.IntegerArray, _masked_down),
        (pd.arrays.FloatingArray, _masked_down),
        (pd.arrays.BooleanArray, _masked_down),
        *((kind, _strings_down) for kind in _string_arrays()),
    ]


def _string_arrays() -> set[type]:
    """The classes behind the ``str`` and ``string`` types, whichever storage this version has."""
    import pandas as pd

    names = ("StringArray", "ArrowStringArray")
    known = {getattr(pd.arrays, name) for name in names if hasattr(pd.arrays, name)}
    return known | {type(pd.array(["a"], dtype=dtype)) for dtype in ("string", "str")}


def _data_of(value: Any) -> Any:
    """What a column or an index holds: a numpy array, a list for objects, or an extension array."""
    import numpy as np

    if not isinstance(value.dtype, np.dtype):
        return value.array
    return list(value) if value.dtype == object else value.to_numpy()


def _frame_down(value: Any) -> list[Any]:
    import numpy as np

    types = set(value.dtypes)
    data: Any
    if len(types) == 1 and isinstance(only := types.pop(), np.dtype) and only.kind != "O":
        data = value.to_numpy()
    else:
        data = [_data_of(value.iloc[:, number]) for number in range(value.shape[1])]
    return ["frame", data, value.index, value.columns, *_marks(value)]


def _marks(value: Any) -> list[Any]:
    """What a frame or series carries besides its data."""
    return [value.attrs, value.flags.allows_duplicate_labels]


def _index_down(value: Any) -> list[Any]:
    return ["index", _data_of(value), value.name, getattr(value, "freqstr", None)]


def _multi_down(value: Any) -> list[Any]:
    return ["multi", list(value.levels), list(value.codes), list(value.names)]


def _timestamp_down(value: Any) -> list[Any]:
    moment = value if value.tz is None else value.tz_convert(None)
    return ["timestamp", moment.to_datetime64(), value.tz]


def _datetimes_down(value: Any) -> list[Any]:
    moments = value if value.tz is None else value.tz_convert("UTC").tz_localize(None)
    return ["datetimes", moments.to_numpy(), value.tz]


def _masked_down(value: Any) -> list[Any]:
    return ["masked", value.to_numpy(dtype=value.dtype.numpy_dtype, na_value=0), value.isna()]


def _strings_down(value: Any) -> list[Any]:
    import pandas as pd

    missing = "na" if getattr(value.dtype, "na_value", pd.NA) is pd.NA else "nan"
    items = value.to_numpy(dtype=object, na_value=None).tolist()
    return ["strings", items, missing]


def raise_(decoder: Decoder, payload: Any) -> Any:
    """The pandas value of such a list.

    Raises:
        CodecError: it is none (or whatever pandas raises; ``decode`` makes that the same).
    """
    if type(payload) is not list or not payload or type(payload[0]) is not str or payload[0] not in _UP:
        raise CodecError("not a value: an unknown kind of pandas value")
    name, *parts = payload
    decoder.charge(SMALL_BYTES if name in _LIGHT else _HEAVY_BYTES)
    if name in ("multi", "categorical", "intervals"):
        decoder.charge(sum(map(_spelt_bytes, _flat(parts))))
    return _UP[name](*parts)


def _flat(parts: list[Any]) -> list[Any]:
    return [item for part in parts for item in (part if type(part) is list else [part])]


def _spelt_bytes(value: Any) -> int:
    """A range is three numbers however long, until something needs every one of its items."""
    import pandas as pd

    return 8 * len(value) if isinstance(value, pd.RangeIndex) else 0


def _need(fits: bool) -> None:
    if not fits:
        raise CodecError("not a value: the parts of a pandas value do not fit")


def _array(value: Any, kinds: str) -> Any:
    import numpy as np

    _need(isinstance(value, np.ndarray) and value.dtype.kind in kinds)
    return value


def _index(value: Any) -> Any:
    import pandas as pd

    _need(isinstance(value, pd.Index))
    return value


def _column(data: Any, index: Any = None, name: Any = None) -> Any:
    """A series of exactly this data: nothing is inferred, nothing copied."""
    import numpy as np
    import pandas as pd

    if type(data) is list:
        _need(index is None or len(index) == len(data))
        objects = np.empty(len(data), dtype=object)
        for number, item in enumerate(data):
            objects[number] = item
        return pd.Series(objects, index=index, name=name, dtype=object, copy=False)
    _need(isinstance(data, (np.ndarray, pd.api.extensions.ExtensionArray)) and data.ndim == 1)
    _need(index is None or len(index) == len(data))
    return pd.Series(data, index=index, name=name, dtype=data.dtype, copy=False)


def _frame_up(data: Any, index: Any, columns: Any, attrs: Any, duplicates: Any) -> Any:
    import pandas as pd

    _index(index), _index(columns)
    if type(data) is list:
        _need(len(data) == len(columns))
        series = {number: _column(column, index) for number, column in enumerate(data)}
        frame = pd.DataFrame(series, index=index, copy=False)
        frame.columns = columns
    else:
        _need(_array(data, "biufcmMSUV").shape == (len(index), len(columns)))
        frame = pd.DataFrame(data, index=index, columns=columns, copy=False)
    return _marked(frame, attrs, duplicates)


def _marked(value: Any, attrs: Any, duplicates: Any) -> Any:
    _need(type(attrs) is dict and type(duplicates) is bool)
    if attrs:
        value.attrs = attrs
    if not duplicates:
        value.flags.allows_duplicate_labels = False
    return value


def _series_up(data: Any, index: Any, name: Any, attrs: Any, duplicates: Any) -> Any:
    return _marked(_column(data, _index(index), name), attrs, duplicates)


def _index_up(data: Any, name: Any, frequency: Any) -> Any:
    import pandas as pd

    column = _column(data)
    index = pd.Index(column.array if type(data) is not list else column, dtype=column.dtype, name=name)
    if frequency is not None and isinstance(index, (pd.DatetimeIndex, pd.TimedeltaIndex)):
        _need(type(frequency) is str)
        index.freq = frequency  # type: ignore[misc]
    return index


def _range_up(start: Any, stop: Any, step: Any, name: Any) -> Any:
    import pandas as pd

    _need(all(type(number) is int for number in (start, stop, step)))
    return pd.RangeIndex(start, stop, step, name=name)


def _multi_up(levels: Any, codes: Any, names: Any) -> Any:
    import pandas as pd

    _need(type(levels) is list and type(codes) is list and type(names) is list)
    checked = [_array(numbers, "iu") for numbers in codes]
    return pd.MultiIndex(levels=[_index(level) for level in levels], codes=checked, names=names)


def _zone(zone: Any) -> Any:
    """Never a text: pandas would look for a file of that name."""
    _need(zone is None or isinstance(zone, datetime.tzinfo))
    return zone


def _timestamp_up(moment: Any, zone: Any) -> Any:
    import numpy as np
    import pandas as pd

    _need(isinstance(moment, np.datetime64))
    stamp = pd.Timestamp(moment)
    return stamp if _zone(zone) is None else stamp.tz_localize("UTC").tz_convert(zone)


def _datetimes_up(moments: Any, zone: Any) -> Any:
    import pandas as pd

    index = pd.DatetimeIndex(_array(moments, "M"))
    return index.array if _zone(zone) is None else index.tz_localize("UTC").tz_convert(zone).array


def _timedelta_up(span: Any) -> Any:
    import numpy as np
    import pandas as pd

    _need(isinstance(span, np.timedelta64))
    return pd.Timedelta(span)


def _timedeltas_up(spans: Any) -> Any:
    import pandas as pd

    return pd.TimedeltaIndex(_array(spans, "m")).array


def _period_up(ordinal: Any, frequency: Any) -> Any:
    import pandas as pd

    _need(type(ordinal) is int and type(frequency) is str)
    return pd.Period(ordinal=ordinal, freq=frequency)


def _periods_up(ordinals: Any, frequency: Any) -> Any:
    import pandas as pd

    _need(type(frequency) is str)
    index: Any = pd.PeriodIndex
    return index.from_ordinals(_array(ordinals, "i"), freq=frequency).array


def _interval_up(left: Any, right: Any, closed: Any) -> Any:
    import pandas as pd

    _need(closed in _CLOSED)
    return pd.Interval(left, right, closed)


def _intervals_up(left: Any, right: Any, closed: Any) -> Any:
    import pandas as pd

    _need(closed in _CLOSED)
    return pd.arrays.IntervalArray.from_arrays(_index(left), _index(right), closed)


def _categorical_up(codes: Any, categories: Any, ordered: Any) -> Any:
    import pandas as pd

    _need(type(ordered) is bool)
    return pd.Categorical.from_codes(_array(codes, "i"), _index(categories), ordered=ordered)


def _masked_up(data: Any, mask: Any) -> Any:
    import pandas as pd

    kind = _array(data, "biuf").dtype.kind
    maker: Any = {"b": pd.arrays.BooleanArray, "f": pd.arrays.FloatingArray}.get(kind, pd.arrays.IntegerArray)
    return maker(data, _array(mask, "b"))


def _strings_up(items: Any, missing: Any) -> Any:
    import numpy as np
    import pandas as pd

    _need(type(items) is list and {type(item) for item in items} <= {str, type(None)})
    if missing == "na":
        return pd.array(items, dtype="string")
    try:
        return pd.array(items, dtype=pd.StringDtype(na_value=np.nan))
    except TypeError:  # pandas 2 has no such type: objects, as it had strings before
        return pd.array(items, dtype=object)


def _nat_up() -> Any:
    import pandas as pd

    return pd.NaT


def _na_up() -> Any:
    import pandas as pd

    return pd.NA


_UP: dict[str, Callable[..., Any]] = {
    "frame": _frame_up,
    "series": _series_up,
    "range": _range_up,
    "multi": _multi_up,
    "index": _index_up,
    "timestamp": _timestamp_up,
    "timedelta": _timedelta_up,
    "period": _period_up,
    "interval": _interval_up,
    "categorical": _categorical_up,
    "datetimes": _datetimes_up,
    "timedeltas": _timedeltas_up,
    "periods": _periods_up,
    "intervals": _intervals_up,
    "masked": _masked_up,
    "strings": _strings_up,
    "nat": _nat_up,
    "na": _na_up,
}
