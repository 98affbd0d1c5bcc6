"""Performance without labels: what the metric should be, from the scores alone, with its own error.

Classes: confidence-based performance estimation (CBPE), as published by NannyML, "Estimation of Performance of the
Monitored Model". Each row counts as positive to the extent of its calibrated probability and as negative to the rest.
Regression: direct loss estimation (DLE), from the same source, with a loss model that knows the prediction alone.

The interval is for the metric that labels will show. Its variance adds up

- what rows and labels vary by: that of a mean over random rows with random labels, and for the area under the ROC curve
  that of DeLong, DeLong and Clarke-Pearson (1988) with probabilities in the place of labels;
- what the calibration is uncertain by: its covariance, through the metric's derivative (the delta method).

All rests on the score meaning what it meant on the held-out part. New inputs leave that as it is as far as the model is
right about them; a new relation between inputs and outcome does not, and the labels will then contradict the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from airflow_mlops.metrics.losses import log_losses, squared_errors
from airflow_mlops.metrics.realised import Interval, UnmeasurableError
from airflow_mlops.profiles.calibration import Floats, LossModel, ProbabilityCalibration


@dataclass(frozen=True)
class Scores:
    """The scores of a window, grouped: memory does not grow with the rows.

    :param rows: rows a group, shape (k,)
    :param score: their mean score, ascending, shape (k,); NaN for a group without rows
    """

    rows: Floats
    score: Floats

    @property
    def total(self) -> int:
        return int(self.rows.sum())


def collect(batches: Iterable[Floats], calibration: ProbabilityCalibration | LossModel) -> Scores:
    """Group scores as the calibration tells them apart; what is not finite is left out.

    :param batches: scores, each of shape (n,)
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
    """Estimate ``metric``, one of :data:`airflow_mlops.metrics.catalog.REALISED`.

    :param confidence: of the interval for what labels will show, such as 0.95
    :param threshold: of a binary task: a score at or above it predicts the positive class; ``None`` for a multiclass
        task, where the score is the predicted class's own
    :raises UnmeasurableError: there are no scores, or hardly a row is expected to be of one of the classes
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
    most = math.inf if metric == "log_loss" else 1.0
    return Interval(value, max(0.0, value - spread), min(most, value + spread))


def _area(scores: Scores, p: Floats) -> tuple[float, float, Floats]:
    """The expected area under the ROC curve, its variance, and its derivative by each group's probability."""
    positive, negative = scores.rows * p, scores.rows * (1 - p)
    positives, negatives = positive.sum(), negative.sum()
    if min(positives, negatives) < 2:
        rare = "positive" if positives < negatives else "negative"
        raise UnmeasurableError(f"hardly a row is expected to be of the {rare} class")
    below = np.cumsum(negative) - negative / 2
    above = positives - np.cumsum(positive) + positive / 2
    # A row is not compared with itself.
    own = float((positive * (1 - p)).sum())
    value = float(((positive * below).sum() - own / 2) / (positives * negatives - own))
    variance = (positive * (below / negatives - value) ** 2).sum() / positives**2
    variance += (negative * (above / positives - value) ** 2).sum() / negatives**2
    slope = scores.rows * (below - above - value * (negatives - positives)) / (positives * negatives)
    return value, float(variance), slope


def _mean_loss(metric: str, scores: Scores, p: Floats, threshold: float | None) -> tuple[float, float, Floats]:
    """The expected mean, its variance, and its derivative by each group's probability."""
    share = scores.rows / scores.total
    if_so, if_not = _losses(metric, scores.score, threshold)
    value = float((share * (p * if_so + (1 - p) * if_not)).sum())
    second = float((share * (p * np.square(if_so) + (1 - p) * np.square(if_not))).sum())
    return value, max(0.0, second - value**2) / scores.total, share * (if_so - if_not)


def _losses(metric: str, score: Floats, threshold: float | None) -> tuple[Floats, Floats]:
    """What a row adds to the mean if its outcome is the one in question, and if it is not."""
    if metric == "log_loss":
        return log_losses(score), log_losses(1 - score)
    if metric == "brier":
        return squared_errors(1.0, score), squared_errors(0.0, score)
    if threshold is None:
        return np.ones(len(score)), np.zeros(len(score))
    positive = (score >= threshold).astype(float)
    return positive, 1 - positive


def _error(metric: str, scores: Scores, model: LossModel, z: float) -> Interval:
    absolute = metric == "mae"
    means = np.asarray(model.absolute if absolute else model.squared)
    variances = np.asarray(model.absolute_variance if absolute else model.squared_variance)
    share = scores.rows / scores.total
    value = float((share * means).sum())
    of_rows = float((share * (variances + np.square(means - value))).sum()) / scores.total
    of_model = float((np.square(share) * variances / np.asarray(model.rows)).sum())
    spread = z * math.sqrt(of_rows + of_model)
    ends = (value, max(0.0, value - spread), value + spread)
    return Interval(*ends) if absolute else Interval(*map(math.sqrt, ends))
