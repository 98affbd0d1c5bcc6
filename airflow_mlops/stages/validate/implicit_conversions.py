"""Values that expectations about tables and queries of MySQL and MariaDB compare.

These databases convert text to a number to compare the two: ``'abc' = 0`` is true. Other databases reject the query, or
convert the number to text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import SpecError
from airflow_mlops.stages.validate.checkpoint import columns as columns_of

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

# Type codes of MySQL's protocol.
_NUMBERS = frozenset({0, 1, 2, 3, 4, 5, 8, 9, 13, 246})
_TEXTS = frozenset({15, 247, 248, 249, 250, 251, 252, 253, 254})

_OF_COLUMNS = frozenset({
    "expect_column_pair_values_a_to_be_greater_than_b", "expect_column_pair_values_to_be_equal",
    "expect_select_column_values_to_be_unique_within_record",
})  # fmt: skip


def require_comparable_values(suite: ExpectationSuite, codes: Mapping[str, int]) -> None:
    """Check that expectations compare numbers with numbers, and text with text.

    :param codes: MySQL's type code of each column
    :raises SpecError: an expectation compares a column of text with a number or with a column of numbers, or a column of
        numbers with text
    """
    by_case = {name.casefold(): code for name, code in codes.items()}
    for expectation in suite.expectations:
        kind, kwargs = expectation.configuration.type, expectation.configuration.kwargs
        for column, values in _compared(kwargs):
            code = by_case.get(column.casefold())
            number = next((value for value in values if isinstance(value, int | float)), None)
            text = next((value for value in values if isinstance(value, str)), None)
            if code in _TEXTS and number is not None:
                raise _mismatch(kind, column, "text", f"the number {number!r}")
            if code in _NUMBERS and text is not None:
                raise _mismatch(kind, column, "numbers", f"the text {text!r}")
        if kind in _OF_COLUMNS:
            columns = {name: by_case.get(name.casefold()) for name in columns_of(kwargs)}
            texts, numbers = ([n for n, code in columns.items() if code in codes] for codes in (_TEXTS, _NUMBERS))
            if texts and numbers:
                raise _mismatch(kind, texts[0], "text", f"the numbers of column {numbers[0]!r}")


def _compared(kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Iterable[Any]]]:
    """Yield each column that is compared with listed values, and these values."""
    if isinstance(column := kwargs.get("column"), str) and isinstance(
        values := kwargs.get("value_set"), list | set | tuple
    ):
        yield column, values
    pairs = kwargs.get("value_pairs_set") or ()
    for position, name in enumerate(("column_A", "column_B")):
        if isinstance(column := kwargs.get(name), str) and pairs:
            yield column, [pair[position] for pair in pairs]


def _mismatch(kind: str, column: str, has: str, value: str) -> SpecError:
    return SpecError(
        f"The expectation {kind}({column}) compares {value} with a column of {has}, and the database would convert the "
        "text to a number: 'abc' equals 0. Write the values in the type of the column."
    )
