"""Compute metrics of predictions against labels, for binary, multiclass and regression tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import EvaluationError, SpecError
from airflow_mlops.metrics import custom
from airflow_mlops.metrics.catalog import (
    INTERVAL_METRICS,
    METRICS,
    find_metric,
    is_coverage_gap,
    is_custom,
    is_expected_cost,
    is_forecast_error,
    is_quantile,
    is_ranking,
    metrics_for,
)
from airflow_mlops.metrics.deviances import power_of
from airflow_mlops.metrics.domain import wrong_labels, wrong_predictions
from airflow_mlops.metrics.forecasts import NAIVE
from airflow_mlops.metrics.formulas import CALIBRATION_BINS, calibration_bins, statistic
from airflow_mlops.metrics.quantiles import alpha_of, covered_alpha_of
from airflow_mlops.metrics.rows import Rows, prepare, unseen

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def measure(rows: Rows, own: Iterable[str] = (), *, skip_undefined: bool = False) -> dict[str, float]:
    """Compute all built-in metrics of the rows' ML task, and the metrics named in ``own``.

    For a classifier without probabilities, only metrics of predicted labels are computed. For a model with prediction
    intervals, the metrics of the intervals are computed as well. A deviance is left out if it is undefined for a
    prediction (:func:`undefined` returns the reason). MASE is left out if every scale is 0. A custom metric is left out
    if it needs probabilities that the model does not predict.

    :param rows: labels and predictions of a model
    :param own: names of metrics that are computed on request
        (:func:`airflow_mlops.metrics.catalog.is_on_request`)
    :param skip_undefined: whether to leave out a custom metric that is undefined on these rows
    :return: the metrics by name
    :raises EvaluationError: a deviance or NDCG is undefined for the labels, the rows lack a column that a metric needs,
        or the rows have weights, which NDCG does not support
    :raises MetricError: a custom metric fails, or is undefined and ``skip_undefined`` is false
    """
    names = metrics_for(rows.task)
    if rows.score is None:
        names = [name for name in names if METRICS[name].of_labels]
    if rows.interval is not None:
        names += INTERVAL_METRICS
    values = {name: statistic(name, rows).measure(rows) for name in names}
    for name in dict.fromkeys(own):
        if is_expected_cost(name) or is_quantile(name) or is_coverage_gap(name):
            values[name] = statistic(name, rows).measure(rows)
            continue
        if is_forecast_error(name):
            # MASE is undefined if the scale of every row is 0.
            if not math.isnan(value := statistic(name, rows).measure(rows)):
                values[name] = value
            continue
        if is_ranking(name):
            values[name] = statistic(name, rows).measure(rows)
            if math.isnan(values[name]):
                raise EvaluationError(f"{name} is undefined, because no row has a label above 0. Use more rows.")
            continue
        if power_of(name) is not None:
            if undefined(name, rows) is None:
                values[name] = statistic(name, rows).measure(rows)
            continue
        metric = custom.load(name)
        if not metric.applies_to(rows):
            continue
        value = metric.measure_or_nan(rows) if skip_undefined else metric.measure(rows)
        if not math.isnan(value):
            values[metric.path] = value
    return values


def check_task(names: Iterable[str], task: Task) -> None:
    """Check that metrics apply to an ML task. Custom metrics apply to every task.

    :raises SpecError: a metric does not apply to ``task``
    """
    for name in names:
        if not is_custom(name) and task not in find_metric(name).tasks:
            raise SpecError(f"{name!r} is not a metric for {task} tasks. Remove it from `metrics`.")


def undefined(metric: str, rows: Rows, model: str | None = None) -> str | None:
    """Return a clause that lists predictions for which a deviance is undefined.

    A label outside the range of the deviance is a fault of the data and not of the model. :func:`measure` raises an
    error for such labels.

    :param metric: name of a metric
    :param rows: labels and predictions of a model
    :param model: name of the model, for the clause
    :return: ``None`` if the deviance is defined, if a label is outside its range, or if the metric is not a deviance
    """
    power = power_of(metric)
    if power is None or rows.score is None or wrong_labels(power, rows.truth, rows.weight) is not None:
        return None
    return wrong_predictions(rows.score, rows.weight, model)


def measure_one(metric: str, rows: Rows) -> float:
    """Compute a single metric.

    :param metric: name of a metric, see :func:`airflow_mlops.metrics.catalog.find_metric`
    :param rows: labels and predictions of a model
    :raises EvaluationError: a deviance or NDCG is undefined for the labels or predictions, or the rows lack a column
        that the metric needs
    :raises MetricError: a custom metric fails
    """
    return custom.load(metric).measure(rows) if is_custom(metric) else statistic(metric, rows).measure(rows)


def compute(
    task: Task,
    y_true: ArrayLike,
    prediction: ArrayLike,
    score: ArrayLike,
    probabilities: ArrayLike | None,
    classes: Sequence[Any],
    *,
    positive: Any = None,
    own: Iterable[str] = (),
    weight: NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """Check labels and predictions, and compute all metrics.

    See :func:`airflow_mlops.metrics.rows.prepare` for the other parameters, and :func:`measure` for further errors.

    :param own: names of metrics that are computed on request
    :param weight: the weight of each row, see :meth:`airflow_mlops.metrics.rows.Rows.weighted`
    :return: the metrics by name
    """
    rows = prepare(task, y_true, prediction, score, probabilities, classes, positive=positive)
    return measure(rows.weighted(weight), own)


def baseline(
    task: Task,
    y_true: ArrayLike,
    classes: Sequence[Any],
    *,
    positive: Any = None,
    own: Iterable[str] = (),
    weight: NDArray[np.float64] | None = None,
    columns: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, float]:
    """Compute the metrics of a baseline model that uses no features.

    For classification, the baseline predicts the most frequent class, with the class frequencies as probabilities. For
    an expected cost, it predicts the class that costs less. For a regression, it predicts the mean of the labels, or
    the seasonal-naive forecast if the rows are forecast rows (:mod:`airflow_mlops.metrics.forecasts`). For a metric of
    a quantile, it predicts the quantile of the labels.

    See :func:`airflow_mlops.metrics.rows.prepare` for the other parameters and the errors.

    :param own: names of metrics that are computed on request. A deviance, MASE or a custom metric is left out if it is
        undefined for the baseline
    :param weight: the weight of each row in the metrics, the mean and the class frequencies, shape (n,); ``None`` if
        all rows have the same weight
    :param columns: the columns that the metrics of ``own`` name, each of shape (n,)
    :return: the metrics by name
    """
    truth = np.asarray(y_true)
    if task == "regression":
        truth = truth.astype(np.float64)
    labels = [*classes, *unseen(truth, classes)] if task != "regression" else []
    # The baseline's predictions replace these placeholders.
    rows = prepare(task, truth, truth, truth if task == "regression" else None, None, labels, positive=positive)
    rows = replace(rows.weighted(weight), columns=columns or {})
    found = measure(without_features(rows), own, skip_undefined=True)
    least = {
        name: measure_one(name, without_features(rows, name))
        for name in found
        if is_expected_cost(name) or is_quantile(name) or is_coverage_gap(name)
    }
    return found | least


def without_features(rows: Rows, metric: str | None = None) -> Rows:
    """Return the rows with the predictions of the baseline, see :func:`baseline`.

    :param rows: labels and predictions of any model
    :param metric: name of the metric, because the predictions for an expected cost or a pinball loss differ from those
        for all other metrics; ``None`` for the other metrics
    """
    size = len(rows)
    if rows.task == "regression":
        alpha = None
        if metric is not None and (alpha := alpha_of(metric)) is None:
            alpha = covered_alpha_of(metric)
        if alpha is not None:
            order = np.argsort(rows.truth, kind="stable")
            reached = np.cumsum(np.ones(size) if rows.weight is None else rows.weight[order])
            value = np.full(size, float(rows.truth[order[np.searchsorted(reached, alpha * reached[-1])]]))
        else:
            mean = np.average(rows.truth, weights=rows.weight)
            value = np.asarray(rows.columns.get(NAIVE, np.full(size, mean)), dtype=np.float64)
        return replace(rows, predicted=value, score=value, interval=None)
    if rows.task == "binary":
        share = float(np.average(rows.truth, weights=rows.weight))
        guess = replace(rows, predicted=np.full(size, share > 0.5), score=np.full(size, share))
        if metric is None or not is_expected_cost(metric):
            return guess
        # If one error is much more expensive than the other, always predicting the rarer class may cost less.
        return min(guess, replace(guess, predicted=~guess.predicted), key=lambda found: measure_one(metric, found))
    classes = rows.score.shape[1] if rows.score is not None else int(max(rows.truth.max(), rows.predicted.max())) + 1
    mass = np.bincount(rows.truth, weights=rows.weight, minlength=classes)
    shares = mass / mass.sum()
    return replace(rows, predicted=np.full(size, shares.argmax()), score=np.broadcast_to(shares, (size, classes)))


def reliability(
    truth: NDArray[np.bool_], probability: NDArray[np.float64], weight: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Compute a reliability diagram, which compares predicted probabilities with observed frequencies in bins.

    :param truth: whether each label is the positive class, shape (n,)
    :param probability: predicted probability of the positive class, shape (n,)
    :param weight: the weight of each row in the means and shares, shape (n,); ``None`` if all rows have the same weight
    :return: three arrays with one element for each bin with rows: the mean predicted probability, the observed share of
        the positive class, and the number of rows. The bins have equal width
    """
    each = np.ones(len(truth)) if weight is None else weight
    bins = calibration_bins(probability)
    rows = np.bincount(bins, minlength=CALIBRATION_BINS)
    mass = np.bincount(bins, weights=each, minlength=CALIBRATION_BINS)
    filled = mass > 0
    predicted = np.bincount(bins, weights=each * probability, minlength=CALIBRATION_BINS)[filled] / mass[filled]
    observed = np.bincount(bins, weights=each * truth, minlength=CALIBRATION_BINS)[filled] / mass[filled]
    return predicted, observed, rows[filled]
