"""Boosted trees from training to monitoring, with a real MLflow: reproduction and warm start."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.models.inputs import frame
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
from airflow_mlops.stages.reproduce import step as reproduce
from airflow_mlops.stages.reproduce.spec import ReproduceSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import CatBoostTrainer, LightGBMTrainer, XGBoostTrainer
from tests.support.deployed import write
from tests.support.training import FEATURES, flights, training_set

QUICK = {"rounds": 30, "checkpoint_every": 10}
TRAINERS = {
    "xgboost": XGBoostTrainer({"nthread": 1, "max_depth": 3}, **QUICK),
    "lightgbm": LightGBMTrainer({"num_threads": 1, "num_leaves": 8}, **QUICK),
    "catboost": CatBoostTrainer({"thread_count": 1, "depth": 3}, **QUICK),
}


@pytest.fixture
def model():
    return f"late_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def context(client, store):
    return lambda: StepContext(store, uuid.uuid4().hex, provenance=Provenance(dag_id="d", task_id="t"))


def wide(table: pa.Table, columns: int = 100) -> pa.Table:
    random = np.random.default_rng(len(table))
    for number in range(columns):
        table = table.append_column(f"wide_{number}", pa.array(random.normal(size=len(table)).astype(np.float32)))
    return table


@pytest.mark.usefixtures("no_pickles")
@pytest.mark.parametrize(
    ("kind", "case"),
    [("xgboost", "text labels"), ("lightgbm", "imbalanced and wide"), ("catboost", "text labels")],
)
def test_from_training_to_monitoring(kind, case, client, store, context, model):
    import mlflow.pyfunc

    task = "multiclass" if case == "text labels" else "binary"
    train_rows, test_rows, new_rows = (flights(rows, task, seed=rows) for rows in (1_500, 800, 700))
    features = FEATURES
    if case != "text labels":
        rare = lambda table: table.filter(  # noqa: E731
            pa.array((np.arange(len(table)) % 20 == 0) | ~table["late"].to_numpy(zero_copy_only=False))
        )
        train_rows, test_rows, new_rows = (wide(rare(rows)) for rows in (train_rows, test_rows, new_rows))
        features = [*FEATURES, *(f"wide_{number}" for number in range(100))]
    dataset = training_set(store, train_rows, test_rows, task=task, features=features)
    made = train.run(TrainSpec(dataset=dataset, model=model, trainer=TRAINERS[kind]), context())
    run = client.get_run(made.run_id)
    assert run.data.metrics["onnx_max_difference"] < 1e-5
    assert run.data.params["validation_rows"] != "0"
    folder = download(client, made.candidate)
    suffixes = {file.suffix for file in folder.rglob("*") if file.is_file()}
    assert not suffixes & {".pkl", ".joblib", ".pickle", ".skops"}
    assert kind in (folder / "requirements.txt").read_text()
    loaded = OnnxModel.load(folder)
    seen, found = frame(new_rows, loaded.contract.features), loaded.predict(new_rows)
    uri = f"models:/{model}/{made.candidate.version}"
    assert (mlflow.pyfunc.load_model(uri).predict(seen) == found.prediction).all()
    again = reproduce.run(ReproduceSpec(model=model, version=made.candidate.version), context())
    assert again.reproduced, again.summary
    metric = "roc_auc" if task == "binary" else "roc_auc_ovr"
    assert made.metrics[metric] > 0.55
    spec = EvaluateSpec(candidates=[made.candidate], gates=[{"metric": metric, "min": 0.5}])
    verdict = evaluate.run(spec, context()).verdict
    assert verdict.winner == made.candidate, verdict.reason
    promote.run(PromoteSpec(verdict=verdict), context())
    rows = write(store, "to_score", new_rows.drop_columns(["late"]), "2013-04")
    scored = score.run(ScoreSpec(model=model, dataset=rows), context())
    assert scored.engine.startswith("onnxruntime")
    labels = write(store, "labels", new_rows.select(["flight", "late"]), "2013-04")
    labelled = join_labels.run(
        JoinLabelsSpec(predictions=scored.dataset, labels=labels, on=["flight"], label="late", name="outcomes"),
        context(),
    )
    spec = MonitorSpec(model=model, dataset=labelled.dataset, window="2013-04")
    assert monitor.run(spec, context()).summary


def test_a_training_continues_the_champion_and_records_which_version(client, store, context, model):
    trainer = LightGBMTrainer({"num_threads": 1, "num_leaves": 8}, rounds=10, warm_start="champion", validation=0)
    dataset = training_set(store, flights(900, seed=1), flights(500, seed=2))
    first = train.run(TrainSpec(dataset=dataset, model=model, trainer=trainer), context())
    assert client.get_run(first.run_id).data.params["warm_start"] == "None"
    verdict = evaluate.run(
        EvaluateSpec(candidates=[first.candidate], gates=[{"metric": "roc_auc", "min": 0.5}]), context()
    ).verdict
    promote.run(PromoteSpec(verdict=verdict), context())
    second = train.run(TrainSpec(dataset=dataset, model=model, trainer=trainer), context())
    params = client.get_run(second.run_id).data.params
    assert (params["warm_start"], params["started_from"], params["trees"]) == ("1", "1", "20")
    again = reproduce.run(ReproduceSpec(model=model, version=second.candidate.version), context())
    assert again.reproduced, again.summary
    verdict = evaluate.run(
        EvaluateSpec(candidates=[second.candidate], gates=[{"metric": "roc_auc", "min": 0.5}]), context()
    ).verdict
    fitted = refit.run(RefitSpec(verdict=verdict), context())
    assert fitted.verdict.refit is not None
    assert fitted.verdict.refit.passed, fitted.summary
