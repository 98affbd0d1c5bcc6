"""Finding datasets in the artifact store: by reference, by window, by slot."""

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

    :raises DatasetNotFoundError: it is not in this store
    """
    return Dataset(store, _read_manifest(store, ref.name, ref.id))


def find_datasets(store: ArtifactStore, name: str, within: Window | None = None) -> list[Dataset]:
    """The current dataset of every window of ``name`` that lies inside ``within``, ordered by time.

    :param within: all windows by default. Datasets deleted by retention are then left out, unless no other is left; with
        ``within`` they are included, and reading them raises :class:`DatasetPurgedError`.
    :raises DatasetNotFoundError: there is none
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
            f"There is no dataset {name!r}{f' in {within.label}' if within else ''} in the artifact store {store.url}. "
            "Ingest that window first."
        )
    if within is None:
        found = [item for item in found if item[1].manifest.purged is None] or found
    found.sort(key=lambda item: (item[0].start, item[0].end))
    for (first, _), (second, _) in zip(found, found[1:], strict=False):
        if first.overlaps(second):
            raise SchemaError(
                f"Dataset {name!r} has overlapping windows {first.label} and {second.label}, so rows would count twice. "
                "Choose a window that contains only one of them."
            )
    return [dataset for _, dataset in found]


def neighbouring_manifest(store: ArtifactStore, name: str, window: Window) -> Manifest | None:
    """The manifest of the closest window of ``name`` before ``window``; without an earlier one, of the first after it."""
    own = window_key(name, window)
    keys = [key for key in store.keys(windows_folder(name)) if key != own]
    if not keys:
        return None
    # Keys of windows sort by time.
    key = max((key for key in keys if key < own), default=keys[0])
    return _read_manifest(store, name, store.read_json(key)["id"])


def in_slot(store: ArtifactStore, name: str, slot: str) -> Dataset | None:
    """The dataset of ``name`` that was committed last with ``slot``; ``None`` if there is none."""
    found = current_id(store, slot_key(name, slot))
    return Dataset(store, _read_manifest(store, name, found)) if found else None


def slot_windows(store: ArtifactStore, name: str) -> dict[str, Window | None]:
    """All slots of ``name``, each with the window of its current dataset."""
    found = {}
    for key in store.keys(slots_folder(name)):
        window = store.read_json(key)["window"]
        slot = key.rpartition("/")[2].removesuffix(".json")
        found[slot] = Window.model_validate(window) if window else None
    return found


def read_manifests(store: ArtifactStore, name: str) -> Iterator[Manifest]:
    """The manifests of all datasets that were ever committed as ``name``, in no particular order."""
    for key in store.keys(manifests_folder(name)):
        yield Manifest.model_validate(store.read_json(key))


def mark_purged(store: ArtifactStore, manifest: Manifest, purged: datetime) -> None:
    """Record in the manifest that the files of a dataset are deleted or about to be; readers refuse it from then on."""
    marked = manifest.model_copy(update={"purged": purged})
    store.write_json(manifest_key(manifest.name, manifest.id), marked.model_dump(mode="json"))


def current_id(store: ArtifactStore, key: str) -> str | None:
    """The id that the window or slot pointer ``key`` holds; ``None`` if the pointer does not exist."""
    try:
        return str(store.read_json(key)["id"])
    except FileNotFoundError:
        return None


def _read_manifest(store: ArtifactStore, name: str, dataset_id: str) -> Manifest:
    try:
        return Manifest.model_validate(store.read_json(manifest_key(name, dataset_id)))
    except FileNotFoundError as error:
        raise DatasetNotFoundError(
            f"Dataset {name} ({dataset_id[:12]}) is not in the artifact store {store.url}. "
            "Check that [mlops] artifacts names the same store everywhere."
        ) from error
