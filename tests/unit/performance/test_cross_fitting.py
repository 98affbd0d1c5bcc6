"""The value of a metric from the losses of rows."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_mlops.core.contract import Task
from airflow_mlops.metrics.catalog import REALISED
from airflow_mlops.metrics.realised import Outcomes, losses, measure
from airflow_mlops.performance.cross_fitting import value_of


def labelled(task: Task) -> Outcomes:
    random = np.random.default_rng(0)
    score = random.uniform(0.05, 0.95, 400)
    if task == "regression":
        return Outcomes(score + random.exponential(0.2, 400), score, np.zeros(400, bool))
    if task == "multiclass":
        codes = np.array([random.integers(0, 3, 400), random.integers(0, 3, 400)])
        codes[1, :250] = codes[0, :250]
        right = codes[0] == codes[1]
        return Outcomes(right, np.zeros(400), right, codes=codes)
    truth = random.random(400) < score
    return Outcomes(truth, score, (score > 0.4) == truth)


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        *((task, metric) for task, metrics in REALISED.items() for metric in metrics),
        ("binary", "expected_cost_fp1_fn20"),
        ("regression", "poisson_deviance"),
    ],
)
def test_the_value_from_the_losses_is_the_metric(task, metric):
    rows = labelled(task)
    assert value_of(metric, losses(metric, rows)) == pytest.approx(measure(metric, rows, 0.95, task).value, abs=1e-9)
