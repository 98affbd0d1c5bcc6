"""Train boosted trees with early stopping, checkpoints from which a retry continues, and a warm start."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.boosting.encoding import Encoding
from airflow_mlops.models.trainers.boosting.groups import GroupedRows, read_groups
from airflow_mlops.models.trainers.boosting.library import Job, Library
from airflow_mlops.models.trainers.boosting.model import BoostedModel, earlier
from airflow_mlops.models.trainers.boosting.progress import Progress
from airflow_mlops.models.trainers.boosting.rows import Chunks, Rows, numbered
from airflow_mlops.models.trainers.spec import BoostingTrainerSpec
from airflow_mlops.models.trainers.validation import held_out
from airflow_mlops.models.trainers.weights import read_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fit(spec: BoostingTrainerSpec, data: TrainingData, seed: int, run: TrainingRun | None = None) -> BoostedModel:
    """Train the booster. A retry continues from the last checkpoint if there is one.

    :param spec: the trainer, with the settings of the training
    :param data: with ``run``, the labels of all rows and the features of a sample, because the training streams the
        rows from the training set. Without ``run``, the features and labels of all rows
    :param seed: seed of the library and of the random choice of validation rows
    :param run: the training set, the checkpoint and the log functions; ``None`` for rows in memory
    :raises SpecError: the library or the GPU does not exist, or the model could not be exported to ONNX
    :raises TrainingError: the library cannot train on the rows
    """
    library: Any = _library(spec)
    library.check(spec, data.task, data.features)
    chunks = Chunks.of(data, run)
    labels, weights = numbered(data), read_weights(data, run)
    groups = None if spec.group is None else read_groups(spec.group, data, run, weights)
    validation, how = _held_out(spec, data, seed, run)
    _check_classes(data, labels[~validation], spec.validation)
    _check_weights(weights, validation, spec.validation)
    start = None
    if run is not None and run.start is not None:
        start = earlier(run.start, library.FILE, spec, data)
        if start is None:
            run.progress(
                "The model of the warm start differs in its features, label, classes, objective or library, so its trees are "
                "not used. The training starts without trees."
            )
    texts = [feature.name for feature in data.features if feature.kind == "string"]
    encoding = Encoding.learn(
        data.features, chunks.each(texts), nulls=library.NULLS, known=start[1].vocabularies if start else None
    )
    gpu = _uses_gpu(spec, library)

    def rows(chosen: NDArray[np.bool_]) -> Rows:
        if groups is not None:
            return GroupedRows(chunks, encoding, chosen, labels, groups)
        return Rows(chunks, encoding, chosen, labels, weights)

    progress = Progress(spec, run, spec.warm_start if start and isinstance(spec.warm_start, int) else None)
    progress.message(f"Training {spec.label} on {'a GPU' if gpu else 'CPUs'}, with {how} for validation.")
    job = Job(
        spec=spec,
        task=data.task,
        classes=len(data.classes),
        rows=rows(~validation),
        held_out=rows(validation) if validation.any() else None,
        seed=seed % 2**31,
        gpu=gpu,
        start=start[0] if start else None,
        progress=progress,
    )
    booster = library.train(job)
    facts = {
        "device": "cuda" if gpu else "cpu",
        "rounds_run": progress.state.round,
        "best_round": progress.state.best_round,
        "trees": booster.rounds,
        "validation_rows": int(validation.sum()),
        "started_from": progress.state.start,
    }
    return BoostedModel(booster, encoding, spec, data, library.FILE, nulls=library.NULLS, facts=facts)


def validation_rows(
    spec: BoostingTrainerSpec, dataset: Dataset, data: TrainingData, part: str | None, columns: Sequence[str], seed: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows that the training holds out for validation.

    :param spec: the trainer
    :param dataset: the training set
    :param data: the labels of all rows
    :param part: name of the split part that the training reads
    :param columns: names of the columns to read
    :param seed: seed of the training, which determines the held-out rows
    """
    chosen, _ = held_out(dataset, part, len(data.labels), spec.validation, seed, group=spec.group)
    first = 0
    for group in dataset.row_groups(part):
        rows = dataset.read_row_group(group, columns)
        yield rows.filter(pa.array(chosen[first : first + rows.num_rows]))
        first += rows.num_rows


def _library(spec: BoostingTrainerSpec) -> Library:
    found: Any = importlib.import_module(f"airflow_mlops.models.trainers.boosting.{spec.library}")
    return found


def _held_out(
    spec: BoostingTrainerSpec, data: TrainingData, seed: int, run: TrainingRun | None
) -> tuple[NDArray[np.bool_], str]:
    dataset, part = (run.dataset, run.part) if run is not None else (None, None)
    return held_out(dataset, part, len(data.labels), spec.validation, seed, group=spec.group)


def _check_classes(data: TrainingData, labels: NDArray[np.float64], validation: float) -> None:
    if data.task != "regression" and (found := np.unique(labels)).size < 2:
        raise TrainingError(
            f"With validation={validation:g}, all rows that are left for training have the label "
            f"{data.classes[int(found[0])]!r}. Use a longer window, or a smaller `validation`."
        )


def _check_weights(weights: NDArray[np.float64] | None, validation: NDArray[np.bool_], share: float) -> None:
    if weights is None:
        return
    for chosen, use in ((~validation, "left for training"), (validation, "held out for validation")):
        if chosen.any() and not weights[chosen].any():
            raise TrainingError(
                f"With validation={share:g}, all {int(chosen.sum()):,} rows that are {use} have the weight 0. Use more rows, other "
                "weights, or set validation=0, which disables early stopping."
            )


def _uses_gpu(spec: BoostingTrainerSpec, library: Library) -> bool:
    if spec.device == "cpu":
        return False
    found = library.has_gpu()
    if spec.device == "cuda" and not found:
        raise SpecError(
            f"The trainer has device='cuda', but {spec.library} finds no GPU, or is built without CUDA. Use an image with both and "
            "request a GPU (gpus=1), or set device='auto'."
        )
    return found
