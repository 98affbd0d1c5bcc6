"""A metric of labelled predictions, with a confidence interval."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np

from airflow_mlops.core.contract import Task
from airflow_mlops.metrics import custom, weighted
from airflow_mlops.metrics.catalog import (
    COVERAGE,
    find_metric,
    is_custom,
    is_deviance,
    is_quantile,
    is_ranking,
)
from airflow_mlops.metrics.clusters import ClusterSums, Design
from airflow_mlops.metrics.comparison import Estimate
from airflow_mlops.metrics.costs import costs_of
from airflow_mlops.metrics.forecasts import MASE, SMAPE
from airflow_mlops.metrics.intervals import ROUNDING, Interval
from airflow_mlops.metrics.quantiles import covered_alpha_of
from airflow_mlops.metrics.realised import ranking, shares
from airflow_mlops.metrics.realised.labelled import Floats, Labelled, Order, Outcomes, UnmeasurableError
from airflow_mlops.metrics.realised.row_losses import losses_of_parts
from airflow_mlops.metrics.resampling import resample_rows
from airflow_mlops.metrics.rows import Rows


def measure(metric: str, outcomes: Labelled, confidence: float, task: Task = "binary") -> Interval:
    """Measure ``metric`` with its two-sided confidence interval.

    - ``roc_auc``: DeLong's variance with an effective number of rows (:func:`airflow_mlops.metrics.intervals.bounded`).
    - ``average_precision`` and ``f1_macro``: the variance of the rows' influence.
    - ``accuracy``, ``precision``, ``recall`` and ``interval_coverage``: Wilson's interval.
    - Coverage gaps: the distances between the quantile and the shares in Wilson's interval.
    - ``f1`` and ``balanced_accuracy``: derived from Wilson's intervals.
    - ``log_loss``, ``brier``, ``mae``, ``mase``, ``smape``, deviances and pinball losses: the interval of a mean,
      corrected for skewness.
    - ``rmse``: the square root of the interval of the mean squared error.
    - Expected costs: derived from Wilson's intervals of the shares of both errors. If a cost is a column, see
      :func:`airflow_mlops.metrics.realised.shares.expected_cost`.
    - NDCG: Wilson's interval with an effective number of groups.
    - Custom metrics: a bootstrap over rows.

    For clustered rows (``outcomes.groups``), the interval is widened by :class:`airflow_mlops.metrics.clusters.Design`.
    The interval of a custom metric is not widened.

    For rows with weights (``outcomes.weight``), the values are those of :mod:`airflow_mlops.metrics.formulas`, as in
    the gates. The intervals are computed from weighted shares and effective numbers of rows
    (:mod:`airflow_mlops.metrics.weighted`), so few rows with large weights give wide intervals.

    :param metric: one of :data:`airflow_mlops.metrics.catalog.REALISED`, a metric that is computed on request
        (:func:`airflow_mlops.metrics.catalog.is_on_request`), or ``interval_coverage`` for a model with prediction
        intervals
    :param outcomes: the labelled predictions. Metrics that are not measured in parts (:func:`is_measured_in_parts`) need
        them in one part
    :param confidence: confidence of the interval, such as 0.95
    :param task: the ML task (binary, multiclass, regression), which custom metrics need
    :raises UnmeasurableError: the rows do not determine the metric or its interval. For example, there are no labels,
        a class has too few labels or predictions, a deviance is undefined for a label or a prediction, the errors have
        no finite mean, all rows are of one cluster, or the rows lack a column. A custom metric may need probabilities
        that are not logged, or be undefined on too many bootstrap samples
    :raises MetricError: the custom metric fails
    """
    if not outcomes.rows:
        raise UnmeasurableError("there are no labels")
    if is_custom(metric):
        return _custom(metric, _whole(outcomes).prepared(task), confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    costs = costs_of(metric)
    if is_ranking(metric):
        return ranking.ndcg(metric, _whole(outcomes), z)
    if costs is not None:
        found = shares.expected_cost(costs, outcomes, z)
    elif (alpha := covered_alpha_of(metric)) is not None:
        found = shares.coverage_gap(alpha, outcomes, z)
    else:
        measured = _mean_loss(metric) if is_deviance(metric) or is_quantile(metric) else _METRICS[metric]
        found = measured(outcomes, z)
    known = clustered(metric, outcomes)
    return found if known is None else widened(metric, found, known, confidence)


def is_measured_in_parts(metric: str) -> bool:
    """Return whether :func:`measure` and :func:`airflow_mlops.metrics.realised.losses_of_parts` support several parts.

    Custom metrics and NDCG need all rows in one part.

    :param metric: name of a metric of :func:`measure`
    """
    return not is_custom(metric) and not is_ranking(metric)


def order_of_scores(metric: str) -> Order | None:
    """Return the order of the rows by score that a metric needs if they are in several parts; ``None`` for any order.

    :param metric: name of a metric of :func:`measure`
    """
    return _ORDERS.get(metric)


def _whole(outcomes: Labelled) -> Outcomes:
    (whole,) = outcomes.parts()
    return whole


def quantile_coverage(outcomes: Labelled, confidence: float) -> Interval:
    """Measure the share of the labels that are at most the predicted quantile, with Wilson's interval.

    :param outcomes: the labelled predictions of a model of a quantile
    :param confidence: confidence of the interval, such as 0.95
    :raises UnmeasurableError: there are no labels
    """
    if not outcomes.rows:
        raise UnmeasurableError("there are no labels")
    return shares.quantile_coverage(outcomes, NormalDist().inv_cdf(0.5 + confidence / 2))


def clustered(metric: str, outcomes: Labelled) -> Design | None:
    """Return how much the clusters of the rows widen the interval of a metric; ``None`` for independent rows.

    :param metric: a metric of :func:`measure`, except custom metrics
    :param outcomes: the labelled predictions
    :raises UnmeasurableError: the losses of the metric are undefined, see
        :func:`airflow_mlops.metrics.realised.losses_of_parts`
    """
    if outcomes.clusters is None:
        return None
    sums = ClusterSums(outcomes.clusters)
    for part, each in zip(outcomes.parts(), losses_of_parts(metric, outcomes), strict=True):
        assert part.groups is not None
        sums.add(each, part.groups, part.weight)
    return sums.design(of_share=True)


def widened(metric: str, interval: Interval, clusters: Design, confidence: float) -> Interval:
    """Widen the interval of a metric for clustered rows.

    :param metric: a metric of :func:`measure`, except custom metrics
    :param interval: the interval for independent rows
    :param clusters: how much the clusters widen the interval
    :param confidence: confidence of the interval, such as 0.95
    :raises UnmeasurableError: all rows are of one cluster
    """
    factor = clusters.factor(NormalDist().inv_cdf(0.5 + confidence / 2))
    if not math.isfinite(factor):
        raise UnmeasurableError("all rows belong to one group")
    share = find_metric(metric).higher_is_better
    if share and interval.value * (1 - interval.value) <= ROUNDING:
        # At 0 and 1, the width of Wilson's interval is inversely proportional to the number of rows, not to its root.
        factor **= 2
    most = 1.0 if share or metric == "brier" else math.inf
    if (costs := costs_of(metric)) is not None:
        most = costs.most
    value, low, high = dataclasses.astuple(stretched(metric, interval, factor))
    return Interval(value, max(0.0, low), min(most, high))


def stretched(metric: str, interval: Interval, factor: float) -> Interval:
    """Move both ends of the interval of a metric to ``factor`` times their distance from the value.

    The interval of a coverage gap is derived from an interval of the coverage, which is stretched as well. The end of
    that interval in the direction of the quantile may then lie beyond the quantile, and further away from the quantile
    than the other end. The distance of this end from the quantile is then ``high``.

    :param metric: name of the metric
    :param interval: the interval
    :param factor: above 0; below 1 for a lower confidence than that of ``interval``
    """
    value, low, high = interval.value, interval.low, interval.high
    wide = Interval(value, value - factor * (value - low), value + factor * (high - value))
    if (alpha := covered_alpha_of(metric)) is None:
        return wide
    # The interval is that of the gap, |coverage - alpha|. `beyond` is the distance from the coverage to the end of its
    # own interval in the direction of `alpha`. If `low` is 0, this end lies beyond `alpha`, and its distance is not known
    # exactly. The largest possible distance is then used.
    beyond = value - low if low > 0 else value + high
    most = max(alpha, 1 - alpha)
    # If `low` is 0, a shorter interval (`factor` below 1) may still contain 0, because that distance is unknown.
    least = max(0.0, wide.low) if low > 0 else 0.0
    return Interval(value, least, min(most, max(wide.high, factor * beyond - value)))


def _custom(path: str, rows: Rows, confidence: float) -> Interval:
    metric = custom.load(path)
    if not metric.applies_to(rows):
        raise UnmeasurableError(
            f"the custom metric {path!r} needs a probability for each class, but only the largest probability is logged"
        )
    value = metric.measure(rows)
    _, draws, influence = resample_rows(metric.measure_or_nan, [rows])
    estimate = Estimate.from_draws(value, draws[:, 0], influence[:, 0])
    if not math.isfinite(estimate.standard_error):
        raise UnmeasurableError(
            f"the custom metric {path!r} is undefined on too many bootstrap samples of the {len(rows):,} labelled rows"
        )
    one_sided = (1 + confidence) / 2
    return Interval(value, estimate.lower(one_sided), estimate.upper(one_sided))


def _mean_loss(metric: str) -> Callable[[Labelled, float], Interval]:
    def measured(outcomes: Labelled, z: float) -> Interval:
        def batches() -> Iterator[tuple[Floats, Floats | None]]:
            for part, each in zip(outcomes.parts(), losses_of_parts(metric, outcomes), strict=True):
                yield each, part.weight

        with np.errstate(over="ignore", invalid="ignore"):
            found = weighted.interval_of(batches, z)
        if not math.isfinite(found.value + found.high - found.low):
            raise UnmeasurableError(
                "the errors have no finite mean and standard error, because they are too large or too few"
            )
        return Interval(found.value, max(0.0, found.low), found.high)

    return measured


def _rmse(outcomes: Labelled, z: float) -> Interval:
    squared = _mean_loss("rmse")(outcomes, z)
    return Interval(math.sqrt(squared.value), math.sqrt(squared.low), math.sqrt(squared.high))


_METRICS: dict[str, Callable[[Labelled, float], Interval]] = {
    "roc_auc": ranking.roc_auc,
    "accuracy": shares.accuracy,
    "log_loss": _mean_loss("log_loss"),
    "brier": _mean_loss("brier"),
    "rmse": _rmse,
    "mae": _mean_loss("mae"),
    SMAPE: _mean_loss(SMAPE),
    MASE: _mean_loss(MASE),
    "average_precision": ranking.average_precision,
    "balanced_accuracy": shares.balanced_accuracy,
    "f1": shares.f1,
    "f1_macro": shares.f1_macro,
    "precision": shares.precision,
    "recall": shares.recall,
    COVERAGE: shares.interval_coverage,
}
_ORDERS: dict[str, Order] = {"roc_auc": "ascending", "average_precision": "descending"}
