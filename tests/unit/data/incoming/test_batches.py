"""Regrouping of batches."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.data.incoming.batches import merged, rechunk


def batches(sizes):
    first = 0
    for size in sizes:
        yield pa.record_batch({"a": list(range(first, first + size))}, schema=pa.schema([("a", pa.int64())]))
        first += size


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 7))
def test_the_same_rows_become_the_same_batches_however_they_arrive(sizes, rows):
    cut = list(rechunk(batches(sizes), rows))
    total = sum(sizes)
    assert [value for batch in cut for value in batch.column("a").to_pylist()] == list(range(total))
    assert [batch.num_rows for batch in cut] == [rows] * (total // rows) + ([total % rows] if total % rows else [])


def test_batches_of_wide_rows_end_early_to_bound_memory():
    wide = [pa.record_batch({"a": ["x" * 1000] * 10}) for _ in range(10)]
    assert [batch.num_rows for batch in rechunk(wide, 1000, max_bytes=20_000)] == [20] * 5


def test_small_batches_are_merged_and_none_is_divided():
    def batch(rows, column="a"):
        return pa.record_batch({column: pa.array(range(rows), pa.int64())})

    found = [*merged([batch(2), batch(2), batch(9), batch(1), batch(1, "b"), batch(0, "b")], rows=4, max_bytes=1 << 20)]
    assert [(item.num_rows, item.schema.names) for item in found] == [(4, ["a"]), (9, ["a"]), (1, ["a"]), (1, ["b"])]
    assert found[0].column("a").to_pylist() == [0, 1, 0, 1]
    assert [item.num_rows for item in merged([batch(2)] * 4, rows=99, max_bytes=30)] == [4, 4]
