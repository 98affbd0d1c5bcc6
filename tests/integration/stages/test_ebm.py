"""A glass-box model through the lifecycle with a real MLflow: stored without pickle, explained, evaluated, reproduced."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pytest

from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.inputs import frame
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.registry.versions import download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.reproduce import step as reproduce
from airflow_mlops.stages.reproduce.spec import ReproduceSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.trainers import Int, Search, SklearnTrainer
from tests.integration.stages.test_model_card import cards, rows_of
from tests.support.training import flights, training_set

QUICK = {"max_rounds": 40, "outer_bags": 2, "n_jobs": 1}
CLASSIFIER = SklearnTrainer("interpret.glassbox.ExplainableBoostingClassifier", QUICK)
TRAINERS = {
    "binary": CLASSIFIER,
    "multiclass": CLASSIFIER,
    "regression": SklearnTrainer("interpret.glassbox.ExplainableBoostingRegressor", QUICK),
}


@pytest.fixture
def context(tmp_path):
    return StepContext(ArtifactStore(f"file://{tmp_path}/store"), "results/one.json")


@pytest.fixture
def learn(context):
    def learn(task="binary", trainer=None, **fields):
        dataset = training_set(context.store, task=task)
        model = f"late_{uuid.uuid4().hex[:8]}"
        return train.run(TrainSpec(dataset=dataset, model=model, trainer=trainer or TRAINERS[task], **fields), context)

    return learn


@pytest.mark.parametrize("task", TRAINERS)
def test_the_model_is_stored_without_pickle_and_loads_in_every_way(task, client, context, learn):
    import mlflow.pyfunc
    import mlflow.sklearn

    result = learn(task)
    folder = download(client, result.candidate)
    assert {file.suffix for file in folder.rglob("*") if file.is_file()} <= {
        "", ".json", ".onnx", ".skops", ".txt", ".yaml", ".yml",
    }  # fmt: skip
    assert "interpret-core==" in (folder / "requirements.txt").read_text()
    model = OnnxModel.load(folder)
    # The rows contain values beyond the range of the training, and missing numbers and texts.
    table = flights(500, task, seed=9)
    seen, found = frame(table, model.contract.features), model.predict(table)
    uri = f"models:/{result.candidate.model}/{result.candidate.version}"
    loaded = mlflow.sklearn.load_model(uri)
    if task == "regression":
        np.testing.assert_allclose(loaded.predict(seen), found.score, rtol=1e-12)
    else:
        np.testing.assert_allclose(loaded.predict_proba(seen), found.probabilities, atol=1e-12)
        assert (mlflow.pyfunc.load_model(uri).predict(seen) == found.prediction).all()
    assert client.get_run(result.run_id).data.metrics["onnx_max_difference"] < 1e-12


@pytest.mark.plots
def test_the_explanation_is_in_the_run_and_on_the_card(client, context, learn, tmp_path):
    result = learn()
    ref = result.candidate
    files = {item.path for item in client.list_artifacts(result.run_id, "explanation")}
    assert files == {f"explanation/{name}" for name in ("explanation.json", "shapes.png", "terms.png")}
    said = json.loads(Path(client.download_artifacts(result.run_id, "explanation/explanation.json")).read_text())

    evaluate.run(EvaluateSpec(candidates=[ref]), context)
    markdown, page = cards(client, ref, tmp_path / "card")
    section = markdown.partition("## Explanation")[2].partition("\n## ")[0]
    assert f"the sum of {len(said['terms'])} terms" in section
    assert "Unit of the terms: log-odds of late = 1." in section
    table = rows_of(section)
    for term in said["terms"]:
        assert table[term["name"]] == [f"{term['importance']:.4g}"]
    assert "![terms.png](terms.png)" in section
    assert "![shapes.png](shapes.png)" in section
    # The plots of ROC, precision and recall, calibration, confusion and importance, and the two plots of the EBM.
    assert len(page.addresses) == 7
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)

    client.log_dict(result.run_id, {"terms": []}, "explanation/explanation.json")
    evaluate.run(EvaluateSpec(candidates=[ref]), context)
    assert "## Explanation" not in cards(client, ref, tmp_path / "again")[0]


def test_training_is_reproduced_to_the_last_digit_after_a_search(client, context, learn):
    search = Search(CLASSIFIER, {"max_leaves": Int(2, 3)}, trials=2, folds=2)
    result = learn(trainer=search, seed=3)
    assert client.get_run(result.run_id).data.params["max_leaves"] in ("2", "3")
    spec = ReproduceSpec(model=result.candidate.model, version=result.candidate.version)
    found = reproduce.run(spec, context)
    assert found.reproduced, found.summary
    assert {item.verdict for item in found.comparisons} == {"equal"}
