"""Find the models of a store without an index: those with a ledger, with monitoring reports, or with predictions."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

from airflow_mlops.data.datasets.pointers import slots_of
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import scoring
from airflow_mlops.overview.sections import Kind


def find(store: ArtifactStore) -> Iterator[tuple[str, Kind, str | None]]:
    """Yield the name of each model, the kind of a section with facts about it, and the name of its datasets of predictions.

    The kind is ``decisions`` for a model with a ledger, ``monitoring`` for a model with reports, and ``scoring`` for a
    model with predictions. The last name is ``None`` except for ``scoring``. A model can occur several times.

    :raises StoreError: the store cannot be read
    """
    for key in store.keys("ledger"):
        yield unquote(_last(key)), "decisions", None
    for key in store.keys("reports"):
        yield _last(key), "monitoring", None
    for key in store.keys("datasets"):
        name = _last(key)
        for model in sorted({found for slot in slots_of(store, name).find() if (found := scoring.model_of(slot))}):
            yield model, "scoring", name


def _last(key: str) -> str:
    return key.rpartition("/")[2]
