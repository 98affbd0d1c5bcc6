"""Compare two models on the same rows: the improvement of a metric and its confidence bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.metrics import custom
from airflow_mlops.metrics.catalog import Metric, is_custom
from airflow_mlops.metrics.clusters import design
from airflow_mlops.metrics.formulas import Statistic, derivative, statistic
from airflow_mlops.metrics.ranks import delong
from airflow_mlops.metrics.resampling import Resampling, resample_rows
from airflow_mlops.metrics.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

POWER = 0.8
# The smallest number of bootstrap rounds that must lie beyond a percentile. If the metric is undefined in more than the
# second number, a fraction of the rounds, the estimate has no bounds.
_TAIL, _UNDEFINED = 10, 0.05
CREDIBLE = NormalDist().inv_cdf(0.95)
"""Normal quantile for the largest credible standard error, which is the one-sided 95% upper bound of the standard
error.
"""


@dataclass(frozen=True)
class Estimate:
    """An estimated number (a metric or an improvement) with its standard error and one-sided confidence bounds.

    A bound is the normal bound or the bootstrap percentile, whichever is further from the value. Both the normal bound
    and the percentile are accurate only for many rows. With few rows the normal bound ignores the skewness of the
    error, and the percentile interval is too narrow (B. Efron and R. Tibshirani, "An Introduction to the Bootstrap",
    1993, chapters 12 and 13).

    The percentile is taken at a confidence of at most ``1 - 10 / rounds``, so that at least ten rounds lie beyond it. A
    percentile with fewer rounds beyond it depends too much on chance. At a higher confidence, the bound is the normal
    bound or the outermost allowed percentile, whichever is further out. Therefore a bound never moves inwards as the
    confidence grows.

    The normal bound uses the largest credible standard error, which is larger if the difference depends on few rows or
    if few rounds were drawn. A few changed rows among thousands therefore give no significant improvement.

    :param value: the estimated number, computed on all rows
    :param standard_error: standard error of ``value``; infinite if it is unknown
    :param doubt: relative standard error of ``standard_error``, such as 0.1 for 10%
    :param draws: the estimated number in each bootstrap round, in ascending order; empty if ``standard_error`` was
        computed without a bootstrap
    """

    value: float
    standard_error: float
    doubt: float = 0.0
    draws: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)

    @classmethod
    def from_draws(cls, value: float, draws: NDArray[np.float64], influence: NDArray[np.float64]) -> Estimate:
        """Create an estimate from a bootstrap.

        The standard error is infinite if ``value`` is not finite, if the metric is undefined in more than 5% of the
        rounds, or if there are fewer than two rows or clusters.

        :param value: the estimated number, computed on all rows
        :param draws: the estimated number in each round, shape (rounds,); NaN if it is undefined, for example because
            only one class occurs
        :param influence: the derivative of the estimated number with respect to the weight of each row or group of rows
        """
        defined = np.sort(draws[np.isfinite(draws)])
        if not math.isfinite(value) or len(influence) < 2 or len(defined) < (1 - _UNDEFINED) * len(draws):
            return cls(value, math.inf)
        # The standard deviation of n normal numbers has the relative standard error 1 / sqrt(2 n).
        doubt = math.hypot(relative_error(influence), 1 / math.sqrt(2 * len(defined)))
        return cls(value, float(defined.std(ddof=1)), doubt, defined)

    def lower(self, confidence: float) -> float:
        """Return the one-sided lower confidence bound at a confidence such as 0.95."""
        bound = self.value - NormalDist().inv_cdf(confidence) * self._credible
        level = self._level(confidence)
        return bound if level is None else min(bound, float(np.quantile(self.draws, 1 - level)))

    def upper(self, confidence: float) -> float:
        """Return the one-sided upper confidence bound at a confidence such as 0.95."""
        bound = self.value + NormalDist().inv_cdf(confidence) * self._credible
        level = self._level(confidence)
        return bound if level is None else max(bound, float(np.quantile(self.draws, level)))

    def detectable(self, confidence: float, power: float = POWER) -> float:
        """Return the smallest detectable difference between the true value and a threshold.

        If the true value exceeds the threshold by this difference, :meth:`lower` exceeds the threshold with probability
        ``power``.

        :param confidence: confidence of the one-sided bound, such as 0.95
        :param power: probability that the difference is detected, such as 0.8
        """
        normal = NormalDist()
        return normal.inv_cdf(confidence) * self._credible + normal.inv_cdf(power) * self.standard_error

    @property
    def _credible(self) -> float:
        return self.standard_error * (1 + CREDIBLE * self.doubt)

    def _level(self, confidence: float) -> float | None:
        """Return the level of the bootstrap percentile, or ``None`` if there are too few rounds for a percentile."""
        if len(self.draws) <= 2 * _TAIL:
            return None
        return min(confidence, 1 - _TAIL / len(self.draws))


@dataclass(frozen=True)
class Comparison:
    """The values of one metric for a candidate and a champion on the same rows, and the improvement.

    :param metric: name of the metric
    :param rows: number of rows
    :param candidate: metric of the candidate
    :param champion: metric of the champion
    :param improvement: estimated difference between candidate and champion; positive if the candidate is better
    """

    metric: str
    rows: int
    candidate: float
    champion: float
    improvement: Estimate


def compare(
    metric: Metric,
    candidate: Rows,
    champion: Rows,
    resampling: Resampling,
    parts: Sequence[NDArray[np.integer[Any]] | None] = (None,),
) -> list[Comparison]:
    """Compare two models by one metric, on all rows or on subsets of the rows.

    The area under the ROC curve is compared by DeLong's test. Every other metric is compared by a paired bootstrap, in
    which each round draws the same rows for both models.

    :param metric: the metric. A custom metric must apply to the predictions of both models
    :param candidate: labels and predictions of the candidate
    :param champion: labels and predictions of the champion for the same rows
    :param resampling: the bootstrap weights of the rows
    :param parts: row positions of each subset; ``None`` stands for all rows
    :return: one comparison for each subset
    """
    if metric.name == "roc_auc":
        return [_areas(candidate.take(index), champion.take(index), _clusters(resampling, index)) for index in parts]
    if is_custom(metric.name):
        return [
            _custom(metric, candidate.take(index), champion.take(index), _clusters(resampling, index))
            for index in parts
        ]
    return _resampled(metric, (candidate, champion), parts, resampling)


def estimate(metric: str, rows: Rows, resampling: Resampling) -> Estimate:
    """Estimate a metric of one model with its bootstrap standard error.

    :param metric: name of a metric, see :func:`airflow_mlops.metrics.catalog.find_metric`
    :param rows: labels and predictions of the model
    :param resampling: the bootstrap weights of the rows
    """
    if is_custom(metric):
        values, draws, influence = resample_rows(
            custom.load(metric).measure_or_nan, [rows], clusters=resampling.clusters
        )
        return Estimate.from_draws(float(values[0]), draws[:, 0], influence[:, 0])
    sums = statistic(metric, rows)
    totals = resampling.totals(sums.terms(rows))
    return Estimate.from_draws(sums.measure(rows), sums.value(resampling.draw(totals)), _influence(sums, totals))


def _clusters(resampling: Resampling, index: NDArray[np.integer[Any]] | None) -> NDArray[np.int64] | None:
    clusters = resampling.clusters
    return clusters if clusters is None or index is None else clusters[index]


def _areas(candidate: Rows, champion: Rows, clusters: NDArray[np.int64] | None) -> Comparison:
    """Compare two areas by DeLong's test.

    With clusters, the variance of the difference is multiplied by the design effect of the rows' influence, as in N.
    Obuchowski, "Nonparametric Analysis of Clustered ROC Curve Data", Biometrics 53 (1997), and the error allows for few
    clusters (:mod:`airflow_mlops.metrics.clusters`).
    """
    assert candidate.score is not None
    assert champion.score is not None
    areas = delong(candidate.truth, candidate.score, champion.score, candidate.weight)
    error = areas.standard_error if math.isfinite(areas.standard_error) else math.inf
    influence = areas.influence
    if clusters is not None:
        widened = design(influence, clusters)
        error *= widened.factor(CREDIBLE) if error > 0 else 1.0
        influence = np.asarray(np.bincount(clusters, weights=influence), dtype=float)
    improvement = Estimate(areas.first - areas.second, error, relative_error(influence))
    return Comparison("roc_auc", len(candidate), areas.first, areas.second, improvement)


def relative_error(influence: NDArray[np.float64]) -> float:
    """Compute the relative standard error of the standard error of a sum.

    The relative error of a standard error is half the relative error of the variance. The error of the variance grows
    with the kurtosis of the summands (R. Miller, "Beyond ANOVA", 1986, chapter 7).

    :param influence: the summands, shape (n,)
    """
    squares = np.square(influence)
    total = float(squares.sum())
    if total <= 0:
        return 0.0
    return math.sqrt(max(0.0, float(np.square(squares / total).sum()) - 1 / len(squares))) / 2


def _influence(sums: Statistic, totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the derivative of the metric with respect to each group's weight, by the chain rule over the sums."""
    slope = derivative(sums, totals.sum(axis=0), np.abs(totals).sum(axis=0))
    influence: NDArray[np.float64] = totals @ slope
    return influence


def _custom(metric: Metric, candidate: Rows, champion: Rows, clusters: NDArray[np.int64] | None) -> Comparison:
    values, draws, influence = resample_rows(
        custom.load(metric.name).measure_or_nan, [candidate, champion], clusters=clusters
    )
    improvement = Estimate.from_draws(
        metric.sign * float(values[0] - values[1]),
        metric.sign * (draws[:, 0] - draws[:, 1]),
        influence[:, 0] - influence[:, 1],
    )
    return Comparison(metric.name, len(candidate), float(values[0]), float(values[1]), improvement)


def _resampled(
    metric: Metric, models: tuple[Rows, Rows], parts: Sequence[NDArray[np.integer[Any]] | None], resampling: Resampling
) -> list[Comparison]:
    sign, sums = metric.sign, statistic(metric.name, models[0])
    totals = [resampling.totals(sums.terms(rows.take(index)), index) for index in parts for rows in models]
    ends = np.cumsum([one.shape[1] for one in totals])[:-1]
    drawn = np.split(resampling.draw(np.concatenate(totals, axis=1)), ends, axis=1)
    values = [float(sums.value(one.sum(axis=0))) for one in totals]
    draws = [sums.value(one) for one in drawn]
    influences = [_influence(sums, one) for one in totals]
    comparisons = []
    for number, index in enumerate(parts):
        mine, theirs = 2 * number, 2 * number + 1
        improvement = Estimate.from_draws(
            sign * (values[mine] - values[theirs]),
            sign * (draws[mine] - draws[theirs]),
            sign * (influences[mine] - influences[theirs]),
        )
        rows = len(models[0]) if index is None else len(index)
        comparisons.append(Comparison(metric.name, rows, values[mine], values[theirs], improvement))
    return comparisons
