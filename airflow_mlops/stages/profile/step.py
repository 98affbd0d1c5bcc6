"""Profiles a dataset, or one shard of it, for whoever merges them."""

from __future__ import annotations

from airflow_mlops.core.errors import DatasetNotFoundError, RegistryError
from airflow_mlops.data.selection import select
from airflow_mlops.models import contracts
from airflow_mlops.profiles import shards
from airflow_mlops.profiles.profile import profile
from airflow_mlops.registry import versions as models
from airflow_mlops.registry.client import connect
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.monitor import columns as monitor_columns
from airflow_mlops.stages.monitor import schema as monitor_schema
from airflow_mlops.stages.profile.spec import ProfileResult, ProfileSpec


def run(spec: ProfileSpec, context: StepContext) -> ProfileResult:
    """Profile the rows of the shard and store what was found."""
    try:
        datasets = select(context.store, spec.dataset)
    except DatasetNotFoundError as error:
        if spec.on_missing == "skip":
            return ProfileResult(profile=None, summary=f"Nothing was profiled. {error}")
        raise
    columns, reference = spec.columns, None
    if columns is None and spec.model is not None:
        client = connect(spec.mlflow, context.connection)
        champion = models.champion(client, spec.model)
        if champion is None:
            if spec.on_missing == "skip":
                return ProfileResult(profile=None, summary=f"{spec.model} has no champion yet: nothing was profiled.")
            raise RegistryError(
                f"{spec.model} has no champion yet to say which columns are profiled: promote a version, name the "
                "columns, or set on_missing='skip' to skip profiling till then."
            )
        scored_by = monitor_columns.scored_by(datasets, champion, client)
        known = contracts.read(client, context.store, scored_by)
        reference, _ = monitor_columns.kept(monitor_columns.stored_profile(known, scored_by), datasets)
        changes = monitor_schema.changes(datasets, reference, known.contract, context.store)
        columns = monitor_columns.compared(reference, changes, datasets)
    for dataset in datasets:
        dataset.require_columns(columns or ())
    names = columns or [column.name for column in datasets[0].manifest.columns]
    batches = shards.batches(datasets, names, spec.shard, spec.shards)
    found = monitor_columns.profiled(batches, names, datasets, reference) if reference else profile(batches, columns)
    ids = [dataset.manifest.id for dataset in datasets]
    shard = shards.Shard(datasets=ids, shard=spec.shard, shards=spec.shards, profile=found)
    name = datasets[0].manifest.name
    which = f"shard {spec.shard} of {spec.shards} of {name}" if spec.shards > 1 else name
    return ProfileResult(
        profile=shards.write(context.store, name, shard),
        summary=f"Profiled {found.rows:,} rows and {len(found.columns)} columns: {which}.",
    )
