"""What trainers are given and give back."""

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
    :param frame: the same as the DataFrame that estimators see
    :param labels: one a row: int64, text, or float64 for a regression
    :param classes: the different labels, sorted, as JSON values; empty for a regression
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
    """What a training may use beside its data.

    :param dataset: the training set, to be streamed
    :param part: the part to learn from
    :param checkpoint: key in the dataset's store; the same on every retry of the task
    :param progress: says in the task's log how far it is
    :param log: writes metrics of one epoch to the MLflow run; what it raises ends the training
    :param log_files: puts a folder's files into the run, under a name
    :param finished: whether the step's result is there already, by another node's work
    """

    dataset: Dataset
    part: str
    checkpoint: str
    progress: Callable[[str], None]
    log: Callable[[int, dict[str, float]], None]
    log_files: Callable[[Path, str], None]
    finished: Callable[[], bool] = lambda: False


class FittedModel(Protocol):
    """A model after its training, whatever library it is of.

    :param name: what it is called
    :param params: what it was trained with, for MLflow
    :param sources: import path and object of each class and function that made it
    :param packages: names of the Python packages that its stored form needs
    """

    name: str
    params: dict[str, Any]
    sources: dict[str, Any]
    packages: list[str]

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Probabilities, shape (n, k), in the order of the classes, or values, shape (n, 1)."""

    def explain(self, data: TrainingData) -> Explanation | None:
        """What the model says of itself; ``None`` unless it is a glass box.

        :param data: what it was fitted to
        """

    def to_onnx(self, data: TrainingData, precision: Precision = "float32") -> bytes:
        """The model as ONNX, with one input a feature, named as it.

        :raises ModelFormatError: it cannot be exported, or not in this precision
        """

    def save(self, folder: Path, model: Model, requirements: list[str], example: pd.DataFrame) -> None:
        """Write the model's own MLflow flavour into ``folder``, which does not exist yet.

        :raises ModelFormatError: it cannot be stored in a format that runs no code when it is loaded
        """
