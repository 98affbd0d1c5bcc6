"""Measure the rate of positives: how often a binary model predicts its positive class."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.metrics.intervals import Interval, proportion
from airflow_mlops.metrics.realised import scores
from airflow_mlops.performance.findings import PositiveRate
from airflow_mlops.profiles.training import POSITIVES
from airflow_mlops.stages.monitor import clusters
from airflow_mlops.stages.monitor.check import Check


def positive_rate(check: Check, reference: TrainingReference) -> PositiveRate | None:
    """Measure the share of the predictions that name the positive class.

    The share depends on the scores and on the decision threshold. It shows the effect of score drift on decisions. It
    raises no alarm of its own, because the drift test of the scores raises one, with a stated false-alarm rate.

    :param reference: the training reference of the version that made the predictions
    :return: ``None`` if the model is not binary, or if no score is a finite number
    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    contract = reference.contract
    if contract.task != "binary":
        return None
    rows = positives = 0
    for batch in scores(check.batches(["score"]), labelled=False):
        finite = batch[np.isfinite(batch)]
        rows += len(finite)
        positives += int(np.count_nonzero(finite >= contract.threshold))
    if not rows:
        return None
    z = NormalDist().inv_cdf(0.5 + check.policy.confidence / 2)
    design = clusters.of_scores(check)
    factor = 1.0 if design is None else design.factor(z)
    # With a single cluster, the share in other clusters is unknown.
    independent = rows / factor**2 if math.isfinite(factor) else 0.0
    found = proportion(positives / rows, independent, z) if independent else Interval(positives / rows, 0.0, 1.0)
    trained = reference.profile.intervals.get(POSITIVES)
    return PositiveRate(
        value=found.value,
        low=found.low,
        high=found.high,
        reference=trained.value if trained is not None else None,
        rows=rows,
        threshold=contract.threshold,
        positive=contract.positive,
    )
