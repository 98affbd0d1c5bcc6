"""Linear models with given weights, registered in the layout of TrainOperator, and foreign models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import FeatureColumn, ModelContract, Task
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore

FEATURES = ("distance", "wind")
# The MLflow experiment of the runs.
EXPERIMENT = "tests"


def held_out(task: Task = "binary", rows: int = 1_000, seed: int = 0) -> pa.Table:
    """Rows with a label that depends on ``distance`` and not on ``wind``."""
    random = np.random.default_rng(seed)
    distance, wind = random.normal(size=rows), random.normal(size=rows)
    signal = 2 * distance + random.logistic(size=rows)
    label: Any = signal
    if task == "binary":
        label = signal > 0
    elif task == "multiclass":
        label = np.array(["early", "on time", "late"], dtype=object)[np.digitize(signal, [-1, 1])]
    return pa.table({"flight": np.arange(rows), "distance": distance, "wind": wind, "label": label})


def training_set(
    store: ArtifactStore,
    task: Task = "binary",
    name: str = "delays_training",
    test: pa.Table | None = None,
    parts: Sequence[str] = ("train", "test"),
    **more: Any,
) -> DatasetRef:
    """A training set as BuildTrainingSetOperator writes it.

    :param more: further details of the manifest
    """
    details = {
        "label": "label",
        "task": task,
        "features": list(FEATURES),
        "timestamp": None,
        "keys": ["flight"],
        **more,
    }
    with DatasetWriter(store, name) as writer:
        if "train" in parts:
            writer.write(held_out(task, 500, seed=1), "train")
        writer.write(held_out(task) if test is None else test, "test")
        manifest, _ = writer.commit(details=details)
    return manifest.ref


def training_rows(task: Task = "binary") -> tuple[Any, Any]:
    """The features and the labels of the part ``train`` as pandas objects."""
    rows = held_out(task, 500, seed=1).to_pandas()
    return rows[list(FEATURES)], rows["label"]


def from_elsewhere(
    model: str,
    flavour: Any,
    fitted: Any = None,
    *,
    answer: Any = None,
    features: Sequence[str] = FEATURES,
    **options: Any,
) -> dict[str, Any]:
    """Register a foreign version with MLflow's own functions, and return its model and number.

    :param answer: example of its output, for the signature; by default there is no signature
    """
    from mlflow.models import infer_signature

    signature = infer_signature(training_rows()[0][list(features)], answer) if answer is not None else None
    options = {"signature": signature, "pip_requirements": ["mlflow"], **options}
    args = (fitted,) if fitted is not None else ()
    info = flavour.log_model(*args, name="model", registered_model_name=model, **options)
    return {"model": model, "version": int(info.registered_model_version)}


def register(
    client: Any,
    folder: Path,
    dataset: DatasetRef,
    weights: Sequence[float],
    *,
    model: str = "delays",
    task: Task = "binary",
    features: Sequence[str] = FEATURES,
    threshold: float = 0.5,
    positive: Any = True,
    sample_weight: str | None = None,
) -> ModelVersionRef:
    """Register a linear version of ``model``. The weights (2, 0) are the true ones, and (0, 0) is a constant model."""
    classes: list[Any] = {"binary": [False, True], "multiclass": ["early", "late", "on time"], "regression": []}[task]
    contract = ModelContract(
        task=task,
        label="label",
        features=[FeatureColumn(name=name, kind="number") for name in features],
        classes=classes,
        positive=positive if task == "binary" else None,
        threshold=threshold,
        dataset_name=dataset.name,
        dataset_id=dataset.id,
        sample_weight=sample_weight,
    )
    (folder / "mlops").mkdir(parents=True, exist_ok=True)
    (folder / "mlops" / "contract.json").write_text(contract.model_dump_json())
    (folder / "model.onnx").write_bytes(linear(task, features, weights))
    (folder / "MLmodel").write_text(json.dumps({"flavors": {"onnx": {"data": "model.onnx"}}, "artifact_path": "model"}))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    run = client.create_run(experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT))
    client.log_artifacts(run.info.run_id, str(folder), "model")
    client.set_tag(run.info.run_id, "mlops.code", "abc123")
    client.set_terminated(run.info.run_id)
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model)
    made = client.create_model_version(model, f"{run.info.artifact_uri}/model", run.info.run_id)
    return ModelVersionRef(model=model, version=int(made.version), run_id=run.info.run_id)


def linear(task: Task, features: Sequence[str], weights: Sequence[float]) -> bytes:
    """An ONNX model with an input for each feature and the outputs of a converted scikit-learn model."""
    from onnx import TensorProto, checker, helper, numpy_helper

    def constant(name: str, value: Any, kind: Any = np.float32) -> Any:
        return numpy_helper.from_array(np.asarray(value, dtype=kind), name)

    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in features]
    constants = [constant("weights", np.reshape(weights, (-1, 1)))]
    nodes = [
        helper.make_node("Concat", list(features), ["x"], axis=1),
        helper.make_node("MatMul", ["x", "weights"], ["value"]),
    ]
    outputs = [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])]
    if task == "binary":
        constants.append(constant("one", [1.0]))
        nodes += [
            helper.make_node("Sigmoid", ["value"], ["p"]),
            helper.make_node("Sub", ["one", "p"], ["q"]),
            helper.make_node("Concat", ["q", "p"], ["probabilities"], axis=1),
        ]
    elif task == "multiclass":
        # Classes are sorted by name: early, late, on time.
        constants += [constant("slopes", [[-1.0, 1.0, 0.0]]), constant("offsets", [-0.5, -0.5, 0.5])]
        nodes += [
            helper.make_node("MatMul", ["value", "slopes"], ["steep"]),
            helper.make_node("Add", ["steep", "offsets"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ]
    if task != "regression":
        nodes.append(helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0))
        outputs = [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, None]),
        ]
    graph = helper.make_graph(nodes, "linear", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(made)
    return bytes(made.SerializeToString())
