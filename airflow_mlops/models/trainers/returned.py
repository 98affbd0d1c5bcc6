"""Convert the result of a user's training function to a fitted model."""

from __future__ import annotations

import inspect
import sys
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import ModelFormatError, TrainingError, one_line
from airflow_mlops.core.isolation import quiet
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.models.trainers.base import FittedModel, TrainingData
from airflow_mlops.models.trainers.onnx_file import OnnxFileModel
from airflow_mlops.models.trainers.sklearn.model import SklearnModel
from airflow_mlops.models.trainers.spec import TrainerSpec

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# The packages with which Keras exports models of backends other than PyTorch, by backend.
_EXPORTERS = {"jax": "jax2onnx", "tensorflow": "tf2onnx"}


def fitted(
    returned: Any, spec: TrainerSpec, data: TrainingData, *, name: str, params: dict[str, Any], sources: dict[str, Any]
) -> FittedModel:
    """Return a fitted model for an estimator, a network, a text classifier or an ONNX model.

    :param returned: the scikit-learn estimator, the Keras model, the PyTorch network, the text classification pipeline
        of Hugging Face, or the ONNX model as a path, as bytes or as a ``ModelProto``
    :param spec: the trainer
    :param data: the rows that the model was fitted to
    :param name: name of the model in MLflow
    :param params: the training parameters that are logged to MLflow
    :param sources: the function, by import path
    :raises TrainingError: the object is none of these, or does not fit the task
    :raises ModelFormatError: the model cannot be exported to ONNX, or does not have the inputs and the output that
        scoring needs
    """
    content = _onnx(returned, spec.path)
    if content is not None:
        return OnnxFileModel(content, data, name=name, params=params, sources=sources)
    if _is_keras(returned):
        return _keras(returned, data, name, params, sources)
    if _is_text_classifier(returned):
        from airflow_mlops.models.trainers.hugging_face import text_classifier

        return text_classifier(returned, data, name, params, sources)
    if _is_network(returned):
        if "input_ids" in inspect.signature(returned.forward).parameters:
            raise TrainingError(
                f"Function {spec.path!r} returned the model {type(returned).__name__}, which takes tokens, without its tokenizer. "
                "Return transformers.TextClassificationPipeline(model=model, tokenizer=tokenizer)."
            )
        return _network(returned, data, name, params, sources)
    required = "predict" if data.task == "regression" else "predict_proba"
    if not hasattr(returned, required):
        raise TrainingError(
            f"Function {spec.path!r} returned an object of type {type(returned).__name__}, which has no {required}. "
            "Return a fitted scikit-learn estimator, a Keras model, a PyTorch network, a TextClassificationPipeline of Hugging "
            "Face, or an ONNX model."
        )
    return SklearnModel(returned, data, name=name, params=params, sources=sources, spec=spec)


def _onnx(returned: Any, path: str) -> bytes | None:
    if isinstance(returned, (str, PathLike)):
        try:
            return Path(returned).read_bytes()
        except OSError as error:
            raise TrainingError(
                f"Function {path!r} returned the path {str(returned)!r}, which cannot be read: {one_line(error, 300)}. Return the "
                "path of an ONNX file."
            ) from error
    if isinstance(returned, bytes):
        return returned
    onnx = sys.modules.get("onnx")
    if onnx is not None and isinstance(returned, onnx.ModelProto):
        content: bytes = returned.SerializeToString()
        return content
    return None


def _is_keras(returned: Any) -> bool:
    # An object of Keras exists only if Keras is imported.
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(returned, getattr(keras, "Model", ()))


def _is_network(returned: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(returned, torch.nn.Module)


def _is_text_classifier(returned: Any) -> bool:
    module = sys.modules.get("transformers.pipelines.text_classification")
    return module is not None and isinstance(returned, module.TextClassificationPipeline)


def _keras(model: Any, data: TrainingData, name: str, params: dict[str, Any], sources: dict[str, Any]) -> FittedModel:
    """Return a Keras model together with Keras's own ONNX export.

    The result predicts with the Keras model, so that the export can be compared with it later.
    """
    backend = sys.modules["keras"].backend.backend()
    _require_exporter(backend, name)
    with temporary_folder("model") as folder:
        file = folder / "model.onnx"
        try:
            # torch warns about Keras's own code.
            with quiet():
                model.export(str(file), format="onnx", verbose=False)
            content = file.read_bytes()
        except Exception as error:
            raise ModelFormatError(
                f"Keras cannot export {name} to ONNX: {one_line(error, 300)}. Use layers that "
                "`model.export(..., format='onnx')` supports, and one input of shape (features,)."
            ) from error

    _require_inputs(content, model, name)
    packages = ["keras", backend]

    def answer(frame: pd.DataFrame) -> NDArray[Any]:
        found: NDArray[Any] = model.predict(frame.to_numpy("float32"), verbose=0)
        return found

    return OnnxFileModel(content, data, name=name, params=params, sources=sources, packages=packages, answer=answer)


def _require_exporter(backend: str, name: str) -> None:
    """Check that Keras can export models of its backend.

    :raises ModelFormatError: the backend has no export to ONNX, or the package for it is not installed
    """
    if backend == "torch":
        return
    package = _EXPORTERS.get(backend)
    if package is not None and find_spec(package) is not None:
        return
    lacks, remedy = "has no export to ONNX", "Set"
    if package is not None:
        lacks = f"Keras exports to ONNX by {package}, which is not installed"
        remedy = f"Install {package} where the step runs, or set"
    raise ModelFormatError(
        f"{name} is a Keras model on the backend {backend!r}, which {lacks}. {remedy} the environment variable "
        "KERAS_BACKEND=torch there."
    )


def _require_inputs(content: bytes, model: Any, name: str) -> None:
    """Check that an export has the inputs of the Keras model and no others.

    On TensorFlow, Keras exports tensors that are not variables of a layer, such as the mean of a ``Normalization``, as
    inputs.

    :raises ModelFormatError: the export has more inputs
    """
    import onnx

    graph = onnx.load_from_string(content).graph
    constants = {item.name for item in graph.initializer}
    inputs = [item.name for item in graph.input if item.name not in constants]
    if len(inputs) > len(model.inputs):
        raise ModelFormatError(
            f"Keras exports {name} to ONNX with the inputs {', '.join(map(repr, inputs))}, although the model has {len(model.inputs)}. "
            "The other inputs are values of a layer that are not its weights, such as those of Normalization. Use "
            "BatchNormalization, or set the environment variable KERAS_BACKEND=torch."
        )


def _network(
    network: Any, data: TrainingData, name: str, params: dict[str, Any], sources: dict[str, Any]
) -> FittedModel:
    """Export a PyTorch network, such as a LightningModule, whose ``forward`` returns logits or values."""
    import torch

    from airflow_mlops.models.trainers.torch.onnx import network_to_onnx

    network = network.cpu().eval()
    last = list(network.modules())[-1]
    if data.task != "regression" and isinstance(last, (torch.nn.Sigmoid, torch.nn.Softmax, torch.nn.LogSoftmax)):
        raise ModelFormatError(
            f"{name} ends with {type(last).__name__}, but a network must return logits, because probabilities are computed "
            "from them. Remove this layer."
        )

    class Answer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.network(rows)
            if data.task == "regression":
                return found
            return torch.sigmoid(found) if found.shape[1] == 1 else torch.softmax(found, dim=1)

    model = Answer().eval()
    try:
        content = network_to_onnx(model, {"rows": torch.zeros(2, len(data.features))}).SerializeToString()
    except Exception as error:
        raise ModelFormatError(
            f"PyTorch cannot export {name} to ONNX: {one_line(error, 300)}. Its `forward` must take one float32 tensor of shape "
            "(n, features), return a tensor of shape (n, classes) or (n, 1), and be supported by torch.export."
        ) from error

    def answer(frame: pd.DataFrame) -> NDArray[Any]:
        with torch.inference_mode():
            found: NDArray[Any] = model(torch.from_numpy(frame.to_numpy("float32"))).numpy()
        return found

    return OnnxFileModel(content, data, name=name, params=params, sources=sources, packages=["torch"], answer=answer)
