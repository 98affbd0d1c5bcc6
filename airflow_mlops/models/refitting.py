"""Fit the trainer of a model version to other rows, and measure the loss of each row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import THRESHOLD, Calibration, ModelContract
from airflow_mlops.core.errors import StoreError, TrainingError, one_line
from airflow_mlops.core.temporary import FULL, temporary_folder
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.rows import encode
from airflow_mlops.models.calibration import fit as fit_calibration
from airflow_mlops.models.calibration import require_rows
from airflow_mlops.models.class_weights import with_class_weight
from airflow_mlops.models.inputs import feature_columns, frame
from airflow_mlops.models.scorer import from_values
from airflow_mlops.models.trainers import trainer_module
from airflow_mlops.models.trainers.base import FittedModel, TrainingData, TrainingRun
from airflow_mlops.models.trainers.calibrated import CalibratedModel
from airflow_mlops.models.trainers.spec import TorchTrainerSpec, TrainerSpec
from airflow_mlops.models.trainers.validation import SHARE
from airflow_mlops.models.training_data import TRAIN, label_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

AGE = f"{LABEL}:age"
"""Name of the column with the age of each row in half-lives, which exists only if the rows have weights (``Decay``)."""


@dataclass(frozen=True)
class Refitted:
    """A model that was fitted to rows in memory. The model is neither exported nor registered.

    :param model: the fitted model
    :param contract: model contract. Its classes are those of the rows that the model was fitted to
    """

    model: FittedModel
    contract: ModelContract

    def predict(self, rows: pa.Table) -> Predictions:
        """Predict every row of ``rows``.

        :raises TrainingError: the model cannot predict the rows, for example because a value is infinite
        """
        names = [feature.name for feature in self.contract.features]
        inputs = frame(rows.select(names).combine_chunks(), feature_columns(rows.schema, names))
        try:
            found = self.model.predict(inputs)
        except Exception as error:
            raise TrainingError(f"{self.model.name} cannot predict the rows: {one_line(error, 300)}") from error
        return from_values(found, self.contract)


def refit(
    spec: TrainerSpec,
    seed: int,
    contract: ModelContract,
    rows: pa.Table,
    class_weight: Literal["balanced"] | dict[str, float] | None = None,
) -> Refitted:
    """Fit a trainer to ``rows``.

    :param spec: the trainer
    :param seed: seed of the training
    :param contract: model contract with the ML task, the features, the positive class and the calibration. A
        calibration is fitted again, on random rows that the model is not fitted to
    :param rows: the features, the label in the column ``label``, and the column :data:`AGE` if the rows have weights.
        The newest row has the weight 1. A network (TorchTrainer) is fitted without weights
    :param class_weight: weights of the classes; classes that the rows lack are left out
    :raises TrainingError: the model cannot be fitted to the rows, or there are too few rows for the calibration
    :raises SpillError: the disk is full
    """
    calibration, aside = contract.calibration, None
    if calibration is not None:
        rows, aside = _set_aside(calibration, seed, contract, rows)
    data = _training_data(contract, rows)
    if class_weight is not None:
        if isinstance(class_weight, dict):
            present = {str(item) for item in data.classes}
            class_weight = {name: weight for name, weight in class_weight.items() if name in present}
        data = replace(data, weights=with_class_weight(class_weight, data.labels, data.classes, data.weights))
    if isinstance(spec, TorchTrainerSpec):
        with _temporary_store() as folder:
            model = _fit(spec, seed, data, _streamed(folder, contract, rows))
    else:
        model = _fit(spec, seed, data, None)
    if calibration is not None and aside is not None:
        model, calibration = _calibrated(calibration, model, data, contract, aside)
    binary = contract.task == "binary"
    # A threshold that was chosen for the champion is kept, so that both models are compared at the same threshold.
    own = model.threshold(contract.positive) if binary else THRESHOLD
    threshold = own if contract.threshold_choice is None else contract.threshold
    fields = {
        "features": data.features,
        "classes": data.classes,
        "threshold": threshold,
        "calibration": calibration,
        # The margin in the contract was computed from the residuals of another model.
        "interval": None,
    }
    return Refitted(model, ModelContract(**{**dict(contract), **fields}))


def losses(
    metric: str, contract: ModelContract, label: pa.ChunkedArray, predictions: Predictions
) -> NDArray[np.float64]:
    """Compute the loss of each row, shape (n,).

    :param metric: one of :data:`airflow_mlops.metrics.catalog.REALISED`, or an expected cost
    :param contract: contract of the model that made the predictions
    :param label: the labels of n rows
    :param predictions: the predictions for these rows
    :raises UnmeasurableError: the loss is not defined on the rows, or a label or score is not a finite number
    """
    columns = [label.combine_chunks(), pa.array(predictions.prediction), pa.array(predictions.score)]
    outcomes = metrics.outcomes([pa.RecordBatch.from_arrays(columns, names=list(metrics.COLUMNS))], contract)
    if outcomes.rows != len(label):
        raise metrics.UnmeasurableError("a label or a score is not a finite number")
    return metrics.losses(metric, outcomes)


def _set_aside(
    calibration: Calibration, seed: int, contract: ModelContract, rows: pa.Table
) -> tuple[pa.Table, pa.Table]:
    """Divide rows at random into the rows for the fit and the rows for the calibration.

    :raises TrainingError: there are too few rows for the calibration
    """
    labels = label_values(rows.column(LABEL), contract.task, f"Label {contract.label!r}")
    aside = np.random.default_rng((seed + 1, 2**32)).random(len(labels)) < SHARE
    require_rows(calibration.method, labels[aside], np.unique(labels[~aside]).tolist(), "random rows")
    return rows.filter(pa.array(~aside)), rows.filter(pa.array(aside))


def _calibrated(
    calibration: Calibration, model: FittedModel, data: TrainingData, contract: ModelContract, aside: pa.Table
) -> tuple[FittedModel, Calibration]:
    found = _training_data(contract, aside)
    codes = encode(found.labels, data.classes)
    known = codes >= 0
    maps = fit_calibration(calibration.method, model.predict(found.frame)[known], codes[known])
    calibrated = CalibratedModel(model, calibration.method, maps, len(data.classes))
    return calibrated, Calibration(method=calibration.method, maps=maps, rows=int(known.sum()), source="random rows")


def _training_data(contract: ModelContract, rows: pa.Table) -> TrainingData:
    names = [feature.name for feature in contract.features]
    labels = label_values(rows.column(LABEL), contract.task, f"Label {contract.label!r}")
    classes = [] if contract.task == "regression" else np.unique(labels).tolist()
    table = rows.select(names).combine_chunks()
    features = feature_columns(table.schema, names)
    return TrainingData(
        contract.task,
        contract.label,
        features,
        table,
        frame(table, features),
        labels,
        classes,
        contract.positive,
        weights=_weights(rows),
    )


def _weights(rows: pa.Table) -> NDArray[np.float64] | None:
    if AGE not in rows.column_names:
        return None
    ages = rows.column(AGE).to_numpy()
    return np.asarray(0.5 ** (ages - ages.min()))


def _fit(spec: TrainerSpec, seed: int, data: TrainingData, run: TrainingRun | None) -> FittedModel:
    trainer: Any = trainer_module(spec.kind)  # type: ignore[attr-defined]
    fitted: FittedModel = trainer.fit(spec, data, seed, run)
    return fitted


@contextmanager
def _temporary_store() -> Iterator[Path]:
    """Create a folder for a temporary store.

    :raises SpillError: the disk is full
    """
    with temporary_folder("rows") as folder:
        try:
            yield folder
        except StoreError as error:
            # The error would name the artifact store, but the disk with this temporary folder is full.
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
                raise error.__cause__ from None
            raise


def _streamed(folder: Path, contract: ModelContract, rows: pa.Table) -> TrainingRun:
    """Write the rows as a training set in a temporary store, because TorchTrainer streams the rows from files."""
    store = ArtifactStore(folder.as_uri())
    details = {"label": contract.label, "task": contract.task, "positive": contract.positive}
    with DatasetWriter(store, "refitting") as writer:
        rows = rows.select([name for name in rows.column_names if name != AGE])
        names = [contract.label if name == LABEL else name for name in rows.column_names]
        writer.write(rows.rename_columns(names), TRAIN)
        manifest, _ = writer.commit(details=details)
    return TrainingRun(
        dataset=open_dataset(store, manifest.ref),
        part=TRAIN,
        checkpoint="checkpoints/refitting.pt",
        progress=lambda message: None,
        log=lambda epoch, metrics: None,
        log_files=lambda folder, name: None,
    )
