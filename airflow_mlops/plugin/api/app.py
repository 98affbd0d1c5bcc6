"""The FastAPI application of the JSON API."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse

from airflow_mlops.core.errors import MLOpsError, StoreError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import models
from airflow_mlops.overview.facts import ModelFacts, Models, Overview
from airflow_mlops.plugin.api import dags
from airflow_mlops.plugin.api.access import AccessDep, access
from airflow_mlops.settings import default_store

log = logging.getLogger(__name__)

app = FastAPI(
    title="MLOps",
    version="1",
    description="Models, their monitored windows and decisions, and actions on them.",
    docs_url=None,
    redoc_url=None,
    dependencies=[Depends(access)],
)

ModelName = Annotated[str, Path(description="Name of the registered model")]


@app.middleware("http")
async def _headers(request: Request, respond: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await respond(request)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "private, no-store"
    return response


@app.exception_handler(MLOpsError)
def _failed(request: Request, error: MLOpsError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 502 if isinstance(error, StoreError) else 409)


def unknown() -> HTTPException:
    """Return the answer for a model that does not exist or that the user may not see."""
    return HTTPException(404, "There is no such model.")


def store() -> ArtifactStore:
    """Open the artifact store of ``[mlops] artifacts``."""
    return ArtifactStore(default_store())


StoreDep = Annotated[ArtifactStore, Depends(store)]


def visible(name: str, rights: AccessDep, found: StoreDep) -> ModelFacts:
    """Return all facts about a model that the user may see. Otherwise, the answer is 404."""
    facts = models.model(found, name)
    if facts is None or not rights.sees(facts.dags):
        raise unknown()
    return facts


@app.get("/models")
def list_models(rights: AccessDep, found: StoreDep) -> Models:
    """Return the newest facts about each model that the user may see, by name."""
    everything = models.models(found)
    seen = [item for item in everything.models if rights.sees(item.dags)]
    return Models(models=dags.complete(seen, rights), problems=everything.problems)


@app.get("/models/{name}")
def get_model(name: ModelName, rights: AccessDep, found: StoreDep) -> ModelFacts:
    """Return all facts about a model."""
    facts = visible(name, rights, found)
    overview = dags.complete([Overview(**{key: getattr(facts, key) for key in Overview.model_fields})], rights)[0]
    return facts.model_copy(update=dict(overview))


@app.get("/dags/{dag_id}")
def models_of_dag(dag_id: str, rights: AccessDep, found: StoreDep) -> Models:
    """Return the models that a DAG trains, scores or monitors."""
    if dag_id not in rights.readable:
        raise HTTPException(404, "There is no such DAG.")
    everything = models.models(found)
    seen = [item for item in everything.models if dag_id in item.dags.ids()]
    return Models(models=dags.complete(seen, rights), problems=everything.problems)
