"""The rows that an expectation considers, read in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.stages.validate.conditions import RowCondition
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.times import frame_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ConditionError(Exception):
    """Pandas cannot evaluate a condition.

    :ivar table: the rows of a batch, with the columns of the condition
    """

    def __init__(self, table: pa.Table) -> None:
        super().__init__("The condition cannot be evaluated.")
        self.table = table


class Selected:
    """All rows, or those that meet a condition.

    :param rows: all rows
    :param facts: the facts of all rows
    :param condition: the condition; ``None`` for all rows
    """

    def __init__(self, rows: Rows, facts: Mapping[str, ColumnFacts], condition: RowCondition | None = None) -> None:
        self.schema = rows.schema
        self.facts = facts
        self._rows, self._condition = rows, condition

    def count(self) -> int:
        """Return the number of rows.

        :raises ConditionError: pandas cannot evaluate the condition
        """
        if self._condition is None:
            return self._rows.count
        return sum(len(numbers) for numbers, _ in self.tables([]))

    def column(self, name: str) -> Iterator[pa.ChunkedArray]:
        """Yield the values of a column in batches.

        :raises ConditionError: pandas cannot evaluate the condition
        """
        return (table[name] for _, table in self.tables([name]))

    def tables(self, names: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """Yield the values of columns in batches, each with the numbers of the rows among all rows.

        :param names: names of the columns, each once
        :raises ConditionError: pandas cannot evaluate the condition
        """
        read = list(dict.fromkeys([*names, *(self._condition.columns if self._condition else ())]))
        for first, table in self._rows.columns(read):
            if self._condition is None:
                yield np.arange(first, first + table.num_rows), table
                continue
            frame = frame_of(table.select(self._condition.columns), self.facts)
            try:
                here = frame.query(self._condition.text).index.to_numpy()
            except Exception as error:
                raise ConditionError(table) from error
            yield here + first, table.select(names).take(pa.array(here)) if names else table.select(names)
