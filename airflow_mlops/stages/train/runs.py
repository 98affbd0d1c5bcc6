"""What a training may use beside its data: a checkpoint in the store, and its MLflow run to log to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_mlops.data.datasets import Dataset
from airflow_mlops.models.trainers.base import TrainingRun
from airflow_mlops.models.training_data import TRAIN
from airflow_mlops.stages.context import StepContext

if TYPE_CHECKING:
    from mlflow import MlflowClient


def unlogged_run(context: StepContext, dataset: Dataset) -> TrainingRun:
    """One whose metrics and files go nowhere."""
    return TrainingRun(
        dataset=dataset,
        part=TRAIN,
        checkpoint=_checkpoint(context),
        progress=context.progress,
        log=lambda epoch, metrics: None,
        log_files=lambda folder, name: None,
    )


def logged_run(context: StepContext, dataset: Dataset, client: MlflowClient, run_id: str) -> TrainingRun:
    """One whose metrics and files go to an MLflow run."""

    def log(epoch: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            # A retry that goes on from a checkpoint may come through an epoch again.
            if all(known.step != epoch for known in client.get_metric_history(run_id, name)):
                client.log_metric(run_id, name, value, step=epoch)

    return replace(
        unlogged_run(context, dataset),
        log=log,
        log_files=lambda folder, name: client.log_artifacts(run_id, str(folder), name),
    )


@contextmanager
def scratch_run(context: StepContext, dataset: Dataset) -> Iterator[TrainingRun]:
    """One that leaves nothing behind: no metrics, no files, no checkpoint."""
    try:
        yield unlogged_run(context, dataset)
    finally:
        drop_checkpoint(context)


def drop_checkpoint(context: StepContext) -> None:
    """Delete the checkpoint, if there is one: the training has come to its end."""
    with suppress(FileNotFoundError):
        context.store.delete(_checkpoint(context))


def _checkpoint(context: StepContext) -> str:
    return f"checkpoints/{context.key.removesuffix('.json')}.pt"
