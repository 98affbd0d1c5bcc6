"""Print the SHA-256 of the ONNX export of several kinds of models, as JSON: ``python -m tests.support.exports``."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from airflow_mlops.core.contract import CalibrationMap
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.inputs import feature_columns, frame
from airflow_mlops.models.onnx import calibration
from airflow_mlops.models.trainers import returned
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.boosting import trainer as boosting
from airflow_mlops.models.trainers.sklearn import trainer as sklearn
from airflow_mlops.models.trainers.spec import (
    BoostingTrainerSpec,
    CatBoostTrainerSpec,
    FunctionTrainerSpec,
    LightGBMTrainerSpec,
    SklearnTrainerSpec,
    XGBoostTrainerSpec,
)
from airflow_mlops.models.training_data import read_part
from tests.support.training import FEATURES, training_set

_NUMBERS, _TEXTS = FEATURES[:3], FEATURES[3:]
_ESTIMATORS = {
    "sklearn.ensemble.HistGradientBoostingClassifier": {"max_iter": 3},
    "sklearn.ensemble.RandomForestClassifier": {"n_estimators": 3, "max_depth": 4},
    "sklearn.linear_model.LogisticRegression": {},
    "sklearn.neighbors.KNeighborsClassifier": {},
    "sklearn.neural_network.MLPClassifier": {"hidden_layer_sizes": [4], "max_iter": 200, "tol": 0.1},
}
_BOOSTED: list[tuple[type[BoostingTrainerSpec], dict[str, int]]] = [
    (XGBoostTrainerSpec, {"nthread": 1}),
    (LightGBMTrainerSpec, {"num_threads": 1}),
    (CatBoostTrainerSpec, {"thread_count": 1}),
]


def exports(store: ArtifactStore) -> Iterator[tuple[str, bytes]]:
    """Yield a name and the export of each model."""
    dataset = open_dataset(store, training_set(store))
    data = read_part(dataset, "train")
    for path, params in _ESTIMATORS.items():
        yield path, sklearn.fit(SklearnTrainerSpec(estimator=path, params=params), data, 0).to_onnx(data)
    yield "calibrated", calibration.append(_pipeline(data, LogisticRegression()), "sigmoid", [_MAP], 2)
    yield "pipeline", _pipeline(data, CalibratedClassifierCV(LinearSVC(random_state=0), cv=2))
    yield "float64", _pipeline(data, LogisticRegression(), "float64")
    yield "onnx", _own_onnx(data)
    run = TrainingRun(
        dataset, "train", "checkpoints/one.pt", print, lambda step, metrics: None, lambda folder, name: None
    )
    for made, params in _BOOSTED:
        yield made.__name__, boosting.fit(made(params=params, rounds=3), data, 0, run).to_onnx(data)


_MAP = CalibrationMap(slope=1.5, intercept=0.25)


def _pipeline(data: TrainingData, estimator, precision="float32") -> bytes:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    encode = make_column_transformer((numbers, _NUMBERS), (OneHotEncoder(handle_unknown="ignore"), _TEXTS))
    fitted = make_pipeline(encode, estimator).fit(data.frame, data.labels)
    return _returned(fitted, data).to_onnx(data, precision)


def _returned(model, data: TrainingData):
    return returned.fitted(model, FunctionTrainerSpec(function="m:f"), data, name="f", params={}, sources={})


def _own_onnx(data: TrainingData) -> bytes:
    """Export a model as a user's function does."""
    from skl2onnx import to_onnx

    numbers = data.table.select(["hour"])
    features = feature_columns(numbers.schema, ["hour"])
    matrix = frame(numbers, features).to_numpy(np.float32)
    model = to_onnx(LogisticRegression().fit(matrix, data.labels), matrix[:1], options={"zipmap": False})
    narrow = TrainingData("binary", "late", features, numbers, frame(numbers, features), data.labels, data.classes, 1)
    return _returned(model, narrow).to_onnx(narrow)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: hashlib.sha256(content).hexdigest() for name, content in exports(ArtifactStore(Path(folder).as_uri()))
        }
    print(json.dumps(found))
