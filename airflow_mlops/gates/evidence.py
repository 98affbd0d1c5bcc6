"""The data, models and measurements that gates check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.metrics.predictions import Predictions
    from airflow_mlops.models.scorer import Scorer


class Reproduced(Protocol):
    """One item that a reproduction compared; ``verdict`` is ``equal``, ``within tolerance``, ``differs`` or ``noted``."""

    @property
    def what(self) -> str: ...

    @property
    def then(self) -> str: ...

    @property
    def now(self) -> str: ...

    @property
    def verdict(self) -> str: ...


class Reproduction(Protocol):
    """The outcome of training a candidate again, implemented by the stage ``reproduce``."""

    @property
    def reproduced(self) -> bool:
        """Whether no item differs."""

    @property
    def summary(self) -> str:
        """The outcome in one sentence."""

    @property
    def comparisons(self) -> Sequence[Reproduced]:
        """Data, seed, code, environment and metrics."""


@dataclass(frozen=True)
class HeldOut:
    """The held-out data that all models are measured on.

    :param truth: the labels, shape (n,)
    """

    dataset: Dataset
    part: str
    label: str
    task: Task
    truth: NDArray[Any] = field(repr=False)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows in order, with these columns."""
        return self.dataset.batches(self.part, columns)

    def column(self, name: str) -> pa.Array:
        """One column of all rows.

        :raises SchemaError: there is no such column
        """
        return self.dataset.table(self.part, [name]).column(name).combine_chunks()

    def classes(self) -> list[Any]:
        """The distinct labels in all parts of the dataset, sorted."""
        found = self.dataset.table(None, [self.label]).column(self.label).unique()
        if pa.types.is_dictionary(found.type):
            found = found.dictionary_decode()
        return sorted({label for label in found.to_pylist() if label is not None and label == label})

    def take(self, columns: Sequence[str], index: NDArray[np.integer[Any]]) -> pa.Table:
        """The rows at these positions, which must ascend."""
        return take(self.batches(columns), index)


def take(batches: Iterator[pa.RecordBatch], index: NDArray[np.integer[Any]]) -> pa.Table:
    """The rows at these positions, counted over all batches; the positions must ascend."""
    taken, start = [], 0
    for batch in batches:
        first, last = np.searchsorted(index, [start, start + batch.num_rows])
        taken.append(batch.take(pa.array(index[first:last] - start)))
        start += batch.num_rows
    return pa.Table.from_batches(taken).combine_chunks()


@dataclass(frozen=True)
class Measurement:
    """One model's metrics on the held-out data.

    :param name: its name in explanations, such as ``flight_delays v3``
    :param predictions: one for each row of the held-out data; ``None`` if only the metrics are known
    :param rows: the predictions with the labels; ``None`` likewise
    """

    name: str
    metrics: Mapping[str, float]
    predictions: Predictions | None = field(default=None, repr=False)
    rows: Rows | None = field(default=None, repr=False)

    @property
    def gives_labels_only(self) -> bool:
        """Whether it is a classifier without probabilities."""
        return self.rows is not None and self.rows.score is None


@dataclass(frozen=True)
class Evidence:
    """A candidate, the champion and the baselines, all measured on the same held-out data.

    :param truth: the true labels or values, shape (n,)
    :param baseline: a model that always predicts the mean or the class frequencies
    :param champion: ``None`` if there is no champion, or if it could not be measured
    :param champion_problem: one sentence that says why the champion could not be measured, if it could not
    :param tree: a small decision tree fitted to the training part; ``None`` if there is none
    :param model: the candidate's model
    :param data: the held-out data
    :param candidates: the number of candidates that are evaluated together
    :param resampling: the bootstrap's weights, shared by all candidates and gates
    :param store: the artifact store with the other datasets
    :param reproduce: trains the candidate again and compares
    """

    task: Task
    truth: NDArray[Any] = field(repr=False)
    candidate: Measurement
    baseline: Measurement
    champion: Measurement | None = None
    champion_problem: str | None = None
    tree: Measurement | None = None
    model: Scorer | None = None
    data: HeldOut | None = None
    candidates: int = 1
    resampling: Resampling | None = field(default=None, repr=False)
    store: ArtifactStore | None = None
    reproduce: Callable[[], Reproduction] | None = None

    def rows(self, model: Measurement) -> tuple[Rows, Resampling]:
        """One model's rows, and their resampling.

        :raises SpecError: only the metrics are known
        """
        if model.rows is None or self.resampling is None:
            raise SpecError(f"The metrics of {model.name} have no interval, because its predictions are not given.")
        return model.rows, self.resampling
