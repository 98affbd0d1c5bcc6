"""What a FunctionTrainer may return besides an estimator of scikit-learn: an ONNX model, a Keras model and a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from airflow_mlops.core.errors import ModelFormatError, TrainingError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models import parity
from airflow_mlops.models.trainers import function, returned
from airflow_mlops.models.trainers.spec import FunctionTrainerSpec
from airflow_mlops.models.training_data import new_contract, read_part
from tests.support import own_training
from tests.support.training import training_set


@pytest.fixture
def parts(tmp_path):
    store = ArtifactStore(tmp_path.as_uri())
    dataset = open_dataset(store, training_set(store, features=["distance", "hour", "weekend"]))
    return dataset, read_part(dataset, "train"), read_part(dataset, "test")


def fit(name, train, **params):
    return function.fit(FunctionTrainerSpec(function=f"tests.support.own_training:{name}", params=params), train, 3)


def exported(model, parts):
    dataset, train, test = parts
    return parity.export(model, new_contract(dataset, train, model), train, test, lambda message: None)


@pytest.mark.parametrize("form", ["proto", "bytes", "path"])
def test_an_onnx_model_is_a_candidate(parts, tmp_path, form):
    _, train, test = parts
    model = fit("onnx_file", train, **{"as": str(tmp_path / "m.onnx") if form == "path" else form})
    export = exported(model, parts)
    assert export.parity.max_difference == 0
    accuracy = np.mean(export.predictions.prediction == test.labels)
    assert accuracy > 0.6
    assert np.abs(export.predictions.probabilities.sum(axis=1) - 1).max() < 1e-6


def test_a_path_that_is_not_a_file_is_refused(parts, monkeypatch):
    monkeypatch.setattr(own_training, "unweighted", lambda X, y, *, params, seed: "/absent.onnx")  # noqa: N803
    with pytest.raises(TrainingError, match=r"'/absent\.onnx', which cannot be read"):
        fit("unweighted", parts[1])


def test_a_keras_model_is_exported_by_keras_and_compared(parts, monkeypatch):
    _, train, test = parts
    model = fit("keras_network", train, activation="sigmoid")
    assert model.packages == ["keras", "torch"]
    export = exported(model, parts)
    assert 0 <= export.parity.max_difference < 1e-5
    # The export is compared with the Keras model, not with itself.
    assert model.predict(test.frame).shape == (300, 2)
    with monkeypatch.context() as patch:
        patch.setattr("keras.Model.predict", lambda self, rows, verbose: np.full(len(rows), 0.5))
        assert np.all(model.predict(test.frame) == 0.5)
    assert export.predictions.score.std() > 0.01
    with pytest.raises(TrainingError, match="sigmoid"):
        fit("keras_network", train, activation="linear")


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        ("jax", "'jax', which Keras exports to ONNX by jax2onnx, which is not installed"),
        ("tensorflow", "'tensorflow', which Keras exports to ONNX by tf2onnx, which is not installed"),
        ("openvino", "'openvino', which has no export to ONNX"),
    ],
)
def test_a_keras_model_that_keras_cannot_export_is_refused(parts, monkeypatch, backend, why):
    import keras

    # None of these backends is installed beside PyTorch.
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(returned, "find_spec", lambda package: None)
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    monkeypatch.setattr(own_training, "unweighted", lambda X, y, *, params, seed: network)  # noqa: N803
    with pytest.raises(ModelFormatError, match=why) as raised:
        fit("unweighted", parts[1])
    assert "KERAS_BACKEND=torch" in str(raised.value)


def test_a_keras_export_with_further_inputs_is_refused(parts, monkeypatch):
    import keras
    from onnx import TensorProto, helper

    # TensorFlow, which exports the values of some layers as inputs, is not installed beside PyTorch.
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x", "Sub/y")]
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Sub", ["x", "Sub/y"], ["z"])], "g", inputs, [output])
    content = helper.make_model(graph).SerializeToString()
    monkeypatch.setattr(keras.Model, "export", lambda self, file, **options: Path(file).write_bytes(content))
    with pytest.raises(ModelFormatError, match="inputs 'x', 'Sub/y', although the model has 1"):
        fit("keras_network", parts[1], activation="sigmoid")


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_torch_network_returns_logits(parts, outputs):
    _, train, test = parts
    model = fit("torch_network", train, outputs=outputs)
    export = exported(model, parts)
    assert 0 <= export.parity.max_difference < 1e-5
    found = model.predict(test.frame)
    # The export is compared with the network, not with itself.
    assert model._answer is not None
    # Dropout is disabled, and both outputs are probabilities of two classes.
    assert np.array_equal(found, model.predict(test.frame))
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-6
    assert found[:, 1].std() > 0


def test_a_torch_network_that_returns_probabilities_is_refused(parts):
    with pytest.raises(ModelFormatError, match="ends with Sigmoid"):
        fit("torch_network", parts[1], outputs=1, sigmoid=True)
