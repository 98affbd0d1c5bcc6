"""Each metric as a function of sums over the rows, so that one set of terms gives its value, its value on a part of the
rows, and its value in every round of a bootstrap.

Most metrics are such functions as they stand. Three depend on an order or on bins of the rows:

- The area under the ROC curve is linear in the rows' placements (:func:`airflow_mlops.metrics.ranks.placements`), to the
  first order in the rows' weights: that is the expansion whose variance DeLong's is.
- Average precision likewise, see :func:`airflow_mlops.metrics.ranks.precision_terms`.
- The expected calibration error (M. Naeini, G. Cooper and M. Hauskrecht, "Obtaining Well Calibrated Probabilities Using
  Bayesian Binning", AAAI 2015) sums the gap of each of ten bins of equal width; the bins are fixed, so it is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from airflow_mlops.metrics.ranks import placements, precision_terms
from airflow_mlops.metrics.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALIBRATION_BINS = 10
_SMALLEST = float(np.finfo(np.float64).eps)


class Statistic(NamedTuple):
    """A metric of sums.

    :param terms: what each row adds to each sum, one array of shape (n,) after the other
    :param value: the metric of sums, shape (..., k) to (...); NaN where it is not defined, as without a row of a class
    """

    terms: Callable[[Rows], Iterator[NDArray[Any]]]
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    def of(self, rows: Rows) -> float:
        """The metric's value on ``rows``."""
        return float(self.value(np.array([term.sum(dtype=np.float64) for term in self.terms(rows)])))


def statistic(metric: str, rows: Rows) -> Statistic:
    """The statistic of ``metric``, one of :data:`airflow_mlops.metrics.catalog.METRICS`, for the task of ``rows``."""
    return _MULTICLASS[metric] if rows.task == "multiclass" else _OTHERS[metric]


def calibration_bins(probability: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each probability."""
    return np.minimum((probability * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def losses(rows: Rows) -> NDArray[np.float64]:
    """What each row costs: the squared error of probabilities (Brier's score), or of values; 0 or 1 without either."""
    if rows.score is None:
        return (rows.predicted != rows.truth).astype(np.float64)
    if rows.task != "multiclass":
        return _squared(rows)
    found: NDArray[np.float64] = np.square(rows.score).sum(axis=1) + 1 - 2 * _of_truth(rows)
    return found


def _mean(loss: Callable[[Rows], NDArray[Any]]) -> Statistic:
    def terms(rows: Rows) -> Iterator[NDArray[Any]]:
        yield np.ones(len(rows))
        yield loss(rows)

    return Statistic(terms, lambda sums: _ratio(sums[..., 1], sums[..., 0]))


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64], otherwise: float = np.nan) -> NDArray[np.float64]:
    filled = np.asarray(below) > 0
    return np.where(filled, above / np.where(filled, below, 1), otherwise)


def _score(rows: Rows) -> NDArray[np.float64]:
    assert rows.score is not None
    return rows.score


def _right(rows: Rows) -> NDArray[Any]:
    return rows.truth == rows.predicted


def _squared(rows: Rows) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.square(_score(rows) - rows.truth)
    return found


def _absolute(rows: Rows) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.abs(_score(rows) - rows.truth)
    return found


def _binary_log_loss(rows: Rows) -> NDArray[np.float64]:
    probability = _score(rows)
    return _log_loss(np.where(rows.truth, probability, 1 - probability))


def _of_truth(rows: Rows) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.take_along_axis(_score(rows), rows.truth[:, None], axis=1)[:, 0]
    return found


def _log_loss(of_truth: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = -np.log(np.clip(of_truth, _SMALLEST, 1 - _SMALLEST))
    return found


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


def _area_terms(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> Iterator[NDArray[Any]]:
    # Either class's mean placement is the area: half of it is taken off each, so that the two sum to one area.
    placed = placements(positive, score)
    half = placed[positive].mean() / 2 if positive.any() else 0.0
    yield positive
    yield np.where(positive, placed - half, 0.0)
    yield np.where(positive, 0.0, placed - half)


def _areas(rows: Rows) -> Iterator[NDArray[Any]]:
    yield np.ones(len(rows))
    if rows.task == "binary":
        yield from _area_terms(rows.truth, _score(rows))
        return
    # Classes without a row in the truth have no curve of their own.
    for code in np.unique(rows.truth):
        yield from _area_terms(rows.truth == code, _score(rows)[:, code])


def _area(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    every = sums[..., 1:].reshape(*sums.shape[:-1], -1, 3)
    positives = every[..., 0]
    found = _ratio(every[..., 1], positives) + _ratio(every[..., 2], sums[..., :1] - positives)
    return np.asarray(found.mean(axis=-1))


def _precisions(rows: Rows) -> Iterator[NDArray[Any]]:
    yield rows.truth
    yield precision_terms(rows.truth, _score(rows))


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


def _spread(rows: Rows) -> Iterator[NDArray[Any]]:
    # The sums lose fewest digits around a value near the mean; one of the values themselves, so that equal ones give 0.
    middle = rows.truth[np.argmin(np.abs(rows.truth - rows.truth.mean()))] if len(rows) else 0.0
    yield np.ones(len(rows))
    yield _squared(rows)
    yield rows.truth - middle
    yield np.square(rows.truth - middle)


def _r2(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, error, total, squares = np.moveaxis(sums, -1, 0)
    spread = squares - _ratio(total**2, rows)
    # As scikit-learn has it: a constant truth is explained by who hits it, and by nobody else.
    constant = np.where(rows > 0, np.where(error > 0, 0.0, 1.0), np.nan)
    return np.where(spread > 0, 1 - _ratio(error, spread), constant)


_ACCURACY = _mean(_right)
_MEAN_SQUARED = _mean(_squared)
_OTHERS: dict[str, Statistic] = {
    "roc_auc": Statistic(_areas, _area),
    "average_precision": Statistic(_precisions, lambda sums: _ratio(sums[..., 1], sums[..., 0])),
    "log_loss": _mean(_binary_log_loss),
    "brier": _MEAN_SQUARED,
    "ece": Statistic(_gaps, lambda sums: _ratio(np.abs(sums[..., 1:]).sum(axis=-1), sums[..., 0])),
    "accuracy": _ACCURACY,
    "f1": Statistic(_hits, _f1),
    "precision": Statistic(_hits, lambda sums: _ratio(sums[..., 0], sums[..., 2], 0.0)),
    "recall": Statistic(_hits, lambda sums: _ratio(sums[..., 0], sums[..., 1], 0.0)),
    "rmse": Statistic(_MEAN_SQUARED.terms, lambda sums: np.sqrt(_MEAN_SQUARED.value(sums))),
    "mae": _mean(_absolute),
    "r2": Statistic(_spread, _r2),
}
_MULTICLASS: dict[str, Statistic] = {
    "accuracy": _ACCURACY,
    "f1_macro": Statistic(_class_hits, _f1_macro),
    "log_loss": _mean(lambda rows: _log_loss(_of_truth(rows))),
    "roc_auc_ovr": Statistic(_areas, _area),
}
