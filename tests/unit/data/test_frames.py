"""Tables are converted to pandas with the same numbers."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa

from airflow_mlops.data.frames import as_frame


def test_ids_are_not_rounded_because_one_is_null():
    table = pa.table(
        {
            "id": [2**53 + 1, None, 2**53],
            "unsigned": pa.array([2**64 - 1, None, 0], pa.uint64()),
            "long": pa.array([Decimal(10) ** 19 + 1, None, Decimal(1)], pa.decimal128(38, 0)),
        }
    )
    frame = as_frame(table)
    assert [frame[name][0] for name in table.column_names] == [2**53 + 1, 2**64 - 1, 10**19 + 1]
    assert frame["id"].nunique() == 2
    assert frame.isna().sum().tolist() == [1, 1, 1]


def test_other_columns_are_converted_as_by_arrow():
    table = pa.table({"n": [1, None], "i": [1, 2], "s": ["a", None], "l": [[1], None]})
    frame, plain = as_frame(table), table.to_pandas()
    assert frame.dtypes.tolist() == plain.dtypes.tolist()
    assert frame["s"].tolist() == plain["s"].tolist()
    assert as_frame(pa.table({"a": pa.array([], pa.int64())})).shape == (0, 1)


def test_decimals_are_compared_as_numbers():
    frame = as_frame(pa.table({"price": [Decimal("12.30"), None]}))
    assert frame["price"].dtype == "float64"
    assert frame["price"][0] == 12.3
