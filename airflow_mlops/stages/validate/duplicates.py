"""Find the rows with repeated values of a column, or of several columns together, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data import relational
from airflow_mlops.stages.validate.comparable import comparable, comparable_type
from airflow_mlops.stages.validate.row_numbers import RowNumbers
from airflow_mlops.stages.validate.selected import Selected

MEMORY = 300_000_000
"""Memory of DuckDB in bytes. Together with Great Expectations and a batch of rows, validation then needs less than 1 GB."""
_IGNORED = {"any_value_is_missing": pc.or_, "all_values_are_missing": pc.and_}


@dataclass(frozen=True)
class Repeated:
    """The rows whose values occur in several rows.

    :param numbers: the numbers of these rows
    :param count: number of all rows
    :param missing: number of ignored rows
    :param frequent: for each of the ``most`` most frequent values, the number of its first row and the number of its
        rows. The most frequent value is first. Ties: the value with the earliest first row
    """

    numbers: RowNumbers
    count: int
    missing: int
    frequent: list[tuple[int, int]]


def repeated_rows(rows: Selected, columns: Sequence[str], most: int, ignored: str = "any_value_is_missing") -> Repeated:
    """Find the rows whose values occur in several rows. NaN is a missing value, as in pandas.

    :param columns: names of columns whose types :func:`~.comparable.can_compare` accepts
    :param most: how many repeated values are returned at most
    :param ignored: which rows are ignored: ``any_value_is_missing``, ``all_values_are_missing`` or ``never``. In rows that
        are not ignored, missing values are equal
    :raises SpillError: the disk is full
    """
    count = missing = 0
    names = [f"value_{number}" for number in range(len(columns))]
    types = [comparable_type(rows.schema.field(column).type, rows.facts[column]) for column in columns]
    schema = pa.schema([("number", pa.int64()), *zip(names, types, strict=True)])

    def keys() -> Iterator[pa.RecordBatch]:
        nonlocal count, missing
        for numbers, table in rows.tables(columns):
            values = [comparable(table[column], rows.facts[column], column) for column in columns]
            found = pa.Table.from_arrays([pa.array(numbers), *values], schema=schema)
            if ignored in _IGNORED:
                nulls = [pc.is_null(value) for value in values]
                left_out = nulls[0]
                for other in nulls[1:]:
                    left_out = _IGNORED[ignored](left_out, other)
                found = found.filter(pc.invert(left_out))
            count, missing = count + len(numbers), missing + len(numbers) - found.num_rows
            yield from found.to_batches()

    found = RowNumbers()
    frequent: list[tuple[int, int]] = []
    listed = ", ".join(names)
    # A join with `USING` would not match nulls with each other.
    same = " AND ".join(f"keys.{name} IS NOT DISTINCT FROM repeated.{name}" for name in names)
    if ignored == "any_value_is_missing":
        same = " AND ".join(f"keys.{name} = repeated.{name}" for name in names)
    with relational.connect_bounded(most=MEMORY) as connection:
        list(relational.stream(connection, "CREATE TABLE keys AS SELECT * FROM given", {"given": (schema, keys())}))
        repeated = f"SELECT {listed} FROM keys GROUP BY {listed} HAVING count(*) > 1"  # noqa: S608 - own names
        sql = f"SELECT number FROM keys SEMI JOIN ({repeated}) AS repeated ON {same} ORDER BY number"  # noqa: S608 - own names
        for batch in relational.stream(connection, sql, {}):
            found.append(batch["number"].to_numpy())
        if len(found):
            sql = (
                f"SELECT min(number) AS first, count(*) AS rows FROM keys GROUP BY {listed} "  # noqa: S608 - own names
                "HAVING count(*) > 1 ORDER BY rows DESC, first LIMIT $most"
            )
            for batch in relational.stream(connection, sql, {}, parameters={"most": most}):
                frequent += zip(batch["first"].to_pylist(), batch["rows"].to_pylist(), strict=True)
    return Repeated(found, count, missing, frequent)
