"""The routes that read: models, drift, versions, data, DAGs and tasks. None of them changes anything."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from airflow_mlops import dag_facts, server
from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.links.artifacts import page_address
from airflow_mlops.links.mlflow import ui_address
from airflow_mlops.overview import data, decisions, drift, index, models, progress, samples, tasks, versions
from airflow_mlops.overview.data import ModelData
from airflow_mlops.overview.drift import ColumnDrift, DriftMap
from airflow_mlops.overview.facts import ModelFacts, Models, Overview, PendingApproval
from airflow_mlops.overview.progress import Progress
from airflow_mlops.overview.samples import Samples
from airflow_mlops.overview.tasks import TaskResult
from airflow_mlops.overview.versions import Versions
from airflow_mlops.plugin.api.access import Access, AccessDep, require_assets
from airflow_mlops.plugin.api.common import SEEN, ModelDep, ModelName, StoreDep, mlflow, unknown
from airflow_mlops.registry.ledger import Ledger

router = APIRouter()


def _completed(found: list[Overview], rights: Access) -> list[Overview]:
    """Complete the overviews of models from Airflow's database.

    This adds owners, tags, open requests for approval, and whether the user may act on the model and answer the
    request.
    """
    return [
        item.model_copy(update={"can_act": rights.acts(item.dags), "approval": _approval(item.approval, rights)})
        for item in dag_facts.complete(found, rights.readable)
    ]


def _approval(found: PendingApproval | None, rights: Access) -> PendingApproval | None:
    return found and found.model_copy(update={"can_answer": rights.answers(found)})


@router.get("/models")
def list_models(rights: AccessDep, store: StoreDep) -> Models:
    """Return the newest facts about each model that the user may see, sorted by name."""
    everything = models.models(store)
    seen = [item for item in everything.models if rights.sees(item.dags)]
    return Models(models=_completed(seen, rights), problems=everything.problems)


@router.get("/models/{name}")
def get_model(facts: ModelDep, rights: AccessDep) -> ModelFacts:
    """Return all facts about a model."""
    overview = _completed([Overview(**{key: getattr(facts, key) for key in Overview.model_fields})], rights)[0]
    return facts.model_copy(update=dict(overview))


@router.get("/models/{name}/drift", dependencies=SEEN)
def drift_map(
    name: ModelName,
    store: StoreDep,
    features: Annotated[int, Query(ge=1, le=500)] = 30,
    windows: Annotated[int, Query(ge=1, le=drift.LONGEST)] = 36,
) -> DriftMap:
    """Return the drift of the highest-ranked features in the last windows."""
    return drift.drift_map(store, name, features, windows)


@router.get("/models/{name}/drift/{column:path}", dependencies=SEEN)
def column_drift(name: ModelName, column: str, store: StoreDep, start: UtcDatetime, end: UtcDatetime) -> ColumnDrift:
    """Return the distributions of a column in the reference and in a window."""
    window = parse(Window, {"start": start, "end": end}, "The request")
    found = drift.column(store, name, column, window)
    if found is None:
        raise unknown("column in this window")
    return found


@router.get("/models/{name}/versions", dependencies=SEEN)
def list_versions(name: ModelName, store: StoreDep) -> Versions:
    """Return the versions of a model from the ledger and MLflow, newest first."""
    entries, _ = decisions.read(store, name)
    try:
        ui = ui_address(server.connection("mlflow_default"))
        return versions.from_mlflow(mlflow(), Ledger(store, name), entries, ui)
    except MLOpsError as error:
        known = versions.from_ledger(entries)
        return Versions(versions=[known[number] for number in sorted(known, reverse=True)], problems=[str(error)])


@router.get("/models/{name}/data", dependencies=SEEN)
def model_data(name: ModelName, store: StoreDep) -> ModelData:
    """Return the windows of the datasets that a model reads, and the lineage from raw data to its predictions."""
    entries, _ = decisions.read(store, name)
    scored = [section.scoring for section in index.without_history(store, name) if section.scoring is not None]
    return data.model_data(store, name, entries, scored)


@router.get("/dags/{dag_id}")
def models_of_dag(dag_id: str, rights: AccessDep, store: StoreDep) -> Models:
    """Return the models that a DAG trains, scores or monitors."""
    if dag_id not in rights.readable:
        raise unknown("DAG")
    everything = models.models(store)
    seen = [item for item in everything.models if dag_id in item.dags.ids()]
    return Models(models=_completed(seen, rights), problems=everything.problems)


def _task(dag_id: str, run_id: str, task_id: str, map_index: int, rights: AccessDep, store: StoreDep) -> TaskResult:
    """Return the result of a task of this package.

    The answer is 404 if there is no result, or the user may not read the DAG.
    """
    found = tasks.result(store, dag_id, run_id, task_id, map_index) if dag_id in rights.readable else None
    if found is None:
        raise unknown("task")
    return found


TaskDep = Annotated[TaskResult, Depends(_task)]
_TASK = "/tasks/{dag_id}/{run_id}/{task_id}/{map_index}"
# Fields of results that hold the URL of a page in the artifact store.
_PAGES = ("docs_url", "report_url")


@router.get(_TASK)
def task_result(found: TaskDep) -> TaskResult:
    """Return the result of a task of this package, with the URLs at which the plugin serves its pages."""
    pages = {name: page_address(url) for name in _PAGES if isinstance(url := found.result.get(name), str)}
    return found.model_copy(update={"result": {**found.result, **pages}})


@router.get(f"{_TASK}/samples", dependencies=[Depends(require_assets)])
def quarantined_samples(found: TaskDep, store: StoreDep) -> Samples:
    """Return the first rows that a validation has quarantined, to users who may read assets."""
    return samples.quarantined(store, found.result)


@router.get(f"{_TASK}/progress")
def training_progress(dag_id: str, run_id: str, task_id: str, map_index: int, rights: AccessDep) -> Progress:
    """Return the curves and trials that a training or a search has logged to MLflow so far."""
    if dag_id not in rights.readable:
        raise unknown("task")
    try:
        address = ui_address(server.connection("mlflow_default"))
        return progress.progress(mlflow(), dag_id, run_id, task_id, map_index, address)
    except MLOpsError as error:
        return Progress(problems=[str(error)])
