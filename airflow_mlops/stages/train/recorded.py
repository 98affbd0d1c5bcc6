"""Read from MLflow how a registered version was trained."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import RegistryError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.metrics.catalog import is_custom
from airflow_mlops.models.trainers.known import own_code
from airflow_mlops.models.trainers.spec import SearchTrainerSpec
from airflow_mlops.registry import run_files
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.names import TRAINING_FILE
from airflow_mlops.stages.train.spec import TrainSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient


def training_spec(
    client: MlflowClient, ref: ModelVersionRef, action: str = "reproduced", *, allow_code: bool
) -> TrainSpec:
    """Read the spec with which a version was trained.

    The spec names code by import paths, and anyone who can write to the MLflow run can change it.

    :param action: purpose of reading the spec, as a participle in error messages, such as ``reproduced``
    :param allow_code: whether the spec may name other code than estimators of well-known packages, see
        :mod:`airflow_mlops.models.trainers.known`
    :raises RegistryError: TrainOperator did not train the version
    :raises SpecError: the spec names other code, and ``allow_code`` is false
    """
    found: TrainSpec = parse(TrainSpec, run_file(client, ref, TRAINING_FILE, action), f"The training of {ref}")
    if isinstance(found.trainer, SearchTrainerSpec):
        raise RegistryError(f"{ref} cannot be {action}, because its MLflow run names a search instead of a trainer.")
    if not allow_code and (own := [*own_code(found.trainer), *filter(is_custom, found.metrics)]):
        raise SpecError(
            f"{ref} is not {action}, because its MLflow run names code outside scikit-learn, XGBoost, LightGBM, CatBoost and "
            f"InterpretML: {', '.join(own)}. Anyone who can write to the run can change these names. Review the code, and set "
            "`allow_code` to run it."
        )
    return found


def run_file(client: MlflowClient, ref: ModelVersionRef, file: str, action: str = "reproduced") -> dict[str, Any]:
    """Read a JSON file from the version's MLflow run.

    :param action: purpose of reading the file, as a participle in error messages, such as ``reproduced``
    :raises RegistryError: the run has no such file
    """
    without = f"{ref} cannot be {action}, because "
    if not ref.run_id:
        raise RegistryError(f"{without}it has no MLflow run. Train the model with TrainOperator.")
    with registry_errors(f"The MLflow run of {ref} cannot be read"):
        if file not in run_files.paths(client, ref.run_id):
            raise RegistryError(
                f"{without}its MLflow run {ref.run_id} has no file {file}. TrainOperator writes this file. Train the model "
                "again with TrainOperator."
            )
        content: dict[str, Any] = json.loads(run_files.read(client, ref.run_id, file))
    return content
