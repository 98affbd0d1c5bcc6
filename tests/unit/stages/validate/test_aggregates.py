"""A few values have the aggregate of all values, and only one batch of them is in memory."""

from __future__ import annotations

import math
import tracemalloc
from datetime import date, datetime, timezone
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.data.frames import ColumnFacts, as_frame
from airflow_mlops.stages.validate.aggregates import can_aggregate, with_same_aggregate
from airflow_mlops.stages.validate.times import with_timestamps

FUNCTIONS = {"min": "min", "max": "max", "mean": "mean", "sum": "sum", "stdev": "std"}
UTC = timezone.utc
COLUMNS = {
    "whole": (pa.int64(), st.integers(-(2**40), 2**40)),
    "ids": (pa.int64(), st.integers(2**53, 2**55)),
    "unsigned": (pa.uint64(), st.integers(0, 2**58)),
    "narrow": (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "double": (pa.float64(), st.floats(-1e9, 1e9) | st.just(math.nan)),
    "infinite": (pa.float64(), st.sampled_from([1.0, math.inf, -math.inf])),
    "flag": (pa.bool_(), st.booleans()),
    "price": (pa.decimal128(10, 2), st.integers(-(10**6), 10**6).map(lambda n: Decimal(n) / 100)),
    "big": (pa.decimal128(30, 0), st.integers(0, 10**22).map(Decimal)),
    "text": (pa.string(), st.text("aB1 ", max_size=2)),
    "at": (pa.timestamp("us", "UTC"), st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.replace(tzinfo=UTC))),
    "day": (pa.date32(), st.dates(date(1970, 1, 1), date(2100, 1, 1))),
}  # fmt: skip


def expectation(aggregate: str) -> SimpleNamespace:
    return SimpleNamespace(expectation_type=f"expect_column_{aggregate}_to_be_between", column="x")


def rows(batches: list[pa.Array]) -> SimpleNamespace:
    return SimpleNamespace(schema=pa.schema([("x", batches[0].type)]), column=lambda _: iter(batches))


def computed(values: pd.Series, aggregate: str) -> object:
    try:
        with np.errstate(all="ignore"):
            found = getattr(values, FUNCTIONS[aggregate])()
    except TypeError:
        return TypeError
    # Great Expectations reports all missing results as None.
    return None if pd.isna(found) else found


@pytest.mark.parametrize("name", COLUMNS)
@settings(max_examples=12)
@given(data=st.data())
def test_the_aggregate_is_that_of_all_values(name, data):
    kind, values = COLUMNS[name]
    given_values = data.draw(st.lists(values | st.none(), max_size=12))
    cut = data.draw(st.integers(0, 12))
    batches = [pa.array(part, kind) for part in (given_values[:cut], given_values[cut:])]
    table = pa.table({"x": pa.chunked_array(batches)})
    facts = {"x": ColumnFacts().with_values(table["x"])}
    whole = as_frame(with_timestamps(table), facts)["x"]
    for aggregate in FUNCTIONS:
        if not can_aggregate(expectation(aggregate), rows(batches).schema):
            assert name in ("text", "at", "day")
            assert aggregate in ("mean", "sum", "stdev")
            continue
        few = with_same_aggregate(expectation(aggregate), rows(batches), facts)["x"]
        assert len(few) <= 3
        mine, theirs = computed(few, aggregate), computed(whole, aggregate)
        if aggregate in ("min", "max") or None in (mine, theirs):
            assert mine == theirs
            assert type(mine) is type(theirs)
        else:
            assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-6), (aggregate, given_values)


def test_a_sum_beyond_64_bits_is_exact():
    """Pandas would return a negative number."""
    values = pa.array([2**62, 2**62, None])
    found = with_same_aggregate(expectation("sum"), rows([values]), {"x": ColumnFacts(has_nulls=True, is_exact=False)})
    assert found["x"].sum() == 2**63


@pytest.mark.parametrize("aggregate", FUNCTIONS)
def test_the_memory_does_not_grow_with_the_batches(aggregate):
    def peak(batches: int) -> int:
        random = np.random.default_rng(0)
        given_rows = rows([pa.array([0.0])])
        given_rows.column = lambda _: (pa.array(random.normal(size=20_000)) for _ in range(batches))
        tracemalloc.start()
        try:
            with_same_aggregate(expectation(aggregate), given_rows, {"x": ColumnFacts()})
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)
    assert peak(30) < 1.5 * peak(3)


@pytest.mark.parametrize("change", [{"column": "y"}, {"expectation_type": "expect_column_median_to_be_between"}])  # fmt: skip
def test_other_expectations_are_not_aggregated(change):
    one = expectation("mean")
    assert can_aggregate(one, rows([pa.array([1])]).schema)
    one.__dict__.update(change)
    assert not can_aggregate(one, rows([pa.array([1])]).schema)
