"""Encoding of Parquet columns: which columns get a dictionary."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.data.encoding import parquet_options

ROWS = 3_000
FEW = {
    "number": [float(row % 7) for row in range(ROWS)],
    "text": ["a"] * ROWS,
    "null": pa.nulls(ROWS, pa.int64()),
    "list": [[row % 3] for row in range(ROWS)],
    "struct": [{"x.y": row % 3} for row in range(ROWS)],
    "extension": pa.array([b"0123456789abcdef"] * ROWS, pa.uuid()),
}
DISTINCT = {
    "number": [float(row) for row in range(ROWS)],
    "text": [str(row) for row in range(ROWS)],
    "a.b": pa.array([Decimal(row) for row in range(ROWS)], pa.decimal128(20, 2)),
    "sometimes null": [row if row % 2 else None for row in range(ROWS)],
    "list": [[row, row + 0.5] for row in range(ROWS)],
    "fixed": pa.array([[row, row + 0.5] for row in range(ROWS)], pa.list_(pa.float32(), 2)),
    "struct": [{"x.y": [{"z": row}]} for row in range(ROWS)],
    "time": pa.array(range(ROWS), pa.timestamp("us", "UTC")),
}


def dictionaries(table, path):
    pq.write_table(table, path, **parquet_options(table))
    assert pq.read_table(path).equals(table)
    group = pq.ParquetFile(path).metadata.row_group(0)
    return [group.column(number).has_dictionary_page for number in range(group.num_columns)]


@pytest.mark.parametrize("name", FEW)
def test_columns_with_few_distinct_values_have_dictionaries(tmp_path, name):
    assert dictionaries(pa.table({name: FEW[name]}), tmp_path / "x.parquet") == [True]


@pytest.mark.parametrize("name", DISTINCT)
def test_columns_with_mostly_distinct_values_have_no_dictionary(tmp_path, name):
    assert dictionaries(pa.table({name: DISTINCT[name]}), tmp_path / "x.parquet") == [False]


def test_few_rows_do_not_decide(tmp_path):
    assert dictionaries(pa.table({"x": range(100)}), tmp_path / "x.parquet") == [True]
