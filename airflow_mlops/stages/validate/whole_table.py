"""Expectations whose result depends on several rows together, such as unique or distinct values, in bounded memory.

The rows are read in batches, and DuckDB compares or sorts the values. Great Expectations gets a few rows, or the values
that it would compute itself, and returns the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.stages.validate import distinct, in_order, quantiles, sent_expectations
from airflow_mlops.stages.validate.aggregates import can_aggregate, with_same_aggregate, with_suitable_integers
from airflow_mlops.stages.validate.checkpoint import Session, was_not_computed
from airflow_mlops.stages.validate.comparable import can_compare, comparable
from airflow_mlops.stages.validate.conditions import has_condition, row_condition
from airflow_mlops.stages.validate.duplicates import repeated_rows
from airflow_mlops.stages.validate.frequencies import SHOWN
from airflow_mlops.stages.validate.merged import MOST_DISTINCT, Merged
from airflow_mlops.stages.validate.row_numbers import RowNumbers
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.selected import ConditionError, Selected
from airflow_mlops.stages.validate.times import frame_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from great_expectations.core import ExpectationValidationResult

COUNT_ROWS = ("expect_table_row_count_to_be_between", "expect_table_row_count_to_equal")
_UNIQUE, _COMPOUND_UNIQUE = "expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique"
_PRESENT = "expect_column_proportion_of_non_null_values_to_be_between"
_ORDERED = ("expect_column_values_to_be_decreasing", "expect_column_values_to_be_increasing")
_TYPES = ("expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list")
_IGNORED = ("all_values_are_missing", "any_value_is_missing", "never")
_CONDITION = ("row_condition", "condition_parser")


def check(
    expectation: Any, rows: Rows, facts: Mapping[str, ColumnFacts], session: Session
) -> tuple[ExpectationValidationResult, RowNumbers] | None:
    """Validate all rows with an expectation, without reading whole columns into memory.

    :param facts: the facts of all rows
    :return: the result, and the numbers of the rows that do not meet the expectation. ``None`` if the expectation needs all
        rows at once
    """
    condition = None
    if has_condition(expectation) and (condition := row_condition(expectation, rows.schema)) is None:
        return None
    try:
        return _Check(expectation, Selected(rows, facts, condition), session).run()
    except ConditionError as error:
        # Great Expectations reports the error of pandas.
        (result,) = session.check([expectation], frame_of(error.table, facts))
        return (result, RowNumbers()) if was_not_computed(result) else None


class _Check:
    """One expectation on the rows that it considers."""

    def __init__(self, expectation: Any, rows: Selected, session: Session) -> None:
        self._expectation, self._rows, self._session = expectation, rows, session

    def run(self) -> tuple[ExpectationValidationResult, RowNumbers] | None:
        """Return the result, see :func:`check`."""
        one, rows, schema = self._expectation, self._rows, self._rows.schema
        kind = one.expectation_type
        if kind == _UNIQUE and self._can_compare([one.column]):
            return _completed(self._unique([one.column], "any_value_is_missing"))
        if kind == _COMPOUND_UNIQUE and self._can_compare(one.column_list) and one.ignore_row_if in _IGNORED:
            return _completed(self._unique(one.column_list, one.ignore_row_if))
        if kind in _ORDERED and one.column in schema.names:
            return _completed(in_order.merged(rows, one.column, self._validated, with_previous=True))
        if can_aggregate(one, schema):
            few = with_same_aggregate(one, rows, rows.facts)
            return self._validated(with_suitable_integers(one, few)), RowNumbers()
        if kind in _TYPES and one.column in schema.names:
            none = frame_of(schema.empty_table().select([one.column]), rows.facts)
            if none[one.column].dtype == object:
                return _completed(in_order.merged(rows, one.column, self._validated, with_previous=False))
            # The types of other values are known without the values.
            return self._validated(none), RowNumbers()
        # Only Great Expectations knows the values of parameters.
        if sent_expectations.PARAMETER in str(one.configuration.kwargs):
            return None
        if kind in COUNT_ROWS:
            return self._compared(lambda: {"table.row_count": rows.count()})
        if distinct.can_count(one, schema):
            return self._compared(lambda: distinct.metrics(one, rows))
        if kind == _PRESENT and self._can_compare([one.column]):
            return self._compared(self._present)
        if getattr(one, "column", None) in schema.names and quantiles.can_sort(one, schema, rows.facts[one.column]):
            return self._compared(lambda: quantiles.metrics(one, rows))
        return None

    def _can_compare(self, columns: Sequence[str]) -> bool:
        schema = self._rows.schema
        known = len({*columns}) == len(columns) and {*columns} <= {*schema.names}
        return known and all(can_compare(schema.field(column).type) for column in columns)

    def _validated(self, frame: pd.DataFrame) -> ExpectationValidationResult:
        """Validate rows that meet the condition of the expectation."""
        if not has_condition(self._expectation):
            (result,) = self._session.check([self._expectation], frame)
            return result
        # The rows may lack the columns of the condition.
        (result,) = self._session.check([self._expectation.copy(update=dict.fromkeys(_CONDITION))], frame)
        given = self._expectation.configuration.kwargs
        config = result.expectation_config
        assert config is not None
        config.kwargs.update({name: given[name] for name in _CONDITION if name in given})
        return result

    def _compared(self, metrics: Any) -> tuple[ExpectationValidationResult, RowNumbers] | None:
        """Let Great Expectations compare values with the arguments of the expectation.

        :param metrics: function that returns the values that Great Expectations would compute, by their names
        :return: ``None`` if Great Expectations fails on a DataFrame without rows. All rows are then validated at once, so
            that its error is about them
        """
        result = self._validated(frame_of(self._rows.schema.empty_table(), self._rows.facts))
        if was_not_computed(result):
            return None
        found = self._expectation._validate(metrics=metrics())
        result.success, result.result = bool(found["success"]), found["result"]
        return result, RowNumbers()

    def _present(self) -> dict[str, Any]:
        column = self._expectation.column
        facts = self._rows.facts[column]
        count = missing = 0
        for values in self._rows.column(column):
            count += len(values)
            missing += comparable(values, facts, column).null_count
        # The types are those of Great Expectations.
        return {"column.non_null_proportion": np.float64((count - missing) / count) if count else 0}

    def _unique(self, columns: Sequence[str], ignored: str) -> Merged:
        """Validate that values are unique. Great Expectations sees only the rows that the Data Docs need."""
        import pandas as pd

        rows = self._rows
        repeated = repeated_rows(rows, columns, MOST_DISTINCT + 1, ignored)
        first_rows = repeated.numbers.first(SHOWN)
        shown = np.unique(np.concatenate([first_rows, np.array([row for row, _ in repeated.frequent], np.int64)]))
        parts = [rows.schema.empty_table().select(columns)]
        for numbers, table in rows.tables(columns) if len(shown) else ():
            parts.append(table.filter(pa.array(np.isin(numbers, shown, assume_unique=True))))
        frame = frame_of(pa.concat_tables(parts), rows.facts)
        frame.index = pd.Index(shown)
        merged = Merged()
        merged.follow(self._validated(frame))
        listed = frame[columns[0]] if self._expectation.expectation_type == _UNIQUE else frame.to_dict("records")
        values = dict(zip(shown.tolist(), listed, strict=True))
        merged.add_counted(
            {
                "element_count": repeated.count,
                "missing_count": repeated.missing,
                "unexpected_count": len(repeated.numbers),
            },
            repeated.numbers,
            [values[row] for row in first_rows.tolist()],
            [(values[row], count) for row, count in repeated.frequent],
        )
        return merged


def _completed(merged: Merged) -> tuple[ExpectationValidationResult, RowNumbers]:
    return merged.result(), merged.rows
