"""Labels that are hard to learn, from the files to the report of monitoring, with a real MLflow: 0.1% positives, and 50 classes."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest
from sklearn.metrics import roc_auc_score

from airflow_mlops.core.base import parse
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.policy.findings import Report
from airflow_mlops.registry.versions import download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.ingest import step as ingest
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.training_set import step as training_set
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.trainers import LightGBMTrainer, SklearnTrainer

pytest.importorskip("lightgbm")
COSTS = {"false_positive": 1, "false_negative": 100}


class Lifecycle:
    """The steps of one model, each of which is run once."""

    def __init__(self, client, store, folder):
        self.client, self.store, self.folder, self.model = client, store, folder, f"m_{uuid.uuid4().hex[:8]}"

    def step(self, module, spec, **fields):
        return module.run(parse(spec, fields, "The step"), StepContext(self.store, f"results/{uuid.uuid4().hex}.json"))

    def ingested(self, name: str, rows: pa.Table, window: str):
        file = self.folder / f"{name}.csv"
        pyarrow.csv.write_csv(rows, file)
        fields = {"name": f"{self.model}_{name}", "files": [str(file)], "window": window, "time_column": "at"}
        return self.step(ingest, IngestSpec, **fields).dataset

    def trained(self, rows: pa.Table, features: list[str], task: str, **fields):
        """Ingest the rows of January, and train a model on them."""
        about = {"name": f"{self.model}_training", "entities": self.ingested("january", rows, "2024-01")}
        about |= {"timestamp": "at", "columns": features, "keys": ["id"], "label": "label", "task": task}
        dataset = self.step(training_set, TrainingSetSpec, **about, split={"method": "time", "test_size": 0.4}).dataset
        return self.step(train, TrainSpec, dataset=dataset, model=self.model, **fields)

    def promoted(self, candidate, gates):
        verdict = self.step(evaluate, EvaluateSpec, candidates=[candidate], gates=gates).verdict
        assert verdict.winner == candidate, verdict.reason
        assert self.step(promote, PromoteSpec, verdict=verdict).promoted
        return verdict

    def monitored(self, rows: pa.Table, **policy) -> tuple[pa.Table, Report]:
        """Score the rows of February, join the labels, and return the predictions and the report."""
        arrived = self.ingested("february", rows.drop_columns(["label"]), "2024-02")
        scored = self.step(score, ScoreSpec, model=self.model, dataset=arrived)
        labels = self.ingested("labels", rows.select(["id", "at", "label"]), "2024-02")
        on = {"on": ["id"], "label": "label", "name": f"{self.model}_outcomes"}
        joined = self.step(join_labels, JoinLabelsSpec, predictions=scored.dataset, labels=labels, **on)
        about = {"model": self.model, "dataset": joined.dataset, "window": "2024-02"}
        self.step(monitor, MonitorSpec, **about, policy={"probe": None, **policy})
        report = Report.model_validate(self.store.read_json(f"reports/{self.model}/2024-02.json"))
        return open_dataset(self.store, joined.dataset).table(), report


@pytest.fixture
def lifecycle(client, store, tmp_path):
    return Lifecycle(client, store, tmp_path)


def frauds(month: int, rows: int = 40_000) -> pa.Table:
    """Payments, one in a thousand of which is a fraud."""
    random = np.random.default_rng(month)
    amount, hour = random.gamma(2, 40, rows), random.integers(0, 24, rows)
    country = np.array(["DE", "FR", None, "XX"], dtype=object)[random.choice(4, rows, p=[0.5, 0.4, 0.05, 0.05])]
    risk = amount / 100 + 2 * (hour < 5) + 3 * (country == "XX") + random.logistic(size=rows) / 8
    start = datetime(2024, month, 1, tzinfo=timezone.utc)
    return pa.table(
        {
            "id": np.arange(rows) + month * rows,
            "at": [start + timedelta(minutes=number) for number in range(rows)],
            "amount": pa.array(amount, mask=random.random(rows) < 0.02),
            "hour": hour,
            "country": country,
            "label": (risk >= np.sort(risk)[-rows // 1000]).astype(int),
        }
    )


def test_a_class_with_one_row_in_a_thousand_from_ingestion_to_monitoring(lifecycle):
    january, february = frauds(1), frauds(2)
    assert january["label"].to_numpy().mean() == february["label"].to_numpy().mean() == 0.001
    trainer = SklearnTrainer("sklearn.linear_model.LogisticRegression")
    features = ["amount", "hour", "country"]
    made = lifecycle.trained(january, features, "binary", trainer=trainer, threshold={"cost": COSTS})
    contract = OnnxModel.load(download(lifecycle.client, made.candidate)).contract
    # A missed fraud costs as much as a hundred false alarms.
    assert 0 < contract.threshold < 0.2
    assert made.metrics["recall"] > 0.7
    gates = [{"metric": "roc_auc", "min": 0.9, "confidence": 0.95}, {"metric": "average_precision", "min": 0.3}]
    fair = {"fairness": "demographic_parity", "sensitive": "country", "max_difference": 0.5}
    verdict = lifecycle.promoted(made.candidate, [*gates, fair])
    bound, _, difference, *_ = verdict.candidates[0].gates
    assert 0.9 < bound.low < bound.measured == made.metrics["roc_auc"]
    odds = {**fair, "fairness": "equalized_odds"}
    found, report = lifecycle.monitored(february, fairness=[fair, odds])
    truth, scores = found["label"].to_numpy(), found["score"].to_numpy()
    assert report.performance.value == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert report.performance.low < report.performance.value < report.performance.high
    assert report.positives.value == pytest.approx((scores >= contract.threshold).mean())
    assert report.verdict.decision == "healthy", report.verdict.reason
    # The rates of the evaluation are in the ledger. No gate measured equalized odds.
    compared, unknown = report.fairness
    assert compared.reference == pytest.approx(difference.measured, abs=1e-12)
    assert compared.reference_low < compared.reference < compared.reference_high
    assert 0 < compared.low < compared.reference_high
    assert unknown.reference is None
    assert any("not compared with the evaluation" in note and "equalized odds" in note for note in report.notes)


CLASSES = [f"{name} {number}" for number in range(10) for name in ("é", "on time", "a,b", "1", 'say "x"')]


def tickets(month: int, rows: int = 6_000) -> pa.Table:
    """Tickets of 50 topics with names that CSV must quote. Some features and labels are missing."""
    random = np.random.default_rng(month)
    shares = 1 / np.arange(2, 52)
    topic = random.choice(50, rows, p=shares / shares.sum())
    start = datetime(2024, month, 1, tzinfo=timezone.utc)
    words = np.array([f"w{number % 25}" for number in topic], dtype=object)
    return pa.table(
        {
            "id": np.arange(rows) + month * rows,
            "at": [start + timedelta(minutes=5 * number) for number in range(rows)],
            "first": pa.array(topic + random.normal(size=rows), mask=random.random(rows) < 0.1),
            "second": pa.array((topic * 7) % 50 + random.normal(size=rows), mask=random.random(rows) < 0.1),
            "word": pa.array(words, mask=random.random(rows) < 0.1),
            "label": pa.array(np.array(CLASSES, dtype=object)[topic], mask=random.random(rows) < 0.03),
        }
    )


def test_fifty_classes_of_text_from_ingestion_to_monitoring(lifecycle):
    january, february = tickets(1), tickets(2)
    trainer = LightGBMTrainer({"num_threads": 1, "num_leaves": 7, "min_data_in_leaf": 5}, rounds=20)
    made = lifecycle.trained(january, ["first", "second", "word"], "multiclass", trainer=trainer)
    contract = OnnxModel.load(download(lifecycle.client, made.candidate)).contract
    assert contract.classes == sorted(CLASSES)
    lifecycle.promoted(made.candidate, [{"metric": "accuracy", "min": 0.7, "confidence": 0.95}])
    found, report = lifecycle.monitored(february)
    known = found.filter(pc.is_valid(found["label"]))
    assert report.labelled == len(known) == 6_000 - february["label"].null_count < 6_000
    right = pc.equal(known["label"], known["prediction"]).to_numpy()
    assert report.performance.metric == "accuracy"
    assert report.performance.value == pytest.approx(right.mean())
    assert report.performance.reference == made.metrics["accuracy"]
    assert report.performance.low < report.performance.value < report.performance.high
    assert report.label.unseen == 0
    assert report.verdict.decision != "retrain", report.verdict.reason
