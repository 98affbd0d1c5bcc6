"""The scoring of the last window of a model."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from airflow_mlops.core.base import Model
from airflow_mlops.data.columns import kept_apart
from airflow_mlops.data.datasets.catalog import manifests_by_id
from airflow_mlops.data.datasets.manifest import Manifest
from airflow_mlops.data.datasets.pointers import read_all, slots_of
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.timeline import window_of
from airflow_mlops.overview.facts import Scoring, WindowFacts

# Name of a slot: the window (start and end, without hyphens) or the fingerprint of the scored rows; the model; the
# version.
_SLOT = re.compile(r"(?:[\dT_]+Z-[\dT_]+Z|rows-[0-9a-f]+)-(.+)-v\d+\.json")
_FIRST = datetime.min.replace(tzinfo=timezone.utc)


class LastScoring(Model):
    """The last scoring of a model into one dataset name.

    :param name: name of the datasets of predictions
    :param last: the scoring of the window that ends last
    :param dag_id: DAG of the task that scored; empty without Airflow
    """

    name: str
    last: Scoring
    dag_id: str = ""


def last_scoring(store: ArtifactStore, model: str, name: str) -> LastScoring | None:
    """Return the scoring of the window that ends last; ``None`` without predictions.

    Predictions of a shadow or a canary do not count. If several versions scored the same window, the most recent
    predictions count.

    :param name: name of the datasets of predictions
    :raises StoreError: the store cannot be read
    :raises DatasetCorruptError: a slot or a manifest is damaged
    """
    found = [
        manifest
        for manifest in newest(store, model, name)
        if manifest.details.get("model") == model and kept_apart(manifest.details) is None
    ]
    if not found:
        return None
    last = max(found, key=lambda item: (item.window.end if item.window is not None else _FIRST, item.created))
    return LastScoring(
        name=name,
        last=Scoring(
            window=WindowFacts.of(last.window) if last.window is not None else None,
            scored_at=last.created,
            version=int(last.details["model_version"]),
            rows=last.rows,
        ),
        dag_id=last.provenance.dag_id,
    )


def newest(store: ArtifactStore, model: str, name: str) -> list[Manifest]:
    """Return the manifests of the current predictions of the last window, or of all snapshots if there is no window."""
    keys = {key: window_of(key) for key in slots_of(store, name).find() if model_of(key) == model}
    last = max((window.end for window in keys.values() if window is not None), default=None)
    newest = [key for key, window in keys.items() if (window.end if window is not None else None) == last]
    found = read_all(store, newest)
    return list(manifests_by_id(store, name, {pointer.id for pointer in found}).values())


def model_of(key: str) -> str | None:
    """Return the name of the model in the key of a slot (:func:`airflow_mlops.data.predictions.log.slot`).

    :param key: key of the slot
    :return: ``None`` if the slot does not belong to predictions
    """
    found = _SLOT.fullmatch(key.rpartition("/")[2])
    return found.group(1) if found is not None else None
