"""A model of a quantile is judged by its pinball loss, by default, from training to the verdict."""

from __future__ import annotations

import uuid

import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import FunctionTrainer, LightGBMTrainer, XGBoostTrainer
from tests.support.training import training_set

GAP = {"metric": "quantile_coverage_gap", "alpha": 0.9}


OWN = """
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline


def fit(X, y, *, params, seed):
    numbers = ColumnTransformer([("numbers", "passthrough", ["distance", "hour"])])
    return make_pipeline(numbers, HistGradientBoostingRegressor(loss="quantile", quantile=0.9, max_iter=8)).fit(X, y)
"""


def test_quantile_models_are_judged_by_their_own_loss_or_not_at_all(client, store, tmp_path, monkeypatch):
    model = f"late_{uuid.uuid4().hex[:8]}"
    data = training_set(store, task="regression")

    def fitted(trainer, *metrics):
        spec = TrainSpec(dataset=data, model=model, trainer=trainer, metrics=[*metrics])
        return train.run(spec, StepContext(store, uuid.uuid4().hex))

    quantile = {"objective": "quantile", "alpha": 0.9, "num_threads": 1, "num_leaves": 4}
    upper = fitted(LightGBMTrainer(quantile, rounds=8), GAP)
    lower = fitted(XGBoostTrainer({"objective": "reg:quantileerror", "quantile_alpha": 0.1, "max_depth": 2}, rounds=8))
    # The objective of the user's own code is unknown, so the author declares the quantile.
    (tmp_path / "own_quantile.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = fitted(FunctionTrainer("own_quantile:fit"), GAP)
    assert "pinball_a0.9" in own.metrics
    assert {"pinball_a0.9", "rmse"} <= {*upper.metrics}
    assert "pinball_a0.1" not in upper.metrics
    gates = [{"metric": "pinball", "alpha": 0.9, "max": 100}, {**GAP, "max": 0.1}, {"champion": "ignore"}]

    def judged(*candidates, **fields):
        spec = EvaluateSpec(candidates=[item.candidate for item in candidates], gates=gates, **fields)
        return evaluate.run(spec, StepContext(store, uuid.uuid4().hex))

    verdict = judged(upper, own).verdict
    assert verdict.metric == "pinball_a0.9"
    # The small tree predicts the mean, so it is not a baseline for a quantile.
    assert "rmse" in verdict.tree_metrics
    assert not any(name.startswith(("pinball", "quantile")) for name in verdict.tree_metrics)
    assert "rmse" not in upper.summary
    with pytest.raises(SpecError, match=r"pinball_a0\.1, pinball_a0\.9"):
        judged(upper, lower)
    best = judged(upper, lower, metric={"metric": "pinball", "alpha": 0.9})
    assert best.verdict.winner == upper.candidate
    # The model of the 10% quantile does not cover 90% of the labels, so the gate refuses it.
    high, low = (
        {gate.gate: gate for gate in item.gates}["quantile_coverage_gap_a0.9 at most 0.1"]
        for item in best.verdict.candidates
    )
    assert (high.passed, low.passed) == (True, False)
    assert high.measured == upper.metrics["quantile_coverage_gap_a0.9"]
    assert low.measured == pytest.approx(0.8, abs=0.1)
