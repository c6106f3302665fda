"""The codec's numpy values: arrays of every fixed-size type, scalars and data types.

Part of the codec (see ``codec``): runs in the guest too. Encoding happens only when numpy is loaded
already; decoding loads it. An array's bytes travel beside the header, without a copy when they are
contiguous in C or Fortran order, and become the new array's memory, writable.

Invariants: no object arrays in any disguise; a shape, a data type and a buffer that do not fit one
another are refused before numpy sees the buffer.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from .codec import SMALL_BYTES, fields_of
from .wire import CodecError

if TYPE_CHECKING:
    from .codec import Decoder, Encoder

DIMENSIONS_MAX = 64
FIELDS_MAX = 4_096
ITEM_BYTES_MAX = 1 << 20
_SIMPLE = re.compile(
    r"\|b1|[|<>][iu]1|[<>][iu][248]|[<>]f[248]|[<>]c(8|16)|[|<>][SUV]\d{1,7}|[<>][mM]8(\[\w+\])?"
)


def is_array_value(value: Any) -> bool:
    """Whether ``value`` is numpy's to send."""
    import numpy as np

    is_scalar_type = isinstance(value, type) and issubclass(value, np.generic)
    return isinstance(value, (np.ndarray, np.generic, np.dtype)) or is_scalar_type


def lower(encoder: Encoder, value: Any) -> list[Any]:
    """The list for an array, a numpy scalar, a data type or a scalar type.

    Raises:
        CodecError: an array of objects, of a subclass, or of a type that differs between machines.
    """
    import numpy as np

    if isinstance(value, type):
        return ["type", _dtype_down(np.dtype(value))]
    if isinstance(value, np.dtype):
        return ["dtype", _dtype_down(value)]
    if isinstance(value, np.generic):
        return ["scalar", _dtype_down(value.dtype), value.tobytes()]
    if type(value) not in (np.ndarray, np.memmap):
        raise CodecError(
            f"an array of the subclass {type(value).__name__} cannot cross",
            "Send numpy.asarray(value), and for a masked array its mask beside it.",
        )
    return _array_down(encoder, value)


def _array_down(encoder: Encoder, value: Any) -> list[Any]:
    import numpy as np

    dtype = _dtype_down(value.dtype)
    order = "C"
    if not value.flags.c_contiguous:
        if value.flags.f_contiguous:
            value, order = value.T, "F"
        else:
            value = np.ascontiguousarray(value)
    shape = list(value.shape if order == "C" else value.shape[::-1])
    # Through uint8, because dates and structures have no buffer of their own.
    data = memoryview(value.reshape(-1).view(np.uint8)) if value.size else memoryview(b"")
    return ["array", dtype, shape, order, encoder.buffer(data)]


def _dtype_down(dtype: Any) -> Any:
    if dtype.hasobject:
        raise CodecError(
            "a numpy array of Python objects cannot cross",
            "Give it a fixed type with .astype(...), or send .tolist().",
        )
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_dtype_down(base), list(shape)]
    if dtype.fields is not None:
        return _structure_down(dtype)
    if _SIMPLE.fullmatch(dtype.str) is None or not dtype.itemsize:
        raise CodecError(
            f"a numpy array of {dtype} cannot cross: the type differs between machines or has no fixed size",
            "Convert it with .astype(...), for example to numpy.float64 or to str of a fixed length.",
        )
    return dtype.str


def _structure_down(dtype: Any) -> dict[str, Any]:
    parts = [dtype.fields[name] for name in dtype.names]
    if not parts or any(len(part) > 2 for part in parts):
        raise CodecError("a structured numpy array without fields, or with field titles, cannot cross")
    return {
        "names": list(dtype.names),
        "formats": [_dtype_down(part[0]) for part in parts],
        "offsets": [part[1] for part in parts],
        "itemsize": dtype.itemsize,
    }


def raise_(decoder: Decoder, payload: Any) -> Any:
    """The numpy value of such a list.

    Raises:
        CodecError: it is none.
    """
    import numpy as np

    if type(payload) is not list:
        raise CodecError("not a value: an array that is none")
    decoder.charge(SMALL_BYTES)
    match payload:
        case ["dtype", dtype]:
            return _dtype_up(dtype)
        case ["type", dtype]:
            return _dtype_up(dtype).type
        case ["scalar", dtype, bytes() as data]:
            found = _dtype_up(dtype)
            if len(data) != found.itemsize:
                raise CodecError("not a value: a numpy scalar of the wrong size")
            return np.ndarray((1,), found, bytearray(data))[0]
        case ["array", dtype, list() as shape, "C" | "F" as order, number]:
            return _array_up(_dtype_up(dtype), shape, order, decoder.buffer(number))
    raise CodecError("not a value: an unknown kind of array")


def _array_up(dtype: Any, shape: list[Any], order: Any, data: memoryview) -> Any:
    import numpy as np

    _check_shape(shape)
    if math.prod(shape) * dtype.itemsize != data.nbytes or dtype.subdtype is not None:
        raise CodecError("not a value: an array whose shape and bytes disagree")
    if not data.nbytes:
        return np.empty(shape, dtype, order)
    return np.ndarray(tuple(shape), dtype, data, order=order)


def _check_shape(shape: list[Any]) -> None:
    sizes_fit = all(type(size) is int and 0 <= size < 1 << 62 for size in shape)
    if len(shape) > DIMENSIONS_MAX or not sizes_fit:
        raise CodecError("not a value: an array of an impossible shape")


def _dtype_up(form: Any) -> Any:
    import numpy as np

    match form:
        case str() if _SIMPLE.fullmatch(form):
            dtype = np.dtype(form)
        case [base, list() as shape]:
            _check_shape(shape)
            inner = _dtype_up(base)
            if inner.itemsize * math.prod(shape) > ITEM_BYTES_MAX:
                raise CodecError("not a value: a data type that is too large")
            dtype = np.dtype((inner, tuple(shape)))
        case {"names": list() as names, "formats": list() as formats, "offsets": offsets, "itemsize": size}:
            dtype = _structure_up(names, formats, offsets, size)
        case _:
            raise CodecError("not a value: an unknown data type")
    if not 0 < dtype.itemsize <= ITEM_BYTES_MAX * 4:
        raise CodecError("not a value: a data type without a size, or too large")
    return dtype


def _structure_up(names: list[Any], formats: list[Any], offsets: Any, size: Any) -> Any:
    import numpy as np

    inner = [_dtype_up(form) for form in formats]
    numbers = fields_of(offsets, len(inner))
    if not names or len(names) > FIELDS_MAX or type(size) is not int or size > ITEM_BYTES_MAX:
        raise CodecError("not a value: a structure of an impossible size")
    parts = {"names": names, "formats": inner, "offsets": numbers, "itemsize": size}
    return np.dtype(parts)  # type: ignore[call-overload]
