"""The value codec: everything that can cross comes back equal and of the same type; nothing else crosses."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import math
import pathlib
import re
import struct
import threading
import uuid
import zoneinfo
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sojourn.functions import codec
from sojourn.functions.codec import Registry, decode, encode
from sojourn.functions.scalars import RemoteError
from sojourn.model.errors import CodecError


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0
    norm: float = dataclasses.field(init=False, default=0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", -1.0)


@dataclasses.dataclass(slots=True)
class Slotted:
    a: Any


class Pair(NamedTuple):
    left: Any
    right: Any


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Mode(enum.IntFlag):
    READ = 1
    WRITE = 2


CLASSES = {cls.__name__: cls for cls in (Point, Slotted, Pair, Colour, Mode)}


def round_trip(value: Any, registry: Registry | None = None) -> Any:
    message = encode(value, registry)
    buffers = [memoryview(bytearray(buffer)) for buffer in message.buffers]
    return decode(message.header, buffers, registry)


PARIS = zoneinfo.ZoneInfo("Europe/Paris")
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**64,
    -(2**64),
    10**400,
    0.0,
    -0.5,
    math.inf,
    "",
    "é\x00",
    "a\ud800",
    "long" * 10_000,
    b"",
    b"\xff" * 10,
    b"x" * 100_000,
    bytearray(b"abc"),
    [],
    [[], [[]]],
    (),
    (1, (2, "x")),
    {},
    {"a": {"b": [1]}},
    {1: 2},
    {(1, "a"): [3], None: 4, 1.5: 5, b"k": 6, True: 7},
    set(),
    {1, "a", (2,)},
    frozenset({1, frozenset({2})}),
    1j,
    complex(-0.5, math.inf),
    ...,
    float,
    dict,
    range(5),
    range(10, 0, -3),
    slice(1, None, 2),
    slice("a", (1,)),
    dt.date(1, 1, 1),
    dt.datetime.max,
    dt.datetime(2024, 10, 27, 2, 30, fold=1),
    dt.datetime(2024, 1, 1, tzinfo=PARIS),
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.time(1, 2, 3, 4),
    dt.time(1, tzinfo=dt.UTC),
    dt.timedelta(days=-1, microseconds=3),
    dt.UTC,
    dt.timezone(dt.timedelta(hours=-5)),
    dt.timezone(dt.timedelta(0), "zero"),
    PARIS,
    decimal.Decimal("1.50"),
    decimal.Decimal("-Infinity"),
    decimal.Decimal("1E+999999"),
    fractions.Fraction(-1, 3),
    uuid.UUID(int=5),
    pathlib.PurePosixPath("/a/b"),
    pathlib.PureWindowsPath("C:/x"),
    pathlib.Path("rel"),
    collections.OrderedDict(b=1, a=2),
    collections.Counter("aab"),
    collections.deque([1, 2], maxlen=5),
    collections.defaultdict(list, {1: [2]}),
    collections.defaultdict(None, a=1),
    list(range(5_000)),
    [0.5] * 5_000,
    ["é", "", "\ud800x"] * 2_000,
    [2**62, 2**63] * 1_000,
    [None, 1] * 20_000,
    list(map(str, range(40_000))),
    {i: str(i) for i in range(20_000)},
    {str(i): i for i in range(20_000)},
    [[i] for i in range(20_000)],
    ["x" * 20_000] * 3,
    [b"x" * 20_000] * 3,
    tuple(range(3_000)),
    [True, False] * 1_000,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_values_come_back_equal_and_of_the_same_type(value: Any) -> None:
    back = round_trip(value)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value) or isinstance(value, set | frozenset)


def test_nan_and_types_inside_containers_survive() -> None:
    back = round_trip([math.nan, (1,), {1: (2,)}, True, 1, 1.0])
    assert math.isnan(back[0])
    assert [type(item) for item in back[1:]] == [tuple, dict, bool, int, float]


@pytest.mark.parametrize(
    "value",
    [Point(1, (2,)), Slotted([1]), Pair(1, Slotted(2)), Colour.BLUE, Mode.READ, Mode.READ | Mode.WRITE],
)
def test_instances_of_known_classes_come_back(value: Any) -> None:
    back = round_trip(value, Registry(CLASSES))
    assert back == value
    assert type(back) is type(value)


def test_instances_keep_their_state_without_running_init() -> None:
    point = Point(1)
    object.__setattr__(point, "norm", 7.0)
    assert round_trip(point, Registry(CLASSES)).norm == 7.0


def test_a_class_that_is_not_shipped_is_refused_both_ways() -> None:
    with pytest.raises(CodecError, match="Point cannot cross"):
        encode(Point(1))
    message = encode(Point(1), Registry(CLASSES))
    with pytest.raises(CodecError, match="'Point' is not known here"):
        decode(message.header, message.buffers)


def test_unknown_classes_can_be_collected() -> None:
    registry = Registry(collect=True)
    encode([Point(1), {"k": Colour.RED}], registry)
    assert set(registry.wanted.values()) == {Point, Colour}


def test_packages_that_the_other_side_needs_are_noted() -> None:
    registry = Registry()
    encode([1, "a"], registry)
    assert registry.packages == set()
    encode(pd.Series([1.5]), registry)
    assert registry.packages == {"numpy", "pandas"}


def test_exceptions_cross_as_words() -> None:
    try:
        raise ValueError("bad")
    except ValueError as error:
        back = round_trip([error])[0]
    assert type(back) is RemoteError
    assert (back.type_name, back.message) == ("ValueError", "bad")
    assert "test_exceptions_cross_as_words" in back.traceback


def cycle() -> Any:
    items: list[Any] = [1]
    items.append({"again": (items,)})
    return items


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def doubling(levels: int) -> Any:
    value: Any = (0,)
    for _ in range(levels):
        value = (value, value)
    return value


REFUSED: list[tuple[Any, str]] = [
    (cycle(), "contains itself"),
    (nested(200), "nested more than"),
    (object(), "type object cannot cross"),
    (threading.Lock(), "cannot cross"),
    (lambda: 0, "type function cannot cross"),
    ((i for i in []), "generator cannot cross"),
    (np, "type module"),
    (memoryview(b"x"), "memoryview"),
    (collections.defaultdict(lambda: 0), "default"),
    (np.array([1, "a"], dtype=object), r"astype"),
    (np.zeros(2, [("a", object)]), r"astype"),
    (np.zeros(2, np.longdouble), "differs between machines"),
    (np.ma.masked_array([1], [True]), "subclass MaskedArray"),
    (pd.Series([1, 0], dtype="Sparse[int]"), r"to_dense"),
    (pd.DataFrame({"a": [object()]}), "type object"),
    (pd.DataFrame({"a": [1]}).groupby("a"), "GroupBy cannot cross"),
]


@pytest.mark.parametrize(("value", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_cross_is_refused_in_words(value: Any, words: str) -> None:
    with pytest.raises(CodecError) as caught:
        encode(value)
    assert re.search(words, str(caught.value))


def test_a_small_value_that_refers_to_its_parts_many_times_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codec, "NODES_MAX", 10_000)
    with pytest.raises(CodecError, match="too large"):
        encode(doubling(60))


ARRAYS = [
    np.array(3),
    np.array([]),
    np.zeros((0, 3)),
    np.zeros((3, 0, 2), ">i2"),
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(24).reshape(2, 3, 4)[:, ::2, 1:],
    np.arange(5)[::-1],
    np.array([1, 2], ">i4"),
    np.array([True, False]),
    np.array([1 + 2j], "c8"),
    np.array(["a", "bcé"]),
    np.array([b"a", b"bc"]),
    np.array(["2020-01-01", "NaT"], "M8[D]"),
    np.array([1, 2], "m8[ms]"),
    np.float16([1.5]),
    np.array([(1, 2.5)], [("a", "i1"), ("b", ">f8")]),
    np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    np.zeros(2, [("p", [("x", "f4"), ("y", "i2", (2, 3))]), ("s", "U3")]),
    np.zeros(3, "V5"),
    np.broadcast_to(np.arange(3), (2, 3)),
    np.uint64([2**64 - 1]),
    np.arange(12.0).reshape(3, 4).T,
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_come_back_the_same_and_writable(array: Any) -> None:
    back = round_trip(array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_large_arrays_are_not_copied_by_either_side() -> None:
    for array in (np.arange(1000.0), np.asfortranarray(np.ones((10, 20)))):
        message = encode(array)
        assert np.shares_memory(np.frombuffer(message.buffers[0], np.uint8), array)
        memory = bytearray(message.buffers[0])
        back = decode(message.header, [memoryview(memory)])
        assert np.shares_memory(back, np.frombuffer(memory, np.uint8))
        assert back.flags.f_contiguous == array.flags.f_contiguous


SCALARS = [
    np.float32(1.5),
    np.int8(-1),
    np.bool_(True),
    np.datetime64("2020-01-01T00:00:00.5"),
    np.timedelta64(5, "s"),
    np.complex128(1j),
    np.str_("é"),
    np.bytes_(b"x"),
    np.float64(2.5),
    np.datetime64("NaT"),
    np.dtype("f4"),
    np.dtype([("a", "i4")]),
    np.dtype(("i2", (3,))),
]


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_numpy_scalars_and_types_come_back(value: Any) -> None:
    back = round_trip(value)
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_numpy_scalar_types_come_back() -> None:
    assert round_trip(np.int16) is np.int16


DAYS = pd.date_range("2024-03-30", periods=4, freq="D")
MIXED = pd.DataFrame(
    {
        "int": [1, 2, 3, 4],
        "str": ["x", "é", None, ""],
        "object": pd.Series([1, "a", None, (1, 2)], dtype=object),
        "zoned": DAYS.tz_localize("Europe/Paris"),
        "offset": DAYS.tz_localize(dt.timezone(dt.timedelta(hours=2))),
        "naive": DAYS.as_unit("s"),
        "category": pd.Categorical(["b", None, "a", "b"], categories=["b", "a"], ordered=True),
        "Int64": pd.array([1, None, 3, 2**62 + 1], dtype="Int64"),
        "UInt8": pd.array([1, None, 3, 4], dtype="UInt8"),
        "Float64": pd.array([1.5, None, 3, 4], dtype="Float64"),
        "boolean": pd.array([True, None, False, True], dtype="boolean"),
        "string": pd.array(["a", None, "b", "c"], dtype="string"),
        "period": pd.period_range("2024", periods=4, freq="M"),
        "interval": pd.interval_range(0, 4, closed="left"),
        "timedelta": pd.to_timedelta([1, None, 3, 4], unit="s"),
        "bool": [True, False, True, False],
    },
    index=DAYS,
)
FRAMES = {
    "mixed": MIXED,
    "range index": MIXED.reset_index(),
    "one block": pd.DataFrame(np.arange(6.0).reshape(2, 3), columns=list("abc")),
    "one block of dates": pd.DataFrame({"a": DAYS, "b": DAYS}),
    "empty": pd.DataFrame(),
    "no columns": pd.DataFrame(index=[3, 1]),
    "no rows": MIXED.iloc[:0],
    "strided": pd.DataFrame(np.arange(24.0).reshape(4, 6)).iloc[::2, ::3],
    "multi": MIXED.reset_index().groupby(["str", "category"], observed=True)[["int"]].sum(),
    "same name twice": pd.DataFrame([[1, "a"]], columns=["x", "x"]),
    "objects": MIXED.T,
    "multi columns": pd.DataFrame(
        [[1, 2.5]], columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["p", None])
    ),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_frames_come_back_the_same(frame: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(round_trip(frame), frame)


@pytest.mark.parametrize("name", MIXED.columns)
def test_series_and_indexes_come_back_the_same(name: str) -> None:
    series = MIXED[name]
    pd.testing.assert_series_equal(round_trip(series), series)
    index = pd.Index(series)
    pd.testing.assert_index_equal(round_trip(index), index)
    array = series.array
    if not isinstance(array, pd.arrays.NumpyExtensionArray):
        pd.testing.assert_extension_array_equal(pd.array(round_trip(array)), pd.array(array))


def test_a_frame_keeps_its_attributes_and_can_be_changed() -> None:
    frame = FRAMES["one block"].copy()
    frame.attrs = {"unit": "m"}
    back = round_trip(frame)
    back.loc[0, "a"] = 9.0
    assert back.attrs == {"unit": "m"}
    assert back["a"].tolist() == [9.0, 3.0]


def test_a_frame_keeps_its_ban_on_labels_twice() -> None:
    banned = pd.DataFrame({"a": [1.0, 2.0]}).set_flags(allows_duplicate_labels=False)
    assert not round_trip(banned).flags.allows_duplicate_labels
    assert not round_trip(banned["a"]).flags.allows_duplicate_labels
    message = encode(banned)
    twice = message.header.replace(b"\x95\xa5range\x00\x02\x01", b"\x95\xa5range\x00\x00\x01")
    assert twice != message.header
    with pytest.raises(CodecError):
        decode(twice, message.buffers)


PANDAS_SCALARS = [
    pd.Timestamp("2024-03-31 02:30"),
    pd.Timestamp("2024-10-27 00:30", tz="UTC").tz_convert("Europe/Paris"),
    pd.Timedelta("1s"),
    pd.Period("2024Q1"),
    pd.Interval(1, 2, "both"),
    pd.NaT,
    pd.NA,
]


@pytest.mark.parametrize("value", PANDAS_SCALARS, ids=repr)
def test_pandas_scalars_come_back(value: Any) -> None:
    back = round_trip(value)
    assert type(back) is type(value)
    assert repr(back) == repr(value)


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.uuids(),
    st.datetimes(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.complex_numbers(allow_nan=False),
)
KEYS = st.one_of(st.none(), st.integers(), st.text(), st.tuples(st.integers(), st.text()))
TREES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS, inner), st.sets(KEYS)
    ),
    max_leaves=30,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_any_tree_comes_back(value: Any) -> None:
    back = round_trip(value)
    assert back == value
    assert type(back) is type(value)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(categories=("L", "Cs", "N"))), min_size=1, max_size=20))
def test_long_lists_of_text_come_back(some: list[str]) -> None:
    value = (some * codec.COLUMN_ITEMS_MIN)[: codec.COLUMN_ITEMS_MIN + 5]
    assert round_trip(value) == value


def read_hostile(header: bytes, buffers: list[bytes]) -> None:
    with contextlib.suppress(CodecError):
        decode(header, [memoryview(bytearray(buffer)) for buffer in buffers], Registry(CLASSES))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.lists(st.binary(max_size=40), max_size=3))
@example(b"\xdd\xff\xff\xff\xff", [])
@example(b"\x91" * 100_000, [])
@example(b"\x81\x01" * 100_000, [])
def test_random_bytes_are_refused(header: bytes, buffers: list[bytes]) -> None:
    read_hostile(header, buffers)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.integers(-3, 100),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=9),
        st.sampled_from(
            ["array", "frame", "index", "C", "<f8", "series", "strings", "Point", "data", "datetime", "zone"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.integers(0, 16), inner, max_size=1)
    ),
    max_leaves=20,
)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON, st.lists(st.binary(max_size=64), max_size=3))
def test_well_formed_nonsense_is_refused(tree: Any, buffers: list[bytes]) -> None:
    read_hostile(msgpack.packb(tree), buffers)


SAMPLES = [encode(value, Registry(CLASSES)) for value in [*VALUES[:60], *ARRAYS, MIXED, Point(1), Colour.RED]]


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_messages_are_refused_or_are_values(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(SAMPLES))
    header = bytearray(message.header)
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 3))
    read_hostile(bytes(header[: len(header) - cut]), [bytes(buffer) for buffer in message.buffers])


COLLIDING = [number * (2**61 - 1) for number in range(5_000)]
HOSTILE = {
    "equal hashes in a dict": {2: [COLLIDING, [0] * len(COLLIDING)]},
    "equal hashes in a set": {3: COLLIDING},
    "equal hashes as map keys": {COLLIDING[number]: 0 for number in range(1, 200)},
    "a buffer that is not there": {6: 0},
    "a buffer of a strange number": {6: True},
    "a path out of the zones": {11: ["zone", "../../etc/passwd"]},
    "a huge shape": {13: ["array", "<f8", [2**40, 2**40], "C", 0]},
    "a negative shape": {13: ["array", "<f8", [-1], "C", 0]},
    "an object array": {13: ["array", "|O8", [1], "C", 0]},
    "a data type of objects": {
        13: ["dtype", {"names": ["a"], "formats": ["|O"], "offsets": [0], "itemsize": 8}]
    },
    "overlapping and outside": {
        13: ["dtype", {"names": ["a"], "formats": ["<f8"], "offsets": [2**30], "itemsize": 8}]
    },
    "an endless data type": {13: ["dtype", ["<f8", [2**20, 2**20]]]},
    "a wide fraction": {11: ["fraction", {5: b"\x01" * 100_000}, {5: b"\x03" * 100_000}]},
    "an unknown tag": {99: 1},
    "an unknown class": {12: ["os.system", "data", [], []]},
    "a field that is none": {12: ["Point", "data", ["__class__"], [1]]},
    "a builtin that is no type": {11: ["type", "eval"]},
}


@pytest.mark.parametrize("tree", HOSTILE.values(), ids=HOSTILE)
def test_hostile_values_are_refused(tree: Any) -> None:
    with pytest.raises(CodecError):
        decode(msgpack.packb(tree, default=codec._wide_integer), [], Registry(CLASSES))


def test_buffers_must_be_used_once_each() -> None:
    data = struct.pack("<d", 1.5)
    one = {13: ["array", "<f8", [1], "C", 0]}
    with pytest.raises(CodecError, match="used twice"):
        decode(msgpack.packb([one, one]), [memoryview(bytearray(data))])
    with pytest.raises(CodecError, match="not part of it"):
        decode(msgpack.packb(1), [memoryview(data)])
