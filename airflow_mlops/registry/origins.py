"""What a version was made from, by its MLflow run and its stored contract."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from airflow_mlops.exceptions import RegistryError, RegistryUnavailableError
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.ledger import Origin
from airflow_mlops.registry.onnx_model import CONTRACT_FILE
from airflow_mlops.specs.base import ModelVersionRef
from airflow_mlops.specs.model import ModelContract

if TYPE_CHECKING:
    from mlflow import MlflowClient


def origin(client: MlflowClient, ref: ModelVersionRef) -> Origin:
    """What ``ref`` was made from, as far as its run says; one whose run is gone, or that has none, has an empty
    origin.

    :raises RegistryUnavailableError: MLflow does not answer
    """
    try:
        with registry_errors(f"The MLflow run of {ref} cannot be read"):
            tags = client.get_run(ref.run_id).data.tags
    except RegistryUnavailableError:
        raise
    except RegistryError:
        tags = {}
    return Origin(
        version=ref.version,
        dataset=tags.get("mlops.dataset", ""),
        package=tags.get("mlops.package", ""),
        code=tags.get("mlops.code", ""),
        environment=tags.get("mlops.environment", ""),
    )


def contract(client: MlflowClient, ref: ModelVersionRef) -> ModelContract:
    """The contract stored beside the model.

    :raises RegistryError: the version or its contract is gone
    """
    import mlflow

    with registry_errors(f"The contract of {ref} cannot be read"), tempfile.TemporaryDirectory() as folder:
        try:
            file = mlflow.artifacts.download_artifacts(
                f"models:/{ref.model}/{ref.version}/{CONTRACT_FILE}", dst_path=folder, tracking_uri=client.tracking_uri
            )
            return ModelContract.model_validate_json(Path(file).read_bytes())
        except (OSError, ValidationError) as error:
            raise RegistryError(f"The contract of {ref} cannot be read: {' '.join(str(error).split())}.") from error
