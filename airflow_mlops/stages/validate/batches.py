"""Validate a window whose rows do not fit into memory as one DataFrame. The results are the same as for one DataFrame.

Great Expectations validates batches of the window with pandas (:mod:`airflow_mlops.stages.validate.single_rows`), and
the results of expectations about single rows are merged. For most expectations about several rows, such as unique or
distinct values, means and quantiles, the values are compared, sorted or added in bounded memory
(:mod:`airflow_mlops.stages.validate.whole_table`). A few other expectations read all rows at once. If possible, they read
only the columns that they name.

The memory does not grow with the number of rows, except for these other expectations. The numbers of the failing rows
are in temporary files (:mod:`airflow_mlops.stages.validate.row_numbers`).

Executors (:mod:`airflow_mlops.stages.validate.spread`) or the shards of a mapped task
(:mod:`airflow_mlops.stages.validate.shards`) can validate the batches.

Great Expectations' SQL engine is not used. Version 1.24 does not support DuckDB, the SQLAlchemy dialect for DuckDB
cannot list columns with SQLAlchemy 2.1, and all unexpected rows would become Python objects at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.stages.validate import sent_expectations, single_rows, whole_table
from airflow_mlops.stages.validate.aggregates import with_suitable_integers
from airflow_mlops.stages.validate.checkpoint import Session, count_passed
from airflow_mlops.stages.validate.conditions import has_condition, row_condition
from airflow_mlops.stages.validate.frequencies import count_all, values_of
from airflow_mlops.stages.validate.merged import Merged
from airflow_mlops.stages.validate.mixed_numbers import require_exact_columns
from airflow_mlops.stages.validate.numbers_as_text import with_whole_numbers
from airflow_mlops.stages.validate.row_numbers import RowNumbers
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.single_rows import columns_of
from airflow_mlops.stages.validate.times import frame_of, with_time_bounds

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation
    from numpy.typing import NDArray

    from airflow_mlops.stages.validate.divided import DividedRows

_POSITION = "mlops_position"
_FIRST_ROWS = 4_096
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
    "expect_multicolumn_sum_to_equal", "expect_multicolumn_values_to_be_equal",
    "expect_select_column_values_to_be_unique_within_record",
})  # fmt: skip
_NAME_COLUMNS = (
    "expect_column_to_exist", "expect_column_type_to_be", "expect_table_column_count_to_be_between", "expect_table_column_count_to_equal",
    "expect_table_columns_to_match_ordered_list", "expect_table_columns_to_match_set",
)  # fmt: skip


def run_in_batches(
    suite: ExpectationSuite, rows: Rows, name: str, site: Path, divided: DividedRows | None = None
) -> tuple[ExpectationSuiteValidationResult, list[RowNumbers]]:
    """Validate rows with a suite, write the Data Docs, and return the results.

    :param suite: the suite
    :param rows: rows of the dataset
    :param name: name of the dataset
    :param site: existing folder for the HTML pages of the Data Docs
    :param divided: the same rows, which other processes check; by default, all rows are checked here
    :return: the results of the suite, and for each result the numbers of the rows that do not meet the expectation.
        Unlike the results of :func:`~.checkpoint.run_suite`, these do not list all unexpected values
    :raises ValidationError: Great Expectations cannot run the suite
    :raises SpecError: the bounds of an expectation do not fit a column of dates or times, or pandas would round integers
        beyond 2**53
    """
    suite = with_time_bounds(suite, rows.schema.empty_table())
    mark(suite.expectations)
    # A session adds the suite to a project, which changes the expectations. They are therefore collected first.
    streamed = about_single_rows(suite, rows.schema)
    others = {number: one for number, one in enumerate(suite.expectations) if number not in streamed}
    sent = {}
    if divided is not None:
        sent = {number: one for number, one in describe(streamed, rows.schema).items() if divided.takes(one)}
    exact = (divided or rows).facts()
    require_exact_columns(suite, rows.schema, exact)
    facts = with_whole_numbers(exact, suite)
    session = Session(suite, name, site)
    merged = {number: Merged() for number in streamed}
    # The first rows are validated with the whole suite, which gives the order of the results.
    identifier, found = session.run(frame_of(rows.first(_FIRST_ROWS), facts))
    # The fingerprint is not that of all rows.
    found.meta["batch_markers"].pop("pandas_data_fingerprint", None)
    for result in found.results:
        if (number := position(result)) in merged:
            merged[number].follow(result)
    here = [one for number, one in streamed.items() if number not in sent and merged[number].failure is None]
    for checked in single_rows.check(session, here, rows, facts):
        merged[position(checked.result)].add(checked.result, checked.frame, checked.first_row)
    if divided is not None:
        _check_parts({number: streamed[number] for number in sent}, sent, merged, facts, divided)
    done = {number: one.result() for number, one in merged.items()}
    failing = {number: one.rows for number, one in merged.items()}
    for number, expectation in others.items():
        if (one := whole_table.check(expectation, rows, facts, session)) is not None:
            done[number], failing[number] = one
            continue
        needed = _needed(expectation, rows, facts)
        (done[number],) = session.check([expectation], needed)
        count_all(done[number], needed)
        failing[number] = RowNumbers(unexpected_rows(done[number]))
    order = [position(result) for result in found.results]
    found.results = [_without_position(done[number]) for number in order]
    count_passed(found)
    session.write_data_docs(identifier, found)
    return found, [failing[number] for number in order]


def about_single_rows(suite: ExpectationSuite, schema: pa.Schema) -> dict[int, Any]:
    """Return the expectations whose result for a row does not depend on other rows, by their position in the suite.

    :param schema: the columns of the rows
    """
    return {
        number: one for number, one in enumerate(suite.expectations)
        if one.expectation_type in _ABOUT_SINGLE_ROWS
        and (not has_condition(one) or row_condition(one, schema) is not None)
    }  # fmt: skip


def describe(streamed: Mapping[int, Any], schema: pa.Schema) -> dict[int, dict[str, Any]]:
    """Describe the expectations that other processes can check, by their position in the suite.

    :param streamed: the expectations from :func:`about_single_rows`
    :param schema: the columns of the rows
    """
    found = {}
    for number, expectation in streamed.items():
        # Great Expectations ignores the letter case of column names.
        known = {*columns_of(expectation)} <= {*schema.names}
        if known and (given := sent_expectations.describe(expectation, schema)) is not None:
            found[number] = given
    return found


def _check_parts(
    expectations: Mapping[int, Any],
    sent: Mapping[int, dict[str, Any]],
    merged: Mapping[int, Merged],
    facts: Mapping[str, ColumnFacts],
    divided: DividedRows,
) -> None:
    """Let other processes check the rows, and add the results to ``merged``."""
    numbers = [number for number in sent if merged[number].failure is None]
    if not numbers:
        return
    columns = [columns_of(expectations[number]) for number in numbers]
    found = divided.check([sent[number] for number in numbers], columns, facts)
    for parts, first_row in zip(found, divided.firsts, strict=True):
        for number, part in zip(numbers, parts, strict=True):
            values = []
            if part.sample.num_rows:
                values = values_of(expectations[number].configuration.kwargs, frame_of(part.sample, facts))
            merged[number].add_part(part, values, first_row)


def unexpected_rows(result: ExpectationValidationResult) -> NDArray[np.int64]:
    """Return the numbers of the rows that do not meet an expectation, as Great Expectations lists them."""
    return np.array(sorted(map(int, result.result.get("unexpected_index_list") or [])), np.int64)


def mark(expectations: Iterable[Expectation]) -> None:
    """Write the position of each expectation into its metadata, for :func:`position`."""
    for number, expectation in enumerate(expectations):
        expectation.meta = {**(expectation.meta or {}), _POSITION: number}


def position(result: ExpectationValidationResult) -> int:
    """Return the position of the expectation of a result among the marked expectations."""
    config = result.expectation_config
    assert config is not None
    return int(config.meta[_POSITION])


def _without_position(result: ExpectationValidationResult) -> ExpectationValidationResult:
    config = result.expectation_config
    assert config is not None
    config.meta.pop(_POSITION, None)
    return result


def _needed(expectation: Any, rows: Rows, facts: dict[str, ColumnFacts]) -> pd.DataFrame:
    """Return the data that an expectation needs.

    An expectation about the number of rows gets rows without columns. An expectation about the names or types of columns gets
    columns without rows. All others get all rows of the columns that they name, or of all columns.
    """
    import pandas as pd

    if expectation.expectation_type in whole_table.COUNT_ROWS:
        return pd.DataFrame(index=pd.RangeIndex(rows.count))
    if expectation.expectation_type in _NAME_COLUMNS:
        return frame_of(rows.schema.empty_table(), facts)
    columns: Sequence[str] | None = columns_of(expectation)
    # The condition of an expectation on its rows may name any column.
    if not columns or has_condition(expectation) or not {*columns} <= {*rows.schema.names}:
        columns = None
    return with_suitable_integers(expectation, frame_of(rows.table(columns), facts))
