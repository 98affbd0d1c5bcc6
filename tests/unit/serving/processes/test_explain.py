"""The process that computes attributions for the server."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.models import attributions
from airflow_mlops.serving.processes.explain import Explainers, answer
from airflow_mlops.serving.refusals import RefusedError
from airflow_mlops.serving.rows.request import InputColumns
from airflow_mlops.serving.sending.explanations import Explaining, _column
from airflow_mlops.serving.versions.loaded import Served

CONTRACT = ModelContract(
    task="multiclass", label="y", classes=["a", "b", "c"], dataset_name="d", dataset_id="i",
    features=[FeatureColumn(name="x", kind="number"), FeatureColumn(name="t", kind="string")],
)  # fmt: skip
TERMS = {
    "link": "softmax",
    "base": [1.0, 2.0, 3.0],
    "numbers": [{"feature": "x", "fill": 0.0, "mean": 2.0, "weights": [0.5, -1.0, 2.0]}],
    "texts": [{"feature": "t", "texts": ["p"], "contributions": [[0.1, 0.2, 0.3]], "other": [0.0, -3.0, 0.0]}],
}
PROBABILITIES = [[0.1, 0.8, 0.1], [0.9, 0.05, 0.05]]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mlops").mkdir()
    (tmp_path / "mlops" / "contract.json").write_text(CONTRACT.model_dump_json())
    return tmp_path


def test_the_attributions_of_each_row_are_those_of_its_predicted_class(folder):
    (folder / attributions.linear.FILE).write_text(json.dumps(TERMS))
    rows = pa.table({"x": [3, None], "t": ["q", "p"]})
    head = {"folder": str(folder), "name": "m v1", "probabilities": PROBABILITIES}
    facts, made = answer(Explainers(), head, rows)
    found = Predictions(np.empty(0), np.empty(0), np.array(PROBABILITIES))
    batch = attributions.load(folder, CONTRACT, "m v1").attribute(rows.to_batches()[0], found)
    assert facts == {"scale": "margin of the predicted class"}
    assert made["attribution_base"].to_pylist() == batch.base.tolist() == [2.0, 1.0]
    assert made["attributions"].to_pylist() == [
        [{"feature": "t", "value": -3.0}, {"feature": "x", "value": -1.0}],
        [{"feature": "x", "value": -1.0}, {"feature": "t", "value": 0.1}],
    ]


def test_a_version_without_attributions_is_refused_and_a_killed_process_does_not_crash_the_server(folder):
    class Model:
        contract = CONTRACT

    served = Served(ModelVersionRef(model="m", version=1, run_id=""), Model(), InputColumns(CONTRACT), folder=folder)
    rows = served.columns.rows([{"x": 1, "t": None}])
    found = Predictions(np.empty(0), np.empty(0), np.array(PROBABILITIES[:1]))

    async def ask(explaining: Explaining) -> RefusedError:
        with pytest.raises(RefusedError) as refused:
            await explaining.explain(served, rows, found)
        return refused.value

    explaining = Explaining(60)
    try:
        error = asyncio.run(ask(explaining))
        assert (error.status, "m v1" in str(error)) == (422, True)
        # The process is too late.
        explaining._seconds = 0
        explaining._process.kill()
        error = asyncio.run(ask(explaining))
        assert (error.status, "ended" in str(error)) == (503, True)
        explaining._seconds = 60
        assert asyncio.run(ask(explaining)).status == 422
    finally:
        explaining.stop()
    assert explaining._process.poll() is not None


def test_whole_numbers_stay_whole():
    large = 2**60 + 1
    assert _column([large, None], "number") == pa.array([large, None], pa.int64())
    assert _column([large, 0.5], "number").type == pa.float64()
    assert _column([2**70], "number").type == pa.float64()
    assert _column(["x", None], "string").type == pa.string()
