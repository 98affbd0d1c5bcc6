"""Find the model version from which boosted trees continue."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_mlops.models.champion import download_champion
from airflow_mlops.models.trainers.base import TrainingRun
from airflow_mlops.models.trainers.spec import BoostingTrainerSpec
from airflow_mlops.registry.integrity import require_promoted
from airflow_mlops.registry.versions import champion, version
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train.spec import TrainSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient


def resolved(spec: TrainSpec, client: MlflowClient, context: StepContext) -> TrainSpec:
    """Replace ``warm_start="champion"`` with the version number of the current champion, so that the training can be reproduced.

    :raises RegistryError: MLflow cannot be used
    """
    trainer = spec.trainer
    if not isinstance(trainer, BoostingTrainerSpec) or trainer.warm_start != "champion":
        return spec
    found = champion(client, spec.model)
    if found is None:
        context.progress(f"{spec.model!r} has no champion, so the training starts without trees.")
    else:
        require_promoted(context.store, found)
    number = None if found is None else found.version
    return spec.model_copy(update={"trainer": trainer.model_copy(update={"warm_start": number})})


def started(run: TrainingRun, spec: TrainSpec, client: MlflowClient, context: StepContext) -> TrainingRun:
    """Add the files of the version whose trees are continued to ``run``. Without ``warm_start``, nothing is added.

    :raises ModelCorruptError: a file of the version was changed after its promotion
    :raises RegistryError: the version or its files do not exist any more
    """
    trainer = spec.trainer
    if not isinstance(trainer, BoostingTrainerSpec) or not isinstance(trainer.warm_start, int):
        return run
    ref = version(client, spec.model, trainer.warm_start)
    folder = download_champion(client, context.store, ref, context.progress, named=True)
    context.progress(f"The training continues the trees of {ref}.")
    return replace(run, start=folder)
