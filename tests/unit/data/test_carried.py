"""Columns that DuckDB returns unchanged."""

from __future__ import annotations

import uuid
from datetime import date
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from airflow_mlops.data.carried import carried, restored


@pytest.mark.parametrize(
    "values",
    [
        pa.array([0.0, -0.0, float("nan"), None]),
        pa.array([1.5, -0.0, None], pa.float32()),
        pa.array([1, None], pa.uint64()),
        pa.array([True, None]),
        pa.array(["a\0", "", None], pa.large_string()),
        pa.array([b"\xff", None], pa.binary(1)),
        pa.array([1, None], pa.timestamp("ns", "Europe/Berlin")),
        pa.array([-(2**63), 2**63 - 1], pa.timestamp("s")),
        pa.array([date(1, 1, 1), None], pa.date32()),
        pa.array([1, None], pa.duration("ms")),
        pa.array([1, None], pa.time64("ns")),
        pa.array([Decimal("1.50"), None], pa.decimal128(38, 2)),
        pa.array(["b", "a", "b", None]).dictionary_encode(),
        pa.nulls(2),
        pa.array([uuid.UUID(int=1).bytes], pa.uuid()),
    ],
    ids=lambda values: str(values.type),
)
def test_values_come_back_bit_by_bit(values):
    with duckdb.connect() as connection:
        connection.register("t", pa.table({"v": carried(values)}))
        found = connection.sql("SELECT v FROM t").to_arrow_table()["v"].combine_chunks()
    back = restored(found, values.type)
    assert back.type == values.type
    # Floating-point numbers are carried as integers, so that NaN and -0.0 are compared bit by bit.
    assert carried(back).equals(carried(values))


def test_nested_values_are_refused():
    with pytest.raises(pa.ArrowNotImplementedError, match="list"):
        carried(pa.array([[1]]))
