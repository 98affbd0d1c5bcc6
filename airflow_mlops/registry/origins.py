"""Read the training set, code and environment of a model version from the tags of its MLflow run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.errors import RegistryError, RegistryUnavailableError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.records.entry import Origin

if TYPE_CHECKING:
    from mlflow import MlflowClient


# Tag of a run, set by DAG authors: the version of the user's training code.
CODE_VERSION = "mlops.code_version"


def origin(client: MlflowClient, ref: ModelVersionRef) -> Origin:
    """Return training set, code and environment of a model version.

    All fields except ``version`` are empty if the version has no MLflow run, or if MLflow refuses to return the run.

    :raises RegistryUnavailableError: MLflow does not respond
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
    """Return the version of the user's training code, from the MLflow tag ``mlops.code_version``.

    The result is ``None`` if the MLflow run of ``ref`` does not have this tag.

    :raises RegistryUnavailableError: MLflow does not respond
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
