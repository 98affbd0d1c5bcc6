"""Validate a window whose rows do not fit into memory as one DataFrame. The results are the same as for one DataFrame.

Great Expectations validates batches of the window with pandas. The results of expectations about single rows are
merged. For the expectation of unique values, DuckDB finds the rows with repeated values
(:mod:`airflow_mlops.stages.validate.duplicates`). All other expectations, such as those about means, read all rows at
once. If possible, they read only the columns that they name.

Great Expectations' SQL engine is not used. Version 1.24 does not support DuckDB, the SQLAlchemy dialect for DuckDB
cannot list columns with SQLAlchemy 2.1, and all unexpected rows would become Python objects at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.data.frames import ColumnFacts, as_frame
from airflow_mlops.stages.validate import duplicates
from airflow_mlops.stages.validate.checkpoint import Session
from airflow_mlops.stages.validate.merged import Merged
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.times import with_time_bounds, with_timestamps

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
    from numpy.typing import NDArray

_POSITION = "mlops_position"
# Expectations whose result for a row does not depend on other rows.
_ABOUT_SINGLE_ROWS = frozenset({
    "expect_column_pair_values_a_to_be_greater_than_b", "expect_column_pair_values_to_be_equal",
    "expect_column_pair_values_to_be_in_set", "expect_column_value_lengths_to_be_between",
    "expect_column_value_lengths_to_equal", "expect_column_values_to_be_between",
    "expect_column_values_to_be_dateutil_parseable", "expect_column_values_to_be_in_set",
    "expect_column_values_to_be_json_parseable", "expect_column_values_to_be_null",
    "expect_column_values_to_match_json_schema", "expect_column_values_to_match_regex",
    "expect_column_values_to_match_regex_list", "expect_column_values_to_match_strftime_format",
    "expect_column_values_to_not_be_in_set", "expect_column_values_to_not_be_null",
    "expect_column_values_to_not_match_regex", "expect_column_values_to_not_match_regex_list",
    "expect_multicolumn_sum_to_equal", "expect_select_column_values_to_be_unique_within_record",
})  # fmt: skip
_COUNT_ROWS = ("expect_table_row_count_to_be_between", "expect_table_row_count_to_equal")
_NAME_COLUMNS = (
    "expect_column_to_exist", "expect_table_column_count_to_be_between", "expect_table_column_count_to_equal",
    "expect_table_columns_to_match_ordered_list", "expect_table_columns_to_match_set",
)  # fmt: skip


def run_in_batches(
    suite: ExpectationSuite, rows: Rows, name: str, site: Path
) -> tuple[ExpectationSuiteValidationResult, list[NDArray[np.int64]]]:
    """Validate rows with a suite, write the Data Docs, and return the results.

    :param suite: the suite
    :param rows: rows of the dataset
    :param name: name of the dataset
    :param site: existing folder for the HTML pages of the Data Docs
    :return: the results of the suite, and for each result the numbers of the rows that do not meet the expectation, in
        ascending order. Unlike the results of :func:`~.checkpoint.run_suite`, these do not list all unexpected values
    :raises ValidationError: Great Expectations cannot run the suite
    :raises SpecError: the bounds of an expectation do not fit a column of dates or times
    """
    suite = with_time_bounds(suite, rows.schema.empty_table())
    for position, expectation in enumerate(suite.expectations):
        expectation.meta = {**(expectation.meta or {}), _POSITION: position}
    # A session adds the suite to a project, which changes the expectations. They are therefore collected before.
    streamed = {
        position: one for position, one in enumerate(suite.expectations)
        if one.expectation_type in _ABOUT_SINGLE_ROWS and getattr(one, "row_condition", None) is None
    }  # fmt: skip
    others = {position: one for position, one in enumerate(suite.expectations) if position not in streamed}
    session, facts = Session(suite, name, site), rows.facts()
    merged = {position: Merged() for position in streamed}
    identifier, found = None, None
    for first, table in rows.batches():
        frame = _frame(table, facts)
        if found is None:
            # The first batch is validated with the whole suite, which gives the order of the results.
            identifier, found = session.run(frame)
            results = found.results
        else:
            results = session.check(list(streamed.values()), frame)
        for result in results:
            if (position := _position(result)) in merged:
                merged[position].add(result, first)
    assert found is not None
    done = {position: one.result() for position, one in merged.items()}
    failing = {position: one.rows for position, one in merged.items()}
    for position, expectation in others.items():
        if _is_about_repeated(expectation, rows):
            one = _repeated(expectation, rows, facts, session)
            done[position], failing[position] = one.result(), one.rows
            continue
        (done[position],) = session.check([expectation], _frame_of(expectation, rows, facts))
        failing[position] = unexpected_rows(done[position])
    order = [_position(result) for result in found.results]
    found.results = [_without_position(done[position]) for position in order]
    found.success = all(result.success for result in found.results)
    passed = sum(bool(result.success) for result in found.results)
    found.statistics |= {
        "successful_expectations": passed,
        "unsuccessful_expectations": len(order) - passed,
        "success_percent": passed / len(order) * 100 if order else None,
    }
    session.write_data_docs(identifier, found)
    return found, [failing[position] for position in order]


def _is_about_repeated(expectation: Any, rows: Rows) -> bool:
    return (
        expectation.expectation_type == "expect_column_values_to_be_unique"
        and getattr(expectation, "row_condition", None) is None
        and expectation.column in rows.schema.names
        and duplicates.can_compare(rows.schema.field(expectation.column).type)
    )


def _repeated(expectation: Any, rows: Rows, facts: dict[str, ColumnFacts], session: Session) -> Merged:
    """Validate that values are unique. Great Expectations sees only the rows with repeated values."""
    import pandas as pd

    column = expectation.column
    numbers, missing = duplicates.repeated_rows(rows, column)
    parts = [rows.schema.empty_table().select([column])]
    for first, values in rows.column(column):
        here = numbers[np.searchsorted(numbers, first) : np.searchsorted(numbers, first + len(values))] - first
        parts.append(pa.table([values.take(pa.array(here))], schema=parts[0].schema))
    frame = _frame(pa.concat_tables(parts), facts)
    frame.index = pd.Index(numbers)
    merged = Merged()
    (result,) = session.check([expectation], frame)
    merged.add(result, 0)
    merged.add_expected(rows.count - len(numbers), missing)
    return merged


def unexpected_rows(result: ExpectationValidationResult) -> NDArray[np.int64]:
    """Return the numbers of the rows that do not meet an expectation, as Great Expectations lists them."""
    return np.array(sorted(map(int, result.result.get("unexpected_index_list") or [])), np.int64)


def _position(result: ExpectationValidationResult) -> int:
    config = result.expectation_config
    assert config is not None
    return int(config.meta[_POSITION])


def _without_position(result: ExpectationValidationResult) -> ExpectationValidationResult:
    config = result.expectation_config
    assert config is not None
    config.meta.pop(_POSITION, None)
    return result


def _frame(table: pa.Table, facts: dict[str, ColumnFacts]) -> pd.DataFrame:
    return as_frame(with_timestamps(table), facts)


def _frame_of(expectation: Any, rows: Rows, facts: dict[str, ColumnFacts]) -> pd.DataFrame:
    """Return the data that an expectation needs.

    An expectation about the number of rows gets rows without columns. An expectation about the names of columns gets
    columns without rows. All others get all rows of the columns that they name, or of all columns.
    """
    import pandas as pd

    if expectation.expectation_type in _COUNT_ROWS:
        return pd.DataFrame(index=pd.RangeIndex(rows.count))
    if expectation.expectation_type in _NAME_COLUMNS:
        return _frame(rows.schema.empty_table(), facts)
    columns = _columns(expectation)
    # The condition of an expectation on its rows may name any column.
    if not columns or getattr(expectation, "row_condition", None) is not None or not {*columns} <= {*rows.schema.names}:
        return _frame(rows.table(), facts)
    return _frame(rows.table(columns), facts)


def _columns(expectation: Any) -> Sequence[str]:
    single = (getattr(expectation, name, None) for name in ("column", "column_A", "column_B"))
    listed = getattr(expectation, "column_list", None) or []
    return list(dict.fromkeys(name for name in (*single, *listed) if isinstance(name, str)))
