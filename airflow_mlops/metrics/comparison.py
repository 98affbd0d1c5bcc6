"""Two models on the same rows: by how much one is better, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.metrics.ranks import delong
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.statistics import Statistic, statistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

POWER = 0.8
# What a bound rests on at least, and the share of rounds that may be without a value.
_TAIL, _UNDEFINED = 10, 0.05
# Standard errors up to which a standard error is credible: to 95%, one-sided.
_CREDIBLE = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True)
class Estimate:
    """A number with its error.

    A bound is the normal one, at so many standard errors, or the bootstrap's percentile where that lies further out:
    either is right for many rows only, and of few the normal one forgets that errors are skewed, the percentile that
    they are wide. Where fewer than ten rounds lie beyond a percentile, the normal one stands alone. (B. Efron and
    R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 12 and 13.)

    The normal bound takes the largest standard error that is credible: it is an estimate itself, from as many rows as
    make a difference and from as many rounds as were drawn. So three changed rows among thousands prove nothing, and a
    gate errs on the side of refusing.

    :param value: the number on all rows
    :param standard_error: infinite where it is not known
    :param doubt: the standard error of ``standard_error``, as a share of it
    :param draws: the number in the rounds of a bootstrap, in ascending order; empty for a closed form
    """

    value: float
    standard_error: float
    doubt: float = 0.0
    draws: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)

    @classmethod
    def of(cls, value: float, draws: NDArray[np.float64], influence: NDArray[np.float64]) -> Estimate:
        """From a bootstrap. Rounds without a value, as where they hold one class only, may be one in twenty.

        :param influence: by how much the number grows with the weight of each row, or group of rows
        """
        known = np.sort(draws[np.isfinite(draws)])
        if not math.isfinite(value) or len(known) < (1 - _UNDEFINED) * len(draws):
            return cls(value, math.inf)
        # A standard deviation of n normal numbers is known up to one in the square root of 2n.
        doubt = math.hypot(doubt_of(influence), 1 / math.sqrt(2 * len(known)))
        return cls(value, float(known.std(ddof=1)), doubt, known)

    def lower(self, confidence: float) -> float:
        """The number is above this, with ``confidence``."""
        bound = self.value - NormalDist().inv_cdf(confidence) * self._credible
        return min(bound, self._percentile(1 - confidence)) if self._resolves(confidence) else bound

    def upper(self, confidence: float) -> float:
        """The number is below this, with ``confidence``."""
        bound = self.value + NormalDist().inv_cdf(confidence) * self._credible
        return max(bound, self._percentile(confidence)) if self._resolves(confidence) else bound

    def detectable(self, confidence: float, power: float = POWER) -> float:
        """How far the truth must lie above a number for :meth:`lower` to do so too, in a share ``power`` of samples."""
        normal = NormalDist()
        return normal.inv_cdf(confidence) * self._credible + normal.inv_cdf(power) * self.standard_error

    @property
    def _credible(self) -> float:
        return self.standard_error * (1 + _CREDIBLE * self.doubt)

    def _resolves(self, confidence: float) -> bool:
        return len(self.draws) * (1 - confidence) >= _TAIL

    def _percentile(self, share: float) -> float:
        return float(np.quantile(self.draws, share))


@dataclass(frozen=True)
class Comparison:
    """A candidate against a champion, by one metric on the same rows.

    :param improvement: by how much the candidate is better, whichever way the metric points
    """

    metric: str
    rows: int
    candidate: float
    champion: float
    improvement: Estimate


def compare(
    metric: str,
    candidate: Rows,
    champion: Rows,
    resampling: Resampling,
    parts: Sequence[NDArray[np.integer[Any]] | None] = (None,),
) -> list[Comparison]:
    """Compare two models, on all rows or on parts of them.

    The area under the ROC curve by DeLong's test; every other metric by a paired bootstrap: one draw of the rows serves
    both models and all parts.

    :param parts: the positions of each part's rows; ``None`` for all of them
    """
    if metric == "roc_auc":
        return [_areas(candidate.take(index), champion.take(index)) for index in parts]
    return _resampled(metric, (candidate, champion), parts, resampling)


def estimate(metric: str, rows: Rows, resampling: Resampling) -> Estimate:
    """One model's metric with its bootstrap error."""
    found = statistic(metric, rows)
    totals = resampling.totals(found.terms(rows))
    return Estimate.of(found.of(rows), found.value(resampling.draw(totals)), _influence(found, totals))


def _areas(candidate: Rows, champion: Rows) -> Comparison:
    assert candidate.score is not None
    assert champion.score is not None
    found = delong(candidate.truth, candidate.score, champion.score)
    error = found.standard_error if math.isfinite(found.standard_error) else math.inf
    improvement = Estimate(found.first - found.second, error, doubt_of(found.influence))
    return Comparison("roc_auc", len(candidate), found.first, found.second, improvement)


def doubt_of(influence: NDArray[np.float64]) -> float:
    """How far the standard error of a sum may be off, as a share of it: half the variance's relative error, which grows
    with the kurtosis of what is summed (R. Miller, "Beyond ANOVA", 1986, chapter 7).
    """
    squares = np.square(influence)
    total = float(squares.sum())
    if total <= 0:
        return 0.0
    return math.sqrt(max(0.0, float(np.square(squares / total).sum()) - 1 / len(squares))) / 2


def _influence(known: Statistic, totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much the metric grows with each group's weight, from its derivative with respect to each sum."""
    total = totals.sum(axis=0)
    step = 1e-6 * np.abs(totals).sum(axis=0)
    step[step == 0] = 1.0
    rise = known.value(total + np.diag(step)) - known.value(total - np.diag(step))
    found: NDArray[np.float64] = totals @ (rise / (2 * step))
    return found


def _resampled(
    metric: str, models: tuple[Rows, Rows], parts: Sequence[NDArray[np.integer[Any]] | None], resampling: Resampling
) -> list[Comparison]:
    sign = 1 if METRICS[metric].higher_is_better else -1
    known = statistic(metric, models[0])
    totals = [resampling.totals(known.terms(rows.take(index)), index) for index in parts for rows in models]
    ends = np.cumsum([one.shape[1] for one in totals])[:-1]
    drawn = np.split(resampling.draw(np.concatenate(totals, axis=1)), ends, axis=1)
    values = [float(known.value(one.sum(axis=0))) for one in totals]
    draws = [known.value(one) for one in drawn]
    influences = [_influence(known, one) for one in totals]
    found = []
    for number, index in enumerate(parts):
        mine, theirs = 2 * number, 2 * number + 1
        improvement = Estimate.of(
            sign * (values[mine] - values[theirs]),
            sign * (draws[mine] - draws[theirs]),
            sign * (influences[mine] - influences[theirs]),
        )
        rows = len(models[0]) if index is None else len(index)
        found.append(Comparison(metric, rows, values[mine], values[theirs], improvement))
    return found
