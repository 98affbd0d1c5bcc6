"""The folds of a cross-validation, made like the split of the training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.errors import SchemaError, TrainingError
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.training_data import TRAIN

if TYPE_CHECKING:
    from numpy.typing import NDArray


def make_folds(
    dataset: Dataset, data: TrainingData, folds: int, seed: int
) -> Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Indices of the training rows and of the measured rows of each fold.

    The folds are in order of time, keep groups together, or are stratified, like the split of the training set.

    :raises TrainingError: there are too few rows, groups or rows of a class for so many folds
    """
    from sklearn import model_selection

    details = dataset.manifest.details
    split = details.get("split") or {}
    method, rows = split.get("method"), np.arange(len(data.labels))
    if len(rows) < 2 * folds:
        raise TrainingError(f"Part {TRAIN!r} has {len(rows):,} rows, too few for {folds} folds: use fewer folds.")
    regression = data.task == "regression"
    shuffled: dict[str, Any] = {"n_splits": folds, "shuffle": True, "random_state": seed}
    classes = _codes(data.labels)
    if method == "time":
        order = np.argsort(_column(dataset, details["timestamp"]), kind="stable")
        found = [(order[learned], order[held]) for learned, held in model_selection.TimeSeriesSplit(folds).split(rows)]
    elif method == "group":
        groups = _codes(_column(dataset, split["group"]))
        if (known := groups.max() + 1) < folds:
            raise TrainingError(f"Part {TRAIN!r} has {known} groups, too few for {folds} folds: use fewer folds.")
        kind = model_selection.GroupKFold if regression else model_selection.StratifiedGroupKFold
        found = list(kind(**shuffled).split(rows, classes, groups))
    elif regression:
        found = list(model_selection.KFold(**shuffled).split(rows))
    else:
        if (least := np.bincount(classes).min()) < folds:
            raise TrainingError(
                f"A class of label {data.label!r} has {least} rows in part {TRAIN!r}, too few for {folds} folds: use "
                "fewer folds or a longer window."
            )
        found = list(model_selection.StratifiedKFold(**shuffled).split(rows, classes))
    for number, (learned, held) in enumerate(found, 1):
        if not regression and (
            len(np.unique(classes[learned])) < len(data.classes) or len(np.unique(classes[held])) < 2
        ):
            raise TrainingError(
                f"Fold {number} of {folds} lacks a class of label {data.label!r}: use fewer folds or a longer window."
            )
    return found


def _codes(values: NDArray[Any]) -> NDArray[np.int64]:
    """Number the distinct values from 0."""
    _, found = np.unique(values.astype(str), return_inverse=True)
    return np.asarray(found, np.int64)


def _column(dataset: Dataset, name: str) -> NDArray[Any]:
    try:
        return np.asarray(dataset.table(TRAIN, [name]).column(name).to_numpy())
    except SchemaError:
        raise TrainingError(
            f"Training set {dataset.manifest.name} was split by {name!r} but has no such column, which the folds need: "
            "build it again."
        ) from None
