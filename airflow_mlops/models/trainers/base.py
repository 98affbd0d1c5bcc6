"""The interface of trainers: the types of the arguments and the result of ``fit``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from airflow_mlops.core.contract import THRESHOLD, FeatureColumn, Precision, Task
from airflow_mlops.models.explanation import Explanation

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from mlflow.models import Model
    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset


@dataclass(frozen=True)
class TrainingData:
    """The features and labels of one split part (`train` or `test`) of a training set.

    :param task: the ML task (binary, multiclass, regression)
    :param label: name of the label column
    :param features: names and kinds of the features
    :param table: the features as Arrow columns
    :param frame: the same features as a DataFrame, for estimators
    :param labels: the label of each row, shape (n,): int64 or text (classification), float64 (regression)
    :param classes: the distinct labels, sorted, as JSON values; empty for a regression
    :param positive: the positive class of a binary task; otherwise ``None``
    :param weights: the weight of each row in training, shape (n,); ``None`` if all rows have the same weight
    :param metric_weights: the weight of each row in metrics, shape (n,); ``None`` if all rows have the same weight
    """

    task: Task
    label: str
    features: list[FeatureColumn]
    table: pa.Table
    frame: pd.DataFrame
    labels: NDArray[Any]
    classes: list[Any]
    positive: Any = None
    weights: NDArray[np.float64] | None = None
    metric_weights: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class TrainingRun:
    """The training set, the checkpoint and the log functions of one training.

    :param dataset: the training set, from which a trainer may stream batches
    :param part: name of the split part to train on, such as ``train``; ``None`` for all rows
    :param checkpoint: key of the checkpoint in the artifact store; the same on every retry of the task
    :param progress: function that writes a message to the task's log
    :param log: function that writes the metrics of one epoch to the MLflow run. An exception in this function ends the
        training
    :param log_files: function that uploads the files of a folder to the MLflow run, under a given name
    :param start: folder of the model version to start from (warm start); ``None`` without a warm start
    :param finished: function that returns whether the first node has already stored the result of the step
    """

    dataset: Dataset
    part: str | None
    checkpoint: str
    progress: Callable[[str], None]
    log: Callable[[int, dict[str, float]], None]
    log_files: Callable[[Path, str], None]
    start: Path | None = None
    finished: Callable[[], bool] = lambda: False


class FittedModel(Protocol):
    """A fitted model of any library.

    :param name: name of the model in MLflow
    :param params: the training parameters that are logged to MLflow
    :param sources: the classes and functions that the model was trained with, by import path
    :param packages: names of the Python packages that the stored model needs
    """

    name: str
    params: dict[str, Any]
    sources: dict[str, Any]
    packages: list[str]

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Predict probabilities in the order of the classes, shape (n, k), or values for a regression, shape (n, 1).

        :param frame: the features of n rows
        """

    def threshold(self, positive: Any) -> float:
        """Return the smallest probability of ``positive`` for which the model predicts this class; 0.5 by default.

        :raises ModelFormatError: the model does not choose the class by this probability
        """
        return THRESHOLD

    def labels(self, frame: pd.DataFrame) -> NDArray[Any] | None:
        """Predict labels by the model's own rule. Return ``None`` if the model contract has the same rule."""
        return None

    def explain(self, data: TrainingData) -> Explanation | None:
        """Return the importances and shape functions of a glass-box model (EBM); ``None`` for any other model.

        :param data: the data that the model was fitted to
        """
        return None

    def to_onnx(self, data: TrainingData, precision: Precision = "float32") -> bytes:
        """Export the model to ONNX, with one input per feature. Each input has the name of its feature.

        :param data: split part that provides the names and types of the features
        :param precision: floating-point type in which the exported model computes
        :raises ModelFormatError: the model cannot be exported in ``precision``
        """

    def save(self, folder: Path, model: Model, requirements: list[str], example: pd.DataFrame) -> None:
        """Write the model in the MLflow flavour of its library into ``folder``, which must not exist.

        :param folder: path of the folder to create
        :param model: MLflow's description of the model, with its signature
        :param requirements: pip requirements of the stored model
        :param example: a few rows as the input example
        :raises ModelFormatError: the model cannot be stored in a format that runs no code when the model is loaded
        """
