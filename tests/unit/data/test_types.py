"""Every type of Arrow is stored as one of a few types, with the same value, or is refused."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.types import (
    as_column,
    as_numbers,
    as_stored,
    common_type,
    concatenated,
    decimal_text,
    find_type,
    is_same_kind,
    stored_type,
)

UTC = pa.timestamp("us", "UTC")
ID = uuid.UUID("0b5e7a9e-3c1f-4c55-8c1d-2f6f0a5b7c3d")
NOON = dt.datetime(2024, 3, 5, 12, tzinfo=dt.timezone.utc)

STORED = [
    (pa.array([True, None]), pa.bool_(), [True, None]),
    (pa.array([1, None], pa.int8()), pa.int64(), [1, None]),
    (pa.array([2**32 - 1], pa.uint32()), pa.int64(), [2**32 - 1]),
    (pa.array([2**64 - 1, None], pa.uint64()), pa.uint64(), [2**64 - 1, None]),
    (pa.array(np.array([1.5, 2], np.float16)), pa.float64(), [1.5, 2.0]),
    (pa.array([1.5, None], pa.float32()), pa.float64(), [1.5, None]),
    (pa.array([Decimal("1.50")], pa.decimal256(76, 3)), pa.decimal128(38, 3), [Decimal("1.500")]),
    (pa.array(["a", "b", "a", None]).dictionary_encode(), pa.string(), ["a", "b", "a", None]),
    (pa.array([1.5, None], pa.float32()).dictionary_encode(), pa.float64(), [1.5, None]),
    (pa.array(["a", None], pa.large_string()), pa.string(), ["a", None]),
    (pa.array(["a", None], pa.string_view()), pa.string(), ["a", None]),
    (pa.array([b"ab"], pa.binary(2)), pa.binary(), [b"ab"]),
    (pa.array([ID.bytes, None], pa.uuid()), pa.string(), [str(ID), None]),
    (pa.array([dt.date(9999, 12, 31), None]), pa.date32(), [dt.date(9999, 12, 31), None]),
    (pa.array([dt.date(2024, 3, 5)], pa.date64()), pa.date32(), [dt.date(2024, 3, 5)]),
    (pa.array([dt.datetime(2024, 3, 5, 12)], pa.timestamp("s")), UTC, [NOON]),
    (pa.array([NOON]).cast(pa.timestamp("ns", "Europe/Berlin")), UTC, [NOON]),
    (pa.array([dt.time(10, 30), dt.time(10, 30, 0, 500_000)]), pa.string(), ["10:30:00", "10:30:00.5"]),
    (pa.array([36_000, 43_210], pa.time32("s")), pa.string(), ["10:00:00", "12:00:10"]),
    (pa.array([dt.timedelta(seconds=90), None]), pa.float64(), [90.0, None]),
    (pa.array([[1, 2], None, []], pa.large_list(pa.int8())), pa.list_(pa.int64()), [[1, 2], None, []]),
    (pa.array([[1.5, 2], None], pa.list_(pa.float32(), 2)), pa.list_(pa.float64()), [[1.5, 2.0], None]),
    (pa.array([[["a"]], [None]]), pa.list_(pa.list_(pa.string())), [[["a"]], [None]]),
    (
        pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
        pa.list_(pa.struct([("key", pa.string()), ("value", pa.int64())])),
        [[{"key": "k", "value": 1}], None],
    ),
    (
        pa.array([{"a": 1, "b": {}}, None]),
        pa.struct([("a", pa.int64()), ("b", pa.null())]),
        [{"a": 1, "b": None}, None],
    ),
    (pa.array([{}, {}], pa.struct([])), pa.null(), [None, None]),
    (pa.array([None, None]), pa.null(), [None, None]),
]


@pytest.mark.parametrize(("values", "kind", "stored"), STORED, ids=[str(values.type) for values, _, _ in STORED])
def test_values_are_stored_unchanged_in_the_types_of_datasets(values, kind, stored):
    found = as_stored(values, "Column 'x'")
    assert (found.type, found.to_pylist()) == (kind, stored)
    assert stored_type(values.type) == kind
    # Slices, and columns of several chunks, are converted in the same way.
    assert as_stored(values.slice(1), "Column 'x'").to_pylist() == stored[1:]
    assert as_stored(pa.chunked_array([values, values]), "Column 'x'").to_pylist() == stored * 2
    # Stored types are not converted again.
    assert as_stored(found, "Column 'x'").equals(found)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([pa.MonthDayNano([1, 2, 3])]),
        pa.array([2**62], pa.timestamp("us", "UTC")),
        pa.array([-(2**31) + 1], pa.date32()),
        pa.array([Decimal(10) ** 40], pa.decimal256(76, 0)),
    ],
)
def test_the_error_names_a_type_that_cannot_be_stored(values):
    with pytest.raises(SchemaError, match="Column 'x'"):
        as_stored(values, "Column 'x'")


EARLY = pa.array([0, 0, 0, -(2**62), 0], pa.timestamp("us", "UTC"))


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        (pa.ListArray.from_arrays([0, 2, 2, 5], EARLY), "Column 'x' of a.parquet contains"),
        # The element does not belong to a null list. A null list may contain values in memory.
        (pa.ListArray.from_arrays([0, 3, 3, 5], EARLY, mask=pa.array([True, False, False])), "Column 'x' of a.parquet contains"),
        (pa.StructArray.from_arrays([EARLY.take([0, 1, 3])], ["at"]), "Field 'at' of column 'x' of a.parquet contains"),
        (
            pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 2, 2, 5], EARLY)], ["at"]),
            "Field 'at' of column 'x' of a.parquet contains",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [0, 1000])
def test_a_nested_value_that_cannot_be_stored_is_refused_with_its_column_and_row(values, subject, before):
    with pytest.raises(SchemaError) as error:
        as_stored(values, "Column 'x' of a.parquet", first_row=before)
    assert str(error.value).startswith(subject)
    assert f" in row {before + 3:,}, which is before the year 1 in UTC" in str(error.value)


def test_a_decimal_with_too_many_digits_can_be_declared_as_text():
    values = pa.array([Decimal("1" + "0" * 39 + "1")], pa.decimal256(76, 0))
    with pytest.raises(SchemaError, match=r"string \(types=\)"):
        as_stored(values, "Column 'x'")
    assert as_column(values, find_type("string"), "Column 'x'").to_pylist() == ["1" + "0" * 39 + "1"]


@pytest.mark.parametrize(
    "kind", [kind for _, kind, _ in STORED if not pa.types.is_struct(getattr(kind, "value_type", kind))]
)
def test_types_are_found_again_by_their_names_in_manifests(kind):
    assert find_type(str(kind)) == kind


def test_names_of_types_that_older_versions_stored_are_found():
    assert find_type("dictionary<values=string, indices=int32, ordered=0>") == pa.dictionary(pa.int32(), pa.string())
    assert find_type("list<element: int32>") == pa.list_(pa.int32())
    assert find_type("decimal128(10,2)") == pa.decimal128(10, 2)
    assert find_type("struct<a: int64 not null, b: string>") == pa.struct([("a", pa.int64()), ("b", pa.string())])
    # Such names cannot be distinguished from the rest of the type's text.
    for name in ("p, q", "k: v", "p<q", ""):
        assert find_type(str(pa.struct([("a", pa.int64()), (name, pa.int64())]))) is None
    assert find_type("struct<a: unknown>") is find_type("struct<>") is find_type("struct<a>") is None
    assert find_type("decimal128(99, 2)") is None


SAME = [
    (pa.string(), pa.large_string()), (pa.string(), pa.dictionary(pa.int8(), pa.string())), (pa.int32(), pa.int64()),
    (pa.int64(), pa.uint64()), (pa.timestamp("us"), pa.timestamp("ns", "Europe/Berlin")), (pa.null(), pa.string()),
    (pa.list_(pa.null()), pa.list_(pa.int8())), (pa.decimal128(10, 2), pa.decimal128(38, 4)),
    (pa.float32(), pa.float64()), (pa.decimal128(10, 2), pa.float64()), (pa.struct([]), pa.struct([("a", pa.int8())])),
    (pa.struct([("a", pa.int8())]), pa.struct([("b", pa.string())])), (pa.binary(), pa.large_binary()),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_types_of_the_same_column_have_a_common_type_in_either_order(one, other):
    assert is_same_kind(one, other)
    assert is_same_kind(other, one)
    assert common_type(one, other) is not None
    assert common_type(one, other) == common_type(other, one) or pa.types.is_struct(common_type(one, other))


@pytest.mark.parametrize(
    ("one", "other"),
    [(pa.string(), pa.int64()), (pa.bool_(), pa.int64()), (pa.string(), pa.binary()), (UTC, pa.int64()),
     (pa.list_(pa.int64()), pa.list_(pa.string()))],
)  # fmt: skip
def test_columns_of_different_kinds_have_no_common_type(one, other):
    assert common_type(one, other) is None
    assert not is_same_kind(one, other)


decimals = st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12)
columns = st.one_of(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)).map(lambda v: pa.array(v, pa.int64())),
    st.lists(st.none() | st.integers(0, 2**64 - 1)).map(lambda v: pa.array(v, pa.uint64())),
    st.lists(st.none() | st.integers(-128, 127)).map(lambda v: pa.array(v, pa.int8())),
    st.lists(st.none() | decimals).map(lambda v: pa.array(v, pa.decimal128(20, 4))),
    st.lists(st.none()).map(lambda v: pa.array(v, pa.null())),
)


@given(st.lists(columns, min_size=1, max_size=4))
def test_whole_numbers_and_decimals_of_different_windows_become_one_column_without_a_change(windows):
    table = concatenated([pa.table({"x": column}) for column in windows], "The windows", "Fix them.")
    assert table["x"].to_pylist() == [value for column in windows for value in column.to_pylist()]


def test_a_column_that_some_windows_lack_is_null_there():
    tables = [pa.table({"a": [1]}), pa.table({"b": ["x"], "a": pa.array([2], pa.int8())})]
    assert concatenated(tables, "The windows", "Fix them.").to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]


def test_a_column_of_different_kinds_is_refused_by_its_name():
    tables = [pa.table({"a": [1]}), pa.table({"a": ["x"]})]
    with pytest.raises(SchemaError, match="'a' is int64 and string"):
        concatenated(tables, "The windows of dataset 'd'", "Fix them.")
    # A whole number that a double cannot hold is not rounded.
    with pytest.raises(SchemaError, match="'a' of the windows of dataset 'd'"):
        concatenated([pa.table({"a": [2**53 + 1]}), pa.table({"a": [0.5]})], "The windows of dataset 'd'", "Fix them.")


def test_equal_decimals_have_the_same_text():
    values = [Decimal("12.30"), Decimal("100"), Decimal("-0.50"), Decimal("0.00"), None]
    assert decimal_text(pa.array(values, pa.decimal128(38, 2))).to_pylist() == ["12.3", "100", "-0.5", "0", None]
    assert decimal_text(pa.array([Decimal(100)], pa.decimal128(38, 0))).to_pylist() == ["100"]
    assert decimal_text(pa.chunked_array([pa.array([Decimal("1.50")])])).to_pylist() == ["1.5"]


def test_decimals_are_numbers():
    prices = [Decimal(cents) / 100 for cents in range(100_000)]
    assert as_numbers(pa.array(prices, pa.decimal128(38, 2))).to_pylist() == [float(price) for price in prices]
    assert as_numbers(pa.array([Decimal("12.30"), None])).to_pylist() == [12.3, None]
    assert as_numbers(pa.array([Decimal("12"), None], pa.decimal128(38, 0))).type == pa.int64()
    assert as_numbers(pa.array([Decimal(10) ** 20], pa.decimal128(38, 0))).to_pylist() == [1e20]
    assert as_numbers(pa.array(["a"])).to_pylist() == ["a"]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("9" * 38, pa.decimal128(38, 0), Decimal("9" * 38)), ("007.50", pa.decimal128(3, 1), Decimal("7.5")),
        ("0" * 50 + "1", pa.decimal128(38, 0), Decimal(1)), ("-1.5e3", pa.decimal128(5, 1), Decimal("-1500.0")),
        ("0e500", pa.decimal128(5, 1), Decimal("0.0")), ("1" + "0" * 39, pa.decimal128(38, 0), "too many digits"),
        ("9" * 30, pa.decimal128(38, 10), "too many digits"), ("1e400", pa.decimal128(38, 0), "too many digits"),
        ("123456789012345", pa.decimal128(20, 10), "too many digits"), ("1" * 80, pa.decimal128(38, 2), "too many digits"),
        ("1.25e1", pa.decimal128(5, 0), "after the decimal point"), ("NaN", pa.decimal128(5, 0), "'NaN' is not a number"),
    ],
)  # fmt: skip
def test_text_becomes_a_decimal_of_the_same_value_or_is_refused(text, kind, value):
    if isinstance(value, Decimal):
        assert as_column(pa.array([text, None]), kind, "Column 'x'").to_pylist() == [value, None]
    else:
        with pytest.raises(SchemaError, match=f"Column 'x' .*{value}"):
            as_column(pa.array([text, None]), kind, "Column 'x'")


@pytest.mark.parametrize(
    ("values", "kind", "problem"),
    [
        (pa.array([1.0, 1e300]), pa.float32(), r"1e\+300 is too large for float"),
        (pa.array(["1e300"]), pa.float32(), r"1e\+300 is too large for float"),
        (pa.array([70000.0]), pa.float16(), "70000.0 is too large for halffloat"),
        (pa.array([0, 1, 2, None]), pa.bool_(), "2 is neither 0 nor 1"),
        (pa.array([0.5]), pa.bool_(), "0.5 is neither 0 nor 1"),
        (pa.array([Decimal(12345678901234567891)]), pa.float64(), "cannot represent 12345678901234567891 exactly"),
    ],
)
def test_values_that_another_type_cannot_hold_are_refused(values, kind, problem):
    with pytest.raises(SchemaError, match=f"Column 'x' .*{problem}"):
        as_column(values, kind, "Column 'x'")


def test_values_that_another_type_holds_are_converted():
    numbers = pa.array([float("inf"), None, 0.5])
    assert as_column(numbers, pa.float32(), "Column 'x'").to_pylist() == [float("inf"), None, 0.5]
    assert as_column(numbers, pa.float16(), "Column 'x'").to_pylist() == [float("inf"), None, 0.5]
    assert as_column(pa.array([0, 1, None]), pa.bool_(), "Column 'x'").to_pylist() == [False, True, None]
    decimals = pa.array([Decimal("106.85"), Decimal(2**60), None], pa.decimal128(38, 2))
    assert as_column(decimals, pa.float64(), "Column 'x'").to_pylist() == [106.85, 2.0**60, None]


@pytest.mark.parametrize("value", [0.125, 1e30, float("nan"), float("inf")])
def test_a_double_that_a_decimal_would_round_is_refused(value):
    with pytest.raises(SchemaError):
        as_column(pa.array([0.5, value]), pa.decimal128(10, 2), "Column 'a'")


def test_a_double_becomes_the_decimal_of_its_shortest_text():
    found = as_column(pa.array([0.1, -12.5, 1e3, None]), pa.decimal128(10, 2), "Column 'a'")
    assert [None if item is None else str(item) for item in found.to_pylist()] == ["0.10", "-12.50", "1000.00", None]
