"""The artifact store: files under an fsspec URL that are written atomically."""

from __future__ import annotations

from airflow_mlops.data.store.artifact_store import ArtifactStore
from airflow_mlops.data.store.files import HashingFile, ReadableFile
from airflow_mlops.data.store.pauses import ATTEMPTS, pauses
from airflow_mlops.data.store.uploads import UnfinishedUpload
from airflow_mlops.data.store.writing import SMALL_BYTES, as_json

__all__ = [
    "ATTEMPTS",
    "SMALL_BYTES",
    "ArtifactStore",
    "HashingFile",
    "ReadableFile",
    "UnfinishedUpload",
    "as_json",
    "pauses",
]
