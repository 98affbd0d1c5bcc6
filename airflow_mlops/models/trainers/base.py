"""The interface of trainers: what ``fit`` takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from airflow_mlops.core.contract import FeatureColumn, Precision, Task
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
    """The part of a training set that a model is fitted to.

    :param table: the features as Arrow columns
    :param frame: the same features as a DataFrame, for estimators
    :param labels: one per row: int64, text, or float64 for a regression
    :param classes: the distinct labels, sorted, as JSON values; empty for a regression
    """

    task: Task
    label: str
    features: list[FeatureColumn]
    table: pa.Table
    frame: pd.DataFrame
    labels: NDArray[Any]
    classes: list[Any]


@dataclass(frozen=True)
class TrainingRun:
    """What a trainer uses in addition to the data: a stream of the training set, a checkpoint, and places to log to.

    :param dataset: the training set, to be streamed
    :param part: the part to train on
    :param checkpoint: key in the dataset's store; the same on every retry of the task
    :param progress: writes a message to the task's log
    :param log: writes the metrics of one epoch to the MLflow run. An exception that it raises ends the training
    :param log_files: uploads a folder's files to the MLflow run, under a name
    :param finished: whether the result of the step exists already, because another node stored it
    """

    dataset: Dataset
    part: str
    checkpoint: str
    progress: Callable[[str], None]
    log: Callable[[int, dict[str, float]], None]
    log_files: Callable[[Path, str], None]
    finished: Callable[[], bool] = lambda: False


class FittedModel(Protocol):
    """A fitted model of any library.

    :param name: its name in MLflow
    :param params: the parameters it was trained with, for MLflow
    :param sources: the classes and functions that made it, by import path
    :param packages: names of the Python packages that the stored model needs
    """

    name: str
    params: dict[str, Any]
    sources: dict[str, Any]
    packages: list[str]

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Probabilities, shape (n, k), in the order of the classes; for a regression values, shape (n, 1)."""

    def explain(self, data: TrainingData) -> Explanation | None:
        """The model's own explanation; ``None`` if the model is not a glass box.

        :param data: the data it was fitted to
        """

    def to_onnx(self, data: TrainingData, precision: Precision = "float32") -> bytes:
        """The model in ONNX, with one input per feature, named like the feature.

        :raises ModelFormatError: it cannot be exported, or not in this precision
        """

    def save(self, folder: Path, model: Model, requirements: list[str], example: pd.DataFrame) -> None:
        """Write the model in its own MLflow flavour into ``folder``, which must not exist.

        :raises ModelFormatError: it cannot be stored in a format that runs no code when it is loaded
        """
