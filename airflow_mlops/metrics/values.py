"""Metrics of predictions against the truth, for binary, multiclass and regression tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import Task
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.metrics.rows import Rows, encode, prepare, unseen
from airflow_mlops.metrics.statistics import CALIBRATION_BINS, calibration_bins, statistic

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def measure(rows: Rows) -> dict[str, float]:
    """Every metric of the task; without probabilities those of labels."""
    names = [name for name, metric in METRICS.items() if rows.task in metric.tasks]
    if rows.score is None:
        names = [name for name in names if METRICS[name].of_labels]
    return {name: statistic(name, rows).of(rows) for name in names}


def compute(
    task: Task,
    y_true: ArrayLike,
    prediction: ArrayLike,
    score: ArrayLike,
    probabilities: ArrayLike | None,
    classes: Sequence[Any],
    *,
    positive: Any = None,
) -> dict[str, float]:
    """Measure predictions: :func:`airflow_mlops.metrics.rows.prepare`, which says what is what, then :func:`measure`."""
    return measure(prepare(task, y_true, prediction, score, probabilities, classes, positive=positive))


def baseline(task: Task, y_true: ArrayLike, classes: Sequence[Any], *, positive: Any = None) -> dict[str, float]:
    """The metrics of a model that knows the labels' distribution and nothing else.

    It predicts the most frequent class with the classes' frequencies as probabilities, or the mean value.
    """
    truth = np.asarray(y_true)
    if task == "regression":
        values = truth.astype(np.float64)
        mean = np.full(truth.size, values.mean() if truth.size else 0.0)
        return compute(task, values, mean, mean, None, [])
    labels = [*classes, *unseen(truth, classes)]
    codes = encode(truth, labels)
    shares = np.bincount(codes, minlength=len(labels)) / max(1, truth.size)
    probabilities = np.tile(shares, (truth.size, 1))
    majority = np.asarray(labels, dtype=object)[np.full(truth.size, int(shares.argmax()))]
    column = labels.index(classes[-1] if positive is None else positive)
    return compute(task, truth, majority, probabilities[:, column], probabilities, labels, positive=positive)


def reliability(
    truth: NDArray[np.bool_], probability: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean predicted probability, observed share of positives and rows, for each filled bin of equal width."""
    bins = calibration_bins(probability)
    rows = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = rows > 0
    predicted = np.bincount(bins, weights=probability, minlength=CALIBRATION_BINS)[filled] / rows[filled]
    observed = np.bincount(bins, weights=truth, minlength=CALIBRATION_BINS)[filled] / rows[filled]
    return predicted, observed, rows[filled]
