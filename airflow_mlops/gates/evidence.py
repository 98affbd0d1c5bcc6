"""The data, models and measurements that gates check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data import row_spans
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.metrics.predictions import Predictions
    from airflow_mlops.models.scorer import Scorer

BATCH_ROWS = 65_536


class Reproduced(Protocol):
    """A property, such as a metric, that is compared between the original training and the reproduction.

    - ``what``: name of the property.
    - ``then``: value in the original training.
    - ``now``: value in the reproduction.
    - ``verdict``: ``equal``, ``within tolerance``, ``differs`` or ``noted``. A ``noted`` difference does not make the
      reproduction fail.
    """

    @property
    def what(self) -> str: ...

    @property
    def then(self) -> str: ...

    @property
    def now(self) -> str: ...

    @property
    def verdict(self) -> str: ...


class Reproduction(Protocol):
    """The result of training a candidate again. The stage ``reproduce`` implements this protocol."""

    @property
    def reproduced(self) -> bool:
        """Return whether no compared property differs."""

    @property
    def summary(self) -> str:
        """Return the result in one sentence."""

    @property
    def comparisons(self) -> Sequence[Reproduced]:
        """Return the comparisons of data, seed, code, environment and metrics with the original training."""


@dataclass(frozen=True)
class SplitPart:
    """A split part of a dataset, whose labels are not read yet.

    :param dataset: the dataset
    :param part: name of the split part, such as ``test``
    :param label: name of the label column
    :param task: the ML task (binary, multiclass, regression)
    """

    dataset: Dataset
    part: str
    label: str
    task: Task

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield ``columns`` of the rows in batches, in the order of the dataset."""
        return self.dataset.batches(self.part, columns, BATCH_ROWS)

    def share(self, columns: Sequence[str], number: int, count: int) -> Iterator[pa.RecordBatch]:
        """Yield some of the batches of :meth:`batches`. Every batch is in exactly one share.

        :param number: number of the share, from 0
        :param count: number of shares
        """
        for dataset, span in row_spans.spans([self.dataset], self.part, BATCH_ROWS, number, count):
            yield from dataset.batches(self.part, columns, BATCH_ROWS, span)

    def column(self, name: str) -> pa.Array:
        """Return a column of all held-out rows.

        :raises SchemaError: the dataset has no such column
        """
        return self.dataset.table(self.part, [name]).column(name).combine_chunks()

    def classes(self) -> list[Any]:
        """Return the distinct labels in all split parts of the dataset, sorted."""
        found = self.dataset.table(None, [self.label]).column(self.label).unique()
        if pa.types.is_dictionary(found.type):
            found = found.dictionary_decode()
        labels = {label for label in found.to_pylist() if label is not None and label == label}
        # pandas stores the labels 0 and 1 as 0.0 and 1.0 if a label is missing. They become integers, as in training.
        return sorted(int(label) if isinstance(label, float) and label.is_integer() else label for label in labels)

    @property
    def positive(self) -> Any:
        """Return the positive class that the dataset declares; ``None`` without one, or if the task is not binary."""
        return self.dataset.manifest.details.get("positive") if self.task == "binary" else None


@dataclass(frozen=True)
class HeldOut(SplitPart):
    """The held-out split part of a dataset, on which all models are measured.

    :param truth: the true labels or values, shape (n,)
    :param weight: the weight of each row in metrics, shape (n,); ``None`` if all rows have the same weight
    :param weight_column: name of the column of the weights; ``None`` without weights
    :param columns: the columns that the metrics of the evaluation name, such as costs, each of shape (n,)
    """

    truth: NDArray[Any] = field(repr=False)
    weight: NDArray[np.float64] | None = field(default=None, repr=False)
    weight_column: str | None = None
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    def take(self, columns: Sequence[str], index: NDArray[np.integer[Any]]) -> pa.Table:
        """Return ``columns`` of the held-out rows at the positions ``index``, which must be in ascending order."""
        return take(self.batches(columns), index)


def take(batches: Iterator[pa.RecordBatch], index: NDArray[np.integer[Any]]) -> pa.Table:
    """Return the rows at given positions as one table.

    :param batches: batches of all rows
    :param index: positions of the wanted rows, counted from 0 over all batches, in ascending order, shape (k,)
    """
    taken, start = [], 0
    for batch in batches:
        first, last = np.searchsorted(index, [start, start + batch.num_rows])
        taken.append(batch.take(pa.array(index[first:last] - start)))
        start += batch.num_rows
    return pa.Table.from_batches(taken).combine_chunks()


@dataclass(frozen=True)
class Measurement:
    """The metrics of one model on the held-out data.

    :param name: name of the model in explanations, such as ``flight_delays v3``
    :param metrics: the metrics by name
    :param predictions: predictions for all held-out rows; ``None`` if only the metrics are known
    :param rows: predictions and labels of all held-out rows; ``None`` if only the metrics are known
    """

    name: str
    metrics: Mapping[str, float]
    predictions: Predictions | None = field(default=None, repr=False)
    rows: Rows | None = field(default=None, repr=False)

    @property
    def gives_labels_only(self) -> bool:
        """Return whether the model is a classifier without probabilities."""
        return self.rows is not None and self.rows.score is None


@dataclass(frozen=True)
class Evidence:
    """A candidate, the champion and the baselines, all measured on the same held-out data.

    :param task: the ML task (binary, multiclass, regression)
    :param truth: the true labels or values, shape (n,)
    :param candidate: metrics of the candidate
    :param baseline: metrics of the baseline, a model without features (:func:`airflow_mlops.metrics.values.baseline`)
    :param champion: metrics of the champion; ``None`` if there is no champion, or if the champion could not be measured
    :param champion_problem: the reason why the champion could not be measured, in one sentence; otherwise ``None``
    :param tree: metrics of a small decision tree, fitted to the split part ``train``; ``None`` if no tree could be
        fitted
    :param statistical: metrics of the statistical models whose forecasts are columns of the held-out rows
    :param model: the candidate's loaded model; ``None`` if only metrics are known
    :param data: the held-out data; ``None`` if only metrics are known
    :param candidates: number of candidates that are evaluated together
    :param resampling: the bootstrap weights of the rows, shared by all candidates and gates
    :param store: the artifact store, from which gates can read other datasets
    :param reproduce: function that trains the candidate again and compares the result
    """

    task: Task
    truth: NDArray[Any] = field(repr=False)
    candidate: Measurement
    baseline: Measurement
    champion: Measurement | None = None
    champion_problem: str | None = None
    tree: Measurement | None = None
    statistical: Sequence[Measurement] = ()
    model: Scorer | None = None
    data: HeldOut | None = None
    candidates: int = 1
    resampling: Resampling | None = field(default=None, repr=False)
    store: ArtifactStore | None = None
    reproduce: Callable[[], Reproduction] | None = None

    def rows(self, model: Measurement) -> tuple[Rows, Resampling]:
        """Return the predictions and labels of a model, and the bootstrap weights of the held-out rows.

        :raises SpecError: only the metrics of the model are known
        """
        if model.rows is None or self.resampling is None:
            raise SpecError(
                f"The metrics of {model.name} have no confidence interval, because only the metrics are known, "
                'not the predictions. Set "confidence": null in the gate.'
            )
        return model.rows, self.resampling
