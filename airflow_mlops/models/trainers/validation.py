"""Hold out rows of the split part ``train``, for early stopping, a calibration or a threshold.

The split part ``test`` is not read. If the training set was split by group, whole groups are held out. Otherwise, the
newest rows are held out if the training set has event times, and random rows if not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import SchemaError, TrainingError
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.moments import as_utc

if TYPE_CHECKING:
    from numpy.typing import NDArray


SHARE = 0.2
"""Share of the training rows that are set aside for a calibration or a decision threshold."""

_OTHERWISE = "set validation=0, which disables early stopping"


def held_out(
    dataset: Dataset | None,
    part: str | None,
    rows: int,
    validation: float,
    seed: int,
    *,
    group: str | None = None,
    setting: str = "validation",
    otherwise: str = _OTHERWISE,
) -> tuple[NDArray[np.bool_], str]:
    """Choose the rows to hold out.

    :param dataset: the training set; ``None`` if only the rows themselves are known, without times and groups
    :param part: name of the split part that the training reads; ``None`` for all rows
    :param rows: number of rows of the split part
    :param validation: fraction of the rows to hold out; 0 holds out no rows
    :param seed: seed of the random choice
    :param group: column whose groups are held out as a whole; by default the column by which the training set was split
    :param setting: name of the setting for which rows are held out, for error messages
    :param otherwise: what the user can do if there are no more rows, as text for error messages
    :return: two items: whether each row is held out, shape (n,), and a description of the held-out rows
    :raises TrainingError: no row is left for training or for validation, or the training set lacks the column of the
        groups or of the event time
    """
    if not validation:
        return np.zeros(rows, dtype=bool), "no rows"
    details = dataset.manifest.details if dataset is not None else {}
    split, random = details.get("split") or {}, np.random.default_rng((seed, 2**32))
    group = group or (split["group"] if split.get("method") == "group" else None)
    if dataset is not None and group is not None:
        import pandas as pd

        groups, _ = pd.factorize(_column(dataset, part, group, otherwise).to_pandas(), use_na_sentinel=False)
        shuffled = random.permutation(int(groups.max()) + 1)
        sizes = np.bincount(groups)[shuffled].cumsum()
        last = int(np.searchsorted(sizes, validation * rows)) + 1
        chosen, how = np.isin(groups, shuffled[:last]), f"all rows of {last:,} values of {group!r}"
    elif dataset is not None and details.get("timestamp"):
        name = str(details["timestamp"])
        times = as_utc(_column(dataset, part, name, otherwise), f"The event time {name!r}").cast(pa.int64()).to_numpy()
        cut = np.sort(times)[min(rows - 1, rows - round(validation * rows))] if rows else 0
        # Rows with equal event times are either all held out or all used for training.
        chosen, how = times >= cut, "the newest rows"
        if chosen.all():
            how += f", but {np.count_nonzero(times == cut):,} with the same time stay together"
    else:
        chosen, how = random.random(rows) < validation, "random rows"
    if chosen.all() or not chosen.any():
        raise TrainingError(
            f"With {setting}={validation:g}, {'no row is left for training' if chosen.all() else f'no row is held out for {setting}'} "
            f"out of {rows:,} rows ({how}). Use more rows, or {otherwise}."
        )
    return chosen, how


def _column(dataset: Dataset, part: str | None, name: str, otherwise: str) -> Any:
    try:
        return dataset.table(part, [name]).column(name)
    except SchemaError:
        raise TrainingError(
            f"Training set {dataset.manifest.name!r} lacks the column {name!r}, which the choice of the held-out rows needs. "
            f"Build the training set again, or {otherwise}."
        ) from None
