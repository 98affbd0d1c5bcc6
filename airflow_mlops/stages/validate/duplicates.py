"""Find the rows with repeated values of a column in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data import relational
from airflow_mlops.data.carried import carried, carried_type
from airflow_mlops.data.moments import is_text, is_time
from airflow_mlops.stages.validate.rows import Rows

# Together with Great Expectations and a batch of rows, validation then needs less than 1 GB.
_MEMORY = 300_000_000


def can_compare(kind: pa.DataType) -> bool:
    """Return whether two values of a column are equal in DuckDB if, and only if, they are equal in pandas."""
    checks = (pa.types.is_integer, pa.types.is_float64, pa.types.is_boolean, is_text, is_time)
    return any(check(kind) for check in checks)


def repeated_rows(rows: Rows, column: str) -> tuple[np.ndarray[Any, np.dtype[np.int64]], int]:
    """Find the rows whose value occurs in several rows. NaN is a missing value, as in pandas.

    :param column: name of a column whose type :func:`can_compare` accepts
    :return: the numbers of these rows in ascending order, and the number of missing values
    :raises SpillError: the disk is full
    """
    missing = 0

    def keys() -> Iterator[pa.RecordBatch]:
        nonlocal missing
        for first, values in rows.column(column):
            if pa.types.is_floating(values.type):
                # Adding 0.0 turns -0.0 into 0.0.
                values = pc.add(pc.if_else(pc.is_nan(values), None, values), 0.0)
            missing += values.null_count
            numbers = pa.array(np.arange(first, first + len(values)))
            yield pa.RecordBatch.from_arrays([numbers, carried(values)], schema=schema)

    schema = pa.schema([("number", pa.int64()), ("value", carried_type(rows.schema.field(column).type))])
    with relational.connect_bounded(most=_MEMORY) as connection:
        list(relational.stream(connection, "CREATE TABLE keys AS SELECT * FROM given", {"given": (schema, keys())}))
        repeated = "SELECT value FROM keys GROUP BY value HAVING count(*) > 1"
        sql = f"SELECT number FROM keys SEMI JOIN ({repeated}) USING (value) ORDER BY number"  # noqa: S608 - fixed text
        batches = relational.stream(connection, sql, {})
        found = [batch["number"].to_numpy() for batch in batches]
    return np.concatenate([np.empty(0, np.int64), *found]), missing
