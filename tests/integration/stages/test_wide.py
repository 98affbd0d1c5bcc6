"""A table of 2,000 columns, from the files to the report of monitoring, with a real MLflow."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.models.contract_file import PROFILE_FILE
from airflow_mlops.models.onnx.scorer import OnnxModel
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
from airflow_mlops.stages.training_set import step as build
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.validate import step as validate
from airflow_mlops.stages.validate.spec import ValidateSpec
from airflow_mlops.trainers import LightGBMTrainer

FEATURES = [f"sensor_{number:04d}" for number in range(2_000)]
DECISIVE, MOVED = FEATURES[:4], FEATURES[1_990:]
ROWS = 1_000


def readings(month: int, moved: float = 0.0) -> pa.Table:
    """Readings of 2,000 sensors, of which the first 4 decide whether a part fails. The last 10 may have moved."""
    random = np.random.default_rng(month)
    values = random.normal(size=(ROWS, len(FEATURES))).round(4)
    values[:, -len(MOVED) :] += moved
    start = datetime(2024, month, 1, tzinfo=timezone.utc)
    return pa.table(
        {
            "part": np.arange(ROWS) + month * ROWS,
            "at": pa.array([start + timedelta(minutes=40 * number) for number in range(ROWS)]),
            **dict(zip(FEATURES, values.T, strict=True)),
            "fails": (2 * values[:, : len(DECISIVE)].sum(axis=1) + random.logistic(size=ROWS) > 0).astype(int),
        }
    )


@pytest.mark.usefixtures("no_pickles")
@pytest.mark.slow
def test_a_table_of_2_000_columns_from_ingestion_to_monitoring(client, store, tmp_path):
    model = f"parts_{uuid.uuid4().hex[:8]}"

    def context():
        return StepContext(store, uuid.uuid4().hex, provenance=Provenance(dag_id="d", task_id="t"))

    def ingested(name, rows, window):
        file = tmp_path / f"{name}.csv"
        pyarrow.csv.write_csv(rows, file)
        return ingest.run(IngestSpec(name=name, files=[str(file)], window=window, time_column="at"), context()).dataset

    january, february = readings(1), readings(2, moved=1.0)
    raw = ingested("readings", january, "2024-01")
    suite = {
        "name": "readings",
        "expectations": [
            {"type": "expect_table_column_count_to_equal", "kwargs": {"value": len(FEATURES) + 3}},
            {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "fails", "value_set": [0, 1]}},
            *(
                {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": name}}
                for name in ("part", *FEATURES[:2], FEATURES[-1])
            ),
        ],
    }
    assert validate.run(ValidateSpec(dataset=raw, suite=suite), context()).success
    spec = TrainingSetSpec(
        name="parts_training",
        entities={"name": "readings", "window": "2024-01"},
        timestamp="at",
        columns=FEATURES,
        keys=["part"],
        label="fails",
        task="binary",
        split={"method": "time", "test_size": 0.3},
    )
    dataset = build.run(spec, context()).dataset
    trainer = LightGBMTrainer({"num_threads": 1, "num_leaves": 4, "max_bin": 31}, rounds=30, validation=0)
    made = train.run(TrainSpec(dataset=dataset, model=model, trainer=trainer), context())
    assert client.get_run(made.run_id).data.metrics["onnx_max_difference"] < 1e-5
    folder = download(client, made.candidate)
    importance = json.loads((folder / PROFILE_FILE).read_bytes())["importance"]
    assert len(importance) == len(FEATURES)
    assert {*sorted(importance, key=importance.__getitem__)[-len(DECISIVE) :]} == {*DECISIVE}
    gates = [{"metric": "roc_auc", "min": 0.6}]
    verdict = evaluate.run(EvaluateSpec(candidates=[made.candidate], gates=gates), context()).verdict
    assert verdict.winner == made.candidate, verdict.reason
    assert promote.run(PromoteSpec(verdict=verdict), context()).promoted
    arrived = ingested("new_readings", february.drop_columns(["fails"]), "2024-02")
    scored = score.run(ScoreSpec(model=model, dataset=arrived), context())
    predictions = open_dataset(store, scored.dataset).table(columns=["score"])["score"].to_numpy()
    assert (predictions == OnnxModel.load(folder).predict(february).score).all()
    results = ingested("results", february.select(["part", "at", "fails"]), "2024-02")
    spec = JoinLabelsSpec(predictions=scored.dataset, labels=results, on=["part"], label="fails", name="outcomes")
    labelled = join_labels.run(spec, context())
    spec = MonitorSpec(model=model, dataset=labelled.dataset, window="2024-02")
    report = monitor.run(spec, context())
    assert report.metrics | {"rows": ROWS, "labelled": ROWS} == report.metrics
    # Of 1,990 features that did not move, the false-alarm rate allows a few.
    assert 0 <= report.metrics["features_drifted"] - len(MOVED) <= 2
    assert report.most_drifted in MOVED
    assert all(name in report.reason for name in MOVED)
    assert report.metric == "roc_auc"
    assert report.metrics["roc_auc"] == pytest.approx(made.metrics["roc_auc"], abs=0.05)
