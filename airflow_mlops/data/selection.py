"""Functions that find the datasets that a step reads, and describe their windows for the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from airflow_mlops.core.errors import DatasetNotFoundError, IncompleteWindowError, SpecError
from airflow_mlops.core.references import Chosen, DatasetRef, DatasetSelection
from airflow_mlops.core.windows import Window, missing
from airflow_mlops.core.zones import UTC
from airflow_mlops.data.datasets import (
    TIMESTAMP_IS_DATE,
    Dataset,
    find_datasets,
    find_whole_datasets,
    open_dataset,
    snapshot,
)
from airflow_mlops.data.datasets.catalog import is_divided
from airflow_mlops.data.datasets.pointers import snapshot_keys, window_keys
from airflow_mlops.data.kept_selections import KeptSelections
from airflow_mlops.data.store import ArtifactStore

_Find = Callable[[DatasetSelection], list[Dataset]]
# Number of windows that an error names.
_NAMED = 5


def select(
    store: ArtifactStore, chosen: Chosen, time_column: str | None = None, kept: KeptSelections | None = None
) -> list[Dataset]:
    """Open the datasets that references or selections name, ordered by time.

    If a dataset reaches beyond the selected window, only the rows with a time in the window are read.

    :param store: the artifact store
    :param chosen: references to datasets, or selections by name
    :param time_column: column with the time of each row, used if a dataset reaches beyond the window and neither the
        selection nor the dataset names a time column
    :param kept: the selections of earlier tries of the task, whose datasets are opened without a new search; ``None``
        to search every time
    :raises DatasetNotFoundError: there is no such dataset
    :raises IncompleteWindowError: a part of the selected window is not covered by any dataset
    :raises SchemaError: a dataset reaches beyond the window, and its time column is not known
    :raises SpecError: a dataset is given twice, or the windows of two given datasets overlap
    """

    def find(item: DatasetSelection) -> list[Dataset]:
        return find_datasets(
            store, item.name, item.window, time_column=item.time_column, default_time_column=time_column
        )

    return _select(store, chosen, find, kept, ["rows", time_column])


def require_given(store: ArtifactStore, chosen: Chosen) -> None:
    """Check that the datasets that are given by reference exist. Another task has written them, so they cannot be expected later.

    :raises DatasetNotFoundError: a dataset that is given by reference does not exist
    """
    for item in [chosen] if isinstance(chosen, DatasetRef | DatasetSelection) else chosen:
        if isinstance(item, DatasetRef):
            open_dataset(store, item)


def select_whole(store: ArtifactStore, chosen: Chosen, kept: KeptSelections | None = None) -> list[Dataset]:
    """Open the datasets that references or selections name, ordered by time, with all their rows.

    The datasets may reach beyond the selected window. The errors are the same as in :func:`select`, except that a
    ``SchemaError`` means that newer datasets replace only a part of a dataset.

    :param store: the artifact store
    :param chosen: references to datasets, or selections by name
    :param kept: the selections of earlier tries of the task, whose datasets are opened without a new search; ``None``
        to search every time
    """
    return _select(store, chosen, lambda item: find_whole_datasets(store, item.name, item.window), kept, ["datasets"])


def _select(
    store: ArtifactStore, chosen: Chosen, find: _Find, kept: KeptSelections | None, how: Sequence[str | None]
) -> list[Dataset]:
    if isinstance(chosen, DatasetRef):
        return [open_dataset(store, chosen)]
    if isinstance(chosen, DatasetSelection):
        if kept is None:
            return _selected(store, chosen, find)
        return kept.find(chosen, how, lambda item: _selected(store, item, find))
    found = [dataset for item in chosen for dataset in _select(store, item, find, kept, how)]
    _check_distinct(found)
    # The sort is stable, so snapshots keep their order.
    return sorted(found, key=lambda dataset: dataset.window.key if dataset.window else "")


def select_one(store: ArtifactStore, chosen: Chosen, kept: KeptSelections | None = None) -> Dataset:
    """Open the training set that a reference or selection names.

    Several training sets cannot be combined. Held-out rows of one training set may be training rows of another, and
    each has its own features and window rule.

    :param store: the artifact store
    :param chosen: a reference to the training set, or a selection by name
    :param kept: the selections of earlier tries of the task, whose datasets are opened without a new search; ``None``
        to search every time
    :raises DatasetNotFoundError: there is no such dataset
    :raises SpecError: the selection contains several datasets, or only some rows of a dataset
    """
    found = select(store, chosen, kept=kept)
    if len(found) == 1 and found[0].window == found[0].manifest.window:
        return found[0]
    name, windows = found[0].manifest.name, _listed([dataset.window for dataset in found if dataset.window])
    problem = f"{len(found)} are selected ({windows}). Their splits cannot be combined."
    if len(found) == 1:
        problem = f"only a part of it is selected ({windows})."
    raise SpecError(
        f"This step reads one whole training set of dataset {name!r}, but {problem} Choose the window of one training set, "
        "or build one training set of all rows with BuildTrainingSetOperator(entities=...)."
    )


def _selected(store: ArtifactStore, chosen: DatasetSelection, find: _Find) -> list[Dataset]:
    name, wanted = chosen.name, chosen.window
    if wanted is None and (chosen.at is not None or not window_keys(store, name)):
        return [_snapshot(store, chosen)]
    if wanted is None and (written := snapshot_keys(store, name)):
        raise SpecError(
            f"Dataset {name!r} has windows and {len(written)} snapshot{'s' if len(written) > 1 else ''} without a window, so "
            "the name alone does not select one of the two. Set `window` to read windows, or set `at` to a time to "
            "read the snapshot that was valid then."
        )
    try:
        found = find(chosen)
    except DatasetNotFoundError as error:
        if wanted is not None and not window_keys(store, name) and snapshot(store, name) is not None:
            raise DatasetNotFoundError(
                f"Dataset {name!r} has only snapshots, because it was written without a window. Remove `window` to "
                "read the newest snapshot, or set `at` to a time to read the snapshot that was valid then."
            ) from error
        raise
    if wanted is not None and chosen.gaps == "fail":
        _check_complete(name, wanted, found)
    return found


def _snapshot(store: ArtifactStore, chosen: DatasetSelection) -> Dataset:
    found = snapshot(store, chosen.name, chosen.at)
    if found is not None:
        return found
    first = snapshot(store, chosen.name)
    if first is None and (windows := window_keys(store, chosen.name)):
        last = Window.from_file_name(windows[-1].rpartition("/")[2].removesuffix(".json"))
        raise DatasetNotFoundError(
            f"Dataset {chosen.name!r} has windows and no snapshots, so `at` finds nothing. Remove `at`, and set `window` to "
            f"the window to read{f', for example {last.label}' if last else ''}."
        )
    if first is None:
        raise DatasetNotFoundError(
            f"There is no dataset {chosen.name!r} in the artifact store {store.url}. Run the task that writes this dataset "
            "first, or correct the name."
        )
    raise DatasetNotFoundError(
        f"Dataset {chosen.name!r} has no snapshot from before {chosen.at}: its first snapshot was written later. Set "
        "`at` to a later time, or remove `at` to read the newest snapshot."
    )


def _check_complete(name: str, wanted: Window, found: Sequence[Dataset]) -> None:
    gaps = missing(wanted, [dataset.window for dataset in found if dataset.window is not None])
    if not gaps:
        return
    allow = "set gaps='allow' in the selection to read the existing windows only."
    what = f"Dataset {name!r} does not cover the whole window {wanted.label}: {_listed(gaps)} is missing."
    if any(is_divided(dataset.manifest) for dataset in found):
        raise IncompleteWindowError(
            f"{what} Servers log these predictions, and record windows without requests as empty. In the missing windows, "
            "no server was ready, predictions were lost, or predictions are not uploaded yet. The logs of the servers "
            f"name the cause. Start a server with the spool that was not uploaded, or {allow}"
        )
    raise IncompleteWindowError(
        f"{what} Run the task that writes this dataset for the missing windows, correct the window, or {allow}"
    )


def _listed(windows: Sequence[Window]) -> str:
    more = f" and {len(windows) - _NAMED} more" if len(windows) > _NAMED else ""
    return f"{', '.join(window.label for window in windows[:_NAMED])}{more}"


def _check_distinct(found: Sequence[Dataset]) -> None:
    windows: dict[str, list[tuple[Window, Dataset]]] = {}
    seen: set[tuple[str, str]] = set()
    for dataset in found:
        manifest = dataset.manifest
        if dataset.window is not None:
            windows.setdefault(manifest.name, []).append((dataset.window, dataset))
        elif (manifest.name, manifest.id) in seen:
            raise SpecError(f"Dataset {manifest.name!r} ({manifest.id[:12]}) is given twice. Give each dataset once.")
        seen.add((manifest.name, manifest.id))
    for name, items in windows.items():
        items.sort(key=lambda item: (item[0].start, item[0].end))
        for (first, one), (second, other) in pairwise(items):
            if first.overlaps(second) and not _parts_of_one(one, other):
                raise SpecError(
                    f"Dataset {name!r} is given with the overlapping windows {first.label} and {second.label}, so rows would "
                    "be read twice. Give windows that do not overlap."
                )


def _parts_of_one(one: Dataset, other: Dataset) -> bool:
    """Return whether two datasets have different rows of one window, such as online predictions of two versions."""
    return (
        one.window == other.window
        and one.manifest.id != other.manifest.id
        and all(is_divided(item.manifest) for item in (one, other))
    )


def contents(datasets: Sequence[Dataset]) -> list[dict[str, str | None]]:
    """Describe, as JSON, everything that determines the rows of datasets.

    The description of a dataset has three keys: ``id``, ``time_column``, and ``part``. ``part`` is the window that is
    read, or ``None`` if the whole dataset is read.
    """
    return [
        {
            "id": dataset.manifest.id,
            "part": str(dataset.window) if dataset.window != dataset.manifest.window else None,
            "time_column": dataset.time_column,
        }
        for dataset in datasets
    ]


def window_of(datasets: Sequence[Dataset]) -> Window | None:
    """Return the window from the earliest start to the latest end of all datasets.

    The result is ``None`` if a dataset has no window.
    """
    windows = [dataset.window for dataset in datasets if dataset.window is not None]
    if not windows or len(windows) < len(datasets):
        return None
    zones = {window.zone for window in windows}
    start, end = min(window.start for window in windows), max(window.end for window in windows)
    return Window(start=start, end=end, zone=zones.pop()) if len(zones) == 1 else Window(start=start, end=end)


def dates_detail(datasets: Sequence[Dataset], time_column: str) -> dict[str, bool]:
    """Return the detail that marks times as dates, for the manifest of a dataset that is computed from other datasets.

    Dates are stored as midnight in UTC. With the detail, a window reads them as days in its own time zone. If no
    dataset has a window with a time zone other than UTC, the detail changes nothing and is left out.

    :param datasets: the datasets with the dates
    :param time_column: name of the column with the dates
    :return: the detail; empty if the column has other times than dates
    """
    if not any(dataset.window is not None and dataset.window.zone != UTC for dataset in datasets):
        return {}
    return {TIMESTAMP_IS_DATE: True} if have_dates(datasets, time_column) else {}


def have_dates(datasets: Sequence[Dataset], time_column: str) -> bool:
    """Return whether a column of times has, in each of the datasets, only dates or timestamps that were dates.

    :param datasets: the datasets
    :param time_column: name of the column
    """
    # Selecting datasets must not import Arrow, which takes longer than the selection.
    from airflow_mlops.data.window_rows import are_dates

    return all(
        dataset.has_dates(time_column)
        or all(are_dates(batch.column(0)) for batch in dataset.batches(columns=[time_column]))
        for dataset in datasets
    )


def coverage(datasets: Sequence[Dataset], wanted: Window | None = None) -> dict[str, Any]:
    """Describe the gaps and quarantined rows of datasets, for the manifest of a dataset that is computed from them.

    :param datasets: the datasets
    :param wanted: window that the datasets should cover; by default from the earliest start to the latest end
    :return: with gaps, the fields ``windows`` (the windows of the datasets) and ``gaps`` (the windows that no dataset
        covers). With quarantined rows, the field ``quarantined`` with their number, and ``quarantined_estimated`` if
        the number is an estimate
    """
    window = wanted or window_of(datasets)
    windows = [dataset.window for dataset in datasets if dataset.window is not None]
    gaps = missing(window, windows) if window is not None else []
    found: dict[str, Any] = {}
    if gaps:
        found = {"windows": [item.label for item in windows], "gaps": [item.label for item in gaps]}
    if lost := sum(map(quarantined_rows, datasets)):
        found["quarantined"] = lost
    if any(map(is_quarantine_estimated, datasets)):
        found["quarantined_estimated"] = True
    return found


def quarantined_rows(dataset: Dataset) -> int:
    """Return how many rows validation has quarantined before the rows reached a dataset.

    If only a part of the dataset is selected, the number is estimated from the selected share of the rows.
    """
    manifest = dataset.manifest
    lost = int(manifest.details.get("quarantined", 0))
    if not lost or dataset.window == manifest.window:
        return lost
    return round(lost * dataset.rows / manifest.rows) if manifest.rows else 0


def is_quarantine_estimated(dataset: Dataset) -> bool:
    """Return whether the number of :func:`quarantined_rows` is an estimate."""
    details = dataset.manifest.details
    is_part = dataset.window != dataset.manifest.window
    return bool(details.get("quarantined_estimated") or (is_part and details.get("quarantined")))
