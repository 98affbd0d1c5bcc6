"""The unexpected values of an expectation about rows, and how often each of them occurs, for the Data Docs.

Great Expectations returns only the first 200 unexpected values, and counts only those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult

SHOWN = 20
"""Number of unexpected values that Great Expectations shows in its pages."""


def unexpected_values(result: ExpectationValidationResult, frame: pd.DataFrame) -> list[Any]:
    """Return the values of all rows that do not meet an expectation, in the order of ``unexpected_index_list``.

    :param result: the result for the rows
    :param frame: the validated rows
    :return: the values. If the expectation names columns in another letter case, or has arguments of its own, they are the
        first 200 values, as Great Expectations returns them
    """
    config = result.expectation_config
    assert config is not None
    try:
        return values_of(config.kwargs, frame, result.result["unexpected_index_list"])
    except KeyError:
        return list(result.result.get("unexpected_list") or [])


def values_of(kwargs: Mapping[str, Any], frame: pd.DataFrame, rows: Any = slice(None)) -> list[Any]:
    """Return the values of rows in the form in which Great Expectations returns unexpected values.

    :param kwargs: arguments of the expectation
    :param rows: labels of the rows; all by default
    :raises KeyError: the arguments name no columns, or columns that the frame does not have
    """
    if "column_list" in kwargs:
        found: list[Any] = frame[kwargs["column_list"]].loc[rows].to_dict("records")
        return found
    if "column_A" in kwargs:
        one, other = (frame[kwargs[name]].loc[rows].values for name in ("column_A", "column_B"))
        return list(zip(one, other, strict=True))
    return list(frame[kwargs["column"]].loc[rows])


def countable(value: Any) -> Any:
    """Return an unexpected value in a form that can be counted.

    The values of several columns are a tuple. All missing values, such as NaN, which does not equal itself, are ``None``.
    """
    import pandas as pd

    if isinstance(value, dict):
        return tuple(map(countable, value.values()))
    if isinstance(value, tuple):
        return tuple(map(countable, value))
    return None if value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value) else value


def most_frequent(frequencies: Counter[Any]) -> list[dict[str, Any]]:
    """Return the most frequent values as Great Expectations returns them (``partial_unexpected_counts``)."""
    common = frequencies.most_common(SHOWN)
    # Values of several types keep the order of their rows.
    with suppress(TypeError):
        common = sorted(common, key=lambda item: (-item[1], item[0]))
    return [{"value": value, "count": count} for value, count in common]


def count_all(result: ExpectationValidationResult, frame: pd.DataFrame) -> None:
    """Replace the frequencies of the first 200 unexpected values by those of all, in a result about rows.

    The list of all unexpected values is removed, and so is the query for the DataFrame, which the reader of a page does
    not have.

    :param frame: the validated rows
    """
    details = result.result
    if "unexpected_index_list" not in details:
        return
    try:
        details["partial_unexpected_counts"] = most_frequent(Counter(map(countable, unexpected_values(result, frame))))
    except TypeError:
        # Lists and structs cannot be counted.
        details.pop("partial_unexpected_counts", None)
    for name in ("unexpected_list", "unexpected_index_query"):
        details.pop(name, None)
