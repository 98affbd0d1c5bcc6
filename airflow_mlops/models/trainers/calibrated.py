"""A fitted model whose probabilities are calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.core.contract import CalibrationMap, CalibrationMethod, Precision
from airflow_mlops.models.calibration import calibrate
from airflow_mlops.models.onnx import flavor
from airflow_mlops.models.onnx.calibration import append
from airflow_mlops.models.trainers.base import FittedModel, TrainingData

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow.models import Model
    from numpy.typing import NDArray

    from airflow_mlops.models.explanation import Explanation


class CalibratedModel(FittedModel):
    """A classifier with the function that calibrates its probabilities.

    :param inner: the fitted classifier
    :param method: the method of the calibration
    :param maps: the fitted functions
    :param classes: number of classes
    """

    def __init__(
        self, inner: FittedModel, method: CalibrationMethod, maps: Sequence[CalibrationMap], classes: int
    ) -> None:
        self.inner, self.method, self.maps = inner, method, maps
        self.name, self.params, self.sources, self.packages = inner.name, inner.params, inner.sources, inner.packages
        self._classes = classes
        self._exported: dict[Precision, bytes] = {}

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        return calibrate(self.method, self.maps, self.inner.predict(frame))

    # `threshold` and `labels` are those of the base class, because those of the classifier apply to uncalibrated
    # probabilities.

    def explain(self, data: TrainingData) -> Explanation | None:
        return self.inner.explain(data)

    def to_onnx(self, data: TrainingData, precision: Precision = "float32") -> bytes:
        if precision not in self._exported:
            exported = self.inner.to_onnx(data, precision)
            self._exported[precision] = append(exported, self.method, self.maps, self._classes)
        return self._exported[precision]

    def save(self, folder: Path, model: Model, requirements: list[str], example: pd.DataFrame) -> None:
        self.inner.save(folder, model, requirements, example)
        # MLflow's own python_function would predict without the calibration.
        flavor.predict_by_onnx(folder, model)
