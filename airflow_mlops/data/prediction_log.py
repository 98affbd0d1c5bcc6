"""The prediction log: the current and all earlier predictions of each model version for each window.

The log is a view of the datasets of predictions and stores no rows of its own. In addition to the layout described in
:mod:`airflow_mlops.data.datasets`, a dataset of predictions NAME has::

    datasets/NAME/files/window=2013-04/version=3/UUID.parquet    one folder for each window and version
    datasets/NAME/slots/WINDOW-MODEL-v3.json                     the current predictions of a version for a window
    datasets/NAME/claims/HASH.json                               the task of a DAG run that scores a slot

Predictions are in the log as soon as their manifest is written, and are the current ones when the slot points at them. If
a task crashes in between, no reader sees its files; its retry writes all rows again and updates the slot, so the log
contains each row once. Each version has its own slot for a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import DatasetPurgedError, SchemaError, SpecError
from airflow_mlops.core.fingerprints import canonical_json, fingerprint
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, Manifest, in_slot, read_manifests, slot_windows
from airflow_mlops.data.store import ArtifactStore

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

# The name that Hive gives to the partition without a value.
_NO_WINDOW = "__HIVE_DEFAULT_PARTITION__"


class PredictionLog:
    """The predictions of one model.

    :param name: name of the dataset of predictions; ``MODEL_predictions`` by default
    """

    def __init__(self, store: ArtifactStore, model: str, name: str | None = None) -> None:
        self.store = store
        self.model = model
        self.name = name or f"{model}_predictions"

    def entries(self, within: Window | None = None) -> list[Manifest]:
        """The current manifest of every window and version, ordered by time and version, including purged ones.

        :param within: only windows inside this one
        """
        found = []
        for slot, window in slot_windows(self.store, self.name).items():
            if within is None or (window is not None and within.contains(window)):
                dataset = in_slot(self.store, self.name, slot)
                if dataset is not None and dataset.manifest.details.get("model") == self.model:
                    found.append(dataset.manifest)
        return sorted(found, key=_order)

    def history(self, within: Window | None = None) -> list[Manifest]:
        """The manifests of all predictions ever written, oldest first: the current ones and those they replaced."""
        found = [
            manifest
            for manifest in read_manifests(self.store, self.name)
            if manifest.details.get("model") == self.model
            and (within is None or (manifest.window is not None and within.contains(manifest.window)))
        ]
        return sorted(found, key=lambda manifest: (manifest.created, manifest.id))

    def present(self, within: Window | None = None) -> list[Dataset]:
        """The current datasets that can be read. They contain each prediction of each version once.

        :raises DatasetPurgedError: there were predictions, but retention deleted all of them
        """
        entries = self.entries(within)
        readable = [Dataset(self.store, manifest) for manifest in entries if manifest.purged is None]
        if entries and not readable:
            last = max(manifest.purged for manifest in entries if manifest.purged is not None)
            raise DatasetPurgedError(
                f"The predictions of {self.model}{f' in {within.label}' if within else ''} were deleted by retention, "
                f"the last ones on {last:%Y-%m-%d}. Score the window again if you need them."
            )
        return readable

    def files(self, within: Window | None = None) -> list[str]:
        """URLs of the Parquet files with the current predictions. They contain no replaced predictions."""
        return [self.store.url_of(file.path) for dataset in self.present(within) for file in dataset.files()]

    def arrow(self, within: Window | None = None) -> ds.Dataset:
        """The current predictions as a :class:`pyarrow.dataset.Dataset`, with the added columns ``window`` and ``version``.

        A column that only some windows have is null in the others. The hashes of the files are not checked.

        :raises SchemaError: a column has different types in different windows
        """
        import pyarrow as pa
        import pyarrow.dataset as ds
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        by = ds.partitioning(pa.schema([("window", pa.string()), ("version", pa.int64())]), flavor="hive")
        factory = ds.FileSystemDatasetFactory(
            PyFileSystem(FSSpecHandler(self.store.fs)),
            [self.store.path(file.path) for dataset in self.present(within) for file in dataset.files()],
            ds.ParquetFileFormat(),
            ds.FileSystemFactoryOptions(self.store.path(f"datasets/{self.name}/files"), partitioning=by),
        )
        try:
            return factory.finish(factory.inspect(fragments=None))
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise SchemaError(
                f"The windows of {self.name} cannot be combined into one table: {str(error).splitlines()[0]}."
            ) from None

    def batches(
        self, within: Window | None = None, columns: Sequence[str] | None = None, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """Stream the current predictions in batches of at most ``batch_rows`` rows."""
        for dataset in self.present(within):
            yield from dataset.batches(columns=columns, batch_rows=batch_rows)


def _order(manifest: Manifest) -> tuple[str, int, str]:
    return manifest.window.key if manifest.window else "", int(manifest.details["model_version"]), manifest.id


def folder(window: Window | None, version: int | None = None) -> str:
    """The subfolder of ``files`` for a window and version, in Hive's partition format."""
    label = window.file_name if window else _NO_WINDOW
    return f"window={label}" + (f"/version={version}" if version is not None else "")


def slot(version: ModelVersionRef, window: Window | None, datasets: Sequence[Dataset], part: str | None) -> str:
    """The slot of a version's predictions: one for each window, or one for each set of rows without a window."""
    subject = window.key if window else f"rows-{fingerprint([[item.manifest.id for item in datasets], part])[:16]}"
    return f"{subject}-{version.model}-v{version.version}"


def claim(
    store: ArtifactStore, name: str, slot: str, datasets: Sequence[Dataset], part: str | None, provenance: Provenance
) -> None:
    """Reserve a slot for a task, so that no other task of the same DAG run replaces its predictions with other rows.

    Retries of the task, another DAG run, and another task with the same rows (for example remapped after a clear) may
    still write the slot.

    :raises SpecError: another task of the DAG run has reserved the slot for other rows
    """
    if not provenance.run_id:
        return
    task = f"{provenance.task_id}[{provenance.map_index}]" if provenance.map_index >= 0 else provenance.task_id
    rows = [[item.manifest.name, str(item.manifest.window or item.manifest.id)] for item in datasets]
    key = f"datasets/{name}/claims/{fingerprint([slot, provenance.dag_id, provenance.run_id])}.json"
    own = {"task": task, "rows": fingerprint([rows, part])}
    if store.create_exclusive(key, canonical_json(own)):
        return
    other = store.read_json(key)
    if other["task"] != own["task"] and other["rows"] != own["rows"]:
        raise SpecError(
            f"Task {task!r} would replace the predictions of task {other['task']!r}, which scores other rows for {slot} of {name} "
            "in the same DAG run. Give each task its own window or name, or score all parts in one task."
        )
