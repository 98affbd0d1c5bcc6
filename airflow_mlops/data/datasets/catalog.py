"""Functions that find datasets in the artifact store by reference, window or slot."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any, NoReturn

from airflow_mlops.core.errors import DatasetCorruptError, DatasetNotFoundError, SchemaError, SpecError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window, missing
from airflow_mlops.data.datasets.manifest import Manifest, manifest_key, manifests_folder, parse_manifest
from airflow_mlops.data.datasets.pointers import (
    Pointer,
    index_snapshots,
    read,
    read_all,
    slot_id,
    slots_of,
    snapshot_keys,
    snapshot_time,
    window_keys,
    windows_of,
)
from airflow_mlops.data.datasets.reader import Dataset
from airflow_mlops.data.datasets.subsets import within_window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.timeline import window_of

log = logging.getLogger(__name__)

# Maximum number of datasets that are tried as the neighbour of a window.
_NEIGHBOURS = 3


def open_dataset(store: ArtifactStore, ref: DatasetRef) -> Dataset:
    """Open the dataset that ``ref`` refers to.

    :raises DatasetNotFoundError: the dataset is not in this store
    """
    return Dataset(store, read_manifest(store, ref.name, ref.id))


def find_datasets(
    store: ArtifactStore,
    name: str,
    within: Window | None = None,
    *,
    time_column: str | None = None,
    default_time_column: str | None = None,
) -> list[Dataset]:
    """Open the current datasets named ``name``, ordered by time.

    Each point in time belongs to only one dataset, except in windows of online predictions.

    A window of online predictions has one dataset for each version that has answered requests. All of them are
    returned; the dataset of the version that answered last is at the end.

    Where windows overlap, the dataset that was written last has precedence. For example, a day that is written after
    its month replaces this day of the month, and a month that is written after its days replaces all of them. If a
    dataset is partly replaced, or reaches beyond ``within``, only the rows with a time in the remaining window are
    read.

    :param store: the artifact store
    :param name: name of the datasets
    :param within: time window of the rows; by default all windows. If ``within`` is set, the result includes purged
        datasets, and reading a purged dataset raises :class:`DatasetPurgedError`. By default, purged datasets are left
        out, unless all datasets are purged
    :param time_column: column with the time of each row; by default the time column that each dataset records
    :param default_time_column: column with the time of each row, for datasets that record no time column
    :raises DatasetNotFoundError: there is no such dataset
    :raises SchemaError: only a part of a dataset must be read, and its time column is not known
    :raises SpecError: a window of online predictions overlaps another window, or ScoreOperator has scored it
    """
    found = _with_parts(store, name, _visible(store, name, within))
    if within is None:
        found = [item for item in found if item[0].manifest.purged is None] or found
    if not found:
        raise _absent(store, name, within)
    return [
        dataset
        if window == dataset.window
        else within_window(
            dataset, window, time_column or dataset.time_column or default_time_column or _unknown(dataset, window)
        )
        for dataset, window in found
    ]


def find_whole_datasets(store: ArtifactStore, name: str, within: Window | None = None) -> list[Dataset]:
    """Open the current datasets named ``name`` with windows that overlap ``within``, ordered by time.

    Each dataset is opened with all its rows, including rows outside ``within``. A dataset is left out if newer datasets
    of other windows replace it completely.

    :raises DatasetNotFoundError: there is no such dataset
    :raises SchemaError: newer datasets replace only a part of a dataset
    """
    found = _visible(store, name, within)
    if found and within is not None:
        windows = [dataset.window for dataset, _ in found if dataset.window is not None]
        reach = Window(start=min(item.start for item in windows), end=max(item.end for item in windows))
        found = [item for item in _visible(store, name, reach) if item[0].window and item[0].window.overlaps(within)]
    if not found:
        raise _absent(store, name, within)
    for dataset, part in found:
        if dataset.window is not None and part != dataset.window:
            raise SchemaError(
                f"Newer datasets replace only a part of dataset {name!r} of the window {dataset.window.label}: "
                f"{part.label} is not replaced. Run the task that writes this dataset for {part.label}, or withdraw "
                "one of the overlapping windows with `airflow mlops datasets`."
            )
    return [dataset for dataset, _ in found]


def _absent(store: ArtifactStore, name: str, within: Window | None) -> DatasetNotFoundError:
    return DatasetNotFoundError(
        f"There is no dataset {name!r}{f' in the window {within.label}' if within else ''} in the artifact store "
        f"{store.url}. Run the task that writes this dataset first, or correct the name or the window."
    )


def _unknown(dataset: Dataset, window: Window) -> NoReturn:
    whole = dataset.window.label if dataset.window else ""
    raise SchemaError(
        f"Only the rows of {window.label} are needed from dataset {dataset.manifest.name!r} of the window {whole}, "
        "but the dataset does not name its time column. Name the column in the selection, as in "
        '{"name": ..., "window": ..., "time_column": ...}, choose a window that contains the whole dataset, or withdraw one '
        "of two overlapping windows with `airflow mlops datasets`."
    )


def current_datasets(store: ArtifactStore, name: str, within: Window) -> list[Dataset]:
    """Open the current dataset of each window that overlaps ``within``, even if newer datasets replace its rows."""
    pointers = read_all(store, window_keys(store, name, within))
    ids = dict.fromkeys(item.id for item in pointers if item.window is not None and item.window.overlaps(within))
    return [Dataset(store, manifest) for manifest in manifests_by_id(store, name, ids).values()]


def datasets_inside(store: ArtifactStore, name: str, within: Window) -> list[Dataset]:
    """Open the current datasets named ``name`` with windows that lie completely in ``within``, ordered by time.

    A dataset is left out if newer datasets of other windows replace it completely.
    """
    found = [
        dataset for dataset, _ in _visible(store, name, within) if dataset.window and within.contains(dataset.window)
    ]
    return list({dataset.manifest.id: dataset for dataset in found}.values())


def _visible(store: ArtifactStore, name: str, within: Window | None) -> list[tuple[Dataset, Window]]:
    """Open the datasets that overlap ``within``, each with a window in which no newer dataset replaces the dataset.

    If newer datasets replace the middle of a window, the older dataset is returned twice: for the time before, and for
    the time after.
    """
    pointers = read_all(store, window_keys(store, name, within))
    windows = [(pointer, pointer.window) for pointer in pointers if pointer.window is not None]
    if within is not None:
        windows = [(pointer, window) for pointer, window in windows if window.overlaps(within)]
    manifests: dict[str, Manifest] = {}
    if overlapping := _overlap([window for _, window in windows]):
        manifests = manifests_by_id(store, name, [pointer.id for pointer, _ in windows])
        _check_undivided(name, [(window, manifests[pointer.id]) for pointer, window in windows], within)
        # Older versions of this package did not record when a pointer was written.
        windows.sort(key=lambda item: item[0].written or manifests[item[0].id].created, reverse=True)
    parts: list[tuple[Pointer, Window]] = []
    newer: list[Window] = []
    for pointer, window in windows:
        wanted = window if within is None else window.clip(within)
        parts += [(pointer, part) for part in (missing(wanted, newer) if overlapping else [wanted])]
        newer.append(window)
    manifests = manifests or manifests_by_id(store, name, [pointer.id for pointer, _ in parts])
    opened = {pointer.key: Dataset(store, manifests[pointer.id]) for pointer, _ in parts}
    found = [(opened[pointer.key], part) for pointer, part in parts]
    return sorted(found, key=lambda item: (item[1].start, item[1].end))


def _check_undivided(name: str, found: list[tuple[Window, Manifest]], within: Window | None) -> None:
    """Check that no window of online predictions overlaps another window.

    Otherwise, the newer dataset would hide predictions that it does not have.

    :param within: time window that is read; overlaps outside it do not matter
    """
    for window, manifest in found:
        for other, _ in found if is_divided(manifest) else ():
            both = window != other and window.overlaps(other) and window.clip(other)
            if both and (within is None or both.overlaps(within)):
                raise _hidden(name, window, other)


def _hidden(name: str, window: Window, other: Window) -> SpecError:
    keep = "Withdraw one of the two windows"
    if window == other:
        keep = "Name one of the two datasets by its id, or withdraw the window and score it again: withdraw it"
    return SpecError(
        f"Dataset {name!r} has predictions that servers logged for {window.label}, and other predictions for {other.label}. "
        f"A task would read only one of the two. {keep} with `airflow mlops datasets {name} --withdraw`, and "
        "give the predictions of servers another name with `--predictions`."
    )


def _overlap(windows: list[Window]) -> bool:
    ordered = sorted(windows, key=lambda window: (window.start, window.end))
    return any(first.overlaps(second) for first, second in pairwise(ordered))


def _with_parts(store: ArtifactStore, name: str, found: list[tuple[Dataset, Window]]) -> list[tuple[Dataset, Window]]:
    """Return ``found``, with all datasets of each divided window (:func:`is_divided`).

    The pointer of a window refers to one dataset only. The datasets of the other model versions are found in slots.
    """
    divided = [dataset.window for dataset, _ in found if is_divided(dataset.manifest) and dataset.window is not None]
    if not divided:
        return found
    reach = Window(start=min(window.start for window in divided), end=max(window.end for window in divided))
    parts: dict[Window, list[Dataset]] = {}
    for manifest in in_slots(store, name, reach).values():
        if not is_divided(manifest) and manifest.window in divided:
            raise _hidden(name, manifest.window, manifest.window)
        if is_divided(manifest) and manifest.window is not None:
            parts.setdefault(manifest.window, []).append(Dataset(store, manifest))
    complete = []
    for dataset, window in found:
        own = [dataset]
        if is_divided(dataset.manifest) and dataset.window is not None:
            own = parts.get(dataset.window, own)
        complete += [(part, window) for part in (own if len(own) == 1 else sorted(own, key=_last_answer))]
    return complete


def is_divided(manifest: Manifest) -> bool:
    """Return whether the rows of the window are divided among several datasets, each in a separate slot.

    This is the case for online predictions, because each request is answered by one version. In batch scoring, each
    version scores all rows of the window.
    """
    return is_divided_source(manifest.source)


def is_divided_source(source: Mapping[str, Any] | None) -> bool:
    """Return whether the ``source`` of a manifest covers only a part of a window, see :func:`is_divided`."""
    return bool((source or {}).get("online"))


def _last_answer(dataset: Dataset) -> tuple[float, str]:
    import pyarrow.compute as pc

    if dataset.manifest.purged is not None:
        return 0.0, dataset.manifest.id
    times = dataset.table(columns=["scored_at"]).column("scored_at")
    last = pc.max(times).as_py()
    return (last.timestamp() if last is not None else 0.0), dataset.manifest.id


def snapshot(store: ArtifactStore, name: str, at: datetime | None = None) -> Dataset | None:
    """Open the newest snapshot named ``name``. A snapshot is a dataset without a time window.

    :param at: the last snapshot that was written at or before this time is opened; by default the newest snapshot
    :return: ``None`` if there is no such snapshot
    """
    keys = snapshot_keys(store, name)
    if not keys:
        index_snapshots(store, name)
        keys = snapshot_keys(store, name)
    chosen = [key for key in keys if at is None or snapshot_time(key) <= at]
    pointer = read(store, chosen[-1]) if chosen else None
    return Dataset(store, read_manifest(store, name, pointer.id)) if pointer is not None else None


def neighbouring_manifest(store: ArtifactStore, name: str, window: Window) -> Manifest | None:
    """Read the manifest of the last dataset before ``window`` or, if there is none, of the first dataset after it.

    Datasets whose manifest is damaged are skipped.

    :param store: the artifact store
    :param name: name of the datasets
    :param window: the window whose neighbour is searched
    :return: ``None`` if no dataset with this name has a different window
    """
    timeline = windows_of(store, name)
    earlier = timeline.last(_NEIGHBOURS, before=window)[::-1]
    found = earlier or [key for key in timeline.find() if window_of(key) != window][:_NEIGHBOURS]
    for key in found:
        try:
            pointer = read(store, key)
            if pointer is not None:
                return read_manifest(store, name, pointer.id)
        except (DatasetCorruptError, DatasetNotFoundError) as error:
            # A damaged dataset must not prevent a task from writing a neighbouring window.
            log.warning("%s", error)
    return None


def in_slot(store: ArtifactStore, name: str, slot: str) -> Dataset | None:
    """Open the current dataset of a slot, a pointer with a name. Return ``None`` if the slot does not exist."""
    found = slot_id(store, name, slot)
    return Dataset(store, read_manifest(store, name, found)) if found else None


def in_slots(store: ArtifactStore, name: str, within: Window | None = None) -> dict[str, Manifest]:
    """Read the manifest of each slot's current dataset, by name of the slot. A slot is a pointer to a current dataset.

    :param within: time window. Slots of datasets whose window does not overlap ``within`` are left out. Slots of
        datasets without a window are included
    """
    found = {}
    for pointer in read_all(store, slots_of(store, name).find(within)):
        if within is None or pointer.window is None or pointer.window.overlaps(within):
            found[pointer.key.rpartition("/")[2].removesuffix(".json")] = pointer.id
    manifests = manifests_by_id(store, name, found.values())
    return {slot: manifests[dataset_id] for slot, dataset_id in found.items()}


def slots_with(store: ArtifactStore, manifest: Manifest) -> list[str]:
    """Return the names of the slots whose current dataset is the dataset of ``manifest``."""
    found = in_slots(store, manifest.name, manifest.window)
    return [slot for slot, current in found.items() if current.id == manifest.id]


def read_manifests(store: ArtifactStore, name: str) -> Iterator[Manifest]:
    """Yield the manifests of all datasets ever written with this name, current and replaced, in no particular order."""
    for key in store.keys(manifests_folder(name)):
        yield read_manifest(store, name, key.rpartition("/")[2].removesuffix(".json"))


def mark_purged(store: ArtifactStore, manifest: Manifest, purged: datetime) -> None:
    """Record in the manifest that the dataset's files are purged. Reading the dataset then raises an error.

    :param purged: time of the deletion
    """
    marked = manifest.model_copy(update={"purged": purged})
    store.write_json(manifest_key(manifest.name, manifest.id), marked.model_dump(mode="json"))


def read_manifest(store: ArtifactStore, name: str, dataset_id: str) -> Manifest:
    """Read the manifest of a dataset.

    :raises DatasetNotFoundError: the dataset is not in this store
    """
    return manifests_by_id(store, name, [dataset_id])[dataset_id]


def manifests_by_id(store: ArtifactStore, name: str, ids: Iterable[str]) -> dict[str, Manifest]:
    """Read the manifests of several datasets with the same name, concurrently.

    :raises DatasetNotFoundError: a dataset is not in this store
    """
    wanted = {dataset_id: manifest_key(name, dataset_id) for dataset_id in ids}
    found = store.read_many(wanted.values())
    manifests = {}
    for dataset_id, key in wanted.items():
        if key not in found:
            raise DatasetNotFoundError(
                f"Dataset {name!r} ({dataset_id[:12]}) is not in the artifact store {store.url}. "
                "Set [mlops] artifacts to the same store wherever tasks and steps run."
            )
        manifests[dataset_id] = parse_manifest(found[key], name, dataset_id, store.url_of(key))
    return manifests
