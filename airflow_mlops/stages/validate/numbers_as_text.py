"""Expectations about the text of numbers, such as a regular expression for a column of integers.

Great Expectations converts numbers to text as pandas does. In pandas, integers become floating-point numbers if a value
is null, and so do whole decimals. The text of 7 would then be ``7.0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_mlops.data.frames import ColumnFacts

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

_ABOUT_TEXT = frozenset({
    "expect_column_value_lengths_to_be_between", "expect_column_value_lengths_to_equal",
    "expect_column_values_to_match_regex", "expect_column_values_to_match_regex_list",
    "expect_column_values_to_not_match_regex", "expect_column_values_to_not_match_regex_list",
})  # fmt: skip


def with_whole_numbers(facts: Mapping[str, ColumnFacts], suite: ExpectationSuite) -> dict[str, ColumnFacts]:
    """Return facts with which pandas keeps integers as integers in the columns whose text the suite checks.

    The facts affect only columns of integers and of decimals without decimal places.

    :param facts: the facts of all rows, by name of the column
    """
    # Great Expectations ignores the letter case of names.
    found = (getattr(one, "column", None) for one in suite.expectations if one.expectation_type in _ABOUT_TEXT)
    as_text = {column.casefold() for column in found if isinstance(column, str)}
    return {name: replace(fact, is_exact=False) if name.casefold() in as_text else fact for name, fact in facts.items()}
