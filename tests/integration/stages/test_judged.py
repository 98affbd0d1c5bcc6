"""A model of counts is judged by its deviance, without being asked, from training to monitoring."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.registry.versions import download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.refit import step as refit
from airflow_mlops.stages.refit.spec import RefitSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import LightGBMTrainer
from tests.support.deployed import write
from tests.support.training import flights, training_set

POISSON = {"num_threads": 1, "num_leaves": 4, "learning_rate": 0.3}


def counts(rows: int, seed: int) -> pa.Table:
    """Flights with a number of complaints, of which many are 0."""
    table = flights(rows, "regression", seed)
    means = np.exp(pc.min_element_wise(table["late"], 3.0).to_numpy())
    drawn = np.random.default_rng(seed).poisson(means).astype(float)
    return table.set_column(table.schema.get_field_index("late"), "late", pa.array(drawn))


def test_a_model_of_counts_is_judged_by_its_deviance(client, store):
    model = f"counts_{uuid.uuid4().hex[:8]}"

    def context():
        return StepContext(store, uuid.uuid4().hex)

    data = training_set(store, counts(900, 1), counts(500, 2), task="regression")

    def fitted(objective):
        trainer = LightGBMTrainer({**POISSON, "objective": objective}, rounds=20, validation=0)
        return train.run(TrainSpec(dataset=data, model=model, trainer=trainer), context())

    poisson, mean = fitted("poisson"), fitted("regression")
    assert "poisson_deviance" in poisson.metrics
    assert "poisson_deviance" not in mean.metrics
    contract = OnnxModel.load(download(client, poisson.candidate)).contract
    assert (contract.judged_by, contract.metrics) == ("poisson_deviance", poisson.metrics)
    both = evaluate.run(EvaluateSpec(candidates=[poisson.candidate, mean.candidate]), context())
    assert both.verdict.metric == "rmse"
    verdict = evaluate.run(EvaluateSpec(candidates=[poisson.candidate]), context()).verdict
    assert verdict.metric == "poisson_deviance"
    assert verdict.winner == poisson.candidate, verdict.reason
    assert all(gate.gate.startswith("poisson_deviance ") for gate in verdict.candidates[0].gates)
    again = refit.run(RefitSpec(verdict=verdict), context()).verdict
    assert again.refit.passed, again.refit.reason
    assert any("poisson_deviance" in check.explanation for check in again.refit.checks)
    assert OnnxModel.load(download(client, again.winner)).contract.judged_by == "poisson_deviance"
    promote.run(PromoteSpec(verdict=again), context())
    new = counts(600, 3)
    rows = write(store, "to_score", new.drop_columns(["late"]), "2013-04")
    scored = score.run(ScoreSpec(model=model, dataset=rows), context())
    labels = write(store, "labels", new.select(["flight", "late"]), "2013-04")
    asked = {"predictions": scored.dataset, "labels": labels, "on": ["flight"], "label": "late", "name": "outcomes"}
    labelled = join_labels.run(JoinLabelsSpec(**asked), context())
    report = monitor.run(MonitorSpec(model=model, dataset=labelled.dataset, window="2013-04"), context())
    assert report.metric == "poisson_deviance"
    assert report.metrics["poisson_deviance"] == pytest.approx(poisson.metrics["poisson_deviance"], rel=0.2)
