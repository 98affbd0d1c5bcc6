"""INT96 timestamps that Arrow would wrap around are found, in every type and on every page."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.data.int96 import Overflow, find_overflow
from tests.support.int96 import PLACEHOLDER, with_days

US = pa.timestamp("us")
DAY = 86_400
# The last days whose midnight 64 bits can hold, in microseconds and nanoseconds.
LAST = {"us": 106_751_991, "ns": 106_751}
# Arrow reads this day as 2024-01-05.
WRAPPED = 213_523_710


def overflow(content, *columns, **options):
    source = pa.BufferReader(content)
    return find_overflow(source, pq.read_metadata(source), columns, **options)


def test_arrow_would_read_another_time():
    content = with_days(pa.table({"t": pa.array([PLACEHOLDER], US)}), [WRAPPED])
    parquet = pq.ParquetFile(pa.BufferReader(content), coerce_int96_timestamp_unit="us")
    assert parquet.read()["t"][0].as_py().year == 2024
    assert overflow(content, "t") == Overflow("t", 1, WRAPPED * DAY)


@settings(max_examples=60)
@given(
    days=st.lists(
        # Arrow reads day 0, in the year -4713, as 1970, because nulls have the same bytes.
        st.one_of(st.integers(-2_440_587, 2**32 - 1 - 2_440_588), st.integers(-800_000, 3_000_000)),
        min_size=1,
    ),
    unit=st.sampled_from(["us", "ns"]),
    batch_rows=st.integers(1, 5),
)
def test_the_first_day_that_does_not_fit_is_found(days, unit, batch_rows):
    content = with_days(pa.table({"t": pa.array([PLACEHOLDER] * len(days), US)}), days, row_group_size=7)
    outside = [row for row, day in enumerate(days) if abs(day) > LAST[unit]]
    expected = Overflow("t", outside[0] + 1, days[outside[0]] * DAY) if outside else None
    assert overflow(content, "t", unit=unit, batch_rows=batch_rows) == expected


P = PLACEHOLDER


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[P, P], None, [], [None, P]], pa.list_(US)),
        ([{"x": {"y": P}}, {"x": {"y": P}}, None, {"x": {"y": P}}], pa.struct([("x", pa.struct([("y", US)]))])),
        ([[("k", P)], None, [("k", P)], [("k", P)]], pa.map_(pa.string(), US)),
        ([[{"y": P}, {"y": P}], [], None, [{"y": P}]], pa.list_(pa.struct([("y", US)]))),
    ],
    ids=["list", "struct", "map", "list of structs"],
)
def test_a_timestamp_inside_a_value_is_found(values, kind):
    table = pa.table({"a.b": [1, 2, 3, 4], "n.n": pa.array(values, kind)})
    assert overflow(with_days(table, [0, 1, 2]), "n.n") is None
    assert overflow(with_days(table, [0, 1, WRAPPED]), "n.n") == Overflow("n.n", 4, WRAPPED * DAY)
    assert overflow(with_days(table, [0, 1, WRAPPED]), "a.b") is None


def test_other_columns_are_not_read(monkeypatch):
    table = pa.table({"t": pa.array([1], US), "n": [1]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    monkeypatch.setattr(pq, "ParquetFile", None)
    assert find_overflow("no such file", pq.read_metadata(pa.BufferReader(sink.getvalue())), ["t", "n"]) is None
