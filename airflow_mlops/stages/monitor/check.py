"""A check by MonitorOperator: the model, the window, and the predictions that are checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.windows import Window
from airflow_mlops.data import spool
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.predictions.versions import latest_version, rows_by_version
from airflow_mlops.data.selection import is_quarantine_estimated, quarantined_rows
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy.spec import Policy

# Small batches limit the memory of a check, and are as fast as large ones.
BATCH_ROWS = 16_384
_VERSION = "model_version"

CLUSTER = "mlops cluster number"
"""The column of :meth:`Check.batches` with the number of the cluster of each row."""


@dataclass(frozen=True)
class Clusters:
    """The clusters of the checked predictions (``policy.groups``).

    :param numbers: the number of the cluster of each row, from 0 without gaps, in a column :data:`CLUSTER`
    :param count: number of clusters
    """

    numbers: spool.Rows
    count: int


@dataclass(frozen=True)
class Check:
    """A check by MonitorOperator of the predictions of one model in one window.

    :param created: time at which the check started
    :param policy: the retraining policy that judges the window
    :param datasets: datasets of predictions; empty without predictions
    :param store: the artifact store
    :param version: number of the model version whose predictions are checked; ``None`` for all predictions
    :param numbered: the clusters of the rows (:func:`airflow_mlops.stages.monitor.clusters.numbered`); ``None`` for
        independent rows
    """

    model: str
    window: Window
    created: datetime
    policy: Policy
    datasets: Sequence[Dataset]
    store: ArtifactStore
    version: int | None = None
    numbered: Clusters | None = None

    @property
    def clusters(self) -> Clusters | None:
        """Return the clusters of the rows; ``None`` for independent rows."""
        # Rows of clusters must never be measured as independent rows.
        assert self.numbered is not None or self.policy.groups is None
        return self.numbered

    @property
    def rows(self) -> int:
        """Return the number of checked predictions."""
        if self.version is None:
            return sum(dataset.rows for dataset in self.datasets)
        return sum(rows_by_version(dataset)[self.version] for dataset in self.datasets)

    @property
    def quarantined(self) -> int:
        """Return the number of rows of the window that were not scored, because validation had quarantined them."""
        return sum(map(quarantined_rows, self.datasets))

    @property
    def is_quarantine_estimated(self) -> bool:
        """Return whether :attr:`quarantined` is an estimate, because the predictions are only a part of a dataset."""
        return any(map(is_quarantine_estimated, self.datasets))

    @property
    def latest_version(self) -> int | None:
        """Return the number of the version that made the latest checked predictions; ``None`` if it is unknown."""
        if self.version is not None:
            return self.version
        return latest_version(self.datasets)

    def of_each_version(self) -> list[Check]:
        """Return one check for each version. The last check is for the version that made the latest predictions."""
        counts = [rows_by_version(dataset) for dataset in self.datasets]
        numbers = sorted(set().union(*counts))
        if len(numbers) < 2:
            return [self]
        latest = latest_version(self.datasets)
        return [
            replace(
                self,
                datasets=[item for item, known in zip(self.datasets, counts, strict=True) if number in known],
                version=number,
            )
            for number in sorted(numbers, key=lambda number: (number == latest, number))
        ]

    def has_columns(self, *names: str) -> bool:
        """Return whether every dataset of predictions has the columns ``names``."""
        return self._everywhere is None or self._everywhere >= {*names}

    @cached_property
    def _everywhere(self) -> frozenset[str] | None:
        """Return the names of the columns that every dataset of predictions has; ``None`` without datasets."""
        names = [frozenset(item.manifest.column_names) for item in self.datasets]
        return frozenset.intersection(*names) if names else None

    def batches(self, columns: Sequence[str], batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield ``columns`` of the checked predictions in batches of at most ``batch_rows`` rows.

        :param columns: names of the columns; with :data:`CLUSTER`, if :attr:`clusters` is set
        """
        stored = [name for name in columns if name != CLUSTER]
        if len(stored) == len(columns):
            yield from self._stored(stored, batch_rows)
            return
        assert self.clusters is not None
        numbers = _Reader(self.clusters.numbers)
        # A batch needs a column for its number of rows.
        for batch in self._stored(stored or ["score"], batch_rows):
            found = {name: batch.column(name) for name in stored} | {CLUSTER: numbers.next(batch.num_rows)}
            yield pa.RecordBatch.from_arrays([found[name] for name in columns], list(columns))

    def _stored(self, columns: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        for item in self.datasets:
            if self.version is None or len(rows_by_version(item)) < 2:
                yield from item.batches(columns=columns, batch_rows=batch_rows)
                continue
            wanted = list(dict.fromkeys([*columns, _VERSION]))
            for batch in item.batches(columns=wanted, batch_rows=batch_rows):
                yield batch.filter(pc.equal(batch.column(_VERSION), self.version)).select(list(columns))


class _Reader:
    """Reads consecutive values of a column."""

    def __init__(self, rows: spool.Rows) -> None:
        self._batches = rows.to_batches()
        self._held = pa.array([], rows.schema.field(CLUSTER).type)

    def next(self, count: int) -> pa.Array:
        """Read the next ``count`` values."""
        while len(self._held) < count:
            self._held = pa.concat_arrays([self._held, next(self._batches).column(CLUSTER)])
        found, self._held = self._held[:count], self._held[count:]
        return found
