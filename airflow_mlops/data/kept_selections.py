"""Store the datasets that the first try of a task selected, so that a retry reads the same datasets.

Between the first try and a retry, a newer dataset may be written. A checkpoint or a registered model version of the
first try would then belong to different rows than the retry. The first try therefore stores the ids of the datasets
that each selection found. A task that a user cleared has another key, and selects again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airflow_mlops.core.fingerprints import canonical_json, fingerprint
from airflow_mlops.core.references import DatasetRef, DatasetSelection
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.datasets.subsets import within_window
from airflow_mlops.data.store import ArtifactStore


class KeptSelections:
    """The dataset selections of one task, which are stored next to the checkpoints of its step.

    :param store: artifact store
    :param key: key of the step's result, which is the same for all tries of a task
    """

    def __init__(self, store: ArtifactStore, key: str) -> None:
        self._store = store
        self._folder = f"checkpoints/{key.removesuffix('.json')}/selections"

    def find(
        self, chosen: DatasetSelection, how: Sequence[Any], find: Callable[[DatasetSelection], list[Dataset]]
    ) -> list[Dataset]:
        """Return the datasets of a selection.

        The first try searches the datasets and stores their ids. A retry opens the datasets with these ids. If nothing
        is found, nothing is stored, so a retry searches again.

        :param chosen: the selection, which names the datasets and their windows
        :param how: everything else that determines the result of ``find``, as JSON values
        :param find: function that finds the datasets
        :raises DatasetNotFoundError: there is no such dataset, or a dataset that the first try found no longer exists
        """
        key = f"{self._folder}/{fingerprint([chosen.model_dump(mode='json'), list(how)])[:16]}.json"
        try:
            stored = self._store.read_json(key)
        except FileNotFoundError:
            found = find(chosen)
            if self._store.create_exclusive(key, canonical_json([_described(dataset) for dataset in found])):
                return found
            # Another node of the same training was faster and has stored its selection.
            stored = self._store.read_json(key)
        return [_opened(self._store, item) for item in stored]


def _described(dataset: Dataset) -> dict[str, Any]:
    part = dataset.window if dataset.window != dataset.manifest.window else None
    return {
        "name": dataset.manifest.name,
        "id": dataset.manifest.id,
        "part": str(part) if part else None,
        "time_column": dataset.time_column if part else None,
    }


def _opened(store: ArtifactStore, item: dict[str, Any]) -> Dataset:
    dataset = open_dataset(store, DatasetRef(name=item["name"], id=item["id"], rows=0))
    if not item["part"]:
        return dataset
    return within_window(dataset, Window.model_validate(item["part"]), item["time_column"])
