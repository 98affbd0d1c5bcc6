"""The prediction log: what each version of a model said about each window, and what it had said before.

The datasets of predictions are the log; nothing is kept twice. Beside what :mod:`airflow_mlops.data.datasets` says,
the dataset of predictions NAME has::

    datasets/NAME/files/window=2013-04/version=3/UUID.parquet    one folder for each window and version
    datasets/NAME/slots/WINDOW-MODEL-v3.json                     the present predictions of a version for a window
    datasets/NAME/claims/HASH.json                               which task of a DAG run scores a slot

A version's predictions for a window are in the log when their manifest is written, and the present ones when the slot
points at them. A try that dies in between leaves what nobody reads; its retry writes all of it anew and moves the slot, so
that each row is there once. Another version has a slot of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import DatasetPurgedError, SchemaError, SpecError
from airflow_mlops.core.fingerprints import canonical_json, fingerprint
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, Manifest, manifests, present_in, slots
from airflow_mlops.data.store import ArtifactStore

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

# Hive's name for the folder of what has none.
_NO_WINDOW = "__HIVE_DEFAULT_PARTITION__"


class PredictionLog:
    """The predictions of one model.

    :param name: the name of the predictions' dataset; ``MODEL_predictions`` unless given
    """

    def __init__(self, store: ArtifactStore, model: str, name: str | None = None) -> None:
        self.store = store
        self.model = model
        self.name = name or f"{model}_predictions"

    def entries(self, within: Window | None = None) -> list[Manifest]:
        """The present dataset of every window and version, ordered by time and version; those that were purged, too.

        :param within: only windows that lie inside it
        """
        found = []
        for slot, window in slots(self.store, self.name).items():
            if within is None or (window is not None and within.contains(window)):
                dataset = present_in(self.store, self.name, slot)
                if dataset is not None and dataset.manifest.details.get("model") == self.model:
                    found.append(dataset.manifest)
        return sorted(found, key=_order)

    def history(self, within: Window | None = None) -> list[Manifest]:
        """Every dataset that was ever committed, oldest first: the present ones, and those that they took the place of."""
        found = [
            manifest
            for manifest in manifests(self.store, self.name)
            if manifest.details.get("model") == self.model
            and (within is None or (manifest.window is not None and within.contains(manifest.window)))
        ]
        return sorted(found, key=lambda manifest: (manifest.created, manifest.id))

    def present(self, within: Window | None = None) -> list[Dataset]:
        """The datasets of :meth:`entries` that can be read: each prediction of each version once.

        :raises DatasetPurgedError: there were some, and retention deleted all of them
        """
        entries = self.entries(within)
        kept = [Dataset(self.store, manifest) for manifest in entries if manifest.purged is None]
        if entries and not kept:
            last = max(manifest.purged for manifest in entries if manifest.purged is not None)
            raise DatasetPurgedError(
                f"The predictions of {self.model}{f' in {within.label}' if within else ''} were deleted by retention, "
                f"the last of them on {last:%Y-%m-%d}: score the window again if they are needed."
            )
        return kept

    def files(self, within: Window | None = None) -> list[str]:
        """URLs of the Parquet files that hold the present predictions and nothing else."""
        return [self.store.url_of(file.path) for dataset in self.present(within) for file in dataset.files()]

    def arrow(self, within: Window | None = None) -> ds.Dataset:
        """The present predictions as a :class:`pyarrow.dataset.Dataset`, with the columns ``window`` and ``version``.

        A column that only some windows have is missing in the others. Hashes of files are not checked.

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
            raise SchemaError(f"Windows of {self.name} cannot be one table: {str(error).splitlines()[0]}.") from None

    def batches(
        self, within: Window | None = None, columns: Sequence[str] | None = None, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """Stream the present predictions; memory stays flat however many there are."""
        for dataset in self.present(within):
            yield from dataset.batches(columns=columns, batch_rows=batch_rows)


def _order(manifest: Manifest) -> tuple[str, int, str]:
    return manifest.window.key if manifest.window else "", int(manifest.details["model_version"]), manifest.id


def folder(window: Window | None, version: int | None = None) -> str:
    """Where files lie below ``files``: hive's way to say which window and version they are about."""
    label = window.label if window else _NO_WINDOW
    if window and re.search(r"[^\w.-]", label):
        label = window.key
    return f"window={label}" + (f"/version={version}" if version is not None else "")


def slot(version: ModelVersionRef, window: Window | None, datasets: Sequence[Dataset], part: str | None) -> str:
    """The name of what may be scored once by a version: a window, or the rows themselves where they have none."""
    about = window.key if window else f"rows-{fingerprint([[item.manifest.id for item in datasets], part])[:16]}"
    return f"{about}-{version.model}-v{version.version}"


def claim(
    store: ArtifactStore, name: str, slot: str, datasets: Sequence[Dataset], part: str | None, provenance: Provenance
) -> None:
    """Keep two tasks of one DAG run from scoring other rows for one slot: the second would take the place of the first.

    A retry of the same task, the same rows in another task (mapped anew after clearing, say), and another run may.

    :raises SpecError: another task has it
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
            f"Task {other['task']!r} of this DAG run scores other rows for {slot} of {name}, and this one, {task!r}, would "
            "take their place: give each task a window or a name of its own, or score all parts in one task."
        )
