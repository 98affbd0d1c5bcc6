"""Describe opened datasets as JSON, so that another machine reads the same rows without looking them up."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, Manifest
from airflow_mlops.data.datasets.subsets import DatasetSlice
from airflow_mlops.data.store import ArtifactStore


class _Sent(BaseModel):
    """A dataset, and the window and time column if only the rows of a window are read."""

    manifest: Manifest
    window: Window | None = None
    time_column: str | None = None


def describe(dataset: Dataset) -> str:
    """Return a JSON text from which :func:`restore` opens the dataset again."""
    if isinstance(dataset, DatasetSlice):
        sent = _Sent(manifest=dataset.manifest, window=dataset.window, time_column=dataset.time_column)
    else:
        sent = _Sent(manifest=dataset.manifest)
    return sent.model_dump_json()


def restore(store: ArtifactStore, text: Any) -> Dataset:
    """Open a dataset that :func:`describe` described.

    A process that reads several spans of a file checks the hash of the file once.
    """
    return _restored(store, str(text))


@lru_cache(maxsize=64)
def _restored(store: ArtifactStore, text: str) -> Dataset:
    sent = _Sent.model_validate_json(text)
    if sent.window is None or sent.time_column is None:
        return Dataset(store, sent.manifest)
    return DatasetSlice(store, sent.manifest, sent.window, sent.time_column)
