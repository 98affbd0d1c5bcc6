"""The prediction log: the current and the replaced predictions of each model version, for each time window.

The log stores no rows itself. It reads the datasets that scoring wrote under one name, for example
``flight_delays_predictions``. In addition to the layout described in :mod:`airflow_mlops.data.datasets`, the folder of
such a name contains::

    datasets/NAME/files/window=2013-04/version=3/UUID.parquet    one folder for each window and version
    datasets/NAME/slots/WINDOW-MODEL-v3.json                     the current predictions of a version for a window
    datasets/NAME/claims/HASH.json                               the task of a DAG run that may write a slot

A *slot* is a pointer to the current predictions of one model version for one window. Predictions belong to the history
of the log when their manifest is written. They become current when the slot points at them. If a task crashes before it
updates the slot, its predictions are never read as current predictions. The retry of the task writes all rows again and
updates the slot, so the current predictions contain each row once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import DatasetPurgedError, SpecError
from airflow_mlops.core.fingerprints import canonical_json, fingerprint
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import predictions_name
from airflow_mlops.data.datasets import Dataset, Manifest, current_datasets, in_slots, read_manifests
from airflow_mlops.data.datasets.catalog import is_divided
from airflow_mlops.data.store import ArtifactStore

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

# Hive's name for the partition of rows whose partition column is null.
_NO_WINDOW = "__HIVE_DEFAULT_PARTITION__"


class PredictionLog:
    """Finds and reads the predictions of one model.

    :param store: artifact store with the predictions
    :param model: name of the registered model
    :param name: name of the datasets of predictions; ``MODEL_predictions`` by default
    """

    def __init__(self, store: ArtifactStore, model: str, name: str | None = None) -> None:
        self.store = store
        self.model = model
        self.name = name or predictions_name(model)

    def entries(self, within: Window | None = None) -> list[Manifest]:
        """Return the manifests of all current predictions, ordered by window and version.

        Manifests of purged predictions are included.

        :param within: time window. Only predictions whose window lies completely inside it are returned. By default,
            all predictions are returned, including those without a window
        """
        found = [
            manifest
            for manifest in in_slots(self.store, self.name, within).values()
            if manifest.details.get("model") == self.model
            and (within is None or (manifest.window is not None and within.contains(manifest.window)))
        ]
        return sorted(found, key=_order)

    def history(self, within: Window | None = None) -> list[Manifest]:
        """Return the manifests of all predictions ever written, oldest first. Replaced predictions are included.

        :param within: time window. Only predictions whose window lies completely inside it are returned
        """
        found = [
            manifest
            for manifest in read_manifests(self.store, self.name)
            if manifest.details.get("model") == self.model
            and (within is None or (manifest.window is not None and within.contains(manifest.window)))
        ]
        return sorted(found, key=lambda manifest: (manifest.created, manifest.id))

    def present(self, within: Window | None = None) -> list[Dataset]:
        """Return the datasets of current predictions that are not purged.

        :param within: time window. Only predictions whose window lies completely inside it are returned
        :raises DatasetPurgedError: all current predictions are purged
        """
        entries = self.entries(within)
        readable = [Dataset(self.store, manifest) for manifest in entries if manifest.purged is None]
        if entries and not readable:
            last = max(manifest.purged for manifest in entries if manifest.purged is not None)
            raise DatasetPurgedError(
                f"All predictions of model {self.model!r}{f' in the window {within.label}' if within else ''} were "
                f"deleted by PurgePredictionsOperator or `airflow mlops purge`, the last of them on {last:%Y-%m-%d}. If "
                "you need the predictions, score the window again."
            )
        return readable

    def files(self, within: Window | None = None) -> list[str]:
        """Return the URLs of the Parquet files with the current predictions.

        :param within: time window. Only predictions whose window lies completely inside it are returned
        :raises DatasetPurgedError: all current predictions are purged
        """
        return [self.store.url_of(file.path) for dataset in self.present(within) for file in dataset.files()]

    def arrow(self, within: Window | None = None) -> ds.Dataset:
        """Open the current predictions as one :class:`pyarrow.dataset.Dataset`.

        The dataset has the additional columns ``window`` and ``version``. In windows that lack a column of other
        windows, the column is null. The hashes of the files are not checked.

        :param within: time window. Only predictions whose window lies completely inside it are included
        :raises DatasetPurgedError: all current predictions are purged
        :raises SchemaError: the types of a column in different windows have no common type
        """
        import pyarrow as pa
        import pyarrow.dataset as ds
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        from airflow_mlops.data.types import common_schema

        by = ds.partitioning(pa.schema([("window", pa.string()), ("version", pa.int64())]), flavor="hive")
        datasets = self.present(within)
        factory = ds.FileSystemDatasetFactory(
            PyFileSystem(FSSpecHandler(self.store.fs)),
            [self.store.path(file.path) for dataset in datasets for file in dataset.files()],
            ds.ParquetFileFormat(),
            ds.FileSystemFactoryOptions(self.store.path(f"datasets/{self.name}/files"), partitioning=by),
        )
        schema = common_schema(
            (dataset.schema for dataset in datasets),
            f"The windows of dataset {self.name!r}",
            "Read windows with equal column types only, or score the other windows again.",
        )
        for field in by.schema:
            schema = schema.append(field)
        return factory.finish(schema)

    def batches(
        self, within: Window | None = None, columns: Sequence[str] | None = None, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """Stream the current predictions in batches of at most ``batch_rows`` rows.

        :param within: time window. Only predictions whose window lies completely inside it are read
        :param columns: columns to read; all by default
        :raises DatasetPurgedError: all current predictions are purged
        """
        for dataset in self.present(within):
            yield from dataset.batches(columns=columns, batch_rows=batch_rows)


def sampled(parts: Iterable[tuple[Mapping[str, Any], int]]) -> dict[str, dict[str, int]]:
    """Describe, for the manifest of a dataset of predictions, which shares of the requests were logged.

    A row with the share ``s`` stands for ``1 / s`` rows.

    :param parts: pairs of the manifest details of some of the predictions, and the number of these predictions
    :return: empty if all requests were logged. Otherwise ``sample`` with the number of rows by the share
    """
    rows: Counter[str] = Counter()
    for details, count in parts:
        rows.update(details.get("sample") or {str(1.0): count})
    return {"sample": dict(rows)} if rows.keys() - {str(1.0)} else {}


def _order(manifest: Manifest) -> tuple[str, int, str]:
    return manifest.window.key if manifest.window else "", int(manifest.details["model_version"]), manifest.id


def folder(window: Window | None, version: int | None = None) -> str:
    """Return the subfolder of ``files`` for a window and a model version, in Hive's partition format.

    :param window: time window of the predictions; ``None`` if they have no window
    :param version: number of the model version; ``None`` for the folder of all versions
    """
    label = window.file_name if window else _NO_WINDOW
    return f"window={label}" + (f"/version={version}" if version is not None else "")


def slot(version: ModelVersionRef, window: Window | None, datasets: Sequence[Dataset], part: str | None) -> str:
    """Return the name of a slot, the pointer to the current predictions of a model version.

    The name is derived from the version and the window. Without a window, it is derived from the version, the ids of
    the scored datasets and the split part.

    :param version: model version that scores
    :param window: time window of the scored rows; ``None`` if they have no window
    :param datasets: the scored datasets
    :param part: the scored split part (``train`` or ``test``); ``None`` for all
    """
    subject = window.key if window else f"rows-{fingerprint([[item.manifest.id for item in datasets], part])[:16]}"
    return f"{subject}-{version.model}-v{version.version}"


def require_unserved(store: ArtifactStore, name: str, window: Window) -> None:
    """Check that no server has logged predictions in a window, so that predictions of a batch do not hide them.

    :param store: the artifact store
    :param name: name of the dataset of predictions
    :param window: window that is scored
    :raises SpecError: there are predictions of servers in the window
    """
    found = [item.window for item in current_datasets(store, name, window) if is_divided(item.manifest) and item.window]
    if found:
        raise SpecError(
            f"Dataset {name!r} has predictions that servers logged for {found[0].label}, which scoring {window.label} would "
            "hide. Set another `name` for the predictions of this task."
        )


def claim(
    store: ArtifactStore, name: str, slot: str, datasets: Sequence[Dataset], part: str | None, provenance: Provenance
) -> None:
    """Reserve a slot, the pointer to the current predictions of a model version, for a task.

    Within one DAG run, a task that scores different rows can then no longer replace the predictions. A retry of the
    task, another DAG run, and a task that scores the same rows (for example with a different map index after a clear)
    can still write to the slot. Without a DAG run, nothing is reserved.

    :param store: the artifact store
    :param name: name of the dataset of predictions
    :param slot: name of the slot, from :func:`slot`
    :param datasets: the datasets that the task scores
    :param part: the split part that the task scores; ``None`` for all
    :param provenance: the task
    :raises SpecError: another task of the DAG run has reserved the slot for other rows
    """
    if not provenance.run_id:
        return
    task = f"{provenance.task_id}[{provenance.map_index}]" if provenance.map_index >= 0 else provenance.task_id
    rows = [[item.manifest.name, str(item.window or item.manifest.id)] for item in datasets]
    key = f"datasets/{name}/claims/{fingerprint([slot, provenance.dag_id, provenance.run_id])}.json"
    own = {"task": task, "rows": fingerprint([rows, part])}
    if store.create_exclusive(key, canonical_json(own)):
        return
    other = store.read_json(key)
    if other["task"] != own["task"] and other["rows"] != own["rows"]:
        raise SpecError(
            f"Task {task!r} would replace the predictions of task {other['task']!r} in dataset {name!r}, because both "
            "tasks score different rows of the same window in this DAG run. Give each task the rows of a separate window "
            "or a separate `name`, or score all rows in one task."
        )
