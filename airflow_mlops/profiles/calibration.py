"""What a score says about the outcome: learned on the held-out part, stored in the model's profile as plain numbers.

For classes this is the calibration that confidence-based performance estimation needs: the probability of the outcome
given the score, by a logistic regression on a linear spline of the score's logit (Platt scaling with bends). Its
covariance is the calibration's own error. For a regression it is a loss model: the errors that were seen where the
predictions were about as large.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.contract import Task
from airflow_mlops.metrics.losses import absolute_errors, squared_errors
from airflow_mlops.metrics.realised import Outcomes

# A bend or a bin more for so many rows (of the rarer outcome, where there are two), and at most so many.
_ROWS_A_KNOT, _KNOTS = 50, 10
_ROWS_A_BIN, _BINS = 50, 100
# Scores of 0 and 1 have no logit.
_MARGIN = 1e-6
# A weak prior, standard deviation 10: it matters only where the scores tell the outcomes apart without an error.
_PRIOR_VARIANCE = 100.0
# Scores this close, in standard deviations, are as good as equal; and from here on all are.
_CELL, _FAR = 0.005, 20.0
# A standard deviation of logits below it is rounding.
_SAME = 1e-9

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class ProbabilityCalibration(Model):
    """The probability of an outcome given the score: the positive class (binary), or a right prediction (multiclass).

    :param rows: held-out rows that it was learned on
    :param low: scores below it count as ``low``, so that a logit exists
    :param high: the same at the other end
    :param center: mean of the logits; together with ``scale``, their standard deviation, it makes ``knots`` comparable
    :param knots: where the spline may bend, in standard deviations from the mean
    :param coefficients: of the constant, the logit, and what it exceeds each knot by
    :param covariance: of the coefficients
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
        """How many groups :meth:`cell` tells apart."""
        return int(2 * _FAR / _CELL) + 1

    def cell(self, score: Floats) -> Integers:
        """The group of scores that each score is in, shape (n,); their order is that of the scores."""
        place = np.clip(self._standardised(score), -_FAR, _FAR) + _FAR
        return np.rint(place / _CELL).astype(np.int64)

    def basis(self, score: Floats) -> Floats:
        """What the coefficients are multiplied by, shape (n, 2 + knots)."""
        place = self._standardised(score)
        return np.column_stack([np.ones(len(place)), place, np.maximum(0.0, place[:, None] - np.asarray(self.knots))])

    def probability(self, score: Floats) -> Floats:
        """The probability of the outcome given each score, shape (n,)."""
        return _expit(self.basis(score) @ np.asarray(self.coefficients))

    def _standardised(self, score: Floats) -> Floats:
        return (_logit(np.clip(score, self.low, self.high)) - self.center) / self.scale


class LossModel(Model):
    """The errors of a regression by what was predicted: bins with about equally many held-out rows.

    :param edges: where one bin ends and the next begins; a bin holds its upper edge
    :param rows: held-out rows a bin
    :param absolute: mean absolute error a bin
    :param absolute_variance: variance of the absolute errors in a bin
    :param squared: mean squared error a bin
    :param squared_variance: variance of the squared errors in a bin
    """

    kind: Literal["loss"] = "loss"
    edges: list[float]
    rows: list[int]
    absolute: list[float]
    absolute_variance: list[float]
    squared: list[float]
    squared_variance: list[float]

    @property
    def cells(self) -> int:
        """The number of bins."""
        return len(self.rows)

    def cell(self, score: Floats) -> Integers:
        """The bin of each prediction, shape (n,)."""
        return np.searchsorted(np.asarray(self.edges), score, side="left")


Calibration = Annotated[ProbabilityCalibration | LossModel, Field(discriminator="kind")]


def calibrate(task: Task, held_out: Outcomes) -> ProbabilityCalibration | LossModel | None:
    """Learn what the score says about the outcome.

    :param held_out: rows that the model has not seen
    :return: ``None`` where nothing can be learned: fewer than two rows, or only one outcome
    """
    if held_out.rows < 2:
        return None
    if task == "regression":
        return _losses(held_out)
    return _probability(held_out) if 0 < held_out.truth.sum() < held_out.rows else None


def _probability(held_out: Outcomes) -> ProbabilityCalibration:
    from sklearn.linear_model import LogisticRegression

    score, truth = held_out.score, held_out.truth
    inside = score[(score > 0) & (score < 1)]
    # Halfway from the last score to 0 and to 1; a classifier that says only 0 and 1 has any two places for them.
    low, high = (inside.min() / 2, (1 + inside.max()) / 2) if len(inside) else (0.25, 0.75)
    low, high = max(low, _MARGIN), min(high, 1 - _MARGIN)
    logits = _logit(np.clip(score, low, high))
    center, scale = float(logits.mean()), float(logits.std())
    scale = scale if scale > _SAME else 1.0
    bends = min(_KNOTS, int(min(truth.sum(), (~truth).sum())) // _ROWS_A_KNOT)
    places = (logits - center) / scale
    knots = np.unique(np.quantile(places, np.linspace(0, 1, bends + 2)[1:-1]))
    straight = ProbabilityCalibration(
        rows=held_out.rows,
        low=low,
        high=high,
        center=center,
        scale=scale,
        knots=knots[(knots > places.min()) & (knots < places.max())].tolist(),
        coefficients=[],
        covariance=[],
    )
    basis = straight.basis(score)
    fitted = LogisticRegression(C=_PRIOR_VARIANCE, fit_intercept=False, solver="newton-cholesky").fit(basis, truth)
    coefficients = fitted.coef_[0]
    p = _expit(basis @ coefficients)
    information = (basis * (p * (1 - p))[:, None]).T @ basis + np.eye(len(coefficients)) / _PRIOR_VARIANCE
    covariance = np.linalg.inv(information)
    return straight.model_copy(update={"coefficients": coefficients.tolist(), "covariance": covariance.tolist()})


def _losses(held_out: Outcomes) -> LossModel | None:
    with np.errstate(over="ignore"):
        losses = np.column_stack(
            [
                absolute_errors(held_out.truth, held_out.score),
                squared_errors(held_out.truth, held_out.score),
            ]
        )
        if not np.isfinite(np.square(losses).sum(axis=0)).all():
            return None
    bins = max(1, min(_BINS, held_out.rows // _ROWS_A_BIN))
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
    )


def _logit(probability: Floats) -> Floats:
    return np.asarray(np.log(probability) - np.log1p(-probability), dtype=float)


def _expit(value: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(value / 2)), dtype=float)
