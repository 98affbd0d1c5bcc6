"""Find datasets by their ids alone. A manifest names its parents by their ids only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets.manifest import Manifest, manifest_key
from airflow_mlops.data.store import ArtifactStore

# Maximum number of names, besides the hints, under which a dataset is searched.
_NAMES = 64


class DatasetSummary(BaseModel):
    """The fields of a manifest that identify a dataset and its parents.

    Other fields, also of newer formats, are ignored.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    name: str
    window: Window | None = None
    source: dict[str, Any] = Field(default_factory=dict)
    parents: list[str] = Field(default_factory=list)

    @property
    def title(self) -> str:
        """Return the name, the window and the short id."""
        return f"{self.name} {self.window.label if self.window else 'snapshot'} ({self.id[:12]})"


class Finder:
    """Finds datasets by their ids, and remembers the results.

    :param store: artifact store with the datasets
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._names: list[str] | None = None
        self._found: dict[str, DatasetSummary] = {}

    def find(self, ids: Sequence[str], hints: Iterable[str]) -> dict[str, DatasetSummary]:
        """Find datasets and return them by id. A dataset that is not found, or has a damaged manifest, is left out.

        :param ids: ids of the datasets
        :param hints: texts, some of which are names of datasets. These names are searched first
        """
        first = [name for name in dict.fromkeys(hints) if name and "/" not in name]
        found = {dataset_id: self._found[dataset_id] for dataset_id in ids if dataset_id in self._found}
        # The first name is usually that of all parents, and each name takes a request for each id.
        for name in first:
            found |= self._read([dataset_id for dataset_id in ids if dataset_id not in found], [name])
        others = [dataset_id for dataset_id in ids if dataset_id not in found]
        if others:
            if self._names is None:
                self._names = [key.rpartition("/")[2] for key in self._store.keys("datasets")]
            found |= self._read(others, [name for name in self._names if name not in first][:_NAMES])
        self._found |= found
        return found

    def _read(self, ids: Sequence[str], names: Sequence[str]) -> dict[str, DatasetSummary]:
        if not ids:
            return {}
        wanted = {manifest_key(name, dataset_id): dataset_id for dataset_id in ids for name in names}
        found = {}
        for key, content in self._store.read_many(wanted).items():
            try:
                summary = DatasetSummary.model_validate_json(content)
            except ValidationError:
                continue
            if summary.id == wanted[key]:
                found[summary.id] = summary
        return found


def hints_of(dataset: DatasetSummary | Manifest) -> list[str]:
    """Return texts, some of which are the names of the dataset's parents."""
    return [*(value for value in dataset.source.values() if isinstance(value, str)), dataset.name]


def parents_of(finder: Finder, manifests: Iterable[Manifest]) -> dict[str, str]:
    """Return the name, the window and the short id of each parent of some datasets, by the parent's id.

    Parents that are not found are left out.
    """
    titles: dict[str, str] = {}
    for manifest in manifests:
        found = finder.find(manifest.parents, hints_of(manifest))
        titles |= {dataset_id: summary.title for dataset_id, summary in found.items()}
    return titles
