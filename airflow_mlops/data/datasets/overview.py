"""List the datasets with the same name in the artifact store: windows, snapshots, and withdrawn windows and snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from airflow_mlops.core.errors import DatasetNotFoundError, SpecError
from airflow_mlops.core.windows import Window, missing
from airflow_mlops.data.datasets import pointers
from airflow_mlops.data.datasets.catalog import read_manifest
from airflow_mlops.data.datasets.manifest import Manifest
from airflow_mlops.data.datasets.pointers import Pointer
from airflow_mlops.data.store import ArtifactStore

State = Literal["current", "partly replaced", "replaced", "earlier", "withdrawn"]


@dataclass(frozen=True)
class Names:
    """A summary of the datasets with the same name.

    :param windows: number of windows
    :param snapshots: number of snapshots
    :param first: start of the first window; ``None`` if there are no windows
    :param last: end of the last window; ``None`` if there are no windows
    """

    name: str
    windows: int
    snapshots: int
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True)
class Entry:
    """A window or snapshot of a dataset.

    :param manifest: manifest of the dataset
    :param window: time window of the dataset; ``None`` for a snapshot
    :param written: time at which the dataset became the current dataset of its window
    :param state: ``current``, ``withdrawn`` or, for a window, ``replaced`` or ``partly replaced`` by newer datasets of
        overlapping windows. A snapshot that is not the newest is ``earlier``
    :param pointer: pointer to the dataset; ``None`` if the window or snapshot was withdrawn
    :param withdrawn: time, person and reason of the withdrawal; empty if the window or snapshot was not withdrawn
    """

    manifest: Manifest
    window: Window | None
    written: datetime
    state: State
    pointer: Pointer | None = None
    withdrawn: str = ""


def all_names(store: ArtifactStore) -> list[Names]:
    """Summarise the datasets of each name, in alphabetical order. Only file names are read, not the datasets."""
    found = []
    for key in store.keys("datasets"):
        name = key.rpartition("/")[2]
        named = [
            Window.from_file_name(item.rpartition("/")[2].removesuffix(".json"))
            for item in pointers.window_keys(store, name)
        ]
        windows = [window for window in named if window is not None]
        found.append(
            Names(
                name=name,
                windows=len(named),
                snapshots=len(pointers.snapshot_keys(store, name)),
                first=min((window.start for window in windows), default=None),
                last=max((window.end for window in windows), default=None),
            )
        )
    return [item for item in found if item.windows or item.snapshots]


def entries(store: ArtifactStore, name: str) -> list[Entry]:
    """Return the windows of a dataset by time, then its snapshots oldest first, then withdrawn windows and snapshots.

    :raises DatasetNotFoundError: there is no dataset with this name
    """
    pointers.index_snapshots(store, name)
    found = [
        *_windows(store, name, _read(store, pointers.window_keys(store, name))),
        *_snapshots(store, name, _read(store, pointers.snapshot_keys(store, name))),
        *(_withdrawn(store, name, item) for item in pointers.tombstones(store, name)),
    ]
    if not found:
        raise DatasetNotFoundError(
            f"There is no dataset {name!r} in the artifact store {store.url}. Correct the name, or set --store to a different "
            "artifact store."
        )
    return found


def _read(store: ArtifactStore, keys: Sequence[str]) -> list[Pointer]:
    return [found for key in keys if (found := pointers.read(store, key)) is not None]


def _windows(store: ArtifactStore, name: str, found: Sequence[Pointer]) -> list[Entry]:
    dated = []
    for pointer in found:
        manifest = read_manifest(store, name, pointer.id)
        dated.append((pointer.written or manifest.created, pointer, manifest))
    newer: list[Window] = []
    made = []
    for written, pointer, manifest in sorted(dated, key=lambda item: item[0], reverse=True):
        assert pointer.window is not None
        left = missing(pointer.window, newer)
        state: State = "replaced" if not left else "current" if left == [pointer.window] else "partly replaced"
        made.append(Entry(manifest, pointer.window, written, state, pointer))
        newer.append(pointer.window)
    return sorted(made, key=lambda entry: entry.window.key if entry.window else "")


def _snapshots(store: ArtifactStore, name: str, found: Sequence[Pointer]) -> list[Entry]:
    return [
        Entry(
            manifest=read_manifest(store, name, pointer.id),
            window=None,
            written=pointers.snapshot_time(pointer.key),
            state="current" if pointer is found[-1] else "earlier",
            pointer=pointer,
        )
        for pointer in found
    ]


def _withdrawn(store: ArtifactStore, name: str, tombstone: dict[str, Any]) -> Entry:
    manifest = read_manifest(store, name, tombstone["id"])
    written = tombstone["written"]
    return Entry(
        manifest=manifest,
        window=manifest.window,
        written=datetime.fromisoformat(written) if written else manifest.created,
        state="withdrawn",
        withdrawn=f"{tombstone['withdrawn'][:19]}Z by {tombstone['by']}: {tombstone['reason']}",
    )


def choose(found: Sequence[Entry], text: str, name: str) -> list[Entry]:
    """Return the entries that a window or an id selects.

    :param found: entries of a dataset, from :func:`entries`
    :param text: the window of one dataset, a range (``2013-01..2013-03``) for all windows inside it, or at least 6
        characters of an id
    :param name: name of the dataset, for error messages
    :raises DatasetNotFoundError: there is no such window or id
    :raises SpecError: ``text`` is not a range, but selects several datasets
    """
    chosen = [
        entry for entry in found if entry.manifest.id == text or (len(text) >= 6 and entry.manifest.id.startswith(text))
    ]
    chosen = chosen or [
        entry
        for entry in found
        if entry.window is not None and text in (entry.window.label, entry.window.label.partition("[")[0])
    ]
    window = None
    if not chosen:
        try:
            window = Window.model_validate(text)
        except ValueError:
            window = None
    if window is not None:
        several = ".." in text or "/" in text
        chosen = [
            entry
            for entry in found
            if entry.window is not None and (entry.window == window or (several and window.contains(entry.window)))
        ]
    elif len({(entry.manifest.id, str(entry.window)) for entry in chosen}) > 1:
        raise SpecError(
            f"{text!r} selects several datasets of {name!r}: {', '.join(_title(entry) for entry in chosen[:5])}. Write "
            "the whole window with its time zone, or more characters of the id."
        )
    if not chosen:
        raise DatasetNotFoundError(
            f"Dataset {name!r} has no window or id {text!r}. `airflow mlops datasets {name}` lists its windows and ids."
        )
    return chosen


def _title(entry: Entry) -> str:
    return f"{entry.window.label if entry.window else 'snapshot'} ({entry.manifest.id[:12]})"
