"""What a version was made from, by its MLflow run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.exceptions import RegistryError, RegistryUnavailableError
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.ledger import Origin
from airflow_mlops.specs.base import ModelVersionRef

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
