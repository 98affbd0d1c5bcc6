"""Estimate performance without labels: compute the expected value of a metric from the scores alone.

Classification uses confidence-based performance estimation (CBPE), as published by NannyML, "Estimation of Performance
of the Monitored Model". A row with the calibrated probability p counts as positive with weight p and as negative with
weight 1 - p. Regression uses direct loss estimation (DLE) from the same source: a loss model gives the expected loss of
a row by the bin of its prediction. In the first and the last bin, the expected loss follows a straight line, because
predictions that drifted lie at the outer end of these bins. If the inputs drifted,
:class:`airflow_mlops.profiles.input_errors.InputErrors` gives the change of the loss of rows with the same prediction.

The confidence interval is for the value that the metric would have with labels. The variance of the estimate has two
parts:

- sampling of rows and labels: the variance of a mean over random rows with random labels; for the area under the ROC
  curve, the variance by DeLong, DeLong and Clarke-Pearson (1988), with probabilities in place of labels;
- uncertainty of the calibration: the covariance of the calibration's coefficients, propagated to the metric by the
  delta method; for regression models, the variances of the means, slopes and coefficients of the loss model.

For regression models, the half-width of the interval also allows for the error of extrapolation. The straight lines and
the drift of the inputs change the estimated mean loss. The error of extrapolation is 1.5 times this change. The factor
was chosen in simulations (``benchmarks.estimation``). This error is 0 if inputs and predictions are distributed as in
the held-out rows. The half-width is the root of the sum of two squares: of the error of extrapolation, and of the
half-width from the variance. The interval is symmetric in the logarithm of the mean loss.

The estimate assumes that the relation between scores and labels is the same as on the held-out split part. Under
covariate shift, the assumption holds if the calibrated probabilities are right for the new inputs. Under concept drift,
the assumption does not hold, and realised performance differs from the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from airflow_mlops.metrics.costs import costs_of
from airflow_mlops.metrics.intervals import Interval
from airflow_mlops.metrics.losses import log_losses, squared_errors
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.profiles.calibration import Floats, LossModel, ProbabilityCalibration

# Error of the corrections for drifted predictions and inputs, as a multiple of these corrections (regression models).
_DOUBT = 1.5
# Largest half-width of an interval of the logarithm of a mean error, so that the ends are finite numbers.
_WIDEST = 20.0


@dataclass(frozen=True)
class Scores:
    """The scores of a window, summarised in groups of similar scores.

    The memory for this summary does not depend on the number of rows.

    :param rows: number of rows in each group, shape (k,)
    :param score: mean score of each group, in ascending order, shape (k,); NaN for a group without rows
    :param shift: how far the inputs have drifted from the held-out rows
        (:meth:`airflow_mlops.profiles.input_errors.InputErrors.shift`); ``None`` if unknown
    """

    rows: Floats
    score: Floats
    shift: Floats | None = None

    @property
    def total(self) -> int:
        """Return the number of scores."""
        return int(self.rows.sum())


def collect(batches: Iterable[Floats], calibration: ProbabilityCalibration | LossModel) -> Scores:
    """Return the scores, grouped by the bins of the calibration. Scores that are not finite are left out.

    :param batches: scores, each batch of shape (n,)
    :param calibration: the calibration or the loss model from the profile of the model
    """
    rows, sums = np.zeros(calibration.cells), np.zeros(calibration.cells)
    for batch in batches:
        score = batch[np.isfinite(batch)]
        cell = calibration.cell(score)
        rows += np.bincount(cell, minlength=calibration.cells)
        sums += np.bincount(cell, weights=score, minlength=calibration.cells)
    with np.errstate(invalid="ignore"):
        return Scores(rows, sums / rows)


def estimate(
    metric: str,
    scores: Scores,
    calibration: ProbabilityCalibration | LossModel,
    confidence: float,
    threshold: float | None = None,
) -> Interval:
    """Estimate a metric and the confidence interval of the metric from grouped scores.

    :param metric: one of :data:`airflow_mlops.metrics.catalog.ESTIMATED`, or an expected cost
    :param scores: the grouped scores, from :func:`collect`
    :param calibration: the calibration (classification) or the loss model (regression) from the profile of the model
    :param confidence: confidence of the interval, such as 0.95
    :param threshold: for binary models, the lowest score for which the positive class is predicted; ``None`` for
        multiclass models, where the score is the probability of the predicted class
    :raises UnmeasurableError: there are no scores; fewer than two rows of a class are expected (``roc_auc``); or a cost
        is a column
    """
    if not scores.total:
        raise UnmeasurableError("there are no scores")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    if isinstance(calibration, LossModel):
        return _error(metric, scores, calibration, z)
    filled = scores.rows > 0
    scores = Scores(scores.rows[filled], scores.score[filled])
    basis = calibration.basis(scores.score)
    p = calibration.probability(scores.score)
    value, variance, slope = _area(scores, p) if metric == "roc_auc" else _mean_loss(metric, scores, p, threshold)
    gradient = (slope * p * (1 - p)) @ basis
    spread = z * math.sqrt(variance + gradient @ np.asarray(calibration.covariance) @ gradient)
    costs = costs_of(metric)
    most = math.inf if metric == "log_loss" else costs.most if costs is not None else 1.0
    return Interval(value, max(0.0, value - spread), min(most, value + spread))


def _area(scores: Scores, p: Floats) -> tuple[float, float, Floats]:
    """Return the expected area under the ROC curve, the variance of the area, and the gradient of the area.

    The gradient is with respect to the probability of each group, shape (k,).
    """
    positive, negative = scores.rows * p, scores.rows * (1 - p)
    positives, negatives = positive.sum(), negative.sum()
    if min(positives, negatives) < 2:
        rare = "positive" if positives < negatives else "negative"
        raise UnmeasurableError(f"fewer than two rows of the {rare} class are expected")
    below = np.cumsum(negative) - negative / 2
    above = positives - np.cumsum(positive) + positive / 2
    # A row is not paired with itself.
    own = float((positive * (1 - p)).sum())
    value = float(((positive * below).sum() - own / 2) / (positives * negatives - own))
    variance = (positive * (below / negatives - value) ** 2).sum() / positives**2
    variance += (negative * (above / positives - value) ** 2).sum() / negatives**2
    slope = scores.rows * (below - above - value * (negatives - positives)) / (positives * negatives)
    return value, float(variance), slope


def _mean_loss(metric: str, scores: Scores, p: Floats, threshold: float | None) -> tuple[float, float, Floats]:
    """Return the expected mean loss, the variance of the mean, and the gradient of the mean.

    For ``accuracy``, this is the mean of correct predictions instead of the mean loss. The gradient is with respect to
    the probability of each group, shape (k,).
    """
    share = scores.rows / scores.total
    if_positive, if_negative = _losses(metric, scores.score, threshold)
    value = float((share * (p * if_positive + (1 - p) * if_negative)).sum())
    second = float((share * (p * np.square(if_positive) + (1 - p) * np.square(if_negative))).sum())
    return value, max(0.0, second - value**2) / scores.total, share * (if_positive - if_negative)


def _losses(metric: str, score: Floats, threshold: float | None) -> tuple[Floats, Floats]:
    """Return the values that the metric averages: for each score with a positive label, then with a negative label.

    A value is the loss of a row; for accuracy, it is 1 for a correct and 0 for a wrong prediction. For multiclass
    models, the label counts as positive if the predicted class is correct.
    """
    if metric == "log_loss":
        return log_losses(score), log_losses(1 - score)
    if metric == "brier":
        return squared_errors(1.0, score), squared_errors(0.0, score)
    if threshold is None:
        return np.ones(len(score)), np.zeros(len(score))
    positive = (score >= threshold).astype(float)
    if (costs := costs_of(metric)) is not None:
        first, second = costs
        if isinstance(first, str) or isinstance(second, str):
            raise UnmeasurableError("the costs are in a column, and estimates support only costs that are numbers")
        return second * (1 - positive), first * positive
    return positive, 1 - positive


def _error(metric: str, scores: Scores, model: LossModel, z: float) -> Interval:
    absolute = metric == "mae"
    means = np.array(model.absolute if absolute else model.squared)
    variances = np.array(model.absolute_variance if absolute else model.squared_variance)
    share = scores.rows / scores.total
    moved = np.zeros(len(means))
    unmoved = float((share * means).sum())
    for place, tail in zip((0, -1), model.tails, strict=False):
        if scores.rows[place]:
            distance = scores.score[place] - tail.center
            # The straight line may fall below 0, but a mean error cannot.
            trend = max(0.0, means[place] + distance * (tail.absolute if absolute else tail.squared))
            ratio = trend / means[place] if means[place] else 1.0
            means[place], variances[place] = trend, variances[place] * ratio**2
            moved[place] = distance**2 * (tail.absolute_variance if absolute else tail.squared_variance)
    value = float((share * means).sum())
    variance = float((share * (variances + np.square(means - value))).sum()) / scores.total
    variance += float((np.square(share) * (variances / np.asarray(model.rows) + moved)).sum())
    known = value
    if model.inputs is not None and scores.shift is not None and value > 0:
        inputs, shift = model.inputs, scores.shift
        change = float(shift @ np.asarray(inputs.absolute if absolute else inputs.squared)) / known
        covariance = np.asarray(inputs.absolute_covariance if absolute else inputs.squared_covariance)
        # Errors are positive, so their changes are multiplied. Changes above a factor of e are added instead, because
        # the product would grow exponentially.
        slope = math.exp(min(change, 1.0))
        value *= slope * max(change, 1.0)
        variance = variance * (value / known) ** 2 + max(0.0, float(shift @ covariance @ shift)) * slope**2
    doubt = _DOUBT * abs(value - unmoved)
    spread = math.hypot(z * math.sqrt(variance), doubt)
    # Mean errors are skewed to the right, and their logarithms are less skewed.
    factor = math.exp(min(spread / value, _WIDEST)) if value > 0 else 1.0
    ends = (value, value / factor, value * factor) if value > 0 else (0.0, 0.0, spread)
    return Interval(*ends) if absolute else Interval(*map(math.sqrt, ends))
