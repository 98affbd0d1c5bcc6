"""Immutable datasets. A dataset consists of Parquet files and a manifest that lists the files with their hashes.

Layout in the artifact store, for a dataset called NAME::

    datasets/NAME/files/UUID.parquet       rows; written first
    datasets/NAME/manifests/ID.json        manifest; written after the files, completes the dataset
    datasets/NAME/windows/WINDOW.json      id of the current dataset of a time window
    datasets/NAME/snapshots/TIME-ID.json   id of a dataset without a window, and when it became the newest one
    datasets/NAME/withdrawn/...json        tombstones: windows and snapshots that a person withdrew, by whom and why
    datasets/NAME/slots/SLOT.json          id of the current dataset of a slot

Windows and slots of short periods are in subfolders, see :mod:`airflow_mlops.data.timeline`.

Readers ignore files that no manifest lists, so a writer that crashes leaves no incomplete dataset. A *slot* is a name
that the writer chooses if a window alone does not identify the current dataset. For example, the predictions for a
window have a slot for each model version.
"""

from airflow_mlops.data.datasets.catalog import (
    current_datasets,
    datasets_inside,
    find_datasets,
    find_whole_datasets,
    in_slot,
    in_slots,
    mark_purged,
    neighbouring_manifest,
    open_dataset,
    read_manifests,
    snapshot,
)
from airflow_mlops.data.datasets.manifest import ColumnEntry, FileEntry, Manifest
from airflow_mlops.data.datasets.reader import TIMESTAMP_IS_DATE, Dataset
from airflow_mlops.data.datasets.writer import DATA, DatasetWriter, WrittenFiles, make_current, schema_difference

__all__ = [
    "DATA",
    "TIMESTAMP_IS_DATE",
    "ColumnEntry",
    "Dataset",
    "DatasetWriter",
    "FileEntry",
    "Manifest",
    "WrittenFiles",
    "current_datasets",
    "datasets_inside",
    "find_datasets",
    "find_whole_datasets",
    "in_slot",
    "in_slots",
    "make_current",
    "mark_purged",
    "neighbouring_manifest",
    "open_dataset",
    "read_manifests",
    "schema_difference",
    "snapshot",
]
