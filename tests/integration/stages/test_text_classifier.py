"""A text classifier of Hugging Face from training to monitoring, with a real MLflow and a real server."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pytest
import requests

from airflow_mlops.core.errors import ModelFormatError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.policy.findings import Report
from airflow_mlops.registry.versions import download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import FunctionTrainer
from tests.integration.conftest import free_port
from tests.support.deployed import write
from tests.support.endpoint import answering
from tests.support.executors import LocalExecutors
from tests.support.training import training_set
from tests.support.transformers import BAD, reviews

# Another process loads the model from the server.
pytestmark = pytest.mark.served_files


@pytest.mark.usefixtures("no_pickles")
def test_a_text_classifier_is_a_candidate_like_any_other(client, store, tmp_path, mlflow_server):
    import mlflow.pyfunc

    def context():
        return StepContext(store, f"results/{uuid.uuid4().hex}.json")

    model = f"reviews_{uuid.uuid4().hex[:8]}"
    dataset = training_set(store, reviews(600, 1), reviews(300, 2), features=["review"])
    trainer = FunctionTrainer("tests.support.own_training:text_classifier")
    # A calibration adds nodes to the export, and keeps the tokenizer.
    result = train.run(TrainSpec(dataset=dataset, model=model, trainer=trainer, calibration="sigmoid"), context())
    ref = result.candidate
    assert result.metrics["roc_auc"] > 0.7
    assert client.get_run(result.run_id).data.metrics["onnx_max_difference"] < 1e-5
    folder = download(client, ref)
    requirements = (folder / "requirements.txt").read_text()
    assert all(f"{name}==" in requirements for name in ("tokenizers", "torch", "transformers"))
    assert {file.suffix for file in folder.rglob("*") if file.is_file()} <= {
        "", ".json", ".onnx", ".py", ".txt", ".yaml", ".yml",
    }  # fmt: skip
    loaded = OnnxModel.load(folder)
    assert (loaded.contract.classes, loaded.contract.positive) == (["early", "late"], "late")

    gates = [{"metric": "roc_auc", "min": 0.6}, {"max_onnx_difference": 1e-5}]
    verdict = evaluate.run(EvaluateSpec(candidates=[ref], gates=gates), context()).verdict
    assert promote.run(PromoteSpec(verdict=verdict), context()).promoted

    table = reviews(500, 3).drop_columns(["late"])
    details = {"keys": ["flight"], "timestamp": None}
    rows = write(store, "reviews", table, "2013-04", details)
    scored = open_dataset(store, score.run(ScoreSpec(model=model, dataset=rows), context()).dataset).table()
    assert scored["review"].null_count
    assert np.array_equal(scored["score"], loaded.predict(table).score)
    assert sorted(set(scored["prediction"].to_pylist())) == ["early", "late"]
    frame = table.select(["review"]).to_pandas()
    assert (mlflow.pyfunc.load_model(f"models:/{model}/{ref.version}").predict(frame) == scored["prediction"]).all()
    on_executors = StepContext(store=store, executors=LocalExecutors(store.url))
    parts = score.run(ScoreSpec(model=model, dataset=rows, name="parts"), on_executors)
    assert open_dataset(store, parts.dataset).table()["score"].equals(scored["score"])
    with pytest.raises(ModelFormatError, match="explain=True needs a model with exact attributions"):
        score.run(ScoreSpec(model=model, dataset=rows, explain=True), context())

    # The texts are long complaints instead of the usual reviews.
    words = np.random.default_rng(0).choice(BAD, (500, 40))
    changed = pa.table({"flight": range(500), "review": [" ".join(row) for row in words]})
    window = write(store, "reviews", changed, "2013-05", details)
    window = score.run(ScoreSpec(model=model, dataset=window), context()).dataset
    monitor.run(MonitorSpec(model=model, dataset=window), context())
    report = Report.model_validate(store.read_json(f"reports/{model}/2013-05.json"))
    assert "review" in {column.column for column in report.features if column.drifted}

    port = free_port()
    command = ["-m", "airflow_mlops.serving", model, "--store", store.url, "--port", str(port), "--no-log"]
    with answering(command, port, model, mlflow_server) as server:
        sent = table.select(["review"]).slice(0, 300).to_pylist()
        answers = requests.post(server.predict, json={"rows": sent}, timeout=60).json()["predictions"]
        alone = requests.post(server.predict, json={"rows": [{"review": "bad flight"}]}, timeout=60).json()
        digits = requests.post(server.predict, json={"rows": [{"review": 12345}]}, timeout=60)
        broken = requests.post(
            server.predict,
            data=b'{"rows": [{"review": "\\ud800"}]}',
            timeout=60,
            headers={"Content-Type": "application/json"},
        )
    assert [item["score"] for item in answers] == scored["score"].to_pylist()[:300]
    assert alone["predictions"][0]["prediction"] in ("early", "late")
    assert broken.status_code == 400, broken.text
    assert digits.status_code == 422, digits.text
