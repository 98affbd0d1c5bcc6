"""Sorting rows in a database or in memory, and masks of rows with one bit per row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.data import sorting
from airflow_mlops.data.row_mask import RowMask
from airflow_mlops.data.sorting import Runs, in_order

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("in_memory", [0, 1_000])
def test_rows_are_sorted_by_unsigned_numbers_of_64_bits(monkeypatch, in_memory):
    monkeypatch.setattr(sorting, "_ROWS_IN_MEMORY", in_memory)
    ids = RNG.integers(0, 2**64, 300, np.uint64)
    table = pa.table({"id": np.repeat(ids, 2), "part": pa.array([1, 0] * 300, pa.int8())})
    found = pa.Table.from_batches(in_order(table.to_batches(70), table.schema, ["id", "part"], 600))
    assert found["id"].to_numpy().tolist() == sorted(np.repeat(ids, 2).tolist())
    assert found["part"].to_pylist() == [0, 1] * 300
    assert not list(in_order([], table.schema, ["id"], 0)) or in_memory == 0


def test_a_run_may_continue_in_the_next_batch():
    runs, pairs = Runs(["a"]), Runs(["a", "b"])
    batches = pa.table({"a": [1, 1, 2, 2, 2, 3], "b": ["x", "x", "x", "y", "y", "y"]}).to_batches(2)
    assert np.concatenate([runs.starts(batch) for batch in batches]).tolist() == [True, False, True, False, False, True]
    for batch in batches:
        pairs.starts(batch)
    assert not len(runs.starts(batches[0].slice(0, 0)))
    assert (runs.count, pairs.count) == (3, 4)


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 65_536, 200_003])
def test_a_mask_is_the_array_of_its_rows(rows):
    chosen = RNG.random(rows) < 0.01
    mask = RowMask.of(np.split(chosen, sorted(RNG.integers(0, rows + 1, 5))))
    assert (len(mask), mask.count) == (rows, chosen.sum())
    assert np.array_equal(mask.slice(0, rows), chosen)
    start, end = rows // 3, rows - rows // 5
    assert np.array_equal(mask.part(start, end).slice(0, end - start), chosen[start:end])
    places = np.flatnonzero(chosen)
    assert [mask.position(number) for number in range(0, len(places), 97)] == places[::97].tolist()
    assert np.array_equal(RowMask.at([RNG.permutation(places)], rows).slice(0, rows), chosen)
    assert np.array_equal(RowMask.from_bytes(mask.to_bytes(), rows).slice(0, rows), chosen)
