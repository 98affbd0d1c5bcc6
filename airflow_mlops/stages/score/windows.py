"""The time window of predictions."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.compute as pc

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.selection import window_of
from airflow_mlops.data.window_rows import inside
from airflow_mlops.stages.score.spec import ScoreSpec


def window_of_predictions(spec: ScoreSpec, datasets: Sequence[Dataset]) -> Window | None:
    """Return the window of the predictions.

    The prediction log, label joins and monitoring assume that a window has all rows of this time, and no other rows.
    Therefore, predictions have the window of the scored dataset. ``spec.window`` is needed if the dataset has no
    window. It may also name a part of the dataset's window if only a split part is scored, because the rows of a split
    part may cover a shorter time. The times of these rows are then checked.

    :param datasets: the scored datasets
    :return: the window; ``None`` if neither the spec nor the datasets have one
    :raises SpecError: ``spec.window`` differs from the window of the datasets, or some of the rows are not in it
    """
    stated, wanted = window_of(datasets), spec.window
    if stated is None or wanted is None or wanted == stated:
        return wanted or stated
    name = datasets[0].manifest.name
    if spec.part is None or not stated.contains(wanted):
        raise SpecError(
            f"`window` is {wanted.label}, but the rows of dataset {name!r} are of {stated.label}, so their predictions would be "
            f"recorded for the wrong time. Remove `window`, or select the rows of {wanted.label} in `dataset`."
        )
    outside = sum(_outside(dataset, spec.part, wanted) for dataset in datasets)
    if outside:
        raise SpecError(
            f"`window` is {wanted.label}, but {counted(outside, 'row')} of split part {spec.part!r} of dataset {name!r} "
            f"{'is' if outside == 1 else 'are'} not in it. Set `window` to the window of all these rows, or remove it."
        )
    return wanted


def _outside(dataset: Dataset, part: str, window: Window) -> int:
    """Return the number of rows that are not in the window; 0 if the dataset has no column of times."""
    column = dataset.time_column
    if column is None or column not in dataset.manifest.column_names:
        return 0
    dates, what, rows, found = dataset.has_dates(column), f"The event time {column!r}", 0, 0
    for batch in dataset.batches(part, [column]):
        within = inside(batch.column(0), window, what, first_row=rows, dates=dates)
        found += batch.num_rows - (pc.sum(within).as_py() or 0)
        rows += batch.num_rows
    return found
