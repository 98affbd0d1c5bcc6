"""Expectations about the distinct values of a column, in bounded memory.

DuckDB counts the rows of each value. Great Expectations then compares the counts with its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.data import relational
from airflow_mlops.data.frames import as_frame
from airflow_mlops.stages.validate.comparable import as_values, can_compare, comparable, comparable_type
from airflow_mlops.stages.validate.duplicates import MEMORY
from airflow_mlops.stages.validate.selected import Selected

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection

_SETS = frozenset({
    "expect_column_distinct_values_to_be_in_set", "expect_column_distinct_values_to_contain_set",
    "expect_column_distinct_values_to_equal_set",
})  # fmt: skip
_COUNT = "expect_column_unique_value_count_to_be_between"
_PROPORTION = "expect_column_proportion_of_unique_values_to_be_between"
_MOST_COMMON = "expect_column_most_common_value_to_be_in_set"


def can_count(expectation: Any, schema: pa.Schema) -> bool:
    """Return whether an expectation is about the distinct values of a column that DuckDB can count."""
    kind = expectation.expectation_type
    known = kind in _SETS or kind in (_COUNT, _PROPORTION, _MOST_COMMON)
    return known and expectation.column in schema.names and can_compare(schema.field(expectation.column).type)


def metrics(expectation: Any, rows: Selected) -> dict[str, Any]:
    """Return the values that Great Expectations computes for an expectation that :func:`can_count` accepts, by their names.

    :raises SpillError: the disk is full
    """
    kind, column = expectation.expectation_type, expectation.column
    with _counted(rows, column) as connection:
        if kind in _SETS:
            return _compared(_distinct(connection, rows, column), expectation.configuration.kwargs.get("value_set"))
        if kind == _MOST_COMMON:
            sql = "SELECT value FROM counts WHERE rows = (SELECT max(rows) FROM counts) ORDER BY value"
            # With each value once, all values are the most common ones.
            modes = [mode for series in _read(connection, sql, rows, column) for mode in series.mode().values]
            return {"column.most_common_value": modes}
        distinct, considered = connection.sql("SELECT count(*), sum(rows) FROM counts").fetchall()[0]
    if kind == _COUNT:
        return {"column.distinct_values.count": distinct}
    return {"column.unique_proportion": distinct / int(considered) if considered else 0}


def _compared(distinct: Iterator[pd.Series], value_set: Any) -> dict[str, Any]:
    """Compare the distinct values with a set, as Great Expectations does.

    :param distinct: the values in ascending order, in batches
    """
    from great_expectations.constants import MAX_DISTINCT_VALUES

    expected = set(value_set or ())
    missing, unexpected = set(expected), 0
    others: list[Any] = []
    for values in distinct:
        found = set(values.unique())
        missing -= found
        found -= expected
        unexpected += len(found)
        if len(others) < MAX_DISTINCT_VALUES:
            others += sorted(found)[: MAX_DISTINCT_VALUES - len(others)]
    return {
        "column.distinct_values.not_in_set.count": unexpected,
        "column.distinct_values.not_in_set": others,
        "column.distinct_values.missing_from_column.count": len(missing),
        "column.distinct_values.missing_from_column": list(missing)[:MAX_DISTINCT_VALUES],
    }


def _distinct(connection: DuckDBPyConnection, rows: Selected, column: str) -> Iterator[pd.Series]:
    return _read(connection, "SELECT value FROM counts ORDER BY value", rows, column)


def _read(connection: DuckDBPyConnection, sql: str, rows: Selected, column: str) -> Iterator[pd.Series]:
    """Yield the values that a query returns, with the types that they have in the DataFrame of all rows."""
    kind = rows.schema.field(column).type
    for batch in relational.stream(connection, sql, {}):
        yield as_frame(pa.table({column: as_values(batch["value"], kind)}), rows.facts)[column]


@contextmanager
def _counted(rows: Selected, column: str) -> Iterator[DuckDBPyConnection]:
    """Open a database whose table ``counts`` has the number of rows of each value of a column, except nulls and NaN."""
    facts = rows.facts[column]
    schema = pa.schema([("value", comparable_type(rows.schema.field(column).type, facts))])

    def values() -> Iterator[pa.RecordBatch]:
        for chunked in rows.column(column):
            yield from pa.Table.from_arrays([comparable(chunked, facts, column)], schema=schema).to_batches()

    sql = "CREATE TABLE counts AS SELECT value, count(*) AS rows FROM given WHERE value IS NOT NULL GROUP BY value"
    with relational.connect_bounded(most=MEMORY) as connection:
        list(relational.stream(connection, sql, {"given": (schema, values())}))
        yield connection
