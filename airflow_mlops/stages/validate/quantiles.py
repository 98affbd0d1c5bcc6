"""The median and the quantiles of a column, exact and in bounded memory.

DuckDB sorts the values, on disk if there are many. Pandas interpolates between the values at the positions that it would
choose itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.data import relational
from airflow_mlops.data.frames import ColumnFacts, as_frame
from airflow_mlops.data.moments import is_text
from airflow_mlops.stages.validate.comparable import as_values, can_compare, comparable, comparable_type
from airflow_mlops.stages.validate.duplicates import MEMORY
from airflow_mlops.stages.validate.selected import Selected

if TYPE_CHECKING:
    import pandas as pd

_MEDIAN = "expect_column_median_to_be_between"
_QUANTILES = "expect_column_quantile_values_to_be_between"
# Methods that return a value of the column, with the position that they choose.
_POSITIONS: dict[str, Callable[[float], Any]] = {"lower": np.floor, "higher": np.ceil, "nearest": np.around}
_BETWEEN = ("linear", "midpoint")


def can_sort(expectation: Any, schema: pa.Schema, facts: ColumnFacts) -> bool:
    """Return whether an expectation is about quantiles of a column that can be computed from a few of its values.

    :param facts: the facts of all rows of the column
    """
    kind = schema.field(expectation.column).type
    if expectation.expectation_type == _MEDIAN:
        return can_compare(kind) and not is_text(kind)
    if expectation.expectation_type != _QUANTILES:
        return False
    known = pa.types.is_integer(kind) or pa.types.is_float64(kind)
    known = known or (pa.types.is_decimal128(kind) and (kind.scale > 0 or (kind.scale == 0 and facts.is_exact)))
    if not known or not all(isinstance(one, int | float) and 0 <= one <= 1 for one in _quantiles(expectation)):
        return False
    # In a column of the type `Int64`, the type of an interpolated quantile depends on the other quantiles.
    is_extension = pa.types.is_integer(kind) and not facts.is_exact
    return _method(expectation) in (_POSITIONS if is_extension else (*_POSITIONS, *_BETWEEN))


def metrics(expectation: Any, rows: Selected) -> dict[str, Any]:
    """Return the values that Great Expectations computes for an expectation that :func:`can_sort` accepts, by their names.

    :raises SpillError: the disk is full
    """
    column = expectation.column
    if expectation.expectation_type == _MEDIAN:
        count, values = _at(rows, column, lambda count: {(count - 1) // 2, count // 2})
        # The median of the two values in the middle is that of all values.
        return {"column.median": _frame(rows, column, values)[column].median()}
    fractions = [_fraction(one) for one in _quantiles(expectation)]
    method = _method(expectation)

    def positions(count: int) -> set[int]:
        return {position for one in fractions for position in _needed(one, count, method)}

    count, values = _at(rows, column, positions)
    if not count:
        found = _frame(rows, column, {})[column].quantile(list(_quantiles(expectation)), interpolation=method)
        return {"column.quantile_values": found.tolist()}
    return {"column.quantile_values": [_quantile(rows, column, values, one, count, method) for one in fractions]}


def _quantiles(expectation: Any) -> Sequence[Any]:
    found: Sequence[Any] = expectation.configuration.kwargs["quantile_ranges"]["quantiles"]
    return found


def _method(expectation: Any) -> Any:
    return expectation.configuration.kwargs.get("allow_relative_error") or "nearest"


def _fraction(quantile: float) -> float:
    # Pandas converts quantiles to percentages, and NumPy converts them back.
    return float(np.true_divide(np.float64(quantile) * 100.0, 100))


def _needed(fraction: float, count: int, method: str) -> list[int]:
    """Return the positions, from 0, of the sorted values from which NumPy computes a quantile: one, or two neighbours."""
    if not count:
        return []
    place = (count - 1) * fraction
    if method in _POSITIONS:
        return [int(_POSITIONS[method](place))]
    below = math.floor(place)
    return [min(below, count - 1), min(below + 1, count - 1)]


def _quantile(rows: Selected, column: str, values: dict[int, Any], fraction: float, count: int, method: Any) -> Any:
    """Return a quantile with the type that pandas gives it.

    :param values: the values of the column at the positions from :func:`_needed`
    :param count: number of all values
    """
    needed = _needed(fraction, count, method)
    few = _frame(rows, column, {position: values[position] for position in needed})[column]
    if method in _POSITIONS or len(few) == 1:
        # A single value is its own quantile for every fraction.
        found: list[Any] = few.quantile([0.0], interpolation=method).tolist()
        return found[0]
    between = (count - 1) * fraction - needed[0]
    if method == "midpoint":
        between = 0.5 if between else 0.0
    # The same formula as for all values, so that the last digit is the same.
    return float(np.quantile(few.to_numpy(), between, method="linear"))


def _frame(rows: Selected, column: str, values: dict[int, Any]) -> pd.DataFrame:
    """Return values of a column as a DataFrame, in ascending order and with the type of the DataFrame of all rows."""
    kind = rows.schema.field(column).type
    listed = [values[position] for position in sorted(values)]
    array = pa.concat_arrays(listed) if listed else pa.array([], comparable_type(kind, rows.facts[column]))
    return as_frame(pa.table({column: as_values(array, kind)}), rows.facts)


def _at(rows: Selected, column: str, positions: Any) -> tuple[int, dict[int, pa.Array]]:
    """Return the number of values of a column, without missing values, and some of the sorted values by their position.

    :param positions: function that returns the positions, from 0, for the number of values
    """
    facts = rows.facts[column]
    schema = pa.schema([("value", comparable_type(rows.schema.field(column).type, facts))])
    count = 0

    def values() -> Iterator[pa.RecordBatch]:
        nonlocal count
        for chunked in rows.column(column):
            found = comparable(chunked, facts, column).drop_null()
            count += len(found)
            yield from pa.Table.from_arrays([found], schema=schema).to_batches()

    found: dict[int, pa.Array] = {}
    with relational.connect_bounded(most=MEMORY) as connection:
        list(relational.stream(connection, "CREATE TABLE sorted AS SELECT * FROM given", {"given": (schema, values())}))
        wanted = sorted(positions(count)) if count else []
        first = 0
        for batch in relational.stream(connection, "SELECT value FROM sorted ORDER BY value", {}) if wanted else ():
            for position in wanted:
                if first <= position < first + batch.num_rows:
                    found[position] = batch["value"].slice(position - first, 1)
            first += batch.num_rows
    return count, found
