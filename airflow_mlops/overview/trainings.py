"""Find the versions that DAGs have trained, from the tags of their MLflow runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.datasets.manifest import manifest_key
from airflow_mlops.data.store import ArtifactStore

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Number of versions of each model whose runs are read.
NEWEST = 20


class Training(NamedTuple):
    """A version, the DAG that trained it, and the time of its registration."""

    ref: ModelVersionRef
    dag_id: str
    registered: datetime


def find(client: MlflowClient, store: ArtifactStore) -> Iterator[Training]:
    """Yield the newest version of each model and DAG whose training set is in the store.

    Only the newest 20 versions of each model are considered.

    :raises RegistryError: MLflow cannot be read
    :raises StoreError: the store cannot be read
    """
    from airflow_mlops.registry.client import quoted, registry_errors

    with registry_errors("The registered models cannot be listed"):
        for model in _models(client):
            if "'" in model and '"' in model:
                continue  # MLflow cannot search for it, and TrainOperator allows no such name.
            newest: dict[str, Training] = {}
            for item in client.search_model_versions(
                f"name = {quoted(model)}", max_results=NEWEST, order_by=["version_number DESC"]
            ):
                tags = _tags(client, item.run_id)
                dag_id, name, dataset = (tags.get(f"mlops.{tag}", "") for tag in ("dag_id", "dataset_name", "dataset"))
                if dag_id not in newest and dataset and store.exists(manifest_key(name, dataset)):
                    ref = ModelVersionRef(model=model, version=int(item.version), run_id=item.run_id)
                    registered = datetime.fromtimestamp(item.creation_timestamp / 1000, timezone.utc)
                    newest[dag_id] = Training(ref, dag_id, registered)
            yield from newest.values()


def _tags(client: MlflowClient, run_id: str | None) -> dict[str, str]:
    """Return the tags of a run; empty if the version has no run, or the run was deleted permanently."""
    from airflow_mlops.registry.client import unless_missing

    tags: dict[str, str] = {}
    with unless_missing():
        if run_id:
            tags.update(client.get_run(run_id).data.tags)
    return tags


def _models(client: MlflowClient) -> Iterator[str]:
    page = None
    while page is None or page.token:
        page = client.search_registered_models(page_token=page.token if page is not None else None)
        yield from (model.name for model in page)
