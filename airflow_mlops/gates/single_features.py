"""Measure how well each feature alone predicts the label.

A feature that alone predicts the label almost perfectly is usually known only after the event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import Task
from airflow_mlops.data.moments import as_utc, is_time
from airflow_mlops.metrics.ranks import placements

Numbers = np.ndarray[Any, Any]
Take: TypeAlias = "Callable[[Sequence[str], Numbers], pa.Table]"

SAMPLE_ROWS = 50_000
# Minimum number of rows of each class, or of all rows for a regression. With fewer rows, a feature may predict the
# label perfectly by chance.
_MIN_ROWS = 20
_BINS = 256


@dataclass(frozen=True)
class SingleFeatures:
    """Scores for how well each feature alone predicts the label.

    :param measure: name of the score: ``AUC``, from 0.5 (no relation) to 1, or ``R2`` (regression), from 0 to 1
    :param rows: number of rows on which the features were scored; 0 if there are too few rows
    :param scores: the score of each feature, by name; empty if there are too few rows
    """

    measure: str
    rows: int
    scores: dict[str, float]

    def above(self, limit: float) -> list[str]:
        """List the features with a score above ``limit`` and their scores, the most predictive feature first."""
        names = sorted(
            (name for name, score in self.scores.items() if score > limit), key=lambda name: -self.scores[name]
        )
        return [f"{name!r} ({self.measure} {self.scores[name]:.4f})" for name in names]


def single_features(
    target: pa.ChunkedArray, features: Sequence[str], task: Task, ids: Numbers, take: Take
) -> SingleFeatures:
    """Measure how well each feature alone predicts the label, on at most 50,000 rows.

    :param target: the label of each row, shape (n,)
    :param features: names of the features
    :param task: the ML task (binary, multiclass, regression)
    :param ids: a unique identifier of each row, shape (n,), which determines the sampled rows
    :param take: function that reads columns of the rows at given positions, which are in ascending order
    """
    codes = pc.rank(target, tiebreaker="dense").to_numpy().astype(np.int64) - 1
    rows = _sample(codes if task != "regression" else np.zeros(len(codes), np.int64), ids)
    counts = np.bincount(codes[rows])
    measure = "R2" if task == "regression" else "AUC"
    if len(rows) < _MIN_ROWS or (task != "regression" and np.sort(counts)[-2:].min() < _MIN_ROWS):
        return SingleFeatures(measure, 0, {})
    values = target.to_numpy(zero_copy_only=False)[rows].astype(float) if task == "regression" else codes[rows]
    order = np.argsort(rows)
    sample = take(features, rows[order]).take(pa.array(np.argsort(order)))
    scores = {name: round(_score(sample[name], values, task), 4) for name in features}
    return SingleFeatures(measure, len(rows), scores)


def _sample(strata: Numbers, ids: Numbers) -> Numbers:
    """Return the positions of at most ``SAMPLE_ROWS`` rows, in the order of ``ids``.

    If there are at most ``SAMPLE_ROWS`` rows, the positions of all rows are returned. Otherwise, each stratum
    contributes at most the same number of rows: the rows with the smallest ids.

    :param strata: the stratum of each row, shape (n,)
    :param ids: a unique identifier of each row, shape (n,)
    """
    order = np.lexsort((np.arange(len(ids)), ids))
    if len(order) <= SAMPLE_ROWS:
        return order
    each = SAMPLE_ROWS // max(1, len(np.unique(strata)))
    kept = [order[strata[order] == stratum][: max(each, 1)] for stratum in np.unique(strata)[:SAMPLE_ROWS]]
    chosen = np.concatenate(kept)
    return chosen[np.argsort(ids[chosen], kind="stable")]


def _score(column: pa.ChunkedArray, target: Numbers, task: Task) -> float:
    """Return how well the column predicts the target: 1 is perfect, 0.5 (regression: 0) means no relation."""
    numbers = _numbers(column)
    codes = _bins(numbers) if numbers is not None else _categories(column)
    if task == "regression":
        found = [_r2(target, _out_of_fold(codes, target))]
        if numbers is not None:
            known = np.isfinite(numbers)
            if known.sum() >= _MIN_ROWS:
                found += [
                    _correlation(numbers[known], target[known]) ** 2,
                    _correlation(_ranks(numbers[known]), _ranks(target[known])) ** 2,
                ]
        return max(found)
    counts = np.bincount(target)
    classes = [1] if len(counts) == 2 else np.flatnonzero(counts >= _MIN_ROWS)
    scores = [_class_score(codes, numbers, (target == value).astype(float)) for value in classes]
    return float(np.average(scores, weights=counts[classes]))


def _class_score(codes: Numbers, numbers: Numbers | None, is_class: Numbers) -> float:
    found = [_auc(_out_of_fold(codes, is_class), is_class)]
    if numbers is not None:
        # Whether a value is null may be as predictive as the value, so nulls are ranked lowest and highest.
        unknown = np.isnan(numbers)
        for missing in (-np.inf, np.inf) if unknown.any() else (-np.inf,):
            auc = _auc(np.where(unknown, missing, numbers), is_class)
            found.append(max(auc, 1 - auc))
    return max(found)


def _numbers(column: pa.ChunkedArray) -> Numbers | None:
    kind = column.type
    if is_time(kind):
        column = as_utc(column, "A feature").cast(pa.int64())
    elif not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    ):
        return None
    values: Numbers = pc.cast(column, pa.float64(), safe=False).to_numpy()
    return values


def _categories(column: pa.ChunkedArray) -> Numbers:
    try:
        codes: Numbers = pc.rank(column, tiebreaker="dense").to_numpy().astype(np.int64)
    except pa.ArrowNotImplementedError:
        texts = np.array([repr(value) for value in column.to_pylist()])
        codes = np.unique(texts, return_inverse=True)[1].astype(np.int64)
    return codes


def _bins(numbers: Numbers) -> Numbers:
    """Return a code for each distinct value, or for each bin if there are many values. Nulls have a separate code."""
    known = ~np.isnan(numbers)
    codes = np.zeros(len(numbers), np.int64)
    distinct = np.unique(numbers[known])
    if len(distinct) > _BINS:
        position = np.linspace(0, known.sum() - 1, _BINS + 1).astype(int)[1:-1]
        distinct = np.unique(np.sort(numbers[known])[position])
        codes[known] = np.searchsorted(distinct, numbers[known], side="right") + 1
    else:
        codes[known] = np.searchsorted(distinct, numbers[known]) + 1
    return codes


def _out_of_fold(codes: Numbers, target: Numbers) -> Numbers:
    """Predict the target of each half of the rows by the mean target of the same code in the other half.

    With means over the same rows, every column of distinct values would appear to predict the target perfectly.
    """
    fold = np.arange(len(codes)) % 2
    mean, size = target.mean(), int(codes.max(initial=0)) + 1
    answer = np.empty(len(codes))
    for part in (0, 1):
        others = fold != part
        sums = np.bincount(codes[others], target[others], size)
        counts = np.bincount(codes[others], minlength=size)
        answer[~others] = ((sums + mean) / (counts + 1))[codes[~others]]
    return answer


def _ranks(values: Numbers) -> Numbers:
    """Return ranks from 1. Ties get their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]


def _auc(score: Numbers, is_class: Numbers) -> float:
    positive = is_class > 0
    if not positive.any() or positive.all():
        return 0.5
    return float(placements(positive, score)[positive].mean())


def _r2(target: Numbers, predicted: Numbers) -> float:
    spread = ((target - target.mean()) ** 2).sum()
    return float(max(0.0, 1 - ((target - predicted) ** 2).sum() / spread)) if spread else 0.0


def _correlation(one: Numbers, other: Numbers) -> float:
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
