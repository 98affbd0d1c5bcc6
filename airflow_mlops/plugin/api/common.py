"""Dependencies that the routes of the API share: the artifact store, the model of a request, and MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, HTTPException, Path

from airflow_mlops import server
from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import models
from airflow_mlops.overview.facts import ModelFacts
from airflow_mlops.plugin.api.access import AccessDep
from airflow_mlops.settings import default_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

ModelName = Annotated[str, Path(description="Name of the registered model")]


def unknown(what: str = "model") -> HTTPException:
    """Return the error 404 for an object that does not exist, or that the user may not see."""
    return HTTPException(404, f"There is no such {what}.")


def store() -> ArtifactStore:
    """Open the artifact store of ``[mlops] artifacts``."""
    return ArtifactStore(default_store())


StoreDep = Annotated[ArtifactStore, Depends(store)]


def readable(name: ModelName, rights: AccessDep, found: StoreDep) -> None:
    """Answer 404 if the model does not exist, or the user may not see the model. Only the index is read."""
    dags = models.dags(found, name) if "\0" not in name else None
    if dags is None or not rights.sees(dags):
        raise unknown()


SEEN = [Depends(readable)]


def visible(name: ModelName, rights: AccessDep, found: StoreDep) -> ModelFacts:
    """Return all facts about a model. The answer is 404 if the model does not exist, or the user may not see it."""
    facts = models.model(found, name) if "\0" not in name else None
    if facts is None or not rights.sees(facts.dags):
        raise unknown()
    return facts


ModelDep = Annotated[ModelFacts, Depends(visible)]


def mlflow() -> MlflowClient:
    """Connect to MLflow with the connection ``mlflow_default``.

    :raises RegistryError: MLflow's client is not installed here, or MLflow cannot be used
    """
    from airflow_mlops.registry.client import connect

    try:
        return connect(MLflowTarget(), server.connection)
    except ImportError as error:
        raise RegistryError(
            f"Airflow's API server cannot use MLflow, because {error.name or 'a package'} is not installed there. Install "
            "airflow-mlops with its dependencies where the API server runs."
        ) from None
