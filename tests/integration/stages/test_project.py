"""Training by an MLflow Project, with the real ``mlflow.projects.run``."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.core.imports import source_hash
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.models import parity
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.trainers.programs import process, project
from airflow_mlops.models.trainers.spec import ProjectTrainerSpec
from airflow_mlops.models.training_data import new_contract, read_part
from airflow_mlops.trainers import ProjectTrainer
from tests.integration.stages.test_notebook import NUMERIC
from tests.support.online import assert_online_equals_batch
from tests.support.training import flights, training_set

MLPROJECT = """
name: late
entry_points:
  main:
    parameters:
      train_path: path
      alpha: float
    command: python train.py {train_path} {alpha}
  fails:
    parameters:
      train_path: path
    command: python absent.py
"""

SCRIPT = """
import sys
from pathlib import Path
import mlflow.onnx
import onnx
import pyarrow.parquet as pq

assert pq.read_metadata(sys.argv[1]).num_rows == 600
assert float(sys.argv[2]) == 2
mlflow.onnx.log_model(
    onnx.load(Path(__file__).with_name("late.onnx")), name="model", pip_requirements=["onnx"], save_as_external_data=False
)
"""


def linear(weights):
    """An ONNX model of one matrix, which counts a missing number as 0."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("IsNaN", ["rows"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "rows"], ["known"]),
        helper.make_node("MatMul", ["known", "weights"], ["value"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.zeros(1, np.float32), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "late"
    folder.mkdir()
    (folder / "MLproject").write_text(MLPROJECT)
    (folder / "train.py").write_text(SCRIPT)
    weights = np.array([[0.001], [0.1], [-1.0]], np.float32)
    (folder / "late.onnx").write_bytes(linear(weights))
    return folder


@pytest.fixture
def dataset(store):
    return open_dataset(store, training_set(store, task="regression", features=NUMERIC))


@pytest.fixture
def rows(dataset):
    return read_part(dataset, "train")


def spec(folder, **fields):
    return ProjectTrainerSpec(**ProjectTrainer(str(folder), **fields))


@pytest.mark.slow
def test_the_model_that_a_project_logs_is_taken(dataset, rows, folder):
    model = project.fit(spec(folder, params={"alpha": 2}), rows, 0)
    assert (model.name, model.params["alpha"]) == ("late", 2)
    found = model.predict(rows.frame)[:, 0]
    np.testing.assert_allclose(found, rows.frame.fillna(0) @ [0.001, 0.1, -1.0], atol=1e-4)
    contract = new_contract(dataset, rows, model)
    export = parity.export(model, contract, rows, rows, lambda message: None)
    assert_online_equals_batch(OnnxModel(export.content, contract), flights(100, seed=5))
    (code,) = model.sources.values()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/train.pyc").write_bytes(b"x")
    assert project._code_hash(folder) == source_hash(code)
    (folder / "train.py").write_text(SCRIPT + "# changed")
    assert project._code_hash(folder) != source_hash(code)


def test_a_project_that_fails_or_does_not_declare_a_parameter(rows, folder, monkeypatch):
    with pytest.raises(SpecError, match="does not declare 'beta'"):
        project.fit(spec(folder, params={"alpha": 1, "beta": 1}), rows, 0)
    with pytest.raises(SpecError, match=r"no entry point 'other'.*'main', 'fails'"):
        project.fit(spec(folder, entry_point="other"), rows, 0)
    output = "INFO mlflow.projects: === Running command\nTraceback\nValueError: no rows\n"
    monkeypatch.setattr(process, "run", lambda arguments, environment, file: file.write_text(output) and 1)
    with pytest.raises(TrainingError, match=r"Project .* failed: ValueError: no rows\. "):
        project.fit(spec(folder, entry_point="fails"), rows, 0)
    (folder / "MLproject").unlink()
    with pytest.raises(SpecError, match="no valid file MLproject"):
        project.fit(spec(folder), rows, 0)
