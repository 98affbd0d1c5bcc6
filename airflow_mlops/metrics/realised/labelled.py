"""The labelled predictions of a window, collected from record batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract, PredictionInterval, Task
from airflow_mlops.core.errors import EvaluationError
from airflow_mlops.data.columns import LABEL
from airflow_mlops.metrics import weighted
from airflow_mlops.metrics.columns import columns_of, converted, why_invalid
from airflow_mlops.metrics.rows import Rows

COLUMNS = (LABEL, "prediction", "score")

Order: TypeAlias = Literal["ascending", "descending"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Labelled(Protocol):
    """Labelled predictions that are read in parts, from memory (:class:`Outcomes`) or from a temporary file.

    ``rows`` and ``interval`` have the same meanings as in :class:`Outcomes`. ``clusters`` is the number of clusters;
    ``None`` for independent rows.
    """

    @property
    def rows(self) -> int: ...

    @property
    def clusters(self) -> int | None: ...

    @property
    def interval(self) -> PredictionInterval | None: ...

    def parts(self) -> Iterator[Outcomes]:
        """Yield the rows in parts. Each call yields the same parts."""
        ...


class UnmeasurableError(EvaluationError):
    """Raised if performance cannot be measured. The message is a clause that states the reason."""


@dataclass
class Outcomes:
    """The labelled predictions of a window.

    :param truth: shape (n,). Binary: whether the label is the positive class; multiclass: whether the prediction is
        correct; regression: the label
    :param score: score of the prediction, shape (n,)
    :param right: whether the predicted class equals the label, shape (n,); always false for a regression
    :param skipped: number of labelled rows that were left out because the score or, for a regression, the label is not
        a finite number
    :param codes: multiclass: positions of the label and of the prediction among the k classes of the model, shape (2,
        n). An unknown label has the position k, and an unknown prediction the position k + 1
    :param unknown: multiclass: number of rows with a label that is not one of the model's classes. The predictions for
        these rows count as wrong
    :param example: a label that is not one of the model's classes; ``None`` if there is no such label
    :param groups: number of the cluster of each row, from 0, shape (n,), for intervals by cluster; ``None`` for
        independent rows
    :param weight: the weight of each row, above 0 and with the mean 1, shape (n,); ``None`` if each row counts once
    :param interval: the prediction intervals of the model; ``None`` for a model without them
    :param columns: the columns that metrics name, each of shape (n,): costs (finite and at least 0), forecasts
        (:mod:`airflow_mlops.metrics.forecasts`) and codes of groups
    """

    truth: npt.NDArray[Any]
    score: Floats
    right: Bools
    skipped: int = 0
    codes: npt.NDArray[np.int64] | None = None
    unknown: int = 0
    example: Any = None
    groups: npt.NDArray[np.int64] | None = None
    weight: Floats | None = None
    interval: PredictionInterval | None = None
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.truth)

    @property
    def clusters(self) -> int | None:
        return None if self.groups is None else int(self.groups.max(initial=-1)) + 1

    def parts(self) -> Iterator[Outcomes]:
        """Yield the rows, in one part."""
        yield self

    def weighted(self, weight: Floats) -> Outcomes:
        """Return the rows with weights, which are scaled to the mean 1. Rows with the weight 0 are left out.

        :param weight: the weight of each row, finite and at least 0, at least one above 0, shape (n,)
        """
        kept = np.flatnonzero(weight > 0)
        return replace(self.take(kept), weight=weighted.scaled(weight[kept]))

    def take(self, index: npt.NDArray[np.int64]) -> Outcomes:
        """Return the rows at the positions ``index``."""
        return replace(
            self,
            truth=self.truth[index],
            score=self.score[index],
            right=self.right[index],
            codes=None if self.codes is None else self.codes[:, index],
            groups=None if self.groups is None else self.groups[index],
            weight=None if self.weight is None else self.weight[index],
            columns={name: values[index] for name, values in self.columns.items()},
        )

    def cost(self, given: float | str) -> Floats | float:
        """Return a cost: the number itself, or the values of the column with this name, shape (n,).

        :raises UnmeasurableError: the rows have no such column
        """
        if isinstance(given, str) and given not in self.columns:
            raise UnmeasurableError(f"the costs are in column {given!r}, which is not available here")
        return self.columns[given] if isinstance(given, str) else given

    def prepared(self, task: Task) -> Rows:
        """Convert the labelled predictions to :class:`Rows`, without the probabilities of a multiclass model."""
        if task == "regression":
            return Rows(task, self.truth, self.score, self.score, self.weight, columns=self.columns)
        if task == "binary":
            return Rows(task, self.truth, self.truth == self.right, self.score, self.weight, columns=self.columns)
        assert self.codes is not None
        return Rows(task, self.codes[0], self.codes[1], None, self.weight)


def outcomes(batches: Iterable[pa.RecordBatch], contract: ModelContract) -> Outcomes:
    """Collect the rows that have a label.

    :param batches: record batches with the columns :data:`COLUMNS`
    :param contract: contract of the model
    :raises UnmeasurableError: for a regression, a label is not a number. For a binary task, a label is not one of the
        model's classes. For a multiclass task, none of the labels is one of the model's classes
    """
    parts = [part for batch in batches if (part := part_of(batch, contract)) is not None]
    if not parts:
        return Outcomes(np.empty(0), np.empty(0), np.empty(0, dtype=bool))
    codes = [part.codes for part in parts if part.codes is not None]
    rows, unknown = sum(part.rows for part in parts), sum(part.unknown for part in parts)
    example = next((part.example for part in parts if part.unknown), None)
    require_known(rows, unknown, example, contract)
    return Outcomes(
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.right for part in parts]),
        sum(part.skipped for part in parts),
        np.concatenate(codes, axis=1) if codes else None,
        unknown,
        example,
        interval=contract.interval,
    )


def part_of(batch: pa.RecordBatch, contract: ModelContract) -> Outcomes | None:
    """Return the rows of one batch that have a label; ``None`` if there are none. See :func:`outcomes`."""
    labelled = _labelled(batch)
    if not labelled.num_rows:
        return None
    return _regression(labelled) if contract.task == "regression" else _classes(labelled, contract)


def require_known(rows: int, unknown: int, example: Any, contract: ModelContract) -> None:
    """Check that some labels are classes of the model.

    :param rows: number of rows
    :param unknown: number of rows with a label that is not a class of the model
    :param example: such a label
    :raises UnmeasurableError: none of the labels is one of the model's classes
    """
    if rows and unknown == rows:
        raise _unknown_label(example, contract)


def measurable(batches: Iterable[pa.RecordBatch], contract: ModelContract) -> Iterator[pa.RecordBatch]:
    """Yield the rows that :func:`outcomes` collects, in the same order, with all their columns.

    :param batches: record batches with at least the columns :data:`LABEL` and ``score``
    :param contract: contract of the model
    :raises UnmeasurableError: for a regression, the labels are not numbers
    """
    for batch in batches:
        rows = _labelled(batch)
        finite = np.isfinite(_score(rows))
        if contract.task == "regression":
            finite &= np.isfinite(_numbers(rows.column(LABEL)))
        yield rows.filter(pa.array(finite))


def columns(
    batches: Iterable[pa.RecordBatch], contract: ModelContract, metrics: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns that metrics name, for the rows that :func:`outcomes` collects, each of shape (n,).

    :param batches: record batches with at least the columns :data:`LABEL` and ``score``, and those that the metrics name
    :param contract: contract of the model
    :param metrics: names of the metrics
    :raises UnmeasurableError: some values are invalid
    """
    names = columns_of(metrics)
    parts = list(measurable(batches, contract)) if names else []
    if not parts:
        return {}
    values = {name: pa.chunked_array([part.column(name) for part in parts]) for name in names}
    for name in names:
        if (wrong := why_invalid(metrics, name, values[name].chunks)) is not None:
            raise UnmeasurableError(f"column {name!r}, which the metric needs, is {wrong}")
    return converted(metrics, values)


def scores(batches: Iterable[pa.RecordBatch], *, labelled: bool) -> Iterator[Floats]:
    """Yield the scores of each batch, shape (n,).

    :param batches: record batches with the column ``score``, and with :data:`LABEL` if ``labelled`` is true
    :param labelled: whether to leave out rows without a label
    """
    for batch in batches:
        yield _score(_labelled(batch) if labelled else batch)


def scored(batches: Iterable[pa.RecordBatch], *, labelled: bool) -> Iterator[pa.RecordBatch]:
    """Yield the rows whose score is a finite number.

    :param batches: record batches with the column ``score``, and with :data:`LABEL` if ``labelled`` is true
    :param labelled: whether to leave out rows without a label
    """
    for batch in batches:
        rows = _labelled(batch) if labelled else batch
        yield rows.filter(pa.array(np.isfinite(_score(rows))))


def _labelled(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(pc.invert(pc.is_null(batch.column(LABEL), nan_is_null=True)))


def _regression(batch: pa.RecordBatch) -> Outcomes:
    truth, score = _numbers(batch.column(LABEL)), _score(batch)
    usable = np.isfinite(truth) & np.isfinite(score)
    return Outcomes(truth[usable], score[usable], np.zeros(usable.sum(), dtype=bool), int((~usable).sum()))


def _numbers(label: pa.Array) -> Floats:
    if not (pa.types.is_integer(label.type) or pa.types.is_floating(label.type) or pa.types.is_decimal(label.type)):
        raise UnmeasurableError(f"the labels have the type {label.type} and are not numbers")
    return np.asarray(label.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _classes(batch: pa.RecordBatch, contract: ModelContract) -> Outcomes:
    label, score = batch.column(LABEL), _score(batch)
    usable = np.isfinite(score)
    truth, predicted = _codes(label, contract.classes), _codes(batch.column("prediction"), contract.classes)
    unknown = truth < 0
    example = label[int(np.argmin(truth))].as_py() if unknown.any() else None
    # A label may be of a class that is newer than a multiclass model. Such rows count as wrong predictions.
    if unknown.any() and contract.task == "binary":
        raise _unknown_label(example, contract)
    right, skipped = (truth == predicted) & ~unknown, int((~usable).sum())
    if contract.task == "binary":
        positive = truth == contract.classes.index(contract.positive)
        return Outcomes(positive[usable], score[usable], right[usable], skipped)
    size = len(contract.classes)
    codes = np.stack([np.where(unknown, size, truth)[usable], np.where(predicted < 0, size + 1, predicted)[usable]])
    return Outcomes(right[usable], score[usable], right[usable], skipped, codes, int(unknown[usable].sum()), example)


def _unknown_label(label: Any, contract: ModelContract) -> UnmeasurableError:
    return UnmeasurableError(f"the label {label!r} is not one of the model's classes {_listed(contract.classes)}")


def _score(batch: pa.RecordBatch) -> Floats:
    return np.asarray(batch.column("score").to_numpy(zero_copy_only=False), dtype=float)


def _codes(values: pa.Array, classes: list[Any]) -> npt.NDArray[np.int64]:
    """Return the position of each value in ``classes``, or -1. As in Python, true, 1 and 1.0 are equal."""
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    position = {value: index for index, value in enumerate(classes)}
    places = np.asarray([position.get(value, -1) for value in encoded.dictionary.to_pylist()] or [-1], dtype=np.int64)
    codes: npt.NDArray[np.int64] = places[pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)]
    return codes


def _listed(classes: list[Any]) -> str:
    return ", ".join(map(repr, classes[:5])) + (", ..." if len(classes) > 5 else "")


def two_classes(outcomes: Labelled) -> int:
    """Return the number of positive labels.

    :raises UnmeasurableError: all labels are of one class
    """
    positives = sum(int(part.truth.sum()) for part in outcomes.parts())
    if not positives or positives == outcomes.rows:
        labels = "the only label is" if outcomes.rows == 1 else f"all {outcomes.rows:,} labels are"
        raise UnmeasurableError(f"{labels} of the {'positive' if positives else 'negative'} class")
    return positives
