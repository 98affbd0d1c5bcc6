"""Read the weights of the training rows for a trainer that reads the rows itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.data.row_weights import RowWeights
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_weights(data: TrainingData, run: TrainingRun | None) -> NDArray[np.float64] | None:
    """Return the weight of each training row, shape (n,); ``None`` if all rows have the same weight.

    :param data: the labels of all rows, and their weights if they were multiplied by weights of classes
    :param run: the training set; ``None`` for rows in memory
    """
    if run is None or data.weights is not None:
        return data.weights
    weights = RowWeights.of(run.dataset)
    return None if weights is None else weights.read(run.dataset, run.part)
