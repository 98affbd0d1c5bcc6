"""Divide rows into the folds of a cross-validation, with the same method as the split of the training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import SchemaError, TrainingError
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.moments import as_utc
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.training_data import TRAIN

if TYPE_CHECKING:
    from numpy.typing import NDArray


def make_folds(
    dataset: Dataset, data: TrainingData, folds: int, seed: int
) -> Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Divide the rows of the split part ``train`` into folds.

    The folds follow the split of the training set. After a split by time, the validation rows of each fold are later
    than its training rows. The ``gap`` of the split, if any, lies between them. After a split by group, all rows of a
    group are in the same fold. After any other split, the rows are shuffled. For a classification, the folds are
    stratified by class, except after a split by time.

    :param dataset: the training set
    :param data: rows of the split part ``train``
    :param folds: number of folds
    :param seed: random seed of the shuffled folds
    :return: for each fold, the row indices for training and the row indices for validation, as arrays of shape (n,)
    :raises TrainingError: there are too few rows, too few groups or too few rows of a class for this number of folds;
        or the training set lacks the column by which it was split
    """
    from sklearn import model_selection

    details = dataset.manifest.details
    split = details.get("split") or {}
    method, rows = split.get("method"), np.arange(len(data.labels))
    if len(rows) < 2 * folds:
        raise TrainingError(
            f"Split part {TRAIN!r} of training set {dataset.manifest.name!r} has {len(rows):,} rows, which are too "
            f"few for {folds} folds. Set a smaller `folds`, or use a longer window."
        )
    regression = data.task == "regression"
    shuffled: dict[str, Any] = {"n_splits": folds, "shuffle": True, "random_state": seed}
    classes = _codes(data.labels)
    if method == "time":
        times = _times(dataset, details["timestamp"])
        order = np.argsort(times, kind="stable")
        found = [(order[learned], order[held]) for learned, held in model_selection.TimeSeriesSplit(folds).split(rows)]
        # Manifests of earlier releases do not have the seconds.
        gap = (split.get("gap") or {}).get("seconds")
        if gap is not None:
            micros = round(gap * 1e6)
            found = [(learned[times[learned] < times[held].min() - micros], held) for learned, held in found]
            if not all(len(learned) for learned, _ in found):
                raise TrainingError(
                    f"With the gap of {split['gap']['duration']} of training set {dataset.manifest.name!r}, a fold of {folds} has no rows to fit a model to. "
                    "Set a smaller `folds`, or use a longer window."
                )
    elif method == "group":
        groups = _codes(_column(dataset, split["group"]))
        if (known := groups.max() + 1) < folds:
            raise TrainingError(
                f"Split part {TRAIN!r} of training set {dataset.manifest.name!r} has {known} groups, which are too "
                f"few for {folds} folds. Set a smaller `folds`, or use a longer window."
            )
        kind = model_selection.GroupKFold if regression else model_selection.StratifiedGroupKFold
        found = list(kind(**shuffled).split(rows, classes, groups))
    elif regression:
        found = list(model_selection.KFold(**shuffled).split(rows))
    else:
        if (least := np.bincount(classes).min()) < folds:
            raise TrainingError(
                f"A class of label {data.label!r} has {least} rows in split part {TRAIN!r}, which are too few for {folds} "
                "folds. Set a smaller `folds`, or use a longer window."
            )
        found = list(model_selection.StratifiedKFold(**shuffled).split(rows, classes))
    for number, (learned, held) in enumerate(found, 1):
        if not regression and (
            len(np.unique(classes[learned])) < len(data.classes) or len(np.unique(classes[held])) < 2
        ):
            raise TrainingError(
                f"Fold {number} of {folds} contains no row of a class of label {data.label!r}. Set a smaller `folds`, or use "
                "a longer window."
            )
    return found


def _codes(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return for each value an integer code from 0. Equal values have the same code."""
    _, found = np.unique(values.astype(str), return_inverse=True)
    return np.asarray(found, np.int64)


def _times(dataset: Dataset, name: str) -> NDArray[np.int64]:
    """Return the event times in microseconds since 1970, shape (n,)."""
    _column(dataset, name)
    column = dataset.table(TRAIN, [name]).column(name)
    return np.asarray(as_utc(column, f"The event time {name!r}").cast(pa.int64()).to_numpy())


def _column(dataset: Dataset, name: str) -> NDArray[Any]:
    try:
        return np.asarray(dataset.table(TRAIN, [name]).column(name).to_numpy())
    except SchemaError:
        raise TrainingError(
            f"Training set {dataset.manifest.name!r} was split by the column {name!r}, which the folds need, but this column "
            "is absent. Build the training set again."
        ) from None
