"""Fit one candidate, export the model to ONNX and measure the model. Training and reproduction share this module."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.contract import ModelContract, Task
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.data.cost_columns import read_costs
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.row_weights import RowWeights
from airflow_mlops.data.selection import select_one
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.catalog import INTERVAL_METRICS, METRICS, is_deviance, is_on_request, is_ranking
from airflow_mlops.metrics.columns import read_columns
from airflow_mlops.metrics.deviances import power_of
from airflow_mlops.metrics.domain import wrong_labels, wrong_predictions
from airflow_mlops.metrics.forecasts import metrics_of
from airflow_mlops.metrics.judged import chosen
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.rankings import ranking_of
from airflow_mlops.metrics.rows import predicted
from airflow_mlops.metrics.values import check_task, measure
from airflow_mlops.models import parity
from airflow_mlops.models.class_weights import with_class_weight
from airflow_mlops.models.trainers import trainer_module
from airflow_mlops.models.trainers.base import FittedModel, TrainingData, TrainingRun
from airflow_mlops.models.trainers.objectives import knows_objective, own_metric
from airflow_mlops.models.trainers.sklearn.batches import require_partial_fit
from airflow_mlops.models.trainers.spec import SklearnTrainerSpec, TrainerSpec
from airflow_mlops.models.training_data import SAMPLE_ROWS, TEST, TRAIN, check_parts, new_contract, read_part
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train import calibration, interval, threshold
from airflow_mlops.stages.train.aside import Divided, divided
from airflow_mlops.stages.train.spec import TrainSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Number of held-out rows for which the labels from the model's own predict() are compared with the labels from the
# contract.
_COMPARED = 2_000


def load_data(spec: TrainSpec, store: ArtifactStore) -> tuple[Dataset, TrainingData, TrainingData]:
    """Read a training set, and check that a model can be trained on its rows.

    :return: the training set, the rows of the split part ``train`` and the rows of ``test``. If the trainer streams the
        rows itself, or if there are more rows than its ``max_rows``, ``train`` has the labels of all rows, but the
        features of only some rows
    :raises TrainingError: no model can be trained on the data
    """
    return _load(spec, store, TRAIN)


def load_all(spec: TrainSpec, store: ArtifactStore) -> tuple[Dataset, TrainingData, TrainingData]:
    """Read all rows of a training set, and check that a model can be trained on them.

    :return: the training set, all rows (features of some rows only, as in :func:`load_data`) and the rows of the split
        part ``test``
    :raises TrainingError: no model can be trained on the data
    """
    return _load(spec, store, None)


def _load(spec: TrainSpec, store: ArtifactStore, part: str | None) -> tuple[Dataset, TrainingData, TrainingData]:
    dataset = select_one(store, spec.dataset).weighted(spec.sample_weight)
    if isinstance(spec.trainer, SklearnTrainerSpec) and spec.trainer.reads_rows:
        require_partial_fit(spec.trainer.path)
    # Some rows are enough for the checks if the trainer streams the data itself, or if a sample will be drawn.
    limit, stored = getattr(spec.trainer, "max_rows", None), dataset.ref.parts
    some = _streams(spec) or (
        limit is not None and (sum(stored.values()) if part is None else stored.get(part, 0)) > limit
    )
    rows, test = read_part(dataset, part, SAMPLE_ROWS if some else None), read_part(dataset, TEST)
    check_parts(dataset, {TRAIN: rows, TEST: test})
    return dataset, rows, test


def _streams(spec: TrainSpec) -> bool:
    return isinstance(spec.trainer, TrainerSpec) and spec.trainer.reads_rows


@dataclass(frozen=True)
class Fitted:
    """A fitted and measured model that is not stored yet.

    :param model: the fitted model
    :param exported: the ONNX export of the model
    :param contract: the model contract: features, label, classes, metrics and accuracy of the ONNX export
    :param predictions: predictions for the split part ``test``
    :param metrics: metrics on the split part ``test``, by name
    :param seconds: duration of the fit, in seconds
    :param train: the rows that the model was fitted to, after a sample was drawn
    """

    model: FittedModel
    exported: bytes
    contract: ModelContract
    predictions: Predictions
    metrics: dict[str, float]
    seconds: float
    train: TrainingData


def fit_candidate(
    spec: TrainSpec, context: StepContext, dataset: Dataset, train: TrainingData, test: TrainingData, run: TrainingRun
) -> Fitted:
    """Fit one candidate, export the model to ONNX, and measure the model on the split part ``test``.

    :param dataset: the training set
    :param train: the rows to fit the model to. If the spec has a calibration, a rule for the threshold or prediction
        intervals, some of these rows are set aside for them
    :param test: rows of the split part ``test``
    :param run: checkpoint and log functions of the training
    :raises TrainingError: the model cannot be fitted to the data
    :raises MetricColumnError: a column that a metric names is absent from the training set, or has invalid values
    :raises ModelFormatError: the model cannot be exported to ONNX
    """
    trainer: Any = trainer_module(spec.trainer.kind)
    check_task(spec.metrics, train.task)
    threshold.check_task(spec.threshold, train.task)
    calibration.check_task(spec.calibration, train.task)
    interval.check_task(spec.interval, train.task)
    # Columns with invalid values fail here, before the fit.
    own = _own_metrics(spec, dataset, test)
    columns = read_columns(dataset, TEST, own)
    if spec.threshold is not None:
        read_costs(dataset, run.part, spec.threshold.cost_columns)
    train, run, parts = _without_set_aside(spec, dataset, train, run)
    if parts.sample is not None:
        context.progress(f"Fitting {spec.trainer.label} to {parts.sample} (max_rows).")
    train = _with_class_weight(spec, train, run)
    with Phase(context, "Fitted") as fitting:
        model: FittedModel = trainer.fit(spec.trainer, train, spec.seed, run)
    with Phase(context, "Exported to ONNX and measured"):
        contract = new_contract(dataset, train, model).model_copy(update={"training_sample": parts.sample})
        if spec.calibration is not None:
            model, contract = calibration.calibrated(
                spec.calibration, model, contract, parts.calibration, run.part, train, test
            )
        if spec.threshold is None:
            _report_other_labels(model, contract, test, context)
        else:
            # A rule chooses the threshold by the scores of the ONNX export, so the model is first exported without it.
            aside = parts.threshold
            first = parity.export(model, contract, train, test, lambda message: None).content if aside else b""
            contract = threshold.with_threshold(spec.threshold, contract, aside, run.part, first, context.progress)
        export = parity.export(model, contract, train, test, context.progress)
        if spec.interval is not None:
            contract = interval.with_interval(
                spec.interval, contract, parts.interval, run.part, export.content, context.progress
            )
        metrics = _measure(contract, test, export.predictions, own, columns)
        _report_undefined(model, test, export.predictions, [*{*own} - {*metrics}], context)
        contract = calibration.with_metrics(contract, test, export.predictions, context.progress)
    judged_by = _judged_by(spec, dataset, train.task, metrics)
    contract = contract.model_copy(update={"metrics": metrics, "judged_by": judged_by, "parity": export.parity})
    return Fitted(model, export.content, contract, export.predictions, metrics, fitting.seconds, train)


def _own_metrics(spec: TrainSpec, dataset: Dataset, test: TrainingData) -> list[str]:
    """Return the metrics that are computed in addition to the built-in metrics of the ML task."""
    own = own_metric(spec.trainer) if isinstance(spec.trainer, TrainerSpec) and test.task == "regression" else None
    if own is not None and not _can_measure(own, spec.metrics, dataset, test):
        own = None
    return list(dict.fromkeys([*spec.metrics, *metrics_of(dataset.manifest.details), *filter(None, [own])]))


def _can_measure(own: str, declared: Sequence[str], dataset: Dataset, test: TrainingData) -> bool:
    """Return whether the metric of the objective, which the user did not name, is measured on the held-out rows."""
    if (ranking := ranking_of(own)) is not None:
        present = ranking.group in dataset.manifest.column_names
        return present and bool((test.labels > 0).any()) and not any(map(is_ranking, declared))
    power = power_of(own)
    return power is None or wrong_labels(power, test.labels, test.metric_weights) is None


def _judged_by(spec: TrainSpec, dataset: Dataset, task: Task, metrics: Mapping[str, float]) -> str | None:
    trainer = spec.trainer
    if not isinstance(trainer, TrainerSpec):
        return None
    return chosen(task, metrics, dataset.manifest.details, learned=own_metric(trainer), known=knows_objective(trainer))


def _without_set_aside(
    spec: TrainSpec, dataset: Dataset, train: TrainingData, run: TrainingRun
) -> tuple[TrainingData, TrainingRun, Divided]:
    """Return the rows to fit the model to.

    Rows that are set aside for a calibration, a threshold or prediction intervals are left out. With ``max_rows``, so are
    the rows that are not in the sample.

    :return: the rows to fit the model to, the run that reads them, and all parts
    :raises TrainingError: no model can be trained on the sample
    """
    parts = divided(spec, dataset, run.part, train.labels)
    if parts.fitted is dataset and (_streams(spec) or train.table.num_rows == len(train.labels)):
        return train, run, parts
    rest = read_part(parts.fitted, run.part, SAMPLE_ROWS if _streams(spec) else None)
    if parts.sample is not None:
        # The first check has read only some rows. The rows of the sample are checked here.
        try:
            check_parts(dataset, {TRAIN: rest})
        except TrainingError as error:
            raise TrainingError(f"The model cannot be fitted to {parts.sample} (max_rows). {error}") from None
    return rest, replace(run, dataset=parts.fitted), parts


def _with_class_weight(spec: TrainSpec, train: TrainingData, run: TrainingRun) -> TrainingData:
    if spec.class_weight is None:
        return train
    weights = train.weights
    if _streams(spec):
        # The trainer streams the rows itself. ``train`` is only a sample of these rows, and has no weights.
        rule = RowWeights.of(run.dataset)
        weights = None if rule is None else rule.read(run.dataset, run.part)
    return replace(train, weights=with_class_weight(spec.class_weight, train.labels, train.classes, weights))


def _report_other_labels(model: FittedModel, contract: ModelContract, test: TrainingData, context: StepContext) -> None:
    frame = test.frame.head(_COMPARED)
    if differing := parity.other_labels(model, contract, frame):
        rule = (
            f"{contract.positive!r} at {contract.threshold:g} or more" if contract.task == "binary" else "the largest"
        )
        context.progress(
            f"In {differing:,} of {len(frame):,} held-out rows, predict() of {model.name} returns a different label "
            f"than the class probabilities imply ({rule}). Metrics and scoring use the probabilities. To set a "
            "threshold, set `threshold`, or wrap the estimator in sklearn.model_selection.FixedThresholdClassifier."
        )


def _report_undefined(
    model: FittedModel, test: TrainingData, predictions: Predictions, absent: Sequence[str], context: StepContext
) -> None:
    for metric in sorted(filter(is_deviance, absent)):
        context.progress(
            f"{metric} was not measured, because {wrong_predictions(predictions.score, test.metric_weights, model.name)}. "
            "Train with an objective whose predictions are above 0, such as Poisson."
        )


def _measure(
    contract: ModelContract,
    test: TrainingData,
    predictions: Predictions,
    own: Sequence[str],
    columns: Mapping[str, NDArray[Any]],
) -> dict[str, float]:
    found = measure(predicted(test.labels, predictions, contract, test.metric_weights, columns), own)
    return in_order(found)


def in_order(metrics: dict[str, float]) -> dict[str, float]:
    """Return ``metrics`` in order: built-in metrics in the order of the catalog, followed by the others."""
    names = [*METRICS, *INTERVAL_METRICS, *filter(is_on_request, metrics)]
    return {name: metrics[name] for name in names if name in metrics}


class Phase:
    """Context manager that measures the duration of its block. If the block raises no error, the duration is logged.

    :param done: start of the log message, such as ``Fitted``
    :ivar seconds: duration of the block, in seconds
    """

    def __init__(self, context: StepContext, done: str) -> None:
        self._context = context
        self._done = done
        self.seconds = 0.0

    def __enter__(self) -> Phase:
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        if kind is None:
            self._context.progress(f"{self._done} in {self.seconds:.1f} s.")
