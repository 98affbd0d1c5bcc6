"""Measure realised performance: a metric of logged predictions and their labels, with a confidence interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract, PredictionInterval, Task
from airflow_mlops.core.errors import EvaluationError
from airflow_mlops.data.columns import LABEL
from airflow_mlops.metrics import custom, intervals, weighted
from airflow_mlops.metrics.catalog import COVERAGE, find_metric, is_custom
from airflow_mlops.metrics.clusters import Design, design
from airflow_mlops.metrics.clusters import codes as cluster_codes
from airflow_mlops.metrics.comparison import Estimate
from airflow_mlops.metrics.costs import Costs, costs_of
from airflow_mlops.metrics.deviances import power_of
from airflow_mlops.metrics.domain import wrong_labels, wrong_predictions
from airflow_mlops.metrics.interval_ends import covers
from airflow_mlops.metrics.intervals import Interval
from airflow_mlops.metrics.losses import absolute_errors, binary_log_losses, deviances, squared_errors
from airflow_mlops.metrics.ranks import Area, area, precision_of_others
from airflow_mlops.metrics.resampling import resample_rows
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.statistics import influence

COLUMNS = (LABEL, "prediction", "score")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class UnmeasurableError(EvaluationError):
    """Raised if performance cannot be measured. The message is a clause with the reason."""


@dataclass
class Outcomes:
    """The labelled predictions of a window.

    :param truth: shape (n,). Binary: whether the label is the positive class; multiclass: whether the prediction is
        correct; regression: the label
    :param score: score of the prediction, shape (n,)
    :param right: whether the predicted class equals the label, shape (n,); always false for a regression
    :param skipped: number of labelled rows that were left out because label or score is not a finite number
    :param codes: multiclass: positions of the label and of the prediction among the k classes of the model, shape (2,
        n). The position of a label that is not one of the classes is k, and the position of such a prediction is k + 1
    :param unknown: multiclass: number of rows with a label that is not one of the model's classes. The predictions for
        these rows count as wrong
    :param example: a label that is not one of the model's classes; ``None`` if there is no such label
    :param groups: number of the cluster of each row, shape (n,), for intervals by cluster; ``None`` for independent rows
    :param weight: the weight of each row, above 0 and with the mean 1, shape (n,); ``None`` if each row counts once
    :param interval: the prediction intervals of the model; ``None`` for a model without them
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

    @property
    def rows(self) -> int:
        return len(self.truth)

    def weighted(self, weight: Floats) -> Outcomes:
        """Return the rows with weights, without those whose weight is 0, which are not measured.

        :param weight: the weight of each row, finite and at least 0, at least one above 0, shape (n,)
        """
        kept = weight > 0
        return replace(
            self,
            truth=self.truth[kept],
            score=self.score[kept],
            right=self.right[kept],
            codes=None if self.codes is None else self.codes[:, kept],
            groups=None if self.groups is None else self.groups[kept],
            weight=weighted.scaled(weight[kept]),
        )

    def prepared(self, task: Task) -> Rows:
        """Convert the labelled predictions to the form from which custom metrics are computed."""
        if task == "regression":
            return Rows(task, self.truth, self.score, self.score, self.weight)
        if task == "binary":
            return Rows(task, self.truth, self.truth == self.right, self.score, self.weight)
        assert self.codes is not None
        return Rows(task, self.codes[0], self.codes[1], None, self.weight)


def outcomes(batches: Iterable[pa.RecordBatch], contract: ModelContract) -> Outcomes:
    """Collect the rows that have a label.

    :param batches: record batches with the columns :data:`COLUMNS`
    :param contract: contract of the model
    :raises UnmeasurableError: for a regression, a label is not a number. For a binary task, a label is not one of the
        model's classes. For a multiclass task, none of the labels is one of the model's classes
    """
    parts: list[Outcomes] = []
    for batch in batches:
        labelled = _labelled(batch)
        if labelled.num_rows:
            parts.append(_regression(labelled) if contract.task == "regression" else _classes(labelled, contract))
    if not parts:
        return Outcomes(np.empty(0), np.empty(0), np.empty(0, dtype=bool))
    codes = [part.codes for part in parts if part.codes is not None]
    rows, unknown = sum(part.rows for part in parts), sum(part.unknown for part in parts)
    example = next((part.example for part in parts if part.unknown), None)
    if rows and unknown == rows:
        raise _unknown_label(example, contract)
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


def measurable(batches: Iterable[pa.RecordBatch], contract: ModelContract) -> Iterator[pa.RecordBatch]:
    """Yield the rows that :func:`outcomes` collects, in the same order, with all their columns.

    :param batches: record batches with at least the columns :data:`LABEL` and ``score``
    :param contract: contract of the model
    """
    for batch in batches:
        rows = _labelled(batch)
        finite = np.isfinite(_score(rows))
        if contract.task == "regression":
            label = rows.column(LABEL).cast(pa.float64(), safe=False)
            finite &= np.isfinite(label.to_numpy(zero_copy_only=False))
        yield rows.filter(pa.array(finite))


def clusters(batches: Iterable[pa.RecordBatch], contract: ModelContract, column: str) -> npt.NDArray[np.int64]:
    """Return the number of the cluster of each row that :func:`outcomes` collects, shape (n,).

    Each null is a cluster of its own.

    :param batches: record batches with at least the columns :data:`LABEL`, ``score`` and ``column``
    :param contract: contract of the model
    :param column: the column whose values name the clusters
    """
    parts = [batch.column(column) for batch in measurable(batches, contract)]
    return cluster_codes(
        pa.chunked_array(
            [
                decoded.cast(decoded.type.value_type) if pa.types.is_dictionary(decoded.type) else decoded
                for decoded in parts
            ]
        )
    )


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
    label = batch.column(LABEL)
    if not (pa.types.is_integer(label.type) or pa.types.is_floating(label.type) or pa.types.is_decimal(label.type)):
        raise UnmeasurableError(f"the labels have the type {label.type} and are not numbers")
    truth = label.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    score = _score(batch)
    usable = np.isfinite(truth) & np.isfinite(score)
    return Outcomes(truth[usable], score[usable], np.zeros(usable.sum(), dtype=bool), int((~usable).sum()))


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


def measure(metric: str, outcomes: Outcomes, confidence: float, task: Task = "binary") -> Interval:
    """Measure ``metric`` with its two-sided confidence interval.

    For ``roc_auc``, the interval uses DeLong's variance with an effective number of rows
    (:func:`airflow_mlops.metrics.intervals.bounded`), and for ``average_precision`` and ``f1_macro`` the variance of the
    rows' influence. For ``accuracy``, ``precision``, ``recall`` and ``interval_coverage``, it is Wilson's interval; for ``f1`` and
    ``balanced_accuracy``, it follows from Wilson's intervals. For ``log_loss``,
    ``brier``, ``mae`` and deviances, it is the interval of a mean, corrected for skewness, and for ``rmse`` that of the mean squared
    error. For an expected cost, it follows from Wilson's intervals of the shares of both errors. For a custom metric, the interval
    comes from a bootstrap over rows.

    For clustered rows (``outcomes.groups``), the interval is widened, except that of a custom metric, by
    :class:`airflow_mlops.metrics.clusters.Design`.

    For rows with weights (``outcomes.weight``), the values are those of :mod:`airflow_mlops.metrics.statistics`, as in the gates.
    The intervals are the same with weighted shares and effective numbers of rows (:mod:`airflow_mlops.metrics.weighted`), so few rows
    with large weights give wide intervals.

    :param metric: one of :data:`airflow_mlops.metrics.catalog.REALISED`, an expected cost, a deviance, the import path of a custom
        metric, or ``interval_coverage`` for a model with prediction intervals
    :param outcomes: the labelled predictions
    :param confidence: confidence of the interval, such as 0.95
    :param task: the ML task (binary, multiclass, regression), which custom metrics need
    :raises UnmeasurableError: there are no labels; too few rows of a class have a label or a prediction, for metrics
        that need both classes; a deviance is undefined for a label or a prediction; the errors have no finite mean; all
        rows are of one cluster; or a custom metric needs probabilities that are not logged, or is undefined on too many bootstrap samples
    :raises MetricError: the custom metric fails
    """
    if not outcomes.rows:
        raise UnmeasurableError("there are no labels")
    if is_custom(metric):
        return _custom(metric, outcomes.prepared(task), confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    costs = costs_of(metric)
    if costs is not None:
        found = _expected_cost(costs, outcomes, z)
    else:
        measured = _mean_loss(metric) if power_of(metric) is not None else _METRICS[metric]
        found = measured(outcomes, z)
    known = clustered(metric, outcomes)
    return found if known is None else widened(metric, found, known, confidence)


def clustered(metric: str, outcomes: Outcomes) -> Design | None:
    """Return how much the clusters of the rows widen the interval of a metric; ``None`` for independent rows.

    :param metric: one of :data:`airflow_mlops.metrics.catalog.REALISED`, an expected cost, or a deviance
    """
    if outcomes.groups is None:
        return None
    values = weighted.contributions(losses(metric, outcomes), outcomes.weight)
    return design(values, outcomes.groups, outcomes.weight)


def widened(metric: str, interval: Interval, clusters: Design, confidence: float) -> Interval:
    """Widen the interval of a metric for clustered rows.

    :param metric: one of :data:`airflow_mlops.metrics.catalog.REALISED`, an expected cost, or a deviance
    :param interval: the interval for independent rows
    :param clusters: how much the clusters widen it
    :param confidence: confidence of the interval, such as 0.95
    :raises UnmeasurableError: all rows are of one cluster
    """
    factor = clusters.factor(NormalDist().inv_cdf(0.5 + confidence / 2))
    if not math.isfinite(factor):
        raise UnmeasurableError("all rows are of one group")
    most = 1.0 if find_metric(metric).higher_is_better or metric == "brier" else math.inf
    if (costs := costs_of(metric)) is not None:
        most = max(costs)
    value = interval.value
    low, high = value - factor * (value - interval.low), value + factor * (interval.high - value)
    return Interval(value, max(0.0, low), min(most, high))


def _custom(path: str, rows: Rows, confidence: float) -> Interval:
    metric = custom.load(path)
    if not metric.applies_to(rows):
        raise UnmeasurableError(
            f"the custom metric {path!r} needs a probability for each class, but only the largest probability is logged"
        )
    value = metric.measure(rows)
    _, draws, influence = resample_rows(metric.measure_or_nan, [rows])
    estimate = Estimate.from_draws(value, draws[:, 0], influence[:, 0])
    if not math.isfinite(estimate.standard_error):
        raise UnmeasurableError(
            f"the custom metric {path!r} is undefined on too many bootstrap samples of the {len(rows):,} labelled rows"
        )
    one_sided = (1 + confidence) / 2
    return Interval(value, estimate.lower(one_sided), estimate.upper(one_sided))


def _roc_auc(outcomes: Outcomes, z: float) -> Interval:
    found = _area(outcomes)
    rarer = min(weighted.effective(outcomes.weight, rows) for rows in (outcomes.truth, ~outcomes.truth))
    return intervals.bounded(found.value, found.standard_error**2, rarer, z)


def _area(outcomes: Outcomes) -> Area:
    positives = _two_classes(outcomes)
    negatives = outcomes.rows - positives
    if min(positives, negatives) < 2:
        raise UnmeasurableError(f"only one label is of the {'positive' if positives < 2 else 'negative'} class")
    return area(outcomes.truth, outcomes.score, outcomes.weight)


def _accuracy(outcomes: Outcomes, z: float) -> Interval:
    return weighted.share(outcomes.right, outcomes.weight, z)


def _missed(outcomes: Outcomes) -> Bools:
    """Return which labels do not lie in their prediction interval."""
    assert outcomes.interval is not None
    return ~covers(outcomes.interval, outcomes.truth, outcomes.score)


def _interval_coverage(outcomes: Outcomes, z: float) -> Interval:
    return weighted.share(~_missed(outcomes), outcomes.weight, z)


def _average_precision(outcomes: Outcomes, z: float) -> Interval:
    """Measure average precision with an interval around an estimate without its bias.

    Average precision is too high with few positives, because each positive counts among the rows with at least its own
    score. The estimate leaves each positive out of its own precision.
    """
    positives = _two_classes(outcomes)
    value, by_row = influence("average_precision", outcomes.prepared("binary"))
    independent = weighted.effective(outcomes.weight, outcomes.truth)
    quantile = z + (z**3 + z) / (4 * max(1, independent - 1))
    middle = precision_of_others(outcomes.truth, outcomes.score, outcomes.weight) if positives > 1 else value
    found = intervals.bounded(middle, float(np.square(by_row).sum()), independent, quantile)
    return Interval(value, min(value, found.low), max(value, found.high))


def _recall(outcomes: Outcomes, z: float) -> Interval:
    _two_classes(outcomes)
    return _share(outcomes, outcomes.right, outcomes.truth, z)


def _precision(outcomes: Outcomes, z: float) -> Interval:
    predicted = outcomes.truth == outcomes.right
    if not predicted.any():
        raise UnmeasurableError("no row is predicted to be of the positive class")
    return _share(outcomes, outcomes.truth, predicted, z)


def _share(outcomes: Outcomes, hits: npt.NDArray[Any], among: Bools, z: float) -> Interval:
    """Return the share of the rows ``among`` for which ``hits`` is true, with its interval."""
    return weighted.share(hits[among], None if outcomes.weight is None else outcomes.weight[among], z)


def _f1(outcomes: Outcomes, z: float) -> Interval:
    """Measure F1 from Jaccard's index j, which is a proportion of the rows that are or seem positive: F1 = 2 j / (1 + j)."""
    _two_classes(outcomes)
    either = outcomes.truth | ~outcomes.right
    index = _share(outcomes, outcomes.right, either, z)
    return Interval(*(2 * end / (1 + end) for end in (index.value, index.low, index.high)))


def _balanced_accuracy(outcomes: Outcomes, z: float) -> Interval:
    """Measure the mean recall of the classes. The intervals of the recalls are combined by MOVER.

    Source: G. Zou and A. Donner, "Construction of Confidence Limits About Effect Measures", Statistics in Medicine 27,
    2008.
    """
    if outcomes.codes is None:
        _two_classes(outcomes)
    truth = outcomes.truth if outcomes.codes is None else outcomes.codes[0]
    found = [_share(outcomes, outcomes.right, truth == code, z) for code in np.unique(truth)]
    value = sum(one.value for one in found) / len(found)
    below = math.hypot(*(one.value - one.low for one in found)) / len(found)
    above = math.hypot(*(one.high - one.value for one in found)) / len(found)
    return Interval(value, max(0.0, value - below), min(1.0, value + above))


def _f1_macro(outcomes: Outcomes, z: float) -> Interval:
    rows = outcomes.prepared("multiclass")
    value, by_row = influence("f1_macro", rows)
    counts = np.array([weighted.effective(outcomes.weight, rows.truth == code) for code in np.unique(rows.truth)])
    # A proportion of this many rows has the variance of a mean of proportions, one of the rows of each class.
    independent = len(counts) ** 2 / float((1 / counts).sum())
    return intervals.bounded(value, float(np.square(by_row).sum()), independent, z)


def _errors(outcomes: Outcomes) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which rows are false positives, and which are false negatives."""
    return ~outcomes.right & ~outcomes.truth, ~outcomes.right & outcomes.truth


def _expected_cost(costs: Costs, outcomes: Outcomes, z: float) -> Interval:
    """Measure the mean cost. The intervals of the shares of both errors are combined by MOVER, with their correlation.

    The interval of a mean has no width without errors, and is too narrow with few expensive ones.

    Source: as for balanced accuracy, G. Zou and A. Donner (2008).
    """
    shares = [weighted.share(error, outcomes.weight, z) for error in _errors(outcomes)]
    first, second = (share.value for share in shares)
    if outcomes.weight is None:
        # Sums of errors are exact, and the sum of their costs is rounded once.
        value = float(np.dot(costs, [int(error.sum()) for error in _errors(outcomes)])) / outcomes.rows
    else:
        value = float(np.dot(costs, (first, second)))
    # The two errors exclude each other, so their shares have the correlation -sqrt(odds). If all rows have the same
    # error, it is undefined and counts as 0.
    odds = first * second / ((1 - first) * (1 - second)) if max(first, second) < 1 else 0.0
    below, above = (
        np.array([cost * width for cost, width in zip(costs, widths, strict=True)])
        for widths in ([share.value - share.low for share in shares], [share.high - share.value for share in shares])
    )
    low, high = (math.sqrt(max(0.0, sides @ sides - 2 * math.sqrt(odds) * sides.prod())) for sides in (below, above))
    return Interval(value, max(0.0, value - low), min(max(costs), value + high))


def _two_classes(outcomes: Outcomes) -> int:
    """Return the number of positive labels.

    :raises UnmeasurableError: all labels are of one class
    """
    positives = int(outcomes.truth.sum())
    if not positives or positives == outcomes.rows:
        raise UnmeasurableError(
            f"all {outcomes.rows:,} labels are of the {'positive' if positives else 'negative'} class"
        )
    return positives


def _mean(losses: Floats, weight: Floats | None, z: float) -> Interval:
    found = weighted.interval(losses, weight, z)
    if not math.isfinite(found.value + found.high - found.low):
        raise UnmeasurableError(
            "the errors have no finite mean and standard error, because they are too large or too few"
        )
    return Interval(found.value, max(0.0, found.low), found.high)


def losses(metric: str, outcomes: Outcomes) -> Floats:
    """Compute the loss of each row. Higher losses are worse.

    For ``log_loss``, ``brier``, ``mae``, deviances and expected costs, the mean loss is the metric. For ``accuracy`` and ``roc_auc``, the mean
    loss is 1 minus the metric. For ``rmse``, the mean loss is the mean squared error.

    The area under the ROC curve is defined on pairs of rows. The loss of a row is therefore ``1 - area - n * influence``,
    where n is the number of rows, and the influence of the row on the area is computed by the infinitesimal jackknife.
    The variance of the mean of these losses is DeLong's variance of the area.
    The losses of average precision, precision, recall, F1 and balanced accuracy are defined in the same way.

    For rows with weights, the weighted mean of the losses is what the mean is without weights, and the influence of a row is divided
    by its weight.

    :param metric: one of :data:`airflow_mlops.metrics.catalog.REALISED`, an expected cost, or a deviance
    :param outcomes: the labelled predictions
    :return: losses, shape (n,)
    :raises UnmeasurableError: the metric is ``roc_auc``, and a class has fewer than two rows, or a deviance is undefined for a label
        or a prediction
    """
    if (costs := costs_of(metric)) is not None:
        false_positive, false_negative = _errors(outcomes)
        return costs.false_positive * false_positive + costs.false_negative * false_negative
    if (power := power_of(metric)) is not None:
        return _deviances(power, outcomes)
    with np.errstate(over="ignore", invalid="ignore"):
        return _LOSSES[metric](outcomes)


def _mean_loss(metric: str) -> Callable[[Outcomes, float], Interval]:
    def measured(outcomes: Outcomes, z: float) -> Interval:
        with np.errstate(over="ignore", invalid="ignore"):
            return _mean(losses(metric, outcomes), outcomes.weight, z)

    return measured


def _rmse(outcomes: Outcomes, z: float) -> Interval:
    squared = _mean_loss("rmse")(outcomes, z)
    return Interval(math.sqrt(squared.value), math.sqrt(squared.low), math.sqrt(squared.high))


def _area_losses(outcomes: Outcomes) -> Floats:
    found = _area(outcomes)
    return (1 - found.value) - _by_weight(found.influence, outcomes)


def _by_weight(influence: Floats, outcomes: Outcomes) -> Floats:
    """Return the influence of each row, per unit of its weight, times the number of rows. The mean weight is 1."""
    found = influence * outcomes.rows
    return found if outcomes.weight is None else np.asarray(found / outcomes.weight)


def _squared_errors(outcomes: Outcomes) -> Floats:
    return squared_errors(outcomes.truth, outcomes.score)


def _deviances(power: float, outcomes: Outcomes) -> Floats:
    if (wrong := wrong_labels(power, outcomes.truth) or wrong_predictions(outcomes.score)) is not None:
        raise UnmeasurableError(wrong)
    return deviances(power, outcomes.truth, outcomes.score)


def _influence_losses(metric: str) -> Callable[[Outcomes], Floats]:
    def found(outcomes: Outcomes) -> Floats:
        rows = outcomes.prepared("binary" if outcomes.codes is None else "multiclass")
        value, by_row = influence(metric, rows)
        return np.asarray((1 - value) - _by_weight(by_row, outcomes))

    return found


_BY_INFLUENCE = ("average_precision", "balanced_accuracy", "f1", "f1_macro", "precision", "recall")
_LOSSES: dict[str, Callable[[Outcomes], Floats]] = {
    "roc_auc": _area_losses,
    "accuracy": lambda outcomes: (~outcomes.right).astype(float),
    "log_loss": lambda outcomes: binary_log_losses(outcomes.truth, outcomes.score),
    "brier": _squared_errors,
    "rmse": _squared_errors,
    "mae": lambda outcomes: absolute_errors(outcomes.truth, outcomes.score),
    **{metric: _influence_losses(metric) for metric in _BY_INFLUENCE},
    COVERAGE: lambda outcomes: _missed(outcomes).astype(float),
}
_METRICS: dict[str, Callable[[Outcomes, float], Interval]] = {
    "roc_auc": _roc_auc,
    "accuracy": _accuracy,
    "log_loss": _mean_loss("log_loss"),
    "brier": _mean_loss("brier"),
    "rmse": _rmse,
    "mae": _mean_loss("mae"),
    "average_precision": _average_precision,
    "balanced_accuracy": _balanced_accuracy,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "precision": _precision,
    "recall": _recall,
    COVERAGE: _interval_coverage,
}
