"""What monitoring finds out about the columns of a window themselves, and how recent its rows are."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.artifacts.datasets import Dataset, open_dataset
from airflow_mlops.artifacts.store import ArtifactStore
from airflow_mlops.exceptions import DatasetNotFoundError
from airflow_mlops.monitoring import freshness as rows
from airflow_mlops.monitoring import schema
from airflow_mlops.monitoring.delays import LABEL_AT
from airflow_mlops.monitoring.performance import LABEL
from airflow_mlops.monitoring.profiles import ModelProfile
from airflow_mlops.specs.base import DatasetRef, Window
from airflow_mlops.specs.model import ModelContract
from airflow_mlops.specs.monitor import Freshness, SchemaChange
from airflow_mlops.specs.score import PREDICTION_COLUMNS


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
