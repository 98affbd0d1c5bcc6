"""Refuse expectations about tables and queries for which a database would convert text or times to numbers, or numbers to text.

In a dataset, a text never equals a number. MySQL and MariaDB convert text to a number to compare the two, so that
``'abc' = 0`` is true. SQLite converts the value to the type of the column, and so does PostgreSQL with the driver psycopg2.
Without a type, every text of SQLite is greater than every number.
The sum and the mean of texts or dates are those of the numbers with which they begin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from airflow_mlops.core.errors import SpecError
from airflow_mlops.stages.validate.checkpoint import columns as columns_of
from airflow_mlops.stages.validate.checkpoint import title_of

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

Kind = Literal["numbers", "text", "times"]
"""The kind of the values of a column."""

_BETWEEN = "expect_column_values_to_be_between"
# Expectations that compare the columns of a row with each other.
_COMPARE_COLUMNS = frozenset({
    "expect_column_pair_values_a_to_be_greater_than_b", "expect_column_pair_values_to_be_equal",
    "expect_select_column_values_to_be_unique_within_record",
})  # fmt: skip
_COMPUTE = frozenset({
    "expect_column_kl_divergence_to_be_less_than", "expect_column_mean_to_be_between", "expect_column_stdev_to_be_between",
    "expect_column_sum_to_be_between", "expect_column_value_z_scores_to_be_less_than", "expect_multicolumn_sum_to_equal",
})  # fmt: skip


def checked_columns(suite: ExpectationSuite) -> list[str]:
    """Return the columns whose kinds :func:`require_same_kinds` needs."""
    found: list[str] = []
    for expectation in suite.expectations:
        kwargs = expectation.configuration.kwargs
        found += [column for column, values in _compared(expectation) if list(values)]
        if expectation.configuration.type in _COMPARE_COLUMNS | _COMPUTE:
            found += columns_of(kwargs)
    return list(dict.fromkeys(found))


def require_same_kinds(suite: ExpectationSuite, kinds: Mapping[str, Kind]) -> None:
    """Check that expectations compare numbers with numbers and text with text, and compute only with numbers.

    :param kinds: the kind of each column, by its name; columns of other or unknown types are absent
    :raises SpecError: an expectation compares a column of text with a number or with a column of numbers, compares a
        column of numbers with text, or computes with a column of text or times
    """
    by_case = {name.casefold(): kind for name, kind in kinds.items()}
    for expectation in suite.expectations:
        name, kwargs = expectation.configuration.type, expectation.configuration.kwargs
        what = f"The expectation {title_of(name, kwargs)}"
        for column, values in _compared(expectation):
            kind = by_case.get(column.casefold())
            number = next((value for value in values if isinstance(value, int | float)), None)
            text = next((value for value in values if isinstance(value, str)), None)
            if kind == "text" and number is not None:
                raise _mismatch(what, f"the number {number!r} with column {column!r} of text")
            if kind == "numbers" and text is not None:
                raise _mismatch(what, f"the text {text!r} with column {column!r} of numbers")
        found = {column: by_case.get(column.casefold()) for column in columns_of(kwargs)}
        if name in _COMPARE_COLUMNS and {"text", "numbers"} <= {*found.values()}:
            one, other = (next(c for c in found if found[c] == kind) for kind in ("text", "numbers"))
            raise _mismatch(what, f"column {one!r} of text with column {other!r} of numbers")
        if name in _COMPUTE and (wrong := next((c for c in found if found[c] in ("text", "times")), None)) is not None:
            raise SpecError(
                f"{what} computes with column {wrong!r}, whose values are {found[wrong]}, and the database may convert them to "
                "other numbers. Use a column of numbers."
            )


def _compared(expectation: Expectation) -> Iterator[tuple[str, Iterable[Any]]]:
    """Yield each column that is compared with a list of values or with numeric bounds, and these values."""
    kwargs = expectation.configuration.kwargs
    if expectation.configuration.type == _BETWEEN:
        # Bounds that are text are dates or times.
        bounds = (kwargs.get("min_value"), kwargs.get("max_value"))
        yield kwargs["column"], [bound for bound in bounds if isinstance(bound, int | float)]
    if isinstance(column := kwargs.get("column"), str) and isinstance(
        values := kwargs.get("value_set"), list | set | tuple
    ):
        yield column, values
    pairs = kwargs.get("value_pairs_set") or ()
    for position, name in enumerate(("column_A", "column_B")):
        if isinstance(column := kwargs.get(name), str) and pairs:
            yield column, [pair[position] for pair in pairs]


def _mismatch(what: str, compared: str) -> SpecError:
    return SpecError(
        f"{what} compares {compared}, and the database may convert one of them, so that 'abc' equals 0 in MySQL. Compare "
        "values of the same type."
    )
