"""Write the rows that meet all expectations to one dataset, and the failing rows to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.quarantine import FAILED_EXPECTATIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# For the number of the first row and a number of rows: whether each row fails, and for each failing row the names of
# the failed expectations as one text.
Failing: TypeAlias = "Callable[[int, int], tuple[NDArray[np.bool_], pa.Array]]"


def split(
    batches: Iterable[tuple[int, pa.Table]],
    failing: Failing,
    valid: DatasetWriter,
    quarantine: DatasetWriter,
    *,
    files: bool,
) -> tuple[int, int]:
    """Write the rows of all batches. The failing rows get the column ``failed_expectations``.

    :param batches: the rows, each table with the number of rows before it
    :param failing: function that returns the failing rows
    :param files: whether the rows of each batch are files of their own. The files, and therefore the ids of the datasets,
        then do not depend on who writes which batches
    :return: numbers of valid and of failing rows. Nothing was written to a dataset without rows, see :func:`complete`
    """
    good_rows = bad_rows = 0
    for first, table in batches:
        fails, texts = failing(first, table.num_rows)
        good, bad = table.filter(pa.array(~fails)), table.filter(pa.array(fails))
        if good.num_rows:
            valid.write(good)
        if bad.num_rows:
            quarantine.write(bad.append_column(FAILED_EXPECTATIONS, texts))
        if files:
            valid.end_files()
            quarantine.end_files()
        good_rows, bad_rows = good_rows + good.num_rows, bad_rows + bad.num_rows
    return good_rows, bad_rows


def complete(valid: DatasetWriter, quarantine: DatasetWriter, rows: tuple[int, int], schema: pa.Schema) -> None:
    """Write a file without rows to each dataset that has no rows.

    :param rows: numbers of valid and of failing rows
    :param schema: the columns of the validated rows
    """
    if not rows[0]:
        valid.write(schema.empty_table())
    if not rows[1]:
        quarantine.write(schema.empty_table().append_column(FAILED_EXPECTATIONS, pa.array([], pa.string())))
