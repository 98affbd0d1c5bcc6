"""The relation between scores and labels, learned on the held-out split part `test` and stored in the model's profile.

Performance estimation without labels uses this relation. For classification the relation is a calibration: a logistic
regression on a linear spline of the score's logit (Platt scaling with knots) estimates the probability of the positive
class (binary models) or of a correct prediction (multiclass models). The covariance of the coefficients measures the
uncertainty of the calibration. For regression, the relation is a loss model. It contains the mean errors of the
held-out rows in bins of similar predictions, and the change of the errors with the features
(:mod:`airflow_mlops.profiles.input_errors`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.contract import Task
from airflow_mlops.metrics.losses import absolute_errors, squared_errors
from airflow_mlops.metrics.realised import Outcomes
from airflow_mlops.profiles.input_errors import InputErrors, learn

if TYPE_CHECKING:
    import pyarrow as pa

# Smallest number of rows per knot (only rows of the rarer class) and per bin, and largest numbers of knots and bins.
_ROWS_PER_KNOT, _KNOTS = 50, 10
_ROWS_PER_BIN, _BINS = 50, 100
# Number of outermost bins from which the slope of the errors at each end is estimated.
_TAIL_BINS = 3
# Scores are clipped to this distance from 0 and 1, which have no logit.
_MARGIN = 1e-6
# A weak prior with standard deviation 10. It matters only if the scores separate the classes perfectly.
_PRIOR_VARIANCE = 100.0
# Width of the bins of standardised scores. Standardised scores are clipped to the range from -_FAR to _FAR.
_BIN_WIDTH, _FAR = 0.005, 20.0
# A smaller standard deviation of the logits is a rounding error.
_SAME = 1e-9

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class ProbabilityCalibration(Model):
    """A calibration: the probability of an event given the score.

    The event is a label of the positive class (binary models) or a correct prediction (multiclass models).

    :param rows: number of held-out rows on which the calibration was learned
    :param low: lower scores are replaced by this value, because 0 has no logit
    :param high: higher scores are replaced by this value, because 1 has no logit
    :param center: mean of the logits
    :param scale: standard deviation of the logits
    :param knots: knots of the spline in standardised logits, ascending, shape (k,)
    :param coefficients: coefficients of the constant, of the standardised logit and of its excess over each knot, shape
        (2 + k,)
    :param covariance: covariance of the coefficients, shape (2 + k, 2 + k)
    """

    kind: Literal["probability"] = "probability"
    rows: int
    low: float
    high: float
    center: float
    scale: float
    knots: list[float]
    coefficients: list[float]
    covariance: list[list[float]]

    @property
    def cells(self) -> int:
        """Return the number of bins of :meth:`cell`."""
        return int(2 * _FAR / _BIN_WIDTH) + 1

    def cell(self, score: Floats) -> Integers:
        """Return the index of the bin of each score, shape (n,).

        Bins are ordered by score, and so narrow that the scores in one bin can be treated as equal.
        """
        place = np.clip(self._standardised(score), -_FAR, _FAR) + _FAR
        return np.rint(place / _BIN_WIDTH).astype(np.int64)

    def basis(self, score: Floats) -> Floats:
        """Return the design matrix of the spline, shape (n, 2 + knots)."""
        place = self._standardised(score)
        return np.column_stack([np.ones(len(place)), place, np.maximum(0.0, place[:, None] - np.asarray(self.knots))])

    def probability(self, score: Floats) -> Floats:
        """Return the probability of the event given each score, shape (n,)."""
        return _expit(self.basis(score) @ np.asarray(self.coefficients))

    def _standardised(self, score: Floats) -> Floats:
        return (_logit(np.clip(score, self.low, self.high)) - self.center) / self.scale


class Tail(Model):
    """How the errors change with the prediction among the smallest or among the largest predictions.

    The outermost bins are wide. Drifted predictions lie at the outer ends of these bins, where errors are often larger.
    Straight lines are fitted to the errors in the outermost bins by least squares, and the fields are the slopes. The
    variances of the slopes allow for unequal variances of the errors (H. White, "A Heteroskedasticity-Consistent
    Covariance Matrix Estimator and a Direct Test for Heteroskedasticity", Econometrica 48, 1980).

    :param center: mean prediction of the held-out rows in the outermost bin
    :param absolute: change of the absolute error when the prediction grows by 1
    :param absolute_variance: variance of ``absolute``
    :param squared: change of the squared error when the prediction grows by 1
    :param squared_variance: variance of ``squared``
    """

    center: float
    absolute: float
    absolute_variance: float
    squared: float
    squared_variance: float


class LossModel(Model):
    """The errors of a regression model in k bins of predictions. Each bin has about the same number of held-out rows.

    :param edges: boundaries between the bins, ascending, shape (k - 1,); a bin includes its upper edge
    :param rows: held-out rows in each bin, shape (k,)
    :param absolute: mean absolute error in each bin, shape (k,)
    :param absolute_variance: variance of the absolute errors in each bin, shape (k,)
    :param squared: mean squared error in each bin, shape (k,)
    :param squared_variance: variance of the squared errors in each bin, shape (k,)
    :param tails: how the errors change among the smallest and among the largest predictions; empty in profiles of early
        versions, and with a single bin
    :param inputs: how the errors change with the features; ``None`` in profiles of early versions, and without numeric
        features
    """

    kind: Literal["loss"] = "loss"
    edges: list[float]
    rows: list[int]
    absolute: list[float]
    absolute_variance: list[float]
    squared: list[float]
    squared_variance: list[float]
    tails: list[Tail] = Field(default_factory=list)
    inputs: InputErrors | None = None

    @property
    def cells(self) -> int:
        """Return the number of bins."""
        return len(self.rows)

    def cell(self, score: Floats) -> Integers:
        """Return the index of the bin of each prediction, shape (n,)."""
        return np.searchsorted(np.asarray(self.edges), score, side="left")


Calibration = Annotated[ProbabilityCalibration | LossModel, Field(discriminator="kind")]


def calibrate(
    task: Task, held_out: Outcomes, features: Iterable[pa.RecordBatch] = ()
) -> ProbabilityCalibration | LossModel | None:
    """Learn the relation between scores and labels from held-out rows.

    :param task: ML task of the model
    :param held_out: labelled predictions of rows on which the model was not trained
    :param features: features of the same rows, in the same order; read for regression models only
    :return: a calibration (classification) or a loss model (regression). ``None`` if nothing can be learned: fewer than
        two rows, only one class (binary), only correct or only wrong predictions (multiclass), or infinite losses
        (regression)
    """
    if held_out.rows < 2:
        return None
    if task == "regression":
        return _losses(held_out, features)
    return _probability(held_out) if 0 < held_out.truth.sum() < held_out.rows else None


def _probability(held_out: Outcomes) -> ProbabilityCalibration:
    from sklearn.linear_model import LogisticRegression

    score, truth = held_out.score, held_out.truth
    inside = score[(score > 0) & (score < 1)]
    # The limits lie halfway between the outermost scores and 0 or 1. If all scores are 0 or 1, any two limits suffice.
    low, high = (inside.min() / 2, (1 + inside.max()) / 2) if len(inside) else (0.25, 0.75)
    low, high = max(low, _MARGIN), min(high, 1 - _MARGIN)
    logits = _logit(np.clip(score, low, high))
    center, scale = float(logits.mean()), float(logits.std())
    scale = scale if scale > _SAME else 1.0
    count = min(_KNOTS, int(min(truth.sum(), (~truth).sum())) // _ROWS_PER_KNOT)
    places = (logits - center) / scale
    knots = np.unique(np.quantile(places, np.linspace(0, 1, count + 2)[1:-1]))
    unfitted = ProbabilityCalibration(
        rows=held_out.rows,
        low=low,
        high=high,
        center=center,
        scale=scale,
        knots=knots[(knots > places.min()) & (knots < places.max())].tolist(),
        coefficients=[],
        covariance=[],
    )
    basis = unfitted.basis(score)
    fitted = LogisticRegression(C=_PRIOR_VARIANCE, fit_intercept=False, solver="newton-cholesky").fit(basis, truth)
    coefficients = fitted.coef_[0]
    p = _expit(basis @ coefficients)
    information = (basis * (p * (1 - p))[:, None]).T @ basis + np.eye(len(coefficients)) / _PRIOR_VARIANCE
    covariance = np.linalg.inv(information)
    return unfitted.model_copy(update={"coefficients": coefficients.tolist(), "covariance": covariance.tolist()})


def _losses(held_out: Outcomes, features: Iterable[pa.RecordBatch]) -> LossModel | None:
    with np.errstate(over="ignore"):
        losses = np.column_stack(
            [
                absolute_errors(held_out.truth, held_out.score),
                squared_errors(held_out.truth, held_out.score),
            ]
        )
        if not np.isfinite(np.square(losses).sum(axis=0)).all():
            return None
    bins = max(1, min(_BINS, held_out.rows // _ROWS_PER_BIN))
    inner = np.quantile(held_out.score, np.linspace(0, 1, bins + 1)[1:-1], method="lower")
    edges = np.unique(inner[inner < held_out.score.max()])
    bin_of = np.searchsorted(edges, held_out.score, side="left")
    rows = np.bincount(bin_of, minlength=len(edges) + 1)

    def averaged(values: Floats) -> Floats:
        return np.bincount(bin_of, weights=values, minlength=len(rows)) / rows

    means = [averaged(loss) for loss in losses.T]
    spread = rows / np.maximum(1, rows - 1)
    variances = [averaged(np.square(loss - mean[bin_of])) * spread for loss, mean in zip(losses.T, means, strict=True)]
    return LossModel(
        edges=edges.tolist(),
        rows=rows.tolist(),
        absolute=means[0].tolist(),
        absolute_variance=variances[0].tolist(),
        squared=means[1].tolist(),
        squared_variance=variances[1].tolist(),
        tails=[_tail(held_out.score, losses, bin_of, outer) for outer in _outer_bins(len(rows))],
        inputs=learn(features, losses - np.column_stack([mean[bin_of] for mean in means])),
    )


def _outer_bins(bins: int) -> list[list[int]]:
    """Return two lists: the indices of the bins at the lower end, and the indices of the bins at the upper end.

    Each list begins with the outermost bin. With a single bin, the result is empty.

    :param bins: number of bins
    """
    if bins < 2:
        return []
    width = min(_TAIL_BINS, bins)
    return [list(range(width)), list(range(bins - 1, bins - 1 - width, -1))]


def _tail(score: Floats, losses: Floats, bin_of: Integers, outer: list[int]) -> Tail:
    inside, outermost = np.isin(bin_of, outer), bin_of == outer[0]
    place = score[inside] - score[inside].mean()
    spread = float(np.square(place).sum())
    slopes, variances = np.zeros(2), np.zeros(2)
    if spread > 0:
        centred = losses[inside] - losses[inside].mean(axis=0)
        slopes = place @ centred / spread
        rest = centred - np.outer(place, slopes)
        variances = np.square(place) @ np.square(rest) / spread**2
    return Tail(
        center=float(score[outermost].mean()),
        absolute=float(slopes[0]),
        absolute_variance=float(variances[0]),
        squared=float(slopes[1]),
        squared_variance=float(variances[1]),
    )


def _logit(probability: Floats) -> Floats:
    return np.asarray(np.log(probability) - np.log1p(-probability), dtype=float)


def _expit(value: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(value / 2)), dtype=float)
