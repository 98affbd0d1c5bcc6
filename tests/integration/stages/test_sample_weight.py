"""Weights of rows from the training through gates, model card, refit and reproduction to monitoring, with a real MLflow."""

from __future__ import annotations

import json
import tempfile
import uuid
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.policy.findings import Report
from airflow_mlops.registry.names import TRAINING_FILE
from airflow_mlops.registry.versions import download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.monitor.trainings import training_of
from airflow_mlops.stages.refit import step as refit
from airflow_mlops.stages.refit.spec import RefitSpec
from airflow_mlops.stages.reproduce import step as reproduce
from airflow_mlops.stages.reproduce.spec import ReproduceSpec
from airflow_mlops.stages.score import step as score_step
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import SklearnTrainer
from tests.support.deployed import write
from tests.support.training import FEATURES, flights, training_set

LOGISTIC = SklearnTrainer("sklearn.linear_model.LogisticRegression", {"max_iter": 1_000})
GATES = [
    {"metric": "roc_auc", "min": 0.5, "confidence": 0.95},
    {"metric": "log_loss", "slices": ["carrier"], "not_worse_than_champion_by": 0.5, "discover": True},
    {"fairness": "demographic_parity", "sensitive": "carrier", "max_difference": 1},
    {"champion": "ignore"},
]


def weighted(rows: int, seed: int) -> pa.Table:
    weight = np.random.default_rng(seed).lognormal(0, 1.5, rows)
    return flights(rows, seed=seed).append_column("weight", pa.array(weight))


def test_weights_from_the_training_to_monitoring(client, store):
    dataset, model = training_set(store, weighted(600, 1), weighted(300, 2)), f"late_{uuid.uuid4().hex[:8]}"

    def context():
        return StepContext(store, f"results/{uuid.uuid4().hex}.json")

    def fit(column, **fields):
        spec = TrainSpec(dataset=dataset, model=model, trainer=LOGISTIC, sample_weight=column, **fields)
        return train.run(spec, context()).candidate

    version, without = fit("weight", class_weight={1: 2}), fit(None)
    contract = OnnxModel.load(download(client, version)).contract
    gates = [gate for gate in GATES if "slices" not in gate]
    result = evaluate.run(EvaluateSpec(candidates=[version], gates=gates), context())
    verdict = result.verdict
    assert verdict.winner == version
    assert verdict.sample_weight == contract.sample_weight == "weight"
    assert "All models were measured with the weights in column 'weight' of these rows." in verdict.policy

    rows = open_dataset(store, dataset).table("test")
    score = OnnxModel.load(download(client, version)).predict(rows).score
    late, weight = rows["late"].to_numpy(), rows["weight"].to_numpy()
    found = verdict.candidates[0].metrics
    assert found["roc_auc"] == pytest.approx(roc_auc_score(late, score, sample_weight=weight), abs=1e-12)
    assert found["log_loss"] == pytest.approx(log_loss(late, score, sample_weight=weight), abs=1e-12)
    assert found["roc_auc"] != pytest.approx(roc_auc_score(late, score), abs=1e-4)
    assert contract.metrics == pytest.approx(found, abs=1e-9)
    share = np.average(late, weights=weight)
    assert verdict.baseline_metrics["brier"] == pytest.approx(share * (1 - share))

    run = client.get_run(version.run_id).data
    assert run.params["sample_weight"] == "weight"
    assert "sample_weight" not in client.get_run(without.run_id).data.params
    with tempfile.TemporaryDirectory() as folder:
        card = Path(client.download_artifacts(version.run_id, "evaluation/model_card.md", folder)).read_text()
    assert "| Weights of rows | column weight of the training set |" in card
    assert "with the weights in column weight." in card
    assert "| Weights of classes in the fit | 1: 2.0 |" in card

    # Several versions are measured with one column of weights, and the champion with that of the candidates.
    with pytest.raises(SpecError, match=r"v1 with the weights in column 'weight' and .*v2 without weights"):
        evaluate.run(EvaluateSpec(candidates=[version, without], gates=gates), context())
    client.set_registered_model_alias(model, "champion", str(without.version))
    compared = evaluate.run(EvaluateSpec(candidates=[version], gates=GATES[:2]), context()).verdict
    assert compared.champion == without
    other = OnnxModel.load(download(client, without)).predict(rows).score
    assert compared.champion_metrics["roc_auc"] == pytest.approx(
        roc_auc_score(late, other, sample_weight=weight), abs=1e-12
    )

    _check_production(client, store, version, OnnxModel.load(download(client, version)), context, found["roc_auc"])

    # A refit and a reproduction use the recorded weights. Challengers cannot, so they are refused.
    again = refit.run(RefitSpec(verdict=verdict), context()).verdict.winner
    assert again != version
    with tempfile.TemporaryDirectory() as folder:
        recorded = json.loads(
            Path(
                mlflow.artifacts.download_artifacts(run_id=again.run_id, artifact_path=TRAINING_FILE, dst_path=folder)
            ).read_text()
        )
    assert recorded["sample_weight"] == OnnxModel.load(download(client, again)).contract.sample_weight == "weight"
    assert reproduce.run(ReproduceSpec(model=model, version=again.version), context()).reproduced
    with pytest.raises(UnmeasurableError, match="trained with the weights in column 'weight'"):
        training_of(version, None, client)
    assert training_of(without, None, client) is not None


def _check_production(client, store, version, model, context, trained):
    """Score a window with the version, join labels, and check the report: with the weights of the scored rows, and of the labels."""
    client.set_registered_model_alias(version.model, "champion", str(version.version))
    rows, details = weighted(400, 3), {"keys": ["flight"], "timestamp": None, "features": FEATURES}
    late, weight, score = rows["late"].to_numpy(), rows["weight"].to_numpy(), model.predict(rows).score
    expected = roc_auc_score(late, score, sample_weight=weight)

    def report(scored, **fields):
        """The performance in the report on ``scored``."""
        name = uuid.uuid4().hex[:8]
        window, labels = write(store, f"s{name}", scored, "2024-05", details), write(store, f"l{name}", rows, "2024-05")
        spec = ScoreSpec(model=version.model, dataset=window, name=f"p{name}")
        predictions = score_step.run(spec, context()).dataset
        spec = JoinLabelsSpec(
            predictions=predictions, labels=labels, on=["flight"], label="late", name=f"o{name}", **fields
        )
        outcomes = join_labels.run(spec, context()).dataset
        policy = {"probe": None, "min_labels": 100}
        monitor.run(MonitorSpec(model=version.model, dataset=outcomes, policy=policy), context())
        return Report.model_validate(store.read_json(f"reports/{version.model}/2024-05.json"))

    unlabelled = rows.drop_columns(["late"])
    for found in (
        report(unlabelled),
        report(unlabelled.drop_columns(["weight"]), sample_weight="weight"),
    ):
        measured = found.performance
        assert (measured.weight, measured.value) == ("weight", pytest.approx(expected, abs=1e-9))
        assert measured.reference == pytest.approx(trained, abs=1e-9)
        assert measured.reference_low < trained < measured.reference_high
        assert found.loss.value == pytest.approx(1 - expected, abs=1e-6)
        assert any("weighted by column 'weight'" in note for note in found.notes)
