"""Compute the profile of a model. Monitoring compares later windows of predictions with this profile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL
from airflow_mlops.metrics import weighted
from airflow_mlops.metrics.catalog import COVERAGE, is_custom, realised
from airflow_mlops.metrics.intervals import Interval, proportion
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.realised import Outcomes, UnmeasurableError, measure, outcomes
from airflow_mlops.profiles import multivariate, segments
from airflow_mlops.profiles.calibration import calibrate
from airflow_mlops.profiles.labels import labels
from airflow_mlops.profiles.profile import ModelProfile, WeightedPerformance, profile

if TYPE_CHECKING:
    import numpy.typing as npt


CONFIDENCE = 0.95
"""Confidence of the intervals of the metrics on the held-out rows."""

BIAS = "bias"
"""Name of the mean error among the intervals of the profile."""

POSITIVES = "positive_rate"
"""Name of the share of positive predictions among the intervals of the profile."""

Read = Callable[[], Iterable[pa.RecordBatch]]


def model_profile(
    training: Read,
    held_out: Read | None,
    contract: ModelContract,
    truth: npt.NDArray[Any],
    predictions: Predictions,
    importance: Mapping[str, float],
    weight: npt.NDArray[np.float64] | None = None,
    columns: Mapping[str, npt.NDArray[Any]] | None = None,
) -> ModelProfile:
    """Profile the features of the split part `train`, and the predictions and losses of the held-out split part `test`.

    Memory for the features does not grow with the number of rows.

    :param training: function that streams the features of the split part `train`; called two or three times
    :param held_out: function that streams the features of the held-out rows. ``None`` if no rows are held out; the rows
        of ``training`` are then used instead
    :param contract: model contract (features, label, ML task)
    :param truth: labels of the held-out rows, shape (n,)
    :param predictions: predictions for the same rows
    :param importance: each feature's share of the total permutation importance, from 0 to 1; empty if unknown
    :param weight: the weights of the held-out rows in metrics, shape (n,); ``None`` if each row counts once. With
        weights, the profile contains the performance with and without them, because the rows of a window may have no
        weights
    :param columns: the columns that metrics of the contract name, such as costs, each of shape (n,)
    """
    scores = pa.RecordBatch.from_pydict({"score": pa.array(predictions.score)})
    labelled = pa.RecordBatch.from_pydict(
        {"label": truth, "prediction": predictions.prediction, "score": predictions.score}
    )
    features = profile(training(), [feature.name for feature in contract.features])
    known = outcomes([labelled], contract)
    if columns:
        # Training requires finite labels, so only rows without a finite score are left out.
        finite = np.isfinite(np.asarray(predictions.score, dtype=float))
        known = replace(known, columns={name: values[finite] for name, values in columns.items()})
    cuts = segments.cut(features.columns)
    return ModelProfile(
        features=features,
        scores=profile([scores]),
        calibration=calibrate(contract.task, known, _features(contract, (held_out or training)())),
        labels=profile(labels([labelled], contract), [LABEL]),
        multivariate=multivariate.learn(training(), features.columns, held_out()) if held_out is not None else None,
        segments=segments.held_out(cuts, contract, (held_out or training)(), known),
        importance=dict(importance),
        intervals=_intervals(contract, known),
        weighted=None if weight is None else _weighted(contract, cuts, (held_out or training)(), known, weight),
    )


def _weighted(
    contract: ModelContract,
    cuts: Mapping[str, segments.Cut],
    batches: Iterable[pa.RecordBatch],
    known: Outcomes,
    weight: npt.NDArray[np.float64],
) -> WeightedPerformance:
    """Measure performance on the held-out rows with their weights.

    :param contract: model contract (features, label, ML task)
    :param cuts: the segments by feature name
    :param batches: features of the held-out rows
    :param known: labelled predictions of these rows
    :param weight: weights of these rows, shape (n,)
    """
    own = known.weighted(weight)
    found = segments.held_out(cuts, contract, segments.measured(batches, weight > 0), own)
    return WeightedPerformance(segments=found, intervals=_intervals(contract, own))


def _features(contract: ModelContract, batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
    names = [feature.name for feature in contract.features]
    return (batch.select(names) for batch in batches)


def _intervals(contract: ModelContract, known: Outcomes) -> dict[str, Interval]:
    """Return the intervals of all metrics of the model that monitoring can measure, by metric.

    They include the mean error (:data:`BIAS`) of binary models and regression models, and the share of positive
    predictions (:data:`POSITIVES`) of binary models if each row counts once. Intervals that are not finite are left
    out.

    :param contract: model contract with the ML task and the metrics
    :param known: labelled predictions of the held-out rows
    """
    found = {}
    for metric in contract.metrics:
        if is_custom(metric) or metric == COVERAGE or realised(contract.task, [metric]):
            with suppress(UnmeasurableError):
                found[metric] = measure(metric, known, CONFIDENCE, contract.task)
    if contract.task != "multiclass" and known.rows:
        with np.errstate(over="ignore", invalid="ignore"):
            z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
            found[BIAS] = weighted.interval(known.score - known.truth, known.weight, z)
    # Monitoring computes the share of positive predictions in a window without weights, so an interval with weights is
    # not needed.
    if contract.task == "binary" and known.rows and known.weight is None:
        share = float(np.mean(known.score >= contract.threshold))
        found[POSITIVES] = proportion(share, known.rows, NormalDist().inv_cdf(0.5 + CONFIDENCE / 2))
    return {metric: item for metric, item in found.items() if math.isfinite(item.low) and math.isfinite(item.high)}
