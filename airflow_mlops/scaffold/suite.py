"""Propose a suite of Great Expectations from a sample."""

from __future__ import annotations

import math
import sys
from typing import Any

from airflow_mlops.scaffold.columns import Column, twins
from airflow_mlops.scaffold.proposal import Proposal

# Text columns with at most this many distinct values get an expectation that lists the values.
_CATEGORIES = 20
# Share of the rows in which expectations about the values of features must hold.
_MOSTLY = 0.99
# A window is considered incomplete if its number of rows is below this share of the mean number of rows.
_FEWEST = 0.25


def propose(name: str, proposal: Proposal, complete: bool) -> dict[str, Any]:
    """Return a suite in the JSON format of Great Expectations.

    Expectations about keys and times must hold in all rows. Expectations about the values of features must hold in 99%
    of the rows, and ranges of numbers are wider than in the sample.

    :param name: name of the suite
    :param proposal: the proposal
    :param complete: whether the sample has all rows, so that the number of rows in a window is known
    """
    rules: list[dict[str, Any]] = []
    if complete and (fewest := min(int(proposal.window_rows * _FEWEST), _fewest_before_the_last(proposal))) > 1:
        notes = "A window with fewer rows is an incomplete delivery."
        rules.append(_rule("expect_table_row_count_to_be_between", notes, min_value=fewest))
    # Great Expectations ignores the case of names, and would check one column by the values of another.
    required = [name for name in (proposal.time, *proposal.keys) if not twins(proposal.columns, name)]
    rules.extend(_rule("expect_column_values_to_not_be_null", column=column) for column in required)
    if len(proposal.keys) == 1 and proposal.keys[0] in required:
        rules.append(_rule("expect_column_values_to_be_unique", column=proposal.keys[0]))
    elif set(proposal.keys) <= set(required):
        rules.append(_rule("expect_compound_columns_to_be_unique", column_list=proposal.keys))
    for column in (proposal.columns[feature] for feature in proposal.features):
        if not twins(proposal.columns, column.name):
            rules.extend(_values(column))
    return {"name": name, "expectations": rules, "meta": {}, "notes": "Proposed by `airflow mlops init` from a sample."}


def _fewest_before_the_last(proposal: Proposal) -> int:
    """Return the lowest number of rows in a window of the sample, or the number of all rows if there is only one window.

    The first window is often shorter than the others, and no later delivery completes it. The last window may be
    completed later, so it is not counted.
    """
    import pyarrow.compute as pc

    starts = pc.floor_temporal(proposal.columns[proposal.time].local_times(proposal.timezone), unit=proposal.every)
    earlier = starts.filter(pc.less(starts, pc.max(starts)))
    return int(pc.min(pc.value_counts(earlier if len(earlier) else starts).field("counts")).as_py())


def _values(column: Column) -> list[dict[str, Any]]:
    found = []
    if not column.missing_rows:
        found.append(_rule("expect_column_values_to_not_be_null", column=column.name, mostly=_MOSTLY))
    if column.is_text and column.distinct <= _CATEGORIES:
        values = column.categories()
        found.append(_rule("expect_column_values_to_be_in_set", column=column.name, value_set=values, mostly=_MOSTLY))
    smallest, largest = column.bounds() if column.is_number and _is_finite(column) else (None, None)
    if smallest is not None and largest is not None:
        lowest, highest = float(smallest), float(largest)
        # A bound that is rounded to a double could exclude the number itself, so the range is widened. JSON has no
        # infinite numbers.
        rounded = [one for one, exact in ((lowest, smallest), (highest, largest)) if one != exact]
        room = max(highest - lowest, *(2 * math.ulp(one) for one in rounded), 0.0)
        low = 0.0 if lowest >= 0 else max(lowest - room, -sys.float_info.max)
        high = min(highest + room, sys.float_info.max)
        notes = f"The sample has values from {lowest:.6g} to {highest:.6g}."
        found.append(
            _rule(
                "expect_column_values_to_be_between",
                notes,
                column=column.name,
                min_value=low,
                max_value=high,
                mostly=_MOSTLY,
            )
        )
    return found


def _is_finite(column: Column) -> bool:
    """Return whether enough values of a column of numbers are finite for an expectation about their range."""
    return column.infinite_rows <= (1 - _MOSTLY) * (len(column.values) - column.missing_rows)


def _rule(kind: str, notes: str = "", **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "meta": {"notes": notes} if notes else {}}
