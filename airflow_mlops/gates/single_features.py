"""Measure how well each feature alone predicts the label.

A feature that alone predicts the label almost perfectly is usually known only after the event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
_Chosen: TypeAlias = tuple[Numbers, Numbers, Numbers]

SAMPLE_ROWS = 50_000
# Minimum number of rows of each class, or of all rows for a regression. With fewer rows, a feature may predict the
# label perfectly by chance.
_MIN_ROWS = 20
_BINS = 256
_LARGEST_ID = np.uint64(2**64 - 1)


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
    rows = sampled([(target, ids)], len(target), target.unique() if task != "regression" else None)
    return measured(target.take(pa.array(rows)), features, task, rows, take)


def measured(target: pa.ChunkedArray, features: Sequence[str], task: Task, rows: Numbers, take: Take) -> SingleFeatures:
    """Measure how well each feature alone predicts the label of sampled rows.

    :param target: the label of each sampled row
    :param features: names of the features
    :param task: the ML task
    :param rows: positions of the sampled rows, from :func:`sampled`
    :param take: function that reads columns of the rows at given positions, which are in ascending order
    """
    codes = pc.rank(target, tiebreaker="dense").to_numpy().astype(np.int64) - 1
    counts = np.bincount(codes)
    measure = "R2" if task == "regression" else "AUC"
    if len(rows) < _MIN_ROWS or (task != "regression" and np.sort(counts)[-2:].min() < _MIN_ROWS):
        return SingleFeatures(measure, 0, {})
    values = target.to_numpy(zero_copy_only=False).astype(float) if task == "regression" else codes
    order = np.argsort(rows)
    sample = take(features, rows[order]).take(pa.array(np.argsort(order)))
    scores = {name: round(_score(sample[name], values, task), 4) for name in features}
    return SingleFeatures(measure, len(rows), scores)


def sampled(
    batches: Iterable[tuple[pa.Array | pa.ChunkedArray, Numbers]], rows: int, classes: pa.Array | None
) -> Numbers:
    """Return the positions of at most ``SAMPLE_ROWS`` rows, in the order of the ids.

    If there are at most ``SAMPLE_ROWS`` rows, the positions of all rows are returned. Otherwise, each class contributes
    at most the same number of rows: the rows with the smallest ids. At most twice as many rows, and one batch, are in
    memory.

    :param batches: the label and the ids of consecutive rows
    :param rows: number of all rows
    :param classes: the distinct values of the label; ``None`` for a regression
    """
    if rows <= SAMPLE_ROWS:
        ids = np.concatenate([np.empty(0, np.uint64), *(ids for _, ids in batches)])
        return np.lexsort((np.arange(len(ids)), ids))
    ordered = classes.sort()[:SAMPLE_ROWS] if classes is not None else None
    each = max(SAMPLE_ROWS // len(classes), 1) if classes is not None else SAMPLE_ROWS
    chosen: _Chosen = (np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int64))
    largest = np.full(len(ordered) if ordered is not None else 1, _LARGEST_ID)
    start, waiting, waiting_rows = 0, [chosen], 0
    for labels, ids in batches:
        places = np.arange(start, start + len(ids))
        start += len(ids)
        if ordered is None:
            strata = np.zeros(len(ids), np.int64)
        else:
            strata = pc.index_in(labels, ordered).fill_null(-1).to_numpy().astype(np.int64)
        # Most rows are skipped: their class has enough chosen rows, and all of these have smaller ids.
        wanted = (strata >= 0) & (ids <= largest[strata])
        waiting.append((strata[wanted], ids[wanted], places[wanted]))
        waiting_rows += int(wanted.sum())
        # Several batches are sorted together, because each sort includes all chosen rows.
        if waiting_rows >= SAMPLE_ROWS:
            chosen = _smallest(waiting, each)
            waiting, waiting_rows = [chosen], 0
            counts = np.bincount(chosen[0], minlength=len(largest))
            full = counts == each
            largest[full] = chosen[1][counts.cumsum()[full] - 1]
    chosen = _smallest(waiting, each)
    return chosen[2][np.argsort(chosen[1], kind="stable")]


def _smallest(rows: Sequence[_Chosen], each: int) -> _Chosen:
    """Return the ``each`` rows of each stratum with the smallest ids, in the order of strata and ids.

    :param rows: stratum, id and position of each row. Rows with equal ids are in the order of their positions
    """
    strata, ids, places = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    # The sort is stable, so rows with equal ids stay in the order of their positions.
    order = np.lexsort((ids, strata))
    strata = strata[order]
    first = np.flatnonzero(np.diff(strata, prepend=-1))
    number = np.arange(len(strata)) - np.repeat(first, np.diff(np.append(first, len(strata))))
    kept = order[number < each]
    return strata[number < each], ids[kept], places[kept]


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
