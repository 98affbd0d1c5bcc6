"""The interface between rows of a training set and a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import FeatureColumn, Task
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.inputs import column

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """n rows as a network takes them.

    :param inputs: the arguments of the network's ``forward``, each of shape (n, ...)
    :param labels: class indices (int64) or values (float32), shape (n,)
    """

    inputs: tuple[NDArray[Any], ...]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in (*self.inputs, self.labels))

    def take(self, rows: Any) -> Batch:
        return Batch(tuple(values[rows] for values in self.inputs), self.labels[rows])


@dataclass(frozen=True)
class Share:
    """The rows of one process among several processes that train together.

    :param rank: the process's number, from 0
    :param processes: number of processes
    """

    rank: int = 0
    processes: int = 1

    def indices(self, rows: int, *, even: bool) -> range:
        """Indices of this process's rows among ``rows``.

        :param even: drop the remainder, so that all processes get the same number of rows
        """
        return range(self.rank, rows - rows % self.processes if even else rows, self.processes)


class Reader(Protocol):
    """Converts rows to the inputs and labels of a network.

    :param columns: the columns that it reads
    :param repeatable: whether a row always gives the same inputs
    :param classes: labels in the order of the network's outputs; empty for a regression
    :param label: mean and standard deviation that standardise the labels of a regression
    """

    @property
    def task(self) -> Task: ...

    @property
    def features(self) -> list[FeatureColumn]: ...

    @property
    def classes(self) -> list[Any]: ...

    @property
    def label(self) -> tuple[float, float]: ...

    @property
    def columns(self) -> list[str]: ...

    @property
    def repeatable(self) -> bool: ...

    @property
    def shape(self) -> dict[str, Any]:
        """Keyword arguments of the network that depend on the data."""

    def inputs(self, data: pa.RecordBatch | pa.Table) -> tuple[NDArray[Any], ...]:
        """The arguments of the network's ``forward``."""

    def batch(self, data: pa.RecordBatch, share: Share, *, even: bool) -> Batch:
        """This process's share of the rows of ``data``, with their labels."""


def class_indices(data: pa.RecordBatch, label: str, classes: list[Any]) -> NDArray[np.int64]:
    """The position of each row's label in ``classes``.

    :raises TrainingError: a label is missing
    """
    values = column(data, label)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not isinstance(classes[0], str):
        values = pc.cast(pc.cast(values, pa.float64()), pa.int64())
    found = pc.index_in(values, pa.array(classes, values.type))
    if found.null_count:
        raise TrainingError(f"Label {label!r} is missing in some rows: remove these rows before training.")
    return np.asarray(found.to_numpy(zero_copy_only=False).astype(np.int64))
