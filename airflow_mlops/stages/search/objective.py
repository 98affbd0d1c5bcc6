"""What a trial is worth, measured on the part ``train`` of a training set and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import SchemaError, TrainingError
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.metrics.values import compute
from airflow_mlops.models.inputs import frame
from airflow_mlops.models.trainers import trainer_module
from airflow_mlops.models.trainers.base import FittedModel, TrainingData, TrainingRun
from airflow_mlops.models.trainers.spec import TorchTrainerSpec, TrainerSpec
from airflow_mlops.models.training_data import TRAIN, label_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

THRESHOLD = 0.5


@dataclass(frozen=True)
class Attempt:
    """What an objective is told about a trial.

    :param checkpoint: key in the store under which the trial keeps what it has learned so far
    :param report: takes the step, what it is worth so far, what was measured and whether it is the last step; what it
        raises ends the trial
    :param progress: says in the task's log how far it is
    """

    checkpoint: str
    report: Callable[[int, float, dict[str, float], bool], None]
    progress: Callable[[str], None]


class Objective(Protocol):
    """Measures a trainer."""

    def __call__(self, trainer: TrainerSpec, attempt: Attempt) -> float:
        """The metric that the search compares.

        :raises TrainingError: it cannot be trained with these parameters
        """


class CrossValidation:
    """The mean of a metric over the folds, each of which is a step.

    Folds are made as the training set was split: in order of time, with groups kept together, or else stratified.

    :raises TrainingError: a fold would not have all classes
    """

    def __init__(self, dataset: Dataset, data: TrainingData, metric: str, folds: int, seed: int) -> None:
        self._data, self._metric, self._seed = data, metric, seed
        self._folds = _folds(dataset, data, folds, seed)

    def __call__(self, trainer: TrainerSpec, attempt: Attempt) -> float:
        module: Any = trainer_module(getattr(trainer, "kind"))  # noqa: B009
        values: list[float] = []
        for step, (learned, held) in enumerate(self._folds):
            model: FittedModel = module.fit(trainer, _rows(self._data, learned), self._seed)
            held_frame = self._data.frame.iloc[held].reset_index(drop=True)
            values.append(_measure(self._data, self._metric, self._data.labels[held], model.predict(held_frame)))
            mean = float(np.mean(values))
            attempt.report(step, mean, {self._metric: mean}, step == len(self._folds) - 1)
        return mean


class Validation:
    """The metric of a network on the rows that it keeps for validation. Its steps are epochs, worth the validation loss."""

    def __init__(self, dataset: Dataset, data: TrainingData, metric: str, seed: int) -> None:
        self._dataset, self._data, self._metric, self._seed = dataset, data, metric, seed

    def __call__(self, trainer: TrainerSpec, attempt: Attempt) -> float:
        from airflow_mlops.models.trainers.torch import trainer as torch

        assert isinstance(trainer, TorchTrainerSpec)
        # A study is for one direction, and losses are better when they are lower.
        sign = -1 if METRICS[self._metric].higher_is_better else 1

        def log(epoch: int, metrics: dict[str, float]) -> None:
            attempt.report(epoch, sign * metrics["validation_loss"], metrics, epoch == trainer.epochs - 1)

        run = TrainingRun(
            dataset=self._dataset,
            part=TRAIN,
            checkpoint=attempt.checkpoint,
            progress=attempt.progress,
            log=log,
            log_files=lambda folder, name: None,
        )
        model = torch.fit(trainer, self._data, self._seed, run)
        labels, answers = self._held_out(model, trainer)
        return _measure(self._data, self._metric, labels, answers)

    def _held_out(self, model: FittedModel, trainer: TorchTrainerSpec) -> tuple[NDArray[Any], NDArray[np.float64]]:
        from airflow_mlops.models.trainers.torch.data import validation_rows

        data = self._data
        columns = [*(feature.name for feature in data.features), data.label]
        labels, answers = [], []
        for rows in validation_rows(self._dataset, TRAIN, columns, trainer.validation, self._seed):
            if rows.num_rows:
                column = pa.chunked_array([rows.column(data.label)])
                labels.append(label_values(column, data.task, f"Label {data.label!r} in part {TRAIN!r}"))
                answers.append(model.predict(frame(rows, data.features)))
        if not labels:
            raise TrainingError("No row was kept for validation: the training set is too small.")
        return np.concatenate(labels), np.concatenate(answers)


def _measure(data: TrainingData, metric: str, labels: NDArray[Any], answers: NDArray[np.float64]) -> float:
    """:param answers: probabilities, shape (n, k), or values, shape (n, 1)"""
    if data.task == "regression":
        return compute(data.task, labels, answers[:, 0], answers[:, 0], None, [])[metric]
    places = (answers[:, 1] >= THRESHOLD).astype(int) if data.task == "binary" else answers.argmax(axis=1)
    prediction = np.asarray(data.classes, object if isinstance(data.classes[0], str) else None)[places]
    score = answers[:, 1] if data.task == "binary" else answers.max(axis=1)
    return compute(data.task, labels, prediction, score, answers, data.classes)[metric]


def _rows(data: TrainingData, rows: NDArray[np.int64]) -> TrainingData:
    return replace(
        data,
        table=data.table.take(pa.array(rows)),
        frame=data.frame.iloc[rows].reset_index(drop=True),
        labels=data.labels[rows],
    )


def _folds(
    dataset: Dataset, data: TrainingData, folds: int, seed: int
) -> Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to learn from and rows to measure on, for each fold."""
    from sklearn import model_selection

    details = dataset.manifest.details
    split = details.get("split") or {}
    method, rows = split.get("method"), np.arange(len(data.labels))
    if len(rows) < 2 * folds:
        raise TrainingError(f"Part {TRAIN!r} has {len(rows):,} rows, too few for {folds} folds: take fewer folds.")
    regression = data.task == "regression"
    shuffled: dict[str, Any] = {"n_splits": folds, "shuffle": True, "random_state": seed}
    classes = _codes(data.labels)
    if method == "time":
        order = np.argsort(_column(dataset, details["timestamp"]), kind="stable")
        found = [(order[learned], order[held]) for learned, held in model_selection.TimeSeriesSplit(folds).split(rows)]
    elif method == "group":
        groups = _codes(_column(dataset, split["group"]))
        if (known := groups.max() + 1) < folds:
            raise TrainingError(f"Part {TRAIN!r} has {known} groups, too few for {folds} folds: take fewer folds.")
        kind = model_selection.GroupKFold if regression else model_selection.StratifiedGroupKFold
        found = list(kind(**shuffled).split(rows, classes, groups))
    elif regression:
        found = list(model_selection.KFold(**shuffled).split(rows))
    else:
        if (least := np.bincount(classes).min()) < folds:
            raise TrainingError(
                f"A class of label {data.label!r} has {least} rows in part {TRAIN!r}, too few for {folds} folds: take "
                "fewer folds, or a longer window."
            )
        found = list(model_selection.StratifiedKFold(**shuffled).split(rows, classes))
    for number, (learned, held) in enumerate(found, 1):
        if not regression and (
            len(np.unique(classes[learned])) < len(data.classes) or len(np.unique(classes[held])) < 2
        ):
            raise TrainingError(
                f"Fold {number} of {folds} lacks a class of label {data.label!r}: take fewer folds, or a longer window."
            )
    return found


def _codes(values: NDArray[Any]) -> NDArray[np.int64]:
    """A small number for each different value."""
    _, found = np.unique(values.astype(str), return_inverse=True)
    return np.asarray(found, np.int64)


def _column(dataset: Dataset, name: str) -> NDArray[Any]:
    try:
        return np.asarray(dataset.table(TRAIN, [name]).column(name).to_numpy())
    except SchemaError:
        raise TrainingError(
            f"Training set {dataset.manifest.name} was split by {name!r} and has no such column, so no folds can be "
            "made of it: build it again."
        ) from None
