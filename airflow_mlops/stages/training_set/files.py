"""Write the split parts of a training set to files, one row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.datasets.writer import ROW_GROUP_ROWS

Mask = np.ndarray[Any, np.dtype[np.bool_]]

FILE_ROWS = 8 * ROW_GROUP_ROWS
"""Number of rows in a file of a split part; the last file may have fewer. The id of a dataset depends on its files."""


class HasRows(Protocol):
    """Rows that are not in memory."""

    def slice(self, offset: int, length: int) -> pa.Table:
        """Read ``length`` consecutive rows from position ``offset`` on into memory."""


def pieces(mask: Mask) -> Iterator[range]:
    """Divide the rows of a split part into files.

    :param mask: whether each row of the training set is in the split part, shape (n,)
    :return: for each file, the positions in the training set from its first to its last row. The rows of other split
        parts may lie between them
    """
    chosen = np.flatnonzero(mask)
    for start in range(0, len(chosen), FILE_ROWS):
        yield range(int(chosen[start]), int(chosen[min(start + FILE_ROWS, len(chosen)) - 1]) + 1)


def write(writer: DatasetWriter, part: str, table: HasRows, mask: Mask, piece: range) -> None:
    """Write one file of a split part. Only one row group is copied at a time.

    :param part: name of the split part
    :param table: the rows of the training set
    :param mask: whether each row of ``piece`` is in the split part, shape (len(piece),)
    :param piece: positions of the rows in ``table``, from :func:`pieces`
    """
    chosen = np.flatnonzero(mask)
    for start in range(0, len(chosen), ROW_GROUP_ROWS):
        group = chosen[start : start + ROW_GROUP_ROWS]
        first, end = int(group[0]), int(group[-1]) + 1
        rows = table.slice(piece.start + first, end - first).filter(pa.array(mask[first:end]))
        writer.write(rows.combine_chunks(), part)
    writer.end_files()
