"""Sort rows that may not fit in memory, and find equal rows in sorted rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data import relational
from airflow_mlops.data.spool import BATCH_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

# More rows are sorted by DuckDB.
_ROWS_IN_MEMORY = BATCH_ROWS


def in_order(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    by: Sequence[str],
    rows: int,
    memory_limit: str | None = None,
    *,
    descending: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Sort rows. Only a part of the rows is in memory at the same time.

    :param batches: the rows, without null values in the columns ``by``
    :param schema: columns of the rows
    :param by: names of the columns by which the rows are sorted. The order of rows with equal values in these columns is
        undefined
    :param rows: upper bound of the number of rows
    :param memory_limit: see :func:`airflow_mlops.data.relational.connect_bounded`
    :param descending: whether the order is descending in all columns; ascending by default
    :raises SpillError: the disk is full, or the memory limit is too small
    """
    if rows <= _ROWS_IN_MEMORY:
        table = pa.Table.from_batches(batches, schema)
        direction = "descending" if descending else "ascending"
        yield from table.sort_by([(name, direction) for name in by]).combine_chunks().to_batches()
        return
    order = ", ".join(f"{relational.quoted(name)} {'DESC' if descending else 'ASC'}" for name in by)
    with relational.connect_bounded(memory_limit) as connection:
        sql = f"SELECT * FROM given ORDER BY {order}"  # noqa: S608 - the names are quoted
        yield from relational.stream(connection, sql, {"given": (schema, batches)})


class Runs:
    """Finds the first row of each run of equal rows in sorted batches.

    :param columns: names of the columns that are compared
    :ivar count: number of runs in the batches so far
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self._last: dict[str, Any] | None = None
        self.count = 0

    def starts(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """Return whether each row of the next batch differs from the row before it, shape (n,)."""
        found = np.zeros(batch.num_rows, bool)
        if not batch.num_rows:
            return found
        columns = {name: batch.column(name) for name in self._columns}
        found[0] = self._last is None or any(not columns[name][0].equals(last) for name, last in self._last.items())
        for values in columns.values():
            found[1:] |= pc.not_equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False)
        self._last = {name: values[-1] for name, values in columns.items()}
        self.count += int(found.sum())
        return found
