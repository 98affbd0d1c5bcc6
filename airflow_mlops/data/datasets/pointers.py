"""Pointers to the current datasets with the same name: one for each time window, and one for each snapshot.

The file name of a pointer contains the window or the time of the snapshot. The right pointers can therefore be found
from a listing, without reading any pointer. A *slot* is a pointer with a name that its writer chooses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_mlops.core.errors import DatasetCorruptError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets.manifest import (
    Manifest,
    manifest_key,
    manifests_folder,
    parse_manifest,
    snapshots_folder,
    withdrawn_folder,
)
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.timeline import Timeline, window_of

_TIME = "%Y%m%dT%H%M%S%fZ"


@dataclass(frozen=True)
class Pointer:
    """A pointer to the current dataset of a window, or to a snapshot.

    :param key: key of the pointer in the artifact store
    :param id: id of the dataset
    :param window: time window of the dataset; ``None`` for a snapshot
    :param written: time at which the dataset became the current dataset; ``None`` if an older version of this package
        wrote the pointer
    """

    key: str
    id: str
    window: Window | None
    written: datetime | None


def windows_of(store: ArtifactStore, name: str) -> Timeline:
    """Return the folder with a pointer to the current dataset of each window."""
    return Timeline(store, f"datasets/{name}/windows")


def slots_of(store: ArtifactStore, name: str) -> Timeline:
    """Return the folder with the slots. The name of a slot may begin with a window."""
    return Timeline(store, f"datasets/{name}/slots")


def window_keys(store: ArtifactStore, name: str, within: Window | None = None) -> list[str]:
    """List the keys of the pointers to windows, ordered by time.

    :param within: time window. Only pointers to windows that may overlap it are listed
    """
    return windows_of(store, name).find(within)


def snapshot_keys(store: ArtifactStore, name: str) -> list[str]:
    """List the keys of the pointers to snapshots, oldest first."""
    return store.keys(snapshots_folder(name))


def snapshot_time(key: str) -> datetime:
    """Return the time at which a snapshot became the current snapshot. The key of its pointer contains the time."""
    return datetime.strptime(_stem(key).partition("-")[0], _TIME).replace(tzinfo=timezone.utc)


def read(store: ArtifactStore, key: str) -> Pointer | None:
    """Read a pointer. Return ``None`` if the pointer does not exist."""
    return next(iter(read_all(store, [key])), None)


def read_all(store: ArtifactStore, keys: Iterable[str]) -> list[Pointer]:
    """Read pointers at the same time. Pointers that do not exist are left out."""
    found = []
    for key, content in store.read_many_json(keys).items():
        try:
            window, written = content.get("window"), content.get("written")
            pointer = Pointer(
                key,
                str(content["id"]),
                Window.model_validate(window) if window else None,
                datetime.fromisoformat(written) if written else None,
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise DatasetCorruptError(
                f"The file {store.url_of(key)} does not name the current dataset of a window. Run the task that writes the "
                "dataset of this window again, or delete the file."
            ) from None
        found.append(pointer)
    return found


def point_window(store: ArtifactStore, manifest: Manifest) -> None:
    """Make a dataset the current dataset of its window, with precedence over the present datasets of overlapping windows.

    The precedence does not depend on the clocks of the workers: the recorded time is after those of the overlapping
    windows, even if the clock of this worker is behind.
    """
    assert manifest.window is not None
    content = {
        "id": manifest.id,
        "window": str(manifest.window),
        "written": _after_overlapping(store, manifest).isoformat(),
    }
    store.write_json(windows_of(store, manifest.name).key(manifest.window.key, manifest.window), content)


def _after_overlapping(store: ArtifactStore, manifest: Manifest) -> datetime:
    """Return a time after all times at which other windows that overlap the window of a dataset were written."""
    assert manifest.window is not None
    keys = window_keys(store, manifest.name, manifest.window)
    pointers = read_all(store, [key for key in keys if window_of(key) != manifest.window])
    others = [item for item in pointers if item.window is not None and item.window.overlaps(manifest.window)]
    times = [_written(store, manifest.name, item) + timedelta(microseconds=1) for item in others]
    return max([_now(), *times])


def _written(store: ArtifactStore, name: str, pointer: Pointer) -> datetime:
    if pointer.written is not None:
        return pointer.written
    # Older versions of this package did not record when a pointer was written.
    key = manifest_key(name, pointer.id)
    return parse_manifest(store.read_bytes(key), name, pointer.id, store.url_of(key)).created


def slot_id(store: ArtifactStore, name: str, slot: str) -> str | None:
    """Return the id of the current dataset of a slot; ``None`` if the slot does not exist.

    :raises DatasetCorruptError: the file of the slot is damaged
    """
    try:
        return str(json.loads(slots_of(store, name).read_bytes(slot, window_of(slot)))["id"])
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError):
        raise DatasetCorruptError(
            f"The slot {slot!r} of dataset {name!r} in the artifact store {store.url} does not name a dataset. Run the task "
            "that writes the dataset again."
        ) from None


def point_slot(store: ArtifactStore, manifest: Manifest, slot: str) -> None:
    """Make a dataset the current dataset of a slot. If it is the current dataset already, nothing is written."""
    try:
        current = slot_id(store, manifest.name, slot)
    except DatasetCorruptError:
        current = None
    if current != manifest.id:
        key = slots_of(store, manifest.name).key(slot, window_of(slot))
        store.write_json(key, {"id": manifest.id, "window": str(manifest.window) if manifest.window else None})


def point_snapshot(store: ArtifactStore, manifest: Manifest) -> None:
    """Make a dataset without a window the newest snapshot. If it is the newest snapshot already, nothing is written."""
    index_snapshots(store, manifest.name)
    keys = snapshot_keys(store, manifest.name)
    newest = read(store, keys[-1]) if keys else None
    if newest is None or newest.id != manifest.id:
        written = _now()
        if keys:
            # The clock of the worker that wrote the newest snapshot may have been ahead.
            written = max(written, snapshot_time(keys[-1]) + timedelta(microseconds=1))
        _write_snapshot(store, manifest, written)


def was_current_after(store: ArtifactStore, manifest: Manifest, other: str) -> bool:
    """Return whether another dataset of the same name and window became the current one after this dataset.

    :param manifest: manifest of this dataset
    :param other: id of the other dataset
    """
    if other == manifest.id:
        return False
    if manifest.window is not None:
        current = read(store, windows_of(store, manifest.name).key(manifest.window.key, manifest.window))
        return current is not None and current.id == other
    newest_first = (_stem(key).partition("-")[2] for key in reversed(snapshot_keys(store, manifest.name)))
    return next((found for found in newest_first if found in (other[:12], manifest.id[:12])), None) == other[:12]


def index_snapshots(store: ArtifactStore, name: str) -> None:
    """Write the pointers to the snapshots named ``name`` if an older version of this package did not write them.

    If a snapshot was withdrawn, nothing is written. The withdrawn snapshot had a pointer, so all pointers had been
    written.
    """
    if snapshot_keys(store, name) or any(item["window"] is None for item in tombstones(store, name)):
        return
    for key in store.keys(manifests_folder(name)):
        manifest = parse_manifest(store.read_bytes(key), name, _stem(key), store.url_of(key))
        if manifest.window is None:
            _write_snapshot(store, manifest, manifest.created)


def _write_snapshot(store: ArtifactStore, manifest: Manifest, written: datetime) -> None:
    written = written.astimezone(timezone.utc)
    key = f"{snapshots_folder(manifest.name)}/{written:{_TIME}}-{manifest.id[:12]}.json"
    store.write_json(key, {"id": manifest.id, "window": None, "written": written.isoformat()})


def withdraw(store: ArtifactStore, name: str, pointer: Pointer, reason: str, user: str) -> str:
    """Withdraw a window or snapshot: replace its pointer with a tombstone, so that no selection finds the dataset.

    The dataset itself stays readable by its id, so the lineage of datasets and models that were computed from it stays
    complete. If the window is written again, the new dataset becomes current, and the tombstone stays.

    :param pointer: pointer to the dataset
    :param reason: why the dataset is withdrawn
    :param user: name of the person who withdraws the dataset

    :return: key of the tombstone
    """
    now = _now()
    key = f"{withdrawn_folder(name)}/{_stem(pointer.key)}-{now:{_TIME}}.json"
    tombstone = {
        "id": pointer.id,
        "window": str(pointer.window) if pointer.window else None,
        "written": pointer.written.isoformat() if pointer.written else None,
        "withdrawn": now.isoformat(),
        "by": user,
        "reason": reason,
    }
    # The tombstone is written first, so that a crash leaves the window as it was.
    store.write_json(key, tombstone)
    if pointer.window is not None:
        windows_of(store, name).delete(pointer.key)
    else:
        store.delete(pointer.key)
    return key


def tombstones(store: ArtifactStore, name: str) -> list[dict[str, Any]]:
    """Read the tombstones of withdrawn windows and snapshots, ordered by window."""
    return [store.read_json(key) for key in store.keys(withdrawn_folder(name))]


def _stem(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")


def _now() -> datetime:
    return datetime.now(timezone.utc)
