"""Merge the results of one expectation about rows, computed batch by batch, into the result for all rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.stages.validate.frequencies import SHOWN, countable, most_frequent, unexpected_values
from airflow_mlops.stages.validate.row_numbers import RowNumbers

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult

    from airflow_mlops.stages.validate.parts import Part

MOST_DISTINCT = 1_000


def counts_of(result: ExpectationValidationResult) -> dict[str, int]:
    """Return the numbers of rows in a result that are summed over batches, by their names."""
    names = ("element_count", "unexpected_count", "missing_count")
    return {name: int(result.result[name]) for name in names if result.result.get(name) is not None}


def is_met(counts: Mapping[str, int], mostly: float) -> bool:
    """Return whether the expectation passes by the rule of Great Expectations: few enough rows are unexpected.

    :param counts: numbers of rows, see :func:`counts_of`
    :param mostly: smallest share of the rows, without missing values, that must meet the expectation, 0 to 1
    """
    considered = counts.get("element_count", 0) - counts.get("missing_count", 0)
    return not considered or (float(considered) - counts.get("unexpected_count", 0)) / float(considered) >= mostly


class Merged:
    """The result of one expectation for the batches so far.

    Great Expectations keeps all unexpected rows as a list. This class keeps their numbers in a temporary file. Of the
    unexpected values, it keeps what the Data Docs show: the first 20 values, and the frequency of each distinct value. If
    there are more than 1,000 distinct values, rare values are dropped. The Data Docs then show no frequencies, because the
    sum of the remaining frequencies is not the number of unexpected rows.
    """

    def __init__(self) -> None:
        self.failure: ExpectationValidationResult | None = None
        self._last: ExpectationValidationResult | None = None
        self.rows = RowNumbers()
        self._counts: Counter[str] = Counter()
        self._values: list[Any] = []
        self._frequencies: Counter[Any] | None = Counter()

    def add(self, result: ExpectationValidationResult, frame: pd.DataFrame, first_row: int) -> None:
        """Add the result for a batch.

        :param frame: the rows of the batch
        :param first_row: number of rows in earlier batches
        """
        self._last = result
        details = result.result
        if "unexpected_index_list" not in details:
            # Great Expectations could not compute the expectation.
            self.failure = self.failure or result
            return
        rows = np.array(details["unexpected_index_list"] or [], np.int64)
        self.rows.append(rows + first_row)
        self._counts.update(counts_of(result))
        values = unexpected_values(result, frame)
        self._values += values[: SHOWN - len(self._values)]
        if self._frequencies is not None:
            try:
                self._frequencies.update(map(countable, values))
                if len(self._frequencies) > MOST_DISTINCT:
                    self._frequencies = Counter(dict(self._frequencies.most_common(MOST_DISTINCT // 2)))
            except TypeError:
                # The values are lists or structs, which cannot be counted.
                self._frequencies = None

    def follow(self, result: ExpectationValidationResult) -> None:
        """Use ``result`` as the template of the merged result. The rows are added with :meth:`add_part`."""
        self._last = result
        if "unexpected_index_list" not in result.result:
            self.failure = result

    def add_part(self, part: Part, values: Sequence[Any], first_row: int) -> None:
        """Add what an executor has found in a part of the rows. :meth:`follow` must be called first.

        :param values: the unexpected values of ``part.sample``
        :param first_row: number of rows in earlier parts
        """
        if part.failure:
            if self.failure is None:
                assert self._last is not None
                info = {"raised_exception": True, "exception_message": part.failure, "exception_traceback": None}
                self.failure = copy(self._last)
                self.failure.success, self.failure.result, self.failure.exception_info = False, {}, info
            return
        self.rows.append(part.rows + first_row)
        self._counts.update(part.counts)
        self._values += values[: min(part.shown, SHOWN - len(self._values))]
        if part.repeats is None:
            self._frequencies = None
        else:
            self._count(zip(values[part.shown :], part.repeats.tolist(), strict=True))

    def add_counted(
        self, counts: Mapping[str, int], rows: RowNumbers, values: Sequence[Any], frequent: Iterable[tuple[Any, int]]
    ) -> None:
        """Add what was counted for all rows. :meth:`follow` must be called first.

        :param counts: numbers of rows, see :func:`counts_of`
        :param rows: numbers of the unexpected rows
        :param values: the first 20 unexpected values
        :param frequent: the unexpected values and their numbers of rows, the most frequent first. The
            values after the first 1,001 may be left out
        """
        self.rows = rows
        self._counts.update(counts)
        self._values += values
        self._count(frequent)

    def _count(self, frequencies: Iterable[tuple[Any, int]]) -> None:
        if self._frequencies is None:
            return
        for value, count in frequencies:
            self._frequencies[countable(value)] += count
        if len(self._frequencies) > MOST_DISTINCT:
            self._frequencies = Counter(dict(self._frequencies.most_common(MOST_DISTINCT // 2)))

    def result(self) -> ExpectationValidationResult:
        """Return the result for all rows, in the form that Great Expectations gives for one batch."""
        if self.failure is not None:
            return self.failure
        assert self._last is not None
        found, template = self._last, self._last.result
        elements, unexpected = self._counts["element_count"], self._counts["unexpected_count"]
        considered = elements - self._counts["missing_count"]
        config = found.expectation_config
        assert config is not None
        share = unexpected / elements * 100 if elements else None
        of_considered = unexpected / considered * 100 if considered else None
        found.success = is_met(self._counts, config.kwargs.get("mostly", 1))
        merged: dict[str, Any] = {"element_count": elements, "unexpected_count": unexpected}
        merged["unexpected_percent"] = of_considered
        merged["partial_unexpected_list"] = self._values
        if "missing_count" in template:
            missing = self._counts["missing_count"]
            merged |= {"missing_count": missing, "missing_percent": missing / elements * 100 if elements else None}
            merged |= {"unexpected_percent_total": share, "unexpected_percent_nonmissing": of_considered}
        first = self.rows.first(SHOWN).tolist()
        if self._frequencies is not None:
            merged["partial_unexpected_counts"] = most_frequent(self._frequencies)
        # outcome() treats a result with this list as the result of an expectation about rows.
        merged |= {"partial_unexpected_index_list": first, "unexpected_index_list": first}
        found.result = merged
        return found
