"""Express each metric as a function of sums over the rows.

The summands of each row are computed once. Their sums over all rows, over a slice, or over a bootstrap sample then give
the metric on these rows.

Most metrics are functions of sums by definition. Some metrics depend on the order of the rows by score, or on bins:

- The area under the ROC curve is, to first order in the rows' weights, linear in the placements of the rows
  (:func:`airflow_mlops.metrics.ranks.placements`). DeLong's variance is based on the same expansion.
- Average precision is also expanded to first order, see :func:`airflow_mlops.metrics.ranks.precision_terms`.
- The expected calibration error (M. Naeini, G. Cooper and M. Hauskrecht, "Obtaining Well Calibrated Probabilities Using
  Bayesian Binning", AAAI 2015) sums the gaps of ten bins of equal width. The bins are fixed, so the sums are exact.
- NDCG is computed for each group. The value of a group is a summand of the first row of the group.

If rows have weights, each summand is multiplied by the weight of its row. The bootstrap draws a row together with its
weight, so the bootstrap distribution and the influence of each row are those of the weighted metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from airflow_mlops.core.errors import EvaluationError
from airflow_mlops.metrics import groups, losses
from airflow_mlops.metrics.catalog import COVERAGE, WIDTH
from airflow_mlops.metrics.costs import Costs, costs_of
from airflow_mlops.metrics.deviances import power_of
from airflow_mlops.metrics.domain import wrong_labels, wrong_predictions
from airflow_mlops.metrics.forecasts import MASE, SCALE, SMAPE
from airflow_mlops.metrics.interval_ends import covers
from airflow_mlops.metrics.losses import (
    absolute_errors,
    binary_log_losses,
    log_losses,
    percentage_errors,
    scaled_errors,
    squared_errors,
)
from airflow_mlops.metrics.quantiles import alpha_of, covered_alpha_of
from airflow_mlops.metrics.rankings import Ranking, ranking_of
from airflow_mlops.metrics.ranks import mean_placement, placements, precision_terms
from airflow_mlops.metrics.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALIBRATION_BINS = 10


class Statistic(NamedTuple):
    """A metric that is a function of k sums over the rows.

    :param terms: function that yields the summands of each sum, k arrays of shape (n,)
    :param value: function that maps sums of shape (..., k) to the metric, shape (...). The metric is NaN if it is
        undefined, for example if a class has no rows
    """

    terms: Callable[[Rows], Iterator[NDArray[Any]]]
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    def measure(self, rows: Rows) -> float:
        """Compute the metric on ``rows``."""
        return float(self.value(np.array([term.sum(dtype=np.float64) for term in self.terms(rows)])))


def influence(metric: str, rows: Rows) -> tuple[float, NDArray[np.float64]]:
    """Compute a built-in metric, and its derivative with respect to the weight of each row.

    The sum of the squared derivatives estimates the variance of the metric (infinitesimal jackknife, B. Efron, "The
    Jackknife, the Bootstrap and Other Resampling Plans", 1982, chapter 6).

    :param metric: name of the metric, see :func:`statistic`
    :param rows: labels and predictions of a model
    :return: the metric and the derivatives, shape (n,)
    """
    sums = statistic(metric, rows)
    total, size = np.array([(term.sum(dtype=float), np.abs(term * 1.0).sum()) for term in sums.terms(rows)]).T
    slope, found = derivative(sums, total, size), np.zeros(len(rows))
    for each, term in zip(slope, sums.terms(rows), strict=True):
        found += each * term
    return float(sums.value(total)), found


def derivative(sums: Statistic, total: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the derivative of a metric with respect to each of its k sums, by central differences.

    :param sums: the metric as a function of its sums
    :param total: the sums, shape (k,)
    :param size: the sums of the absolute values of the summands, shape (k,). The steps of the differences are
        proportional to these sums
    :return: shape (k,); 0 for a sum whose summands are all 0, because no weight of a row changes this sum
    """
    step = 1e-6 * size
    rises = step > 0
    step[~rises] = 1.0
    # A sum of 0 is changed by 1. The changed sum may be impossible, such as the negative sum of squares of an RMSE.
    with np.errstate(invalid="ignore"):
        rise: NDArray[np.float64] = sums.value(total + np.diag(step)) - sums.value(total - np.diag(step))
    return np.where(rises, rise / (2 * step), 0.0)


def statistic(metric: str, rows: Rows) -> Statistic:
    """Return a built-in metric as a function of sums over the rows.

    :param metric: name of any metric except a custom metric (:func:`airflow_mlops.metrics.catalog.find_metric`). The
        metrics of prediction intervals need rows with intervals
    :param rows: any rows of the ML task for which the metric is computed
    """
    if (costs := costs_of(metric)) is not None:
        return _weighted(_expected_cost(costs))
    if (ranking := ranking_of(metric)) is not None:
        return Statistic(partial(_group_gains, metric, ranking), lambda sums: _ratio(sums[..., 1], sums[..., 0]))
    if (alpha := alpha_of(metric)) is not None:
        return _weighted(_mean(lambda rows: losses.pinball(alpha, rows.truth, _score(rows))))
    if (covered := covered_alpha_of(metric)) is not None:
        return _weighted(_coverage_gap(covered))
    if (power := power_of(metric)) is not None:
        return _weighted(_mean(partial(_deviances, metric, power)))
    return _weighted(_MULTICLASS[metric] if rows.task == "multiclass" else _OTHERS[metric])


def _weighted(sums: Statistic) -> Statistic:
    def terms(rows: Rows) -> Iterator[NDArray[Any]]:
        if rows.weight is None:
            yield from sums.terms(rows)
            return
        for term in sums.terms(rows):
            yield rows.weight * term

    return Statistic(terms, sums.value)


def calibration_bins(probability: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the number of the calibration bin of each probability, from 0, as integers of shape (n,)."""
    return np.minimum((probability * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def row_losses(rows: Rows) -> NDArray[np.float64]:
    """Compute the loss of each row. Slice search uses the losses to find groups of rows with a high mean loss.

    The loss is the Brier score for classifiers with probabilities, and the squared error for regression models. For
    classifiers without probabilities, it is 0 for a correct and 1 for a wrong prediction.

    :return: losses, shape (n,)
    """
    if rows.score is None:
        return (rows.predicted != rows.truth).astype(np.float64)
    if rows.task != "multiclass":
        return _squared(rows)
    brier: NDArray[np.float64] = np.square(rows.score).sum(axis=1) + 1 - 2 * _probability_of_truth(rows)
    return brier


def _mean(loss: Callable[[Rows], NDArray[Any]]) -> Statistic:
    def terms(rows: Rows) -> Iterator[NDArray[Any]]:
        yield np.ones(len(rows))
        yield loss(rows)

    return Statistic(terms, lambda sums: _ratio(sums[..., 1], sums[..., 0]))


def _coverage_gap(alpha: float) -> Statistic:
    covered = _mean(lambda rows: losses.at_most(rows.truth, _score(rows)))
    # The counts are summed before the gap is computed, because the gaps of subsets of the rows do not add up to the gap
    # of all rows.
    return Statistic(covered.terms, lambda sums: np.abs(covered.value(sums) - alpha))


def _expected_cost(costs: Costs) -> Statistic:
    # Errors are summed before they are multiplied with a cost that is a number: counts are exact, so only the last step
    # is rounded. Costs of a column are multiplied row by row.
    def terms(rows: Rows) -> Iterator[NDArray[Any]]:
        yield np.ones(len(rows))
        errors = (rows.predicted & ~rows.truth, rows.truth & ~rows.predicted)
        for cost, error in zip(costs, errors, strict=True):
            yield rows.cost(cost) * error if isinstance(cost, str) else error

    factors = np.array([1.0 if isinstance(cost, str) else cost for cost in costs])
    return Statistic(terms, lambda sums: _ratio(sums[..., 1:] @ factors, sums[..., 0]))


def _deviances(metric: str, power: float, rows: Rows) -> NDArray[np.float64]:
    if (
        wrong := wrong_labels(power, rows.truth, rows.weight) or wrong_predictions(_score(rows), rows.weight)
    ) is not None:
        raise EvaluationError(f"{metric} is undefined, because {wrong}. Use another metric, or correct these rows.")
    truth, value = rows.truth, _score(rows)
    if rows.weight is not None:
        # A row with the weight 0 is not measured and may have any label and prediction, even one for which the deviance
        # is undefined.
        truth, value = (np.where(rows.weight > 0, each, 1.0) for each in (truth, value))
    return losses.deviances(power, truth, value)


def _group_gains(metric: str, ranking: Ranking, rows: Rows) -> Iterator[NDArray[Any]]:
    # The first row of a group stands for the group, so a bootstrap of the rows draws whole groups.
    if rows.weight is not None:
        raise EvaluationError(
            f"{metric} counts each group once, so it does not support weights of rows. Remove `sample_weight`."
        )
    if ranking.group not in rows.columns:
        raise EvaluationError(
            f"{metric} needs column {ranking.group!r}, which these rows do not have. Use another metric here."
        )
    if (wrong := groups.wrong_relevance(rows.truth)) is not None:
        raise EvaluationError(f"{metric} is undefined, because {wrong}. Use another metric, or correct these rows.")
    found = groups.ndcg(rows.columns[ranking.group], rows.truth, _score(rows), ranking.k)
    counts, values = np.zeros(len(rows)), np.zeros(len(rows))
    counts[found.first], values[found.first] = 1.0, found.value
    yield counts
    yield values


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64], otherwise: float = np.nan) -> NDArray[np.float64]:
    filled = np.asarray(below) > 0
    return np.where(filled, above / np.where(filled, below, 1), otherwise)


def _score(rows: Rows) -> NDArray[np.float64]:
    assert rows.score is not None
    return rows.score


def _correct(rows: Rows) -> NDArray[Any]:
    return rows.truth == rows.predicted


def _squared(rows: Rows) -> NDArray[np.float64]:
    return squared_errors(rows.truth, _score(rows))


def _absolute(rows: Rows) -> NDArray[np.float64]:
    return absolute_errors(rows.truth, _score(rows))


def _scaled(rows: Rows) -> Iterator[NDArray[Any]]:
    if SCALE not in rows.columns:
        raise EvaluationError(
            f"{MASE} needs column {SCALE!r}, which these rows do not have. Use another metric here, or rows of "
            "BuildForecastRowsOperator."
        )
    scale = rows.columns[SCALE]
    yield scale > 0
    yield scaled_errors(rows.truth, _score(rows), scale)


def _percentages(rows: Rows) -> NDArray[np.float64]:
    return percentage_errors(rows.truth, _score(rows))


def _covered(rows: Rows) -> NDArray[np.bool_]:
    assert rows.interval is not None
    return covers(rows.interval, rows.truth, _score(rows))


def _width(rows: Rows) -> NDArray[np.float64]:
    assert rows.interval is not None
    return np.full(len(rows), 2 * rows.interval.margin)


def _binary_log_losses(rows: Rows) -> NDArray[np.float64]:
    return binary_log_losses(rows.truth, _score(rows))


def _multiclass_log_losses(rows: Rows) -> NDArray[np.float64]:
    return log_losses(_probability_of_truth(rows))


def _probability_of_truth(rows: Rows) -> NDArray[np.float64]:
    probability: NDArray[np.float64] = np.take_along_axis(_score(rows), rows.truth[:, None], axis=1)[:, 0]
    return probability


def _hits(rows: Rows) -> Iterator[NDArray[Any]]:
    yield rows.truth & rows.predicted
    yield rows.truth
    yield rows.predicted


def _gaps(rows: Rows) -> Iterator[NDArray[Any]]:
    probability = _score(rows)
    gap, bins = probability - rows.truth, calibration_bins(probability)
    yield np.ones(len(rows))
    for number in range(CALIBRATION_BINS):
        yield np.where(bins == number, gap, 0.0)


def _area_terms(rows: Rows, positive: NDArray[np.bool_], score: NDArray[np.float64]) -> Iterator[NDArray[Any]]:
    # The mean placement of each class equals the area. Half the area is subtracted from each mean, so that the two
    # differences add up to the area.
    placed = placements(positive, score, rows.weight)
    half = mean_placement(placed, positive, rows.weight) / 2
    yield positive
    # The weights of the negative rows are a separate sum, because the difference between two other sums would be
    # inexact.
    yield ~positive
    yield np.where(positive, placed - half, 0.0)
    yield np.where(positive, 0.0, placed - half)


def _areas(rows: Rows) -> Iterator[NDArray[Any]]:
    if rows.task == "binary":
        yield from _area_terms(rows, rows.truth, _score(rows))
        return
    # A class that does not occur in the labels has no ROC curve.
    for code in np.unique(rows.truth if rows.weight is None else rows.truth[rows.weight > 0]):
        yield from _area_terms(rows, rows.truth == code, _score(rows)[:, code])


def _area(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    every = sums.reshape(*sums.shape[:-1], -1, 4)
    areas = _ratio(every[..., 2], every[..., 0]) + _ratio(every[..., 3], every[..., 1])
    return np.asarray(areas.mean(axis=-1))


def _precisions(rows: Rows) -> Iterator[NDArray[Any]]:
    yield rows.truth
    yield precision_terms(rows.truth, _score(rows), rows.weight)


def _class_hits(rows: Rows) -> Iterator[NDArray[Any]]:
    for code in np.union1d(rows.truth, rows.predicted):
        true, predicted = rows.truth == code, rows.predicted == code
        yield true & predicted
        yield true
        yield predicted


def _f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2], 0.0)


def _f1_macro(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    every = sums.reshape(*sums.shape[:-1], -1, 3)
    occurs = every[..., 1] + every[..., 2] > 0
    return _ratio(_f1(every).sum(axis=-1), occurs.sum(axis=-1))


def _balanced(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    every = sums.reshape(*sums.shape[:-1], -1, 3)
    # As in scikit-learn, a class that occurs only in the predictions has no recall.
    return _ratio(_ratio(every[..., 0], every[..., 1], 0.0).sum(axis=-1), (every[..., 1] > 0).sum(axis=-1))


def _spread(rows: Rows) -> Iterator[NDArray[Any]]:
    # Sums of differences from a value near the mean have the smallest rounding errors. This value is one of the labels,
    # so that equal labels give exactly 0.
    counted = rows.truth if rows.weight is None else rows.truth[rows.weight > 0]
    middle = counted[np.argmin(np.abs(counted - counted.mean()))] if len(counted) else 0.0
    yield np.ones(len(rows))
    yield _squared(rows)
    yield rows.truth - middle
    yield np.square(rows.truth - middle)


def _r2(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, error, total, squares = np.moveaxis(sums, -1, 0)
    spread = squares - _ratio(total**2, rows)
    # As in scikit-learn, R2 for constant labels is 1 if every prediction is exact, otherwise 0.
    constant = np.where(rows > 0, np.where(error > 0, 0.0, 1.0), np.nan)
    return np.where(spread > 0, 1 - _ratio(error, spread), constant)


_ACCURACY = _mean(_correct)
_MEAN_SQUARED = _mean(_squared)
_OTHERS: dict[str, Statistic] = {
    "roc_auc": Statistic(_areas, _area),
    "average_precision": Statistic(_precisions, lambda sums: _ratio(sums[..., 1], sums[..., 0])),
    "log_loss": _mean(_binary_log_losses),
    "brier": _MEAN_SQUARED,
    "ece": Statistic(_gaps, lambda sums: _ratio(np.abs(sums[..., 1:]).sum(axis=-1), sums[..., 0])),
    "accuracy": _ACCURACY,
    "balanced_accuracy": Statistic(_class_hits, _balanced),
    "f1": Statistic(_hits, _f1),
    "precision": Statistic(_hits, lambda sums: _ratio(sums[..., 0], sums[..., 2], 0.0)),
    "recall": Statistic(_hits, lambda sums: _ratio(sums[..., 0], sums[..., 1], 0.0)),
    "rmse": Statistic(_MEAN_SQUARED.terms, lambda sums: np.sqrt(_MEAN_SQUARED.value(sums))),
    "mae": _mean(_absolute),
    MASE: Statistic(_scaled, lambda sums: _ratio(sums[..., 1], sums[..., 0])),
    SMAPE: _mean(_percentages),
    "r2": Statistic(_spread, _r2),
    COVERAGE: _mean(_covered),
    WIDTH: _mean(_width),
}
_MULTICLASS: dict[str, Statistic] = {
    "accuracy": _ACCURACY,
    "balanced_accuracy": Statistic(_class_hits, _balanced),
    "f1_macro": Statistic(_class_hits, _f1_macro),
    "log_loss": _mean(_multiclass_log_losses),
    "roc_auc_ovr": Statistic(_areas, _area),
}
