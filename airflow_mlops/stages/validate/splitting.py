"""Write the rows that meet all expectations to one dataset, and the failing rows to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa

from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.quarantine import FAILED_EXPECTATIONS
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.shards import Piece, Round
from airflow_mlops.stages.validate.row_numbers import RowNumbers
from airflow_mlops.stages.validate.rows import BATCH_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A function of the number of the first row and the number of rows. It returns whether each row fails, and for each
# failing row the names of the failed expectations as one text.
Failing: TypeAlias = "Callable[[int, int], tuple[NDArray[np.bool_], pa.Array]]"
_VALID, _FAILING = "valid", "failing"


def failing_for(
    reasons: Sequence[tuple[str, RowNumbers]], first: int, count: int
) -> tuple[NDArray[np.bool_], pa.Array]:
    """Return which rows fail, and for each failing row the names of the failed expectations as one text.

    :param reasons: for each failed expectation its name, and the numbers of the rows that do not meet it
    :param first: number of the first row
    :param count: number of rows
    """
    fails = np.zeros((len(reasons), count), bool)
    for failed, (_, rows) in zip(fails, reasons, strict=True):
        failed[rows.between(first, first + count) - first] = True
    any_failed: NDArray[np.bool_] = np.logical_or.reduce(fails, axis=0)
    kinds, kind = np.unique(fails[:, any_failed], axis=1, return_inverse=True)
    titles = [title for title, _ in reasons]
    texts = ["; ".join(title for title, failed in zip(titles, column, strict=True) if failed) for column in kinds.T]
    return any_failed, pa.array([texts[number] for number in kind.ravel()], pa.string())


def count_failing(reasons: Sequence[tuple[str, RowNumbers]], count: int) -> int:
    """Return the number of rows that do not meet at least one expectation.

    :param reasons: the failed expectations, as for :func:`failing_for`
    :param count: number of all rows
    """
    if len(reasons) == 1:
        return len(reasons[0][1])
    found = 0
    for first in range(0, count, BATCH_ROWS) if reasons else ():
        fails = np.zeros(BATCH_ROWS, bool)
        for _, rows in reasons:
            fails[rows.between(first, first + BATCH_ROWS) - first] = True
        found += int(np.count_nonzero(fails))
    return found


def failing_rows(failing: Failing, first: int, count: int) -> pa.Table:
    """Return the numbers of the failing rows of a part, and for each the names of the failed expectations.

    :param first: number of rows before the part
    :param count: number of rows of the part
    """
    fails, texts = failing(first, count)
    return pa.table({"row": np.flatnonzero(fails), FAILED_EXPECTATIONS: texts})


def failing_in(found: pa.Table) -> Failing:
    """Return the function that returns the failing rows of a part.

    :param found: the rows from :func:`failing_rows`
    """
    numbers, texts = found["row"].to_numpy(), found[FAILED_EXPECTATIONS].combine_chunks()

    def failing(first: int, count: int) -> tuple[NDArray[np.bool_], pa.Array]:
        begin, end = np.searchsorted(numbers, [first, first + count])
        fails = np.zeros(count, bool)
        fails[numbers[begin:end] - first] = True
        return fails, texts.slice(begin, end - begin)

    return failing


def rounds_of(store: ArtifactStore, group: str, number: int, parts: int) -> tuple[Round[Piece], Round[Piece]]:
    """Return the rounds that store the valid and the failing rows of a part.

    :param group: folder of the parts
    :param number: number of the part, from 0
    :param parts: number of parts
    """
    valid, quarantined = (Round(store, Piece, f"{group}/{name}", 0, number, parts) for name in (_VALID, _FAILING))
    return valid, quarantined


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
    :param files: whether each batch is written to separate files. The files, and therefore the ids of the datasets,
        then do not depend on which process writes which batches
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
