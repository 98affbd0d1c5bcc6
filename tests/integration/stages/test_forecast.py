"""A hundred series from ingestion to monitoring, with a real MLflow."""

from __future__ import annotations

import uuid
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.policy.findings import Report
from airflow_mlops.registry.records.verdict import Verdict
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.forecast_rows import step as forecast_rows
from airflow_mlops.stages.forecast_rows.spec import ForecastRowsSpec
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
from airflow_mlops.trainers import LightGBMTrainer

pytest.importorskip("lightgbm")
START, HORIZON = date(2024, 1, 1), 7


def sales() -> pa.Table:
    """Daily sales of 100 shops in January to April, with a weekly season, some gaps, and some shops that open later."""
    random = np.random.default_rng(0)
    days, shops = np.arange(121), np.arange(100)
    level, shape = random.gamma(3, 10, (100, 1)), random.uniform(0.6, 1.4, 7)
    units = random.poisson(level * shape[days % 7] * (1 + days / 1000))
    kept = (random.random(units.shape) > 0.02) & (days >= np.where(shops % 10 == 0, 30, 0)[:, None])
    shop, day = np.nonzero(kept)
    dates = [START + timedelta(days=int(each)) for each in day]
    return pa.table({"shop": [f"shop {each}" for each in shop], "day": dates, "units": units[kept]})


@pytest.mark.usefixtures("no_pickles")
def test_100_series_from_ingestion_to_monitoring(client, store, tmp_path):
    model, table = f"sales_{uuid.uuid4().hex[:8]}", sales()

    def step(module, spec, fields):
        return module.run(parse(spec, fields, "The step"), StepContext(store, f"results/{uuid.uuid4().hex}.json"))

    name = f"{model}_values"
    for month in (1, 2, 3, 4):
        chosen = pa.array([day.month == month for day in table["day"].to_pylist()])
        pq.write_table(table.filter(chosen), file := tmp_path / f"{month}.parquet")
        step(ingest, IngestSpec, {"name": name, "files": [str(file)], "window": f"2024-0{month}", "time_column": "day"})

    rows = {
        "name": f"{model}_rows", "window": {"kind": "expanding", "since": "2024-01-01"}, "series": "shop", "time": "day",
        "value": "units", "every": "P1D", "horizon": HORIZON, "season": 7, "lags": [1, 7], "rolling": [14],
    }  # fmt: skip
    run = {"name": name, "window": "2024-03"}
    built = step(forecast_rows, ForecastRowsSpec, {**rows, "entities": run, "stride": 4})
    assert built.series == 100
    split = {"method": "time", "test_size": "21D", "windows": 3}
    fields = {"name": f"{model}_training", "entities": built.dataset, "timestamp": "origin", "keys": ["shop", "day"]}
    fields |= {"columns": built.features, "label": "units", "task": "regression", "split": split}
    dataset = step(training_set, TrainingSetSpec, fields).dataset

    trainer = LightGBMTrainer(rounds=60, params={"num_leaves": 15})
    made = step(train, TrainSpec, {"dataset": dataset, "model": model, "trainer": trainer})
    gates = [{"metric": "mase", "max": 1.0, "confidence": 0.95}, {"metric": "smape", "better_than_baseline_by": "5%"}]
    evaluated = step(
        evaluate, EvaluateSpec, {"candidates": [made.candidate], "gates": gates, "groups": "shop", "metric": "mase"}
    )
    verdict: Verdict = evaluated.verdict
    assert verdict.winner == made.candidate, verdict.reason
    test = open_dataset(store, dataset).table("test")
    truth, naive, scale = (test[column].to_numpy() for column in ("units", "seasonal_naive", "mase_scale"))
    assert verdict.baseline_metrics["mase"] == pytest.approx(np.mean((np.abs(truth - naive) / scale)[scale > 0]))
    assert verdict.baseline_metrics["mae"] == pytest.approx(np.abs(truth - naive).mean())
    assert made.metrics["mase"] < verdict.baseline_metrics["mase"]
    bound = verdict.candidates[0].gates[0]
    assert bound.low < bound.measured < bound.high < 1
    assert step(promote, PromoteSpec, {"verdict": verdict}).promoted

    newest = step(
        forecast_rows, ForecastRowsSpec, {**rows, "name": f"{model}_scoring", "entities": run, "origins": "newest"}
    )
    assert (newest.rows, newest.series, newest.origin) == (700, 100, "2024-03-31")
    scored = step(score, ScoreSpec, {"model": model, "dataset": newest.dataset})
    fields = {"predictions": scored.dataset, "labels": {"name": name, "window": "2024-04"}, "on": ["shop", "day"]}
    joined = step(join_labels, JoinLabelsSpec, {**fields, "label": "units", "name": f"{model}_outcomes"})
    assert joined.coverage == pytest.approx(0.98, abs=0.02)
    policy = {"metric": "mase", "max": 1.0, "probe": None, "min_labels": 100, "groups": "shop"}
    step(monitor, MonitorSpec, {"model": model, "dataset": joined.dataset, "policy": policy})
    report = Report.model_validate(store.read_json(f"reports/{model}/2024-03.json"))
    found = report.performance
    assert found is not None, report.unmeasured
    actual = {(row["shop"], row["day"]): row["units"] for row in table.to_pylist()}
    errors = [
        abs(actual[row["shop"], row["day"]] - row["prediction"]) / row["mase_scale"]
        for row in open_dataset(store, scored.dataset).table().to_pylist()
        if (row["shop"], row["day"]) in actual and row["mase_scale"] > 0
    ]
    assert found.value == pytest.approx(np.mean(errors))
    assert found.low < found.value < found.high
    assert found.reference == pytest.approx(made.metrics["mase"])
