"""What a version was made from, by its MLflow run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.errors import RegistryError, RegistryUnavailableError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.ledger import Origin

if TYPE_CHECKING:
    from mlflow import MlflowClient


# Tag of a run: the version of the user's code that trained, which DAG authors set.
CODE_VERSION = "mlops.code_version"


def origin(client: MlflowClient, ref: ModelVersionRef) -> Origin:
    """What ``ref`` was made from, as far as its run says; one whose run is gone, or that has none, has an empty
    origin.

    :raises RegistryUnavailableError: MLflow does not answer
    """
    tags = _tags(client, ref)
    return Origin(
        version=ref.version,
        dataset=tags.get("mlops.dataset", ""),
        package=tags.get("mlops.package", ""),
        code=tags.get("mlops.code", ""),
        environment=tags.get("mlops.environment", ""),
    )


def code_version(client: MlflowClient, ref: ModelVersionRef) -> str | None:
    """The version of the user's code that trained ``ref``, if its run says so.

    :raises RegistryUnavailableError: MLflow does not answer
    """
    return _tags(client, ref).get(CODE_VERSION)


def _tags(client: MlflowClient, ref: ModelVersionRef) -> dict[str, str]:
    try:
        with registry_errors(f"The MLflow run of {ref} cannot be read"):
            return dict(client.get_run(ref.run_id).data.tags)
    except RegistryUnavailableError:
        raise
    except RegistryError:
        return {}
