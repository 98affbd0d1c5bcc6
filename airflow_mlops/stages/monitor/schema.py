"""What monitoring finds out about the columns of a window themselves, and how recent its rows are."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import LABEL, LABEL_AT, PREDICTION_COLUMNS
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift import freshness as rows
from airflow_mlops.drift import schema
from airflow_mlops.drift.findings import Freshness, SchemaChange
from airflow_mlops.profiles.profile import ModelProfile


def changes(
    datasets: Sequence[Dataset], reference: ModelProfile, contract: ModelContract, store: ArtifactStore
) -> list[SchemaChange]:
    """What is gone, new, or of another type than in the training set; of the latter only features, and only their kind
    where the training set is not in the store.
    """
    schemas = [dataset.schema for dataset in datasets]
    try:
        training_set = open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0))
    except DatasetNotFoundError:
        return schema.changes(reference.features.columns, {}, schemas)
    trained = {column.name: column.type for column in training_set.manifest.columns}
    ours = (*PREDICTION_COLUMNS, LABEL, LABEL_AT)
    found = schema.changes(reference.features.columns, trained, schemas)
    return [*found, *schema.added(trained, schemas, ours)]


def freshness(datasets: Sequence[Dataset], window: Window) -> Freshness | None:
    """How recent the rows are, where a column says when they happened or were scored."""
    event_time = str(datasets[-1].manifest.details.get("timestamp"))

    def wanted(dataset: Dataset) -> list[str]:
        return [item.name for item in dataset.manifest.columns if item.name in (event_time, rows.SCORED_AT)]

    batches = (batch for dataset in datasets for batch in dataset.batches(columns=wanted(dataset)))
    return rows.freshness(batches, event_time, window)
