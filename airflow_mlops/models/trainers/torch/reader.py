"""The interface of readers, which convert rows of a training set to the inputs and labels of a network."""

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
    """The inputs and labels of n rows for a network.

    :param inputs: the arguments of the network's ``forward``, each of shape (n, ...)
    :param labels: class indices (int64) or values (float32), shape (n,)
    :param weights: the weight of each row in the loss (float32), shape (n,); ``None`` if all rows have the same weight
    """

    inputs: tuple[NDArray[Any], ...]
    labels: NDArray[Any]
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        weights = () if self.weights is None else (self.weights,)
        return sum(values.nbytes for values in (*self.inputs, self.labels, *weights))

    def take(self, rows: NDArray[np.int64] | slice) -> Batch:
        """Return a batch with some of the rows.

        :param rows: indices of the rows, or a slice
        """
        weights = None if self.weights is None else self.weights[rows]
        if isinstance(rows, slice):
            return Batch(tuple(values[rows] for values in self.inputs), self.labels[rows], weights)
        # For arrays with several columns, take() selects rows faster than indexing.
        return Batch(tuple(values.take(rows, axis=0) for values in self.inputs), self.labels.take(rows), weights)


@dataclass(frozen=True)
class Share:
    """The share of the rows that one of several training processes reads.

    :param rank: number of the process, from 0
    :param processes: number of training processes
    """

    rank: int = 0
    processes: int = 1

    def indices(self, rows: int, *, even: bool) -> range:
        """Return the indices of this process's rows.

        :param rows: number of rows for all processes
        :param even: whether to drop the remainder, so that all processes get the same number of rows
        """
        return range(self.rank, rows - rows % self.processes if even else rows, self.processes)


class Reader(Protocol):
    """Converts rows to the inputs and labels of a network.

    :param columns: names of the columns to read
    :param repeatable: whether a row always gives the same inputs
    :param classes: class labels in the order of the network's outputs; empty for a regression
    :param label: mean and standard deviation with which the labels of a regression are standardised
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
        """Return the keyword arguments of the network that depend on the data, such as the number of outputs."""

    def inputs(self, data: pa.RecordBatch | pa.Table) -> tuple[NDArray[Any], ...]:
        """Convert rows to the arguments of the network's ``forward``."""

    def batch(self, data: pa.RecordBatch, share: Share, *, even: bool) -> Batch:
        """Convert this process's share of the rows in ``data``, with their labels.

        :param data: rows for all processes
        :param share: the share of this process
        :param even: whether to drop the remainder, so that all processes get the same number of rows
        """


def class_indices(data: pa.RecordBatch, label: str, classes: list[Any]) -> NDArray[np.int64]:
    """Return the position of each row's label in ``classes``.

    :param data: n rows
    :param label: name of the label column
    :param classes: the class labels
    :return: int64, shape (n,)
    :raises TrainingError: a label is null, or not in ``classes``
    """
    values = column(data, label)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not isinstance(classes[0], str):
        values = pc.cast(pc.cast(values, pa.float64()), pa.int64())
    found = pc.index_in(values, pa.array(classes, values.type))
    if found.null_count:
        raise TrainingError(
            f"Label {label!r} is null in some rows, or is not one of the {len(classes)} classes of the training set. Remove "
            "these rows from the training set."
        )
    return np.asarray(found.to_numpy(zero_copy_only=False).astype(np.int64))
