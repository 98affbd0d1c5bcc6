"""Convert columns to forms whose values are equal, and ordered, in DuckDB exactly as in pandas.

NaN is a missing value, and -0.0 equals 0.0. Decimals are compared as the doubles that Great Expectations gets. Decimals
of scale 0 stay decimals if a value of the column is beyond 2**53, because Great Expectations then gets integers.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.data.moments import as_utc, is_text, is_time
from airflow_mlops.data.types import as_doubles


def can_compare(kind: pa.DataType) -> bool:
    """Return whether :func:`comparable` converts values of the type ``kind``."""
    checks = (pa.types.is_integer, pa.types.is_float64, pa.types.is_boolean, is_text, is_time)
    return any(check(kind) for check in checks) or (pa.types.is_decimal128(kind) and kind.scale >= 0)


def comparable(values: Any, facts: ColumnFacts, column: str) -> Any:
    """Convert values to the type :func:`comparable_type`. Missing values, including NaN, become null.

    :param values: an Arrow array or chunked array
    :param facts: the facts of all rows of the column
    :param column: name of the column, for error messages
    :raises SchemaError: a date or time is not in the years 1 to 9999
    """
    wanted = comparable_type(values.type, facts)
    if pa.types.is_decimal(values.type) and pa.types.is_floating(wanted):
        values = as_doubles(values)
    if pa.types.is_floating(values.type):
        # Adding 0.0 turns -0.0 into 0.0.
        return pc.add(pc.if_else(pc.is_nan(values), None, values), 0.0)
    if is_time(values.type):
        # Time zones would differ between DuckDB and Arrow.
        return as_utc(values, f"Column {column!r}").cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return values if values.type.equals(wanted) else values.cast(wanted)


def comparable_type(kind: pa.DataType, facts: ColumnFacts) -> pa.DataType:
    """Return the type to which :func:`comparable` converts values.

    :param kind: type of the column, which :func:`can_compare` accepts
    """
    if pa.types.is_decimal(kind):
        return pa.float64() if kind.scale > 0 or facts.is_exact else kind
    if is_time(kind):
        return pa.int64()
    return pa.string() if is_text(kind) else kind


def as_values(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return values from :func:`comparable` in a form that becomes the same pandas values as the column.

    :param kind: type of the column
    """
    return values.cast(pa.timestamp("us", "UTC")) if is_time(kind) else values
