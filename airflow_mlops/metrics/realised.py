"""Realised performance with its confidence interval, from predictions and the labels that came later."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import EvaluationError
from airflow_mlops.data.columns import LABEL

COLUMNS = (LABEL, "prediction", "score")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class UnmeasurableError(EvaluationError):
    """Performance cannot be measured; the text says why in one clause."""


@dataclass(frozen=True)
class Estimate:
    """A metric with the ends of its confidence interval."""

    value: float
    low: float
    high: float


@dataclass
class Outcomes:
    """The labelled rows of a window, as a metric needs them.

    :param truth: binary: whether the label is the positive class; multiclass: whether the prediction is right;
        regression: the label; shape (n,)
    :param score: what was predicted, shape (n,)
    :param right: whether the predicted class is the label, shape (n,); regression: always false
    :param skipped: labelled rows left out because label or score is not a finite number
    """

    truth: npt.NDArray[Any]
    score: Floats
    right: Bools
    skipped: int = 0

    @property
    def rows(self) -> int:
        return len(self.truth)


def outcomes(batches: Iterable[pa.RecordBatch], contract: ModelContract) -> Outcomes:
    """Collect the rows that have a label.

    :param batches: with the columns :data:`COLUMNS`
    :raises UnmeasurableError: the labels are not what the model predicts
    """
    parts: list[Outcomes] = []
    for batch in batches:
        labelled = _labelled(batch)
        if labelled.num_rows:
            parts.append(_regression(labelled) if contract.task == "regression" else _classes(labelled, contract))
    if not parts:
        return Outcomes(np.empty(0), np.empty(0), np.empty(0, dtype=bool))
    return Outcomes(
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.right for part in parts]),
        sum(part.skipped for part in parts),
    )


def measurable(batches: Iterable[pa.RecordBatch], contract: ModelContract) -> Iterator[pa.RecordBatch]:
    """The rows that :func:`outcomes` keeps, in order, with all their columns.

    :param batches: with the columns :data:`LABEL` and ``score``
    """
    for batch in batches:
        rows = _labelled(batch)
        finite = np.isfinite(_score(rows))
        if contract.task == "regression":
            label = rows.column(LABEL).cast(pa.float64(), safe=False)
            finite &= np.isfinite(label.to_numpy(zero_copy_only=False))
        yield rows.filter(pa.array(finite))


def scores(batches: Iterable[pa.RecordBatch], *, labelled: bool) -> Iterator[Floats]:
    """The scores, a batch at a time, each of shape (n,).

    :param batches: with the column ``score``, and :data:`LABEL` where only rows with a label are wanted
    """
    for batch in batches:
        yield _score(_labelled(batch) if labelled else batch)


def _labelled(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(pc.invert(pc.is_null(batch.column(LABEL), nan_is_null=True)))


def _regression(batch: pa.RecordBatch) -> Outcomes:
    label = batch.column(LABEL)
    if not (pa.types.is_integer(label.type) or pa.types.is_floating(label.type) or pa.types.is_decimal(label.type)):
        raise UnmeasurableError(f"the labels are {label.type} and not numbers")
    truth = label.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    score = _score(batch)
    usable = np.isfinite(truth) & np.isfinite(score)
    return Outcomes(truth[usable], score[usable], np.zeros(usable.sum(), dtype=bool), int((~usable).sum()))


def _classes(batch: pa.RecordBatch, contract: ModelContract) -> Outcomes:
    label, score = batch.column(LABEL), _score(batch)
    usable = np.isfinite(score)
    truth, predicted = _codes(label, contract.classes), _codes(batch.column("prediction"), contract.classes)
    if (truth < 0).any():
        stranger = label[int(np.argmin(truth))].as_py()
        raise UnmeasurableError(f"there is a label {stranger!r}, and the model knows {_listed(contract.classes)}")
    right = truth == predicted
    positive = truth == contract.classes.index(contract.positive) if contract.task == "binary" else right
    return Outcomes(positive[usable], score[usable], right[usable], int((~usable).sum()))


def _score(batch: pa.RecordBatch) -> Floats:
    return np.asarray(batch.column("score").to_numpy(zero_copy_only=False), dtype=float)


def _codes(values: pa.Array, classes: list[Any]) -> npt.NDArray[np.int64]:
    """Each value's position among ``classes``, -1 if it is none of them. As in Python, true is 1 is 1.0."""
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    position = {value: index for index, value in enumerate(classes)}
    known = np.asarray([position.get(value, -1) for value in encoded.dictionary.to_pylist()] or [-1], dtype=np.int64)
    codes: npt.NDArray[np.int64] = known[pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)]
    return codes


def _listed(classes: list[Any]) -> str:
    return ", ".join(map(repr, classes[:5])) + (", ..." if len(classes) > 5 else "")


def measure(metric: str, found: Outcomes, confidence: float) -> Estimate:
    """Measure ``metric``, one of :data:`airflow_mlops.metrics.catalog.REALISED`.

    :param confidence: of the interval, such as 0.95
    :raises UnmeasurableError: there are no rows, or only one class
    """
    if not found.rows:
        raise UnmeasurableError("there are no labels")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return _METRICS[metric](found, z)


def _roc_auc(found: Outcomes, z: float) -> Estimate:
    value, variance = delong(found.truth, found.score)
    spread = z * math.sqrt(variance)
    return Estimate(value, max(0.0, value - spread), min(1.0, value + spread))


def delong(truth: Bools, score: Floats) -> tuple[float, float]:
    """Area under the ROC curve and its variance, after DeLong, DeLong and Clarke-Pearson (1988), in O(n log n).

    :raises UnmeasurableError: only one class, or fewer than two rows of one
    """
    beaten, lost = _placements(truth, score)
    return float(beaten.mean()), float(beaten.var(ddof=1) / len(beaten) + lost.var(ddof=1) / len(lost))


def _placements(truth: Bools, score: Floats) -> tuple[Floats, Floats]:
    """Of each positive row the share of negative rows below it, of each negative row the share of positive rows above it."""
    above, below = score[truth], score[~truth]
    m, n = len(above), len(below)
    if not m or not n:
        raise UnmeasurableError(f"all {m + n:,} labels are of the {'positive' if m else 'negative'} class")
    if min(m, n) < 2:
        raise UnmeasurableError(f"only one label is of the {'positive' if m < 2 else 'negative'} class")
    # A rank among all, less the rank within the own class, counts the rows of the other class that lie below.
    ranks = _midranks(np.concatenate([above, below]))
    beaten = (ranks[:m] - _midranks(above)) / n
    lost = 1 - (ranks[m:] - _midranks(below)) / m
    return beaten, lost


def _midranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=float)


def _accuracy(found: Outcomes, z: float) -> Estimate:
    """With Wilson's interval, which stays inside 0 to 1."""
    n, value = found.rows, float(found.right.mean())
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    spread = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(value, max(0.0, middle - spread), min(1.0, middle + spread))


def _mean(losses: Floats, z: float) -> Estimate:
    value = float(losses.mean())
    spread = z * float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else math.inf
    if not math.isfinite(value + spread):
        raise UnmeasurableError("the errors are too large, or too few, to be averaged")
    return Estimate(value, max(0.0, value - spread), value + spread)


def losses(metric: str, found: Outcomes) -> Floats:
    """What each row costs, shape (n,); the more, the worse. The mean over the rows is the metric itself, for ``accuracy`` and
    ``roc_auc`` 1 less the metric, for ``rmse`` its square.

    The area under the ROC curve is about pairs of rows. What a row costs is the mean and its own influence on it (the
    infinitesimal jackknife, with which DeLong's variance is the variance of this mean).

    :param metric: one of :data:`airflow_mlops.metrics.catalog.REALISED`
    :raises UnmeasurableError: as :func:`delong`
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _LOSSES[metric](found)


def _mean_loss(metric: str) -> Callable[[Outcomes, float], Estimate]:
    def measured(found: Outcomes, z: float) -> Estimate:
        with np.errstate(over="ignore", invalid="ignore"):
            return _mean(losses(metric, found), z)

    return measured


def _rmse(found: Outcomes, z: float) -> Estimate:
    squared = _mean_loss("rmse")(found, z)
    return Estimate(math.sqrt(squared.value), math.sqrt(squared.low), math.sqrt(squared.high))


def _area_losses(found: Outcomes) -> Floats:
    beaten, lost = _placements(found.truth, found.score)
    mean = 1 - beaten.mean()
    costs = np.full(found.rows, mean)
    for rows, placed in ((found.truth, beaten), (~found.truth, lost)):
        costs[rows] += (1 - placed - mean) * found.rows / len(placed)
    return costs


def _log_losses(found: Outcomes) -> Floats:
    p = np.clip(found.score, 1e-15, 1 - 1e-15)
    return -np.where(found.truth, np.log(p), np.log1p(-p))


_LOSSES: dict[str, Callable[[Outcomes], Floats]] = {
    "roc_auc": _area_losses,
    "accuracy": lambda found: (~found.right).astype(float),
    "log_loss": _log_losses,
    "brier": lambda found: np.square(found.score - found.truth),
    "rmse": lambda found: np.square(found.score - found.truth),
    "mae": lambda found: np.abs(found.score - found.truth),
}
_METRICS: dict[str, Callable[[Outcomes, float], Estimate]] = {
    "roc_auc": _roc_auc,
    "accuracy": _accuracy,
    "log_loss": _mean_loss("log_loss"),
    "brier": _mean_loss("brier"),
    "rmse": _rmse,
    "mae": _mean_loss("mae"),
}
