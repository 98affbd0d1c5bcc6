"""Functions that find the datasets of a reference or a selection, and their common window."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.core.references import DatasetRef, DatasetSelection
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, find_datasets, open_dataset
from airflow_mlops.data.store import ArtifactStore


def select(store: ArtifactStore, chosen: DatasetRef | DatasetSelection) -> list[Dataset]:
    """Open the dataset that a reference names, or the datasets that a selection describes, ordered by time.

    :raises DatasetNotFoundError: there is no such dataset
    :raises SchemaError: the windows of two selected datasets overlap
    """
    if isinstance(chosen, DatasetRef):
        return [open_dataset(store, chosen)]
    return find_datasets(store, chosen.name, chosen.window)


def window_of(datasets: Sequence[Dataset]) -> Window | None:
    """Return the window from the earliest start to the latest end, or ``None`` if any dataset has no window."""
    windows = [dataset.manifest.window for dataset in datasets if dataset.manifest.window is not None]
    if not windows or len(windows) < len(datasets):
        return None
    return Window(start=min(window.start for window in windows), end=max(window.end for window in windows))
