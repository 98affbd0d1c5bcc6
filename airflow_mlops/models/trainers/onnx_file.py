"""A model that exists as an ONNX file, or that its own library exports to ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import ModelContract, Precision
from airflow_mlops.core.errors import ModelFormatError, SchemaError, TrainingError
from airflow_mlops.models.onnx import flavor
from airflow_mlops.models.onnx.adapt import adapted
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.trainers.base import FittedModel, TrainingData

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model
    from numpy.typing import NDArray

# The output is checked on at most _ROWS training rows. Probabilities may deviate from a valid value by _ROUNDING.
_ROWS, _ROUNDING = 2_000, 1e-3


class OnnxFileModel(FittedModel):
    """A model in ONNX format.

    :param content: the serialised ONNX model, see :func:`airflow_mlops.models.onnx.adapt.adapted`
    :param data: the training data
    :param name: name of the model in MLflow
    :param params: the training parameters that are logged to MLflow
    :param sources: the classes and functions that the model was trained with, by import path
    :param packages: names of the Python packages that trained the model
    :param answer: function that predicts the rows of a DataFrame with the original model, for the comparison with the
        export. It returns probabilities, shape (n, classes) or, for two classes, (n, 1); for a regression it returns
        values, shape (n, 1). By default, the ONNX model itself predicts
    :param tokenized: whether the model contains its tokenizer, see :mod:`airflow_mlops.models.onnx.tokens`. Its output
        has the probabilities of the classes
    :raises ModelFormatError: the ONNX model does not have the inputs and the output that the task needs
    :raises TrainingError: for a checked training row, the output contains NaN or infinity, or is not a probability of
        each class
    """

    def __init__(
        self,
        content: bytes,
        data: TrainingData,
        *,
        name: str,
        params: dict[str, Any],
        sources: dict[str, Any],
        packages: Sequence[str] = (),
        answer: Callable[[pd.DataFrame], NDArray[Any]] | None = None,
        tokenized: bool = False,
    ) -> None:
        self.name = name
        self.params = params
        self.sources = sources
        self.packages = list(packages)
        self._content = content if tokenized else adapted(content, name, data.task, data.features, len(data.classes))
        self._classes = len(data.classes)
        self._answer = answer
        # This contract is incomplete, because OnnxModel uses only the features and the classes of a contract here.
        contract = ModelContract(
            task=data.task,
            label=data.label,
            features=data.features,
            classes=data.classes,
            positive=data.positive,
            dataset_name="",
            dataset_id="",
        )
        self._onnx = OnnxModel(self._content, contract)
        self._check(data)

    def _check(self, data: TrainingData) -> None:
        found = self.by_onnx(data.frame.head(_ROWS))
        if wrong := int((~np.isfinite(found).all(axis=1)).sum()):
            raise TrainingError(
                f"{self.name} returns NaN or infinity for {wrong:,} of {len(found):,} training rows. Missing numbers are NaN; "
                "replace them inside the model."
            )
        if self._classes:
            outside = (found < -_ROUNDING).any(axis=1) | (np.abs(found.sum(axis=1) - 1) > _ROUNDING)
            if wrong := int(outside.sum()):
                raise TrainingError(
                    f"The output of {self.name} is not a probability of each class for {wrong:,} of {len(found):,} training rows, "
                    f"such as {np.round(found[outside][0], 4).tolist()}. End the model with a softmax, or with a sigmoid for one "
                    "output."
                )

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        if self._answer is None:
            return self.by_onnx(frame)
        found = np.asarray(self._answer(frame), dtype=np.float64).reshape(len(frame), -1)
        return np.column_stack([1 - found, found]) if self._classes == 2 and found.shape[1] == 1 else found

    def by_onnx(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Predict with the ONNX model, in the same form as :meth:`predict`.

        :raises ModelFormatError: ONNX Runtime cannot run the model
        """
        import pyarrow as pa

        try:
            found = self._onnx.predict(pa.Table.from_pandas(frame, preserve_index=False))
        except (ModelFormatError, SchemaError):
            raise
        except Exception as error:
            raise ModelFormatError(f"ONNX Runtime cannot run {self.name}: {error}. Export the model again.") from error
        return found.score.reshape(-1, 1) if found.probabilities is None else found.probabilities

    def to_onnx(self, data: TrainingData, precision: Precision = "float32") -> bytes:
        if precision != "float32":
            raise ModelFormatError(
                f"{self.name} cannot be exported in {precision}, because it is already an ONNX model."
            )
        return self._content

    def save(self, folder: Path, model: Model, requirements: list[str], example: pd.DataFrame) -> None:
        flavor.save(folder, model, requirements, self._content)
