"""What gates judge by."""

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
    """One thing that a reproduction compared; ``verdict`` is ``equal``, ``within tolerance``, ``differs`` or ``noted``."""

    @property
    def what(self) -> str: ...

    @property
    def then(self) -> str: ...

    @property
    def now(self) -> str: ...

    @property
    def verdict(self) -> str: ...


class Reproduction(Protocol):
    """The outcome of training a candidate again."""

    @property
    def reproduced(self) -> bool:
        """Whether nothing differs."""

    @property
    def summary(self) -> str:
        """The outcome in one sentence."""

    @property
    def comparisons(self) -> Sequence[Reproduced]:
        """Data, seed, code, environment and metrics."""


@dataclass(frozen=True)
class HeldOut:
    """The data that all models are measured on."""

    dataset: Dataset
    part: str
    label: str
    task: Task
    truth: NDArray[Any] = field(repr=False)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows in order, as far as these columns go."""
        return self.dataset.batches(self.part, columns)

    def column(self, name: str) -> pa.Array:
        """One column of all rows.

        :raises SchemaError: there is no such column
        """
        return self.dataset.table(self.part, [name]).column(name).combine_chunks()

    def classes(self) -> list[Any]:
        """The different labels in all parts of the dataset, sorted."""
        found = self.dataset.table(None, [self.label]).column(self.label).unique()
        if pa.types.is_dictionary(found.type):
            found = found.dictionary_decode()
        return sorted({label for label in found.to_pylist() if label is not None and label == label})

    def take(self, columns: Sequence[str], index: NDArray[np.integer[Any]]) -> pa.Table:
        """The rows at these positions, which ascend."""
        return take(self.batches(columns), index)


def take(batches: Iterator[pa.RecordBatch], index: NDArray[np.integer[Any]]) -> pa.Table:
    """The rows at these positions, counted over all batches; they ascend."""
    taken, start = [], 0
    for batch in batches:
        first, last = np.searchsorted(index, [start, start + batch.num_rows])
        taken.append(batch.take(pa.array(index[first:last] - start)))
        start += batch.num_rows
    return pa.Table.from_batches(taken).combine_chunks()


@dataclass(frozen=True)
class Measurement:
    """One model on the held-out data.

    :param name: what to call it in an explanation, such as ``flight_delays v3``
    :param predictions: its predictions, one for each row of the held-out data; ``None`` where only numbers are known
    :param rows: the same with the truth, as metrics are computed from them
    """

    name: str
    metrics: Mapping[str, float]
    predictions: Predictions | None = field(default=None, repr=False)
    rows: Rows | None = field(default=None, repr=False)

    @property
    def gives_labels_alone(self) -> bool:
        """Whether it is a classifier without probabilities."""
        return self.rows is not None and self.rows.score is None


@dataclass(frozen=True)
class Evidence:
    """A candidate, the present champion and the baselines, all measured on the same held-out data.

    :param truth: the true labels or values, shape (n,)
    :param baseline: always predicting the mean or the labels' distribution
    :param champion: ``None`` if there is no champion, or if it could not be measured
    :param champion_problem: why the present champion could not be measured, if so; one sentence
    :param tree: a small decision tree fitted to the training set's other rows; ``None`` if it has none
    :param model: the candidate itself
    :param data: the held-out data itself
    :param candidates: among how many candidates this one is
    :param resampling: the bootstrap's weights, shared by all candidates and gates
    :param store: where other datasets are
    :param reproduce: trains the candidate again, and compares
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

    def rows(self, of: Measurement) -> tuple[Rows, Resampling]:
        """One model's rows, and how to resample them.

        :raises SpecError: only numbers are known
        """
        if of.rows is None or self.resampling is None:
            raise SpecError(f"Of {of.name} there are only numbers and no predictions, so they have no interval.")
        return of.rows, self.resampling
