"""Find the rows with repeated values of a column in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data import relational
from airflow_mlops.data.carried import carried, carried_type
from airflow_mlops.data.moments import is_text, is_time
from airflow_mlops.stages.validate.row_numbers import RowNumbers
from airflow_mlops.stages.validate.rows import Rows

# Together with Great Expectations and a batch of rows, validation then needs less than 1 GB.
_MEMORY = 300_000_000


def can_compare(kind: pa.DataType) -> bool:
    """Return whether two values of a column are equal in DuckDB if, and only if, they are equal in pandas."""
    checks = (pa.types.is_integer, pa.types.is_float64, pa.types.is_boolean, is_text, is_time)
    return any(check(kind) for check in checks)


@dataclass(frozen=True)
class Repeated:
    """The rows of a column whose value occurs in several rows.

    :param numbers: the numbers of these rows
    :param missing: number of missing values of the column
    :param frequent: for each of the ``most`` most frequent values, the number of its first row and the number of its
        rows. The most frequent value is first. Ties: the value with the earliest first row
    """

    numbers: RowNumbers
    missing: int
    frequent: list[tuple[int, int]]


def repeated_rows(rows: Rows, column: str, most: int) -> Repeated:
    """Find the rows whose value occurs in several rows. NaN is a missing value, as in pandas.

    :param column: name of a column whose type :func:`can_compare` accepts
    :param most: how many repeated values are returned at most
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
    found = RowNumbers()
    frequent: list[tuple[int, int]] = []
    with relational.connect_bounded(most=_MEMORY) as connection:
        list(relational.stream(connection, "CREATE TABLE keys AS SELECT * FROM given", {"given": (schema, keys())}))
        repeated = "SELECT value FROM keys WHERE value IS NOT NULL GROUP BY value HAVING count(*) > 1"
        sql = f"SELECT number FROM keys SEMI JOIN ({repeated}) USING (value) ORDER BY number"  # noqa: S608 - fixed text
        for batch in relational.stream(connection, sql, {}):
            found.append(batch["number"].to_numpy())
        if len(found):
            sql = (
                "SELECT min(number) AS first, count(*) AS rows FROM keys WHERE value IS NOT NULL GROUP BY value "
                "HAVING count(*) > 1 ORDER BY rows DESC, first LIMIT $most"
            )
            for batch in relational.stream(connection, sql, {}, parameters={"most": most}):
                frequent += zip(batch["first"].to_pylist(), batch["rows"].to_pylist(), strict=True)
    return Repeated(found, missing, frequent)
