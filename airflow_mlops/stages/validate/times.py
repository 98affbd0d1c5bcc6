"""Dates and times in expectations.

Great Expectations compares Python objects. A date can be compared only with a date, and a time with a time zone only
with a time with a time zone. Therefore all columns of dates or times, and the bounds of the expectations for them, are
converted to UTC timestamps. A date becomes midnight of that day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.moments import parse
from airflow_mlops.data.frames import ColumnFacts, as_frame
from airflow_mlops.data.moments import as_utc, is_time

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from great_expectations import ExpectationSuite

# Expectations whose bounds are compared with values of the column. Other bounds are numbers, such as counts.
_BOUNDED = frozenset({
    "expect_column_values_to_be_between", "expect_column_min_to_be_between", "expect_column_max_to_be_between",
})  # fmt: skip
_BOUNDS = ("min_value", "max_value")
# Lists of values. Great Expectations compares times with the listed values as text, so no time equals a listed value.
_LISTS = ("value_set", "quantile_ranges")


def with_timestamps(table: pa.Table) -> pa.Table:
    """Return the table with its columns of dates and times converted to UTC timestamps."""
    for index, field in enumerate(table.schema):
        if is_time(field.type):
            table = table.set_column(index, field.name, as_utc(table.column(index), f"Column {field.name!r}"))
    return table


def frame_of(table: pa.Table, facts: Mapping[str, ColumnFacts]) -> pd.DataFrame:
    """Return a table as Great Expectations validates it.

    :param facts: the facts of all rows
    """
    return as_frame(with_timestamps(table), facts)


def with_time_bounds(suite: ExpectationSuite, table: pa.Table) -> ExpectationSuite:
    """Return the suite with the bounds of columns of dates and times converted to UTC times.

    :param table: the rows to validate
    :raises SpecError: an expectation compares a column of dates or times with a number or with a list of values
    """
    return with_bounds(suite, dict.fromkeys((field.name for field in table.schema if is_time(field.type)), _same))


def with_bounds(suite: ExpectationSuite, times: Mapping[str, Callable[[datetime], Any]]) -> ExpectationSuite:
    """Return the suite with the bounds of columns of dates and times converted.

    :param times: for each column of dates or times, the function that converts a UTC time to the form in which it is
        compared with the values of the column
    :raises SpecError: an expectation compares a column of dates or times with a number or with a list of values
    """
    from great_expectations import ExpectationSuite

    forms = ((item, times.get(getattr(item, "column", None) or "")) for item in suite.expectations)
    expectations = [_converted(item, form) if form else item for item, form in forms]
    return ExpectationSuite(name=suite.name, expectations=expectations, meta=suite.meta, notes=suite.notes)


def time_bounded_column(expectation: Any) -> str | None:
    """Return the column whose values an expectation compares with dates or times; ``None`` if it compares none."""
    found = (getattr(expectation, name, None) for name in _BOUNDS)
    if expectation.expectation_type in _BOUNDED and any(isinstance(bound, str | date) for bound in found):
        return str(expectation.column)
    return None


def _same(instant: datetime) -> datetime:
    return instant


def _converted(expectation: Any, form: Callable[[datetime], Any]) -> Any:
    where = f"{expectation.expectation_type}({expectation.column})"
    for name in _LISTS:
        if getattr(expectation, name, None):
            raise SpecError(
                f"The expectation {where} has a `{name}`, which Great Expectations does not support for a column of dates or "
                "times. Use expect_column_values_to_be_between with `min_value` and `max_value` instead."
            )
    if expectation.expectation_type not in _BOUNDED:
        return expectation
    bounds = {name: _time(getattr(expectation, name), f"`{name}` of {where}") for name in _BOUNDS}
    return expectation.copy(
        update={name: form(value) if isinstance(value, datetime) else value for name, value in bounds.items()}
    )


def _time(value: Any, what: str) -> Any:
    if isinstance(value, str):
        try:
            return parse(value)
        except ValueError as error:
            raise SpecError(f"{what}: {error}") from None
    if isinstance(value, int | float):
        raise SpecError(
            f"{what} is the number {value:g}, but the column contains dates or times. Write a date or time in ISO 8601 with "
            "hyphens, such as '2024-03-05' or '2024-03-05T06:30:00Z'."
        )
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)
    # The value is None or a parameter of the suite, which Great Expectations replaces when the suite runs.
    return value
