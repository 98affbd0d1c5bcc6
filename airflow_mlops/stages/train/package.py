"""Write a candidate as an MLflow model directory, which scoring, monitoring and any MLflow client can load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.metrics.catalog import find_metric, is_ranking
from airflow_mlops.metrics.columns import read_columns
from airflow_mlops.metrics.judged import default_metric
from airflow_mlops.models import importance
from airflow_mlops.models.contract_file import CONTRACT_FILE, PROFILE_FILE
from airflow_mlops.models.onnx.scorer import MODEL_FILE, OnnxModel
from airflow_mlops.models.trainers.base import FittedModel, TrainingData
from airflow_mlops.models.training_data import TEST, TRAIN
from airflow_mlops.profiles.spans import with_constant_spans
from airflow_mlops.profiles.training import model_profile
from airflow_mlops.profiles.watched import with_watched_columns
from airflow_mlops.stages.train.candidate import Fitted

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature
    from numpy.typing import NDArray

EXAMPLE_ROWS = 5
_PACKAGES = ("mlflow", "numpy", "onnx", "onnxruntime", "pandas", "pyarrow")


# The versions are cached: reading one parses the package's metadata, and all candidates of a search need the same ones.
_version = cache(version)


def package_versions(model: FittedModel) -> dict[str, str]:
    """Return the installed version of each Python package that the stored model needs, by name of the package."""
    return {name: _version(name) for name in sorted({*_PACKAGES, *model.packages})}


def write_package(
    folder: Path,
    fitted: Fitted,
    dataset: Dataset,
    train: TrainingData,
    test: TrainingData,
    *,
    part: str | None = TRAIN,
    importances: Mapping[str, float] | None = None,
) -> Model:
    """Write a candidate into ``folder`` as an MLflow model.

    The folder contains the MLflow flavour of the model's library, the ONNX flavour, the model contract and the profile
    of the training data.

    :param fitted: the candidate
    :param dataset: the training set
    :param train: the rows that the candidate was fitted to
    :param test: rows of the split part ``test``
    :param part: name of the split part that the candidate was fitted to; ``None`` for all rows
    :param importances: permutation importance of each feature; by default it is measured on ``test``
    :return: the MLflow description of the model (``MLmodel``)
    """
    import onnx
    from mlflow.models import Model

    model, contract = fitted.model, fitted.contract
    description = Model(signature=_signature(contract))
    requirements = [f"{name}=={found}" for name, found in package_versions(model).items()]
    model.save(folder, description, requirements, train.frame.head(EXAMPLE_ROWS))
    (folder / MODEL_FILE).write_bytes(fitted.exported)
    description.add_flavor(
        "onnx",
        onnx_version=onnx.__version__,
        data=MODEL_FILE,
        providers=["CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )
    features = [feature.name for feature in contract.features]
    columns = read_columns(dataset, TEST, contract.metrics)
    profile = model_profile(
        lambda: dataset.batches(part, features),
        lambda: dataset.batches(TEST, features),
        contract,
        test.labels,
        fitted.predictions,
        _importance(fitted, test, columns) if importances is None else importances,
        test.metric_weights,
        columns,
    )
    profile, contract = with_watched_columns(profile, contract, dataset, part)
    profile = with_constant_spans(profile, contract, dataset, part)
    # The profile of a wide table is large. Indented JSON takes several times as long to write.
    for file, content, indent in (
        (CONTRACT_FILE, contract.model_dump(mode="json"), 1),
        (PROFILE_FILE, profile.model_dump(mode="json"), None),
    ):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps(content, indent=indent, allow_nan=False))
    return description


def _importance(fitted: Fitted, test: TrainingData, columns: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Return the permutation importance of each feature, by name of the feature.

    The importance is measured by the metric by which the model is judged (:mod:`airflow_mlops.metrics.judged`). It is measured on the ONNX export, because scoring uses the export.

    :param columns: the columns that the metrics of the model name, each of shape (n,)
    """
    # Contracts of earlier releases, which a refit copies, do not record that a ranking is judged by NDCG.
    metric = next(filter(is_ranking, fitted.contract.metrics), default_metric(fitted.contract))
    worse = importance.measure(
        OnnxModel(fitted.exported, fitted.contract),
        test.labels,
        lambda names, rows: test.table.select(names).take(rows),
        find_metric(metric),
        test.metric_weights,
        columns,
    )
    return importance.shares(worse)


def _signature(contract: ModelContract) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    kinds = {"number": "double", "integer": "long", "string": "string"}
    inputs = Schema([ColSpec(kinds[feature.kind], feature.name) for feature in contract.features])
    answer: Any = contract.classes[0] if contract.classes else 0.0
    output = {str: "string", int: "long", float: "double"}[type(answer)]
    return ModelSignature(inputs, Schema([ColSpec(output)]))
