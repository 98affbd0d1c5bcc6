"""Compare a version that was fitted again on all rows with the version that passed the gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.numbers import rounded
from airflow_mlops.metrics.catalog import Metric
from airflow_mlops.metrics.comparison import compare
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.values import undefined
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Largest mean difference of the predictions. The unit is a probability or, for a regression, four standard deviations
# of the labels, which is the unit of the comparison of a model with its ONNX export.
LIMIT, DEVIATIONS = 0.1, 4
# Number of training rows whose predictions are compared.
ROWS, SEED = 20_000, 0
CONFIDENCE = 0.95


def same_signature(judged: ModelContract, refitted: ModelContract) -> GateResult:
    """Check that the two versions have the same features, label, ML task, classes and positive class."""
    names = ("features", "label", "task", "classes", "positive")
    differing = [name for name in names if getattr(judged, name) != getattr(refitted, name)]
    explanation = "Features, label, ML task and classes are the same."
    if differing:
        explanation = f"The two versions have different {' and '.join(differing)}."
        if differing == ["classes"]:
            new = [value for value in refitted.classes if value not in judged.classes]
            explanation = f"The held-out rows have the classes {', '.join(map(repr, new))}, which the judged version does not know."
    return GateResult(gate="same signature", measured=None, asked=None, passed=not differing, explanation=explanation)


def stable_predictions(
    judged: Predictions, refitted: Predictions, deviation: float | None, of: str = "label"
) -> GateResult:
    """Check that the two versions predict almost the same for rows to which both were fitted.

    For a classifier, the difference of a row is the largest absolute difference between the probabilities of a class.
    For a regression, it is the absolute difference of the values, divided by four standard deviations of the labels or,
    for a ranking, of the scores. The mean difference of all rows must be at most :data:`LIMIT`.

    :param judged: predictions of the version that passed the gates
    :param refitted: predictions of the refitted version for the same rows
    :param deviation: standard deviation of the training labels (regression) or of the scores of ``judged`` (ranking);
        otherwise ``None``
    :param of: the values of which ``deviation`` is the standard deviation, for the explanation
    """
    found = float(_differences(judged, refitted, deviation).mean())
    unit = "probability" if deviation is None else f"share of four standard deviations of the {of}"
    rows = len(judged.score)
    return GateResult(
        gate="stable predictions",
        measured=found,
        asked=LIMIT,
        passed=found <= LIMIT,
        explanation=f"Predictions for {rows:,} training rows differ by {found:.4g} on average (limit: {LIMIT:g}, {unit}).",
        rows=rows,
    )


def _differences(judged: Predictions, refitted: Predictions, deviation: float | None) -> NDArray[np.float64]:
    if deviation is not None:
        scale = DEVIATIONS * deviation
        difference = np.abs(judged.score - refitted.score)
        return np.asarray(difference / scale if scale else np.where(difference > 0, np.inf, 0.0))
    assert judged.probabilities is not None
    assert refitted.probabilities is not None
    return np.asarray(np.abs(judged.probabilities - refitted.probabilities).max(axis=1))


def not_worse(metric: Metric, judged: Rows, refitted: Rows) -> GateResult:
    """Check that the refitted version is not significantly worse than the judged version on the held-out rows.

    The refitted version has seen these rows, so it should be better. The check fails if the one-sided upper 95%
    confidence bound of the improvement is below 0, or if the metric is a deviance that is undefined for a prediction.
    """
    name = f"{metric.name} not worse on the held-out rows"
    if (wrong := undefined(metric.name, refitted)) is not None:
        explanation = f"{metric.name} cannot be computed, because {wrong}."
        return GateResult(gate=name, measured=None, asked=None, passed=False, explanation=explanation)
    (found,) = compare(metric, refitted, judged, Resampling(len(judged)))
    high = found.improvement.upper(CONFIDENCE)
    # A metric that is undefined on these rows has no interval.
    passed = not high < 0
    return GateResult(
        gate=name,
        measured=found.candidate,
        asked=found.champion,
        passed=passed,
        explanation=f"{metric.name} on the held-out rows, which are training rows of the refit, is "
        f"{rounded(found.candidate)}. The judged version has {rounded(found.champion)}, so the refit is "
        f"{'not ' if passed else ''}significantly worse.",
        improvement=found.improvement.value,
        high=high,
        confidence=CONFIDENCE,
        rows=found.rows,
    )
