"""Profile a dataset in parts that executors profile at the same time, see :mod:`airflow_mlops.stages.executors`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_mlops.data import row_spans, sent_datasets
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.datasets.data_file import ROW_GROUP_ROWS
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.training_reference import profile_with_errors
from airflow_mlops.profiles import shards
from airflow_mlops.profiles.multivariate import Reconstruction
from airflow_mlops.profiles.profile import Profile, merge, profile
from airflow_mlops.stages.context import StepContext


def profile_of(
    datasets: Sequence[Dataset],
    names: Sequence[str],
    columns: Sequence[str] | None,
    reconstruction: Reconstruction | None,
    context: StepContext,
) -> Profile:
    """Profile all rows. The parts are merged in the order of the rows, so the profile is always the same.

    :param names: names of the columns to read
    :param columns: names of the columns to profile; ``None`` for all columns of types that can be profiled
    :param reconstruction: computes the reconstruction error, which is profiled as well; ``None`` to leave it out
    """
    count = row_spans.count(datasets, None, ROW_GROUP_ROWS)
    arguments = {
        "datasets": [sent_datasets.describe(dataset) for dataset in datasets],
        "names": list(names),
        "columns": None if columns is None else list(columns),
        "reconstruction": reconstruction.model_dump(mode="json") if reconstruction is not None else None,
        "count": count,
    }
    found = context.spread("airflow_mlops.stages.profile.on_executors:profile_part", arguments, list(range(count)))
    return merge(map(Profile.model_validate_json, found))


def profile_part(store: ArtifactStore, arguments: Mapping[str, Any], number: int) -> str:
    """Profile one part on an executor, and return the profile as JSON text.

    :param number: number of the part, from 0
    """
    datasets = [sent_datasets.restore(store, text) for text in arguments["datasets"]]
    names, columns = arguments["names"], arguments["columns"]
    batches = shards.batches(datasets, names, number, arguments["count"])
    if arguments["reconstruction"] is not None:
        found = profile_with_errors(batches, names, Reconstruction.model_validate(arguments["reconstruction"]))
    else:
        found = profile(batches, columns)
    return found.model_dump_json()
