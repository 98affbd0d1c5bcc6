"""Draw a uniform sample of the training rows (``SklearnTrainer(max_rows=...)``)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.trainers.base import TrainingData

if TYPE_CHECKING:
    from numpy.typing import NDArray


def drawn(labels: NDArray[Any], max_rows: int | None, seed: int, *, regression: bool) -> NDArray[np.bool_]:
    """Draw rows at random without replacement. Each row has the same chance.

    The sample depends on the order of the rows, and not on the files or batches in which they are stored.

    :param labels: labels of the rows to draw from, shape (n,)
    :param max_rows: number of rows to draw. If there are not more rows, or if it is ``None``, all rows are drawn
    :param seed: seed of the training
    :param regression: whether the labels are values instead of classes
    :return: whether each row is drawn, shape (n,)
    :raises TrainingError: no row of a class is drawn
    """
    rows = len(labels)
    if max_rows is None or rows <= max_rows:
        return np.ones(rows, dtype=bool)
    chosen = np.zeros(rows, dtype=bool)
    # The draw of validation rows uses the seed (seed, 2**32). This draw must be independent of it.
    random = np.random.default_rng((seed, 2**32 + 1))
    chosen[random.choice(rows, max_rows, replace=False, shuffle=False)] = True
    if not regression:
        missing = np.setdiff1d(labels, labels[chosen])
        if len(missing):
            raise TrainingError(
                f"The sample of {max_rows:,} of {rows:,} training rows has no row of the class {missing.tolist()[0]!r}. "
                "Set a larger `max_rows`."
            )
    return chosen


def sampled(data: TrainingData, max_rows: int | None, seed: int) -> TrainingData:
    """Draw a sample of rows in memory, see :func:`drawn`.

    :param data: features and labels of all rows
    :param max_rows: number of rows to draw; ``None`` for all rows
    :param seed: seed of the training
    :raises TrainingError: no row of a class is drawn
    """
    chosen = drawn(data.labels, max_rows, seed, regression=data.task == "regression")
    if chosen.all():
        return data
    return replace(
        data,
        table=data.table.filter(pa.array(chosen)),
        frame=data.frame[chosen].reset_index(drop=True),
        labels=data.labels[chosen],
        weights=None if data.weights is None else data.weights[chosen],
        metric_weights=None if data.metric_weights is None else data.metric_weights[chosen],
    )
