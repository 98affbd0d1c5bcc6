"""The objective functions of a search.

An objective function trains a model on the split part ``train``, and returns a metric of the model.

Part of the rows of ``train`` is held out for the measurement. The split part ``test`` is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.metrics.catalog import Metric
from airflow_mlops.metrics.columns import columns_of, converted, read_columns
from airflow_mlops.metrics.rows import predicted
from airflow_mlops.metrics.values import measure_one
from airflow_mlops.models.inputs import frame
from airflow_mlops.models.scorer import from_values
from airflow_mlops.models.trainers import trainer_module
from airflow_mlops.models.trainers.base import FittedModel, TrainingData, TrainingRun
from airflow_mlops.models.trainers.spec import TrainerSpec
from airflow_mlops.models.training_data import TRAIN, label_values, new_contract
from airflow_mlops.stages.search.folds import make_folds

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Attempt:
    """The checkpoint and the report functions of a running trial.

    A step of a trial is a fold of a cross-validation, an epoch of a network, or a round of boosted trees.

    :param checkpoint: key of the trial's checkpoint in the artifact store
    :param report: function to call after each step. Its arguments are the number of the step (from 0), the value for
        the pruner, all metrics of the step by name, and whether this is the last step. The function raises an exception
        to end the trial early
    :param progress: function that writes a message to the task's log
    """

    checkpoint: str
    report: Callable[[int, float, dict[str, float], bool], None]
    progress: Callable[[str], None]


class Objective(Protocol):
    """An objective function, which trains a model with the parameters of a trial and measures the model."""

    def __call__(self, trainer: TrainerSpec, attempt: Attempt) -> float:
        """Train a model and return the value of the metric that the search optimises.

        :param trainer: the trainer with the parameters of the trial
        :param attempt: checkpoint and report functions of the trial
        :raises TrainingError: the training fails with these parameters
        """


class CrossValidation:
    """An objective function that returns the mean of a metric over the folds of a cross-validation.

    Each fold is a step of the trial.

    :param dataset: the training set
    :param data: rows of the split part ``train``
    :param metric: the metric to optimise
    :param folds: number of folds
    :param seed: random seed of the folds and of the training
    :raises TrainingError: the training set has too few rows for this number of folds
    """

    def __init__(self, dataset: Dataset, data: TrainingData, metric: Metric, folds: int, seed: int) -> None:
        self._dataset, self._data, self._metric, self._seed = dataset, data, metric, seed
        self._folds = make_folds(dataset, data, folds, seed)
        self._columns = read_columns(dataset, TRAIN, [metric.name])

    def __call__(self, trainer: TrainerSpec, attempt: Attempt) -> float:
        module: Any = trainer_module(getattr(trainer, "kind"))  # noqa: B009
        values: list[float] = []
        for step, (fitted, measured) in enumerate(self._folds):
            model: FittedModel = module.fit(trainer, _rows(self._data, fitted), self._seed)
            answers = model.predict(self._data.frame.iloc[measured].reset_index(drop=True))
            contract = new_contract(self._dataset, self._data, model)
            columns = {name: column[measured] for name, column in self._columns.items()}
            values.append(_measure(contract, self._metric.name, self._data.labels[measured], answers, columns))
            mean = float(np.mean(values))
            attempt.report(step, mean, {self._metric.name: mean}, step == len(self._folds) - 1)
        return mean


class Validation:
    """An objective function that trains a network or boosted trees, and returns the metric on their validation rows.

    A step of the trial is one epoch or a few rounds. The pruner compares the validation loss of the steps.

    :param dataset: the training set
    :param data: a sample of the split part ``train``
    :param metric: the metric to optimise
    :param seed: random seed of the training
    """

    def __init__(self, dataset: Dataset, data: TrainingData, metric: Metric, seed: int) -> None:
        self._dataset, self._data, self._metric, self._seed = dataset, data, metric, seed

    def __call__(self, trainer: TrainerSpec, attempt: Attempt) -> float:
        module: Any = trainer_module(getattr(trainer, "kind"))  # noqa: B009
        steps: int = getattr(trainer, "steps")  # noqa: B009
        # An Optuna study has one direction, so the sign of the loss is reversed if the metric is maximised.
        sign = -self._metric.sign

        def log(epoch: int, metrics: dict[str, float]) -> None:
            attempt.report(epoch, sign * metrics["validation_loss"], metrics, epoch == steps - 1)

        run = TrainingRun(
            dataset=self._dataset,
            part=TRAIN,
            checkpoint=attempt.checkpoint,
            progress=attempt.progress,
            log=log,
            log_files=lambda folder, name: None,
        )
        model = module.fit(trainer, self._data, self._seed, run)
        labels, answers, found = self._held_out(module, model, trainer)
        return _measure(new_contract(self._dataset, self._data, model), self._metric.name, labels, answers, found)

    def _held_out(
        self, module: Any, model: FittedModel, trainer: TrainerSpec
    ) -> tuple[NDArray[Any], NDArray[np.float64], dict[str, NDArray[Any]]]:
        data = self._data
        columns = [*(feature.name for feature in data.features), data.label]
        metrics = [self._metric.name]
        # All values are checked first, because the validation rows are read in parts.
        read_columns(self._dataset, TRAIN, metrics)
        columns += [name for name in columns_of(metrics) if name not in columns]
        parts: dict[str, list[pa.Array]] = {name: [] for name in columns_of(metrics)}
        labels, answers = [], []
        for rows in module.validation_rows(trainer, self._dataset, data, TRAIN, columns, self._seed):
            if rows.num_rows:
                column = pa.chunked_array([rows.column(data.label)])
                labels.append(label_values(column, data.task, f"Label {data.label!r} in split part {TRAIN!r}"))
                answers.append(model.predict(frame(rows, data.features)))
                for name, found in parts.items():
                    found.append(rows.column(name))
        if not labels:
            raise TrainingError(
                f"No row of training set {self._dataset.manifest.name!r} is held out for validation. Use more rows, or "
                "set a larger `validation`."
            )
        values = {name: pa.chunked_array(found) for name, found in parts.items()}
        return np.concatenate(labels), np.concatenate(answers), converted(metrics, values)


def _measure(
    contract: ModelContract,
    metric: str,
    labels: NDArray[Any],
    answers: NDArray[np.float64],
    columns: Mapping[str, NDArray[Any]],
) -> float:
    """Compute a metric of predictions.

    :param metric: name of the metric
    :param labels: true labels, shape (n,)
    :param answers: class probabilities, shape (n, k), or predicted values of a regression, shape (n, 1)
    :param columns: the columns that the metric names, such as costs, each of shape (n,)
    """
    return measure_one(metric, predicted(labels, from_values(answers, contract), contract, columns=columns))


def _rows(data: TrainingData, rows: NDArray[np.int64]) -> TrainingData:
    return replace(
        data,
        table=data.table.take(pa.array(rows)),
        frame=data.frame.iloc[rows].reset_index(drop=True),
        labels=data.labels[rows],
        weights=None if data.weights is None else data.weights[rows],
    )
