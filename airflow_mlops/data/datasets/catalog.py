"""Functions that find datasets in the artifact store by reference, window or slot."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from airflow_mlops.core.errors import DatasetNotFoundError, SchemaError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets.manifest import (
    Manifest,
    manifest_key,
    manifests_folder,
    slot_key,
    slots_folder,
    window_key,
    windows_folder,
)
from airflow_mlops.data.datasets.reader import Dataset
from airflow_mlops.data.store import ArtifactStore


def open_dataset(store: ArtifactStore, ref: DatasetRef) -> Dataset:
    """Open the dataset that ``ref`` refers to.

    :raises DatasetNotFoundError: the dataset is not in this store
    """
    return Dataset(store, _read_manifest(store, ref.name, ref.id))


def find_datasets(store: ArtifactStore, name: str, within: Window | None = None) -> list[Dataset]:
    """Open the current dataset of each window of ``name``, ordered by time.

    :param within: only windows inside this one; by default all windows. If ``within`` is set, the result includes
        purged datasets, and reading them raises :class:`DatasetPurgedError`. By default, purged datasets are left out,
        unless all datasets are purged
    :raises DatasetNotFoundError: there is no such dataset
    :raises SchemaError: two windows overlap
    """
    found: list[tuple[Window, Dataset]] = []
    for key in store.keys(windows_folder(name)):
        pointer = store.read_json(key)
        window = Window.model_validate(pointer["window"])
        if within is None or within.contains(window):
            found.append((window, Dataset(store, _read_manifest(store, name, pointer["id"]))))
    if not found:
        raise DatasetNotFoundError(
            f"There is no dataset {name!r}{f' in the window {within.label}' if within else ''} in the artifact store "
            f"{store.url}. Run the task that writes this dataset first, or correct the name or the window."
        )
    if within is None:
        found = [item for item in found if item[1].manifest.purged is None] or found
    found.sort(key=lambda item: (item[0].start, item[0].end))
    for (first, _), (second, _) in zip(found, found[1:], strict=False):
        if first.overlaps(second):
            raise SchemaError(
                f"Dataset {name!r} has the overlapping windows {first.label} and {second.label}, so rows could be read "
                "twice. Choose a window that contains only one of them."
            )
    return [dataset for _, dataset in found]


def neighbouring_manifest(store: ArtifactStore, name: str, window: Window) -> Manifest | None:
    """Read the manifest of the last window of ``name`` before ``window``, or else of the first window after it.

    :return: ``None`` if ``name`` has no other window
    """
    own = window_key(name, window)
    keys = [key for key in store.keys(windows_folder(name)) if key != own]
    if not keys:
        return None
    # Keys of windows sort by time.
    key = max((key for key in keys if key < own), default=keys[0])
    return _read_manifest(store, name, store.read_json(key)["id"])


def in_slot(store: ArtifactStore, name: str, slot: str) -> Dataset | None:
    """Open the current dataset of a slot. Return ``None`` if the slot does not exist."""
    found = current_id(store, slot_key(name, slot))
    return Dataset(store, _read_manifest(store, name, found)) if found else None


def slot_windows(store: ArtifactStore, name: str) -> dict[str, Window | None]:
    """Return the window of the current dataset by slot. It is ``None`` for a dataset without a window."""
    found = {}
    for key in store.keys(slots_folder(name)):
        window = store.read_json(key)["window"]
        slot = key.rpartition("/")[2].removesuffix(".json")
        found[slot] = Window.model_validate(window) if window else None
    return found


def read_manifests(store: ArtifactStore, name: str) -> Iterator[Manifest]:
    """Yield the manifests of all datasets ever written with this name, current and replaced, in no particular order."""
    for key in store.keys(manifests_folder(name)):
        yield Manifest.model_validate(store.read_json(key))


def mark_purged(store: ArtifactStore, manifest: Manifest, purged: datetime) -> None:
    """Record in the manifest that the dataset's files are purged. Reading the dataset then raises an error.

    :param purged: time of the deletion
    """
    marked = manifest.model_copy(update={"purged": purged})
    store.write_json(manifest_key(manifest.name, manifest.id), marked.model_dump(mode="json"))


def current_id(store: ArtifactStore, key: str) -> str | None:
    """Read the dataset id from the pointer of a window or slot. Return ``None`` if the pointer does not exist.

    :param key: key of the pointer
    """
    try:
        return str(store.read_json(key)["id"])
    except FileNotFoundError:
        return None


def _read_manifest(store: ArtifactStore, name: str, dataset_id: str) -> Manifest:
    try:
        return Manifest.model_validate(store.read_json(manifest_key(name, dataset_id)))
    except FileNotFoundError as error:
        raise DatasetNotFoundError(
            f"Dataset {name!r} ({dataset_id[:12]}) is not in the artifact store {store.url}. "
            "Set [mlops] artifacts to the same store wherever tasks and steps run."
        ) from error
