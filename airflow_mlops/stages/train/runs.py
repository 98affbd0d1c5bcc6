"""Create a :class:`TrainingRun`, which contains the checkpoint key and the log functions of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_mlops.data.datasets import Dataset
from airflow_mlops.models.trainers.base import TrainingRun
from airflow_mlops.models.training_data import TRAIN
from airflow_mlops.stages.context import StepContext

if TYPE_CHECKING:
    from mlflow import MlflowClient


def unlogged_run(context: StepContext, dataset: Dataset) -> TrainingRun:
    """Create a training run that logs metrics and files nowhere.

    :param dataset: the training set
    """
    return TrainingRun(
        dataset=dataset,
        part=TRAIN,
        checkpoint=_checkpoint(context),
        progress=context.progress,
        log=lambda epoch, metrics: None,
        log_files=lambda folder, name: None,
    )


def logged_run(context: StepContext, dataset: Dataset, client: MlflowClient, run_id: str) -> TrainingRun:
    """Create a training run that logs metrics and files to the MLflow run ``run_id``.

    :param dataset: the training set
    """

    def log(epoch: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            # A retry that continues from a checkpoint may repeat an epoch.
            if all(known.step != epoch for known in client.get_metric_history(run_id, name)):
                client.log_metric(run_id, name, value, step=epoch)

    return replace(
        unlogged_run(context, dataset),
        log=log,
        log_files=lambda folder, name: client.log_artifacts(run_id, str(folder), name),
    )


@contextmanager
def scratch_run(context: StepContext, dataset: Dataset) -> Iterator[TrainingRun]:
    """Create a training run that logs nothing, and delete the checkpoint of the training at the end of the block.

    :param dataset: the training set
    """
    try:
        yield unlogged_run(context, dataset)
    finally:
        drop_checkpoint(context)


def drop_checkpoint(context: StepContext) -> None:
    """Delete the checkpoint of the step's training, if a checkpoint exists."""
    context.store.delete(_checkpoint(context))


def _checkpoint(context: StepContext) -> str:
    return f"checkpoints/{context.key.removesuffix('.json')}.pt"
