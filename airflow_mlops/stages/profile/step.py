"""Profile a dataset or one shard of a dataset, and store the profile."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import DatasetNotFoundError, RegistryError
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.selection import require_given, select
from airflow_mlops.drift import training_reference
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.models import contracts
from airflow_mlops.profiles import shards
from airflow_mlops.profiles.profile import profile
from airflow_mlops.registry import versions
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.integrity import require_promoted
from airflow_mlops.registry.presence import require_store_of
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.profile import on_executors
from airflow_mlops.stages.profile.spec import ProfileResult, ProfileSpec


def run(spec: ProfileSpec, context: StepContext) -> ProfileResult:
    """Profile the rows of the shard and store the profile.

    :raises DatasetNotFoundError: there is no dataset, and ``on_missing`` is ``fail`` or the dataset was given by reference
    :raises StoreError: there is no dataset, and the store does not have the ledger of the model, for example because its
        file system is not mounted
    :raises RegistryError: the model has no champion, and ``on_missing`` is ``fail``
    """
    try:
        datasets = select(context.store, spec.dataset, kept=context.kept)
    except DatasetNotFoundError as error:
        if spec.on_missing == "fail":
            raise
        require_given(context.store, spec.dataset)
        if spec.model is not None:
            require_store_of(connect(spec.mlflow, context.connection), context.store, spec.model)
        return ProfileResult(profile=None, summary=f"Nothing was profiled. {error}")
    columns, reference = spec.columns, None
    if columns is None and spec.model is not None:
        reference = _reference(spec.model, spec.mlflow, datasets, context)
        if reference is None:
            if spec.on_missing == "skip":
                return ProfileResult(
                    profile=None, summary=f"Nothing was profiled. Model {spec.model!r} has no champion yet."
                )
            raise RegistryError(
                f"Model {spec.model!r} has no champion, which determines the columns to profile. Promote a version, name the "
                "columns in columns=, or set on_missing='skip' to skip profiling until there is a champion."
            )
        columns = reference.columns
    for dataset in datasets:
        dataset.require_columns(columns or ())
    names = columns or [column.name for column in datasets[0].manifest.columns]
    if context.executors is not None and spec.shards == 1:
        reconstruction = reference.reconstruction(names) if reference is not None else None
        found = on_executors.profile_of(datasets, names, columns, reconstruction, context)
    else:
        batches = shards.batches(datasets, names, spec.shard, spec.shards)
        found = reference.profile_of(batches, names) if reference is not None else profile(batches, columns)
    shard = shards.Shard(datasets=shards.identities(datasets), shard=spec.shard, shards=spec.shards, profile=found)
    name = datasets[0].manifest.name
    context.processed(found.rows)
    subject = f"shard {spec.shard} of {spec.shards} of dataset {name!r}" if spec.shards > 1 else f"dataset {name!r}"
    return ProfileResult(
        profile=shards.write(context.store, name, shard),
        summary=f"Profiled {counted(found.rows, 'row')} and {counted(len(found.columns), 'column')} of {subject}.",
    )


def _reference(
    model: str, mlflow: MLflowTarget, datasets: Sequence[Dataset], context: StepContext
) -> TrainingReference | None:
    """Load the training reference that MonitorOperator uses for the predictions; ``None`` without a champion."""
    client = connect(mlflow, context.connection)
    champion = versions.champion(client, model)
    if champion is None:
        return None
    require_promoted(context.store, champion)
    version = training_reference.version_of(datasets, champion, client)
    return training_reference.load(version, contracts.read(client, context.store, version), datasets, context.store)
