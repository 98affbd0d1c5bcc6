"""Divide the split parts of a training set into files and row groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from airflow_mlops.data.datasets.data_file import ROW_GROUP_ROWS
from airflow_mlops.data.row_mask import RowMask

FILE_ROWS = 4 * ROW_GROUP_ROWS
"""Number of rows in a file of a split part; the last file may have fewer. The id of a dataset depends on its files."""


class HasRows(Protocol):
    """Rows that are not in memory."""

    def tables(self, offset: int, length: int) -> Iterator[pa.Table]:
        """Read ``length`` consecutive rows from position ``offset`` on, in several tables."""


def pieces(mask: RowMask) -> Iterator[range]:
    """Divide the rows of a split part into files.

    :param mask: the rows of the split part
    :return: for each file, the positions in the training set from its first to its last row. The rows of other split
        parts may lie between them
    """
    for start in range(0, mask.count, FILE_ROWS):
        yield _span(mask, start, FILE_ROWS)


def row_groups(table: HasRows, mask: RowMask, first: int) -> Iterator[pa.Table]:
    """Read the rows of one file, one row group at a time.

    :param table: the rows of the training set
    :param mask: which rows belong to the file, for the rows of ``table`` from position ``first`` on
    """
    for start in range(0, mask.count, ROW_GROUP_ROWS):
        span = _span(mask, start, ROW_GROUP_ROWS)
        found, position = [], span.start
        for rows in table.tables(first + span.start, len(span)):
            chosen = mask.slice(position, position + rows.num_rows)
            found.append(rows if chosen.all() else rows.filter(pa.array(chosen)))
            position += rows.num_rows
        yield pa.concat_tables(found)


def _span(mask: RowMask, start: int, count: int) -> range:
    """Return the positions from the first to the last of some chosen rows.

    :param start: number of the first chosen row
    :param count: number of chosen rows; there may be fewer
    """
    return range(mask.position(start), mask.position(min(start + count, mask.count) - 1) + 1)
