"""Immutable datasets: Parquet files and a manifest that lists them with their hashes.

Layout in the artifact store, for a dataset called NAME::

    datasets/NAME/files/UUID.parquet       the rows; written first
    datasets/NAME/manifests/ID.json        makes the files a dataset; written after them
    datasets/NAME/windows/WINDOW.json      the id of the current dataset of a time window
    datasets/NAME/slots/SLOT.json          the id of the current dataset of a slot

Readers ignore files that no manifest lists, so a writer that crashes leaves no partial dataset. A *slot* is a key chosen
by the writer where a window is not specific enough, for example one version's predictions for a window.
"""

from airflow_mlops.data.datasets.catalog import (
    find_datasets,
    in_slot,
    mark_purged,
    neighbouring_manifest,
    open_dataset,
    read_manifests,
    slot_windows,
)
from airflow_mlops.data.datasets.manifest import ColumnEntry, FileEntry, Manifest
from airflow_mlops.data.datasets.reader import Dataset
from airflow_mlops.data.datasets.writer import DATA, DatasetWriter, schema_difference

__all__ = [
    "DATA",
    "ColumnEntry",
    "Dataset",
    "DatasetWriter",
    "FileEntry",
    "Manifest",
    "find_datasets",
    "in_slot",
    "mark_purged",
    "neighbouring_manifest",
    "open_dataset",
    "read_manifests",
    "schema_difference",
    "slot_windows",
]
