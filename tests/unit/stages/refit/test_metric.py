"""The metric by which a version that was fitted again is compared."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.metrics.two_groups import Group
from airflow_mlops.stages.canary.comparison import compare
from airflow_mlops.stages.canary.evidence import METRICS, Answers
from airflow_mlops.stages.refit.step import _metric

REF = ModelVersionRef(model="m", version=2, run_id="r")


def metric(name: str, task: str = "binary", measured: dict | None = None) -> str:
    contract = ModelContract(
        task=task, label="y", features=[], dataset_name="d", dataset_id="i", metrics=measured or {}
    )
    judged = SimpleNamespace(ref=REF, model=SimpleNamespace(contract=contract))
    return _metric(SimpleNamespace(metric=name), judged).name


@pytest.mark.parametrize("name", [*METRICS, "poisson_deviance", "expected_cost_fp1_fn20"])
def test_every_metric_of_a_canary_is_known(name):
    group = Group(np.array([0.1, 0.2, 0.3]), np.zeros(3, np.int64))
    none = Group(np.empty(0), np.empty(0, np.int64))
    found = compare(Answers(group, none, 3, 3), Answers(group, none, 3, 3), name, 1, 0.95, None)
    (recorded,) = found.metrics
    task = "regression" if name in ("rmse", "mae", "poisson_deviance") else "binary"
    assert metric(recorded, task) == name


def test_a_custom_metric_is_replaced_by_that_of_the_task():
    assert metric("own:cost", "multiclass") == "roc_auc_ovr"
    assert metric("own:cost", "regression", {"rmse": 1.0, "pinball_a0.9": 0.2}) == "pinball_a0.9"


@pytest.mark.parametrize(("name", "task"), [("gini", "binary"), ("expected_cost", "binary"), ("mse", "binary")])
def test_another_metric_is_refused(name, task):
    with pytest.raises(SpecError, match="The verdict on m v2"):
        metric(name, task)
