"""A model of boosted trees that predicts, is exported to ONNX and is stored in MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.contract import Precision
from airflow_mlops.core.errors import ModelFormatError, one_line
from airflow_mlops.models.onnx import boosting, flavor
from airflow_mlops.models.onnx.serialised import serialised
from airflow_mlops.models.trainers.base import FittedModel, TrainingData
from airflow_mlops.models.trainers.boosting.encoding import Encoding
from airflow_mlops.models.trainers.boosting.library import Booster, distribution
from airflow_mlops.models.trainers.spec import BoostingTrainerSpec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow.models import Model
    from numpy.typing import NDArray

ENCODING_FILE = "encoding.json"


class BoostedModel(FittedModel):
    """A trained booster with the encoding of its inputs.

    :param booster: the trained booster
    :param encoding: the encoding of its inputs
    :param spec: the trainer
    :param data: the training data
    :param file: name of the file with the booster in the library's own format
    :param nulls: whether nulls of a text feature are a category
    :param facts: results of the training for MLflow, such as the device and the number of rounds
    """

    def __init__(
        self,
        booster: Booster,
        encoding: Encoding,
        spec: BoostingTrainerSpec,
        data: TrainingData,
        file: str,
        *,
        nulls: bool,
        facts: dict[str, Any],
    ) -> None:
        self.booster, self.encoding, self.spec = booster, encoding, spec
        self.target = target(spec, data)
        self.name = spec.label
        fields = spec.model_dump(exclude={"kind", "name", "serialization", "trusted_types", "params", "device"})
        self.params = {**fields, **spec.params, **facts}
        self.sources: dict[str, Any] = {}
        self.packages = [distribution(spec.library)]
        self._file, self._nulls = file, nulls
        self._exported: bytes | None = None

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        return self.booster.predict(self.encoding.matrix(pa.Table.from_pandas(frame, preserve_index=False)))

    def to_onnx(self, data: TrainingData, precision: Precision = "float32") -> bytes:
        if precision != "float32":
            raise ModelFormatError(
                f"{self.name} cannot be exported in {precision}, because ONNX has trees only in float32."
            )
        if self._exported is None:
            try:
                ensemble = self.booster.ensemble(self.encoding)
                made = boosting.to_onnx(
                    ensemble,
                    self.encoding.features,
                    self.encoding.vocabularies,
                    unknown="category" if self._nulls else "missing",
                )
            except (KeyError, ValueError, IndexError, TypeError) as error:
                raise ModelFormatError(
                    f"{self.name} cannot be exported to ONNX, which scoring needs: {one_line(error, 300)}. Use other params, or "
                    "the version of the library in the constraints file."
                ) from error
            self._exported = serialised(made)
        return self._exported

    def save(self, folder: Path, model: Model, requirements: list[str], example: pd.DataFrame) -> None:
        assert self._exported is not None
        flavor.save(folder, model, requirements, self._exported)
        (folder / self._file).write_bytes(self.booster.to_bytes())
        content = {**self.encoding.to_json(), "target": self.target}
        (folder / ENCODING_FILE).write_text(json.dumps(content, ensure_ascii=False), "utf-8")


def target(spec: BoostingTrainerSpec, data: TrainingData) -> dict[str, Any]:
    """Return the properties of a training. Another training can continue its trees only if they are equal.

    :param spec: the trainer
    :param data: the training data
    """
    objective = spec.params.get("loss_function", spec.params.get("objective"))
    group = {} if spec.group is None else {"group": spec.group}
    return {"task": data.task, "label": data.label, "classes": data.classes, "objective": objective, **group}


def earlier(folder: Path, file: str, spec: BoostingTrainerSpec, data: TrainingData) -> tuple[bytes, Encoding] | None:
    """Read the booster and the encoding of a stored model.

    :param folder: the files of the model version
    :param file: name of the file with the booster
    :param spec: the trainer that continues the training
    :param data: the training data
    :return: the booster in the library's own format, and the encoding; ``None`` if the model is of another library, or
        differs in its features, ML task, label, classes, objective or group column
    """
    if not (folder / file).exists() or not (folder / ENCODING_FILE).exists():
        return None
    content = json.loads((folder / ENCODING_FILE).read_text("utf-8"))
    encoding = Encoding.from_json(content)
    if encoding.features != data.features or content["target"] != target(spec, data):
        return None
    return (folder / file).read_bytes(), encoding
