"""The results of one expectation for the batches of a part of the rows, which an executor collects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.stages.validate import checkpoint
from airflow_mlops.stages.validate.frequencies import SHOWN, countable, unexpected_values
from airflow_mlops.stages.validate.merged import MOST_DISTINCT, counts_of
from airflow_mlops.stages.validate.parts import Part

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult
    from numpy.typing import NDArray


class Collector:
    """Collects the results of one expectation for the batches of a part.

    If there are more than 1,000 distinct unexpected values, rare values are dropped, as in :class:`~.merged.Merged`.

    :param columns: the columns of the expectation, without rows
    """

    def __init__(self, columns: pa.Table) -> None:
        self._columns = columns
        self._failure = ""
        self._counts: Counter[str] = Counter()
        self._rows: list[NDArray[np.int64]] = []
        self._shown = columns
        self._distinct: list[pa.Table] = [columns]
        # The number of rows of each distinct value, in the order of the rows in `_distinct`.
        self._repeats: dict[Any, int] | None = {}

    def add(self, result: ExpectationValidationResult, table: pa.Table, frame: pd.DataFrame, first_row: int) -> None:
        """Add the result for a batch.

        :param table: the rows of the batch
        :param frame: the same rows, as Great Expectations has validated them
        :param first_row: number of rows in earlier batches of the part
        """
        details = result.result
        if "unexpected_index_list" not in details:
            self._failure = self._failure or checkpoint.exception_message(result) or "unknown error"
            return
        rows = np.array(details["unexpected_index_list"] or [], np.int64)
        self._counts.update(counts_of(result))
        self._rows.append(rows + first_row)
        table = table.select(self._columns.column_names)
        if missing := SHOWN - self._shown.num_rows:
            self._shown = pa.concat_tables([self._shown, table.take(pa.array(rows[:missing]))])
        if self._repeats is None:
            return
        try:
            self._count(rows, unexpected_values(result, frame), table)
        except TypeError:
            # The values are lists or structs, which cannot be counted.
            self._repeats, self._distinct = None, [self._columns]

    def _count(self, rows: NDArray[np.int64], values: Sequence[Any], table: pa.Table) -> None:
        assert self._repeats is not None
        new = []
        # There may be only the first values, see unexpected_values().
        for row, value in zip(rows.tolist(), map(countable, values), strict=False):
            if value in self._repeats:
                self._repeats[value] += 1
            else:
                self._repeats[value] = 1
                new.append(row)
        self._distinct.append(table.take(pa.array(new, pa.int64())))
        if len(self._repeats) > MOST_DISTINCT:
            counts = np.array(list(self._repeats.values()))
            kept = np.sort(np.argsort(-counts, kind="stable")[: MOST_DISTINCT // 2])
            names = list(self._repeats)
            self._repeats = {names[number]: int(counts[number]) for number in kept}
            self._distinct = [pa.concat_tables(self._distinct).take(pa.array(kept))]

    def part(self) -> Part:
        """Return the result for all batches so far."""
        repeats = None if self._repeats is None else np.array(list(self._repeats.values()), np.int64)
        rows = np.concatenate([np.empty(0, np.int64), *self._rows])
        sample = pa.concat_tables([self._shown, *self._distinct])
        return Part(self._failure, dict(self._counts), rows, sample, self._shown.num_rows, repeats)
