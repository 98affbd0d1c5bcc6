"""Profiles of the shards of a dataset, computed by mapped tasks and merged into the profile of the whole dataset.

Each profile is stored as ``datasets/NAME/profiles/SHA256.json.gz``, where SHA256 is the hash of the file.
"""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pydantic import ValidationError

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import DatasetCorruptError, DatasetNotFoundError, SpecError
from airflow_mlops.data import row_spans
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.datasets.data_file import ROW_GROUP_ROWS
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.profiles.profile import Profile, merge
from airflow_mlops.profiles.spec import ProfileRef

# Shards of fewer rows would not save time.
_FEWEST_ROWS = 1_024


class Shard(Model):
    """The profile of one shard.

    :param datasets: :func:`identities` of the datasets that are divided into shards, ordered by time
    :param shard: index of this shard, from 0
    :param shards: number of shards
    :param profile: the profile of the rows of this shard
    """

    datasets: list[str]
    shard: int
    shards: int
    profile: Profile


def identities(datasets: Sequence[Dataset]) -> list[str]:
    """Return a text for each dataset. Datasets with the same text have the same rows.

    The text is the id of the dataset. If only a part is read, the window of this part and the time column are appended.
    """
    return [
        f"{dataset.manifest.id} {dataset.window} of {dataset.time_column}"
        if dataset.window != dataset.manifest.window
        else dataset.manifest.id
        for dataset in datasets
    ]


def batches(datasets: Sequence[Dataset], columns: Sequence[str], shard: int, shards: int) -> Iterator[pa.RecordBatch]:
    """Read the rows of one shard. Every row is in exactly one shard.

    A shard has consecutive rows, so only the files with these rows are read and checked. The first batch is empty, so
    that a shard without rows still has the columns.

    :param datasets: the datasets that are divided into shards, at least one
    :param columns: names of the columns to read
    :param shard: index of the shard, from 0
    :param shards: number of shards
    """
    schema = datasets[0].schema
    yield pa.RecordBatch.from_pylist([], schema=pa.schema([schema.field(name) for name in columns]))
    size, files = ROW_GROUP_ROWS, [file.rows for dataset in datasets for file in dataset.files()]
    # Parquet decodes whole row groups, so a shard has a part of one only if there are fewer row groups than shards.
    if sum(-(-rows // ROW_GROUP_ROWS) for rows in files) < shards:
        size = max(_FEWEST_ROWS, -(-sum(files) // shards))
    for dataset, span in row_spans.spans(datasets, None, size, shard, shards):
        yield from dataset.batches(None, columns, span=span)


def write(store: ArtifactStore, name: str, shard: Shard) -> ProfileRef:
    """Store the profile of a shard.

    :param store: the artifact store
    :param name: name of the dataset
    :param shard: the profile of the shard
    :return: a reference to the stored profile
    """
    data = gzip.compress(shard.model_dump_json().encode(), mtime=0)
    digest = hashlib.sha256(data).hexdigest()
    store.write_bytes(_key(name, digest), data)
    return ProfileRef(name=name, id=digest, shard=shard.shard, shards=shard.shards, rows=shard.profile.rows)


def read(store: ArtifactStore, ref: ProfileRef) -> Shard:
    """Read the stored profile of a shard.

    :param store: the artifact store
    :param ref: the reference from :func:`write`
    :raises DatasetNotFoundError: the profile is not in the store
    :raises DatasetCorruptError: the profile was changed, or an incompatible version of this package wrote it
    """
    key = _key(ref.name, ref.id)
    try:
        data = store.read_bytes(key)
    except FileNotFoundError:
        raise DatasetNotFoundError(
            f"The profile of shard {ref.shard} of dataset {ref.name!r} is not in the artifact store {store.url}. Check that "
            "[mlops] artifacts or store= names the same store everywhere."
        ) from None
    try:
        if hashlib.sha256(data).hexdigest() != ref.id:
            raise ValueError("the hash differs")
        return Shard.model_validate_json(gzip.decompress(data))
    except (ValueError, ValidationError, OSError):
        raise DatasetCorruptError(
            f"The profile of shard {ref.shard} of dataset {ref.name!r} cannot be read, because it was changed or written by "
            f"a different version of airflow-mlops. Delete {store.url_of(key)} and clear the task that wrote it."
        ) from None


def whole(shards: Sequence[Shard], datasets: Sequence[Dataset]) -> Profile:
    """Merge the profiles of all shards into the profile of all rows of ``datasets``.

    :param shards: the profiles of all shards, each exactly once, in any order
    :param datasets: the datasets that were divided into shards, at least one
    :raises SpecError: a profile is absent, occurs twice, or belongs to a different dataset
    :raises SchemaError: the profiles do not have the same columns
    """
    name, wanted = datasets[0].manifest.name, identities(datasets)
    if any(shard.datasets != wanted for shard in shards):
        raise SpecError(
            f"The profiles do not belong to the monitored dataset {name!r} ({wanted[0][:12]}). Pass the same dataset= to "
            "ProfileOperator and MonitorOperator, and clear the ProfileOperator tasks if the dataset was written again."
        )
    if len(numbers := sorted({shard.shards for shard in shards})) > 1:
        raise SpecError(
            f"The profiles of dataset {name!r} come from runs of ProfileOperator with different numbers of shards "
            f"({' and '.join(map(str, numbers))}). Pass the output of a single mapped ProfileOperator."
        )
    found = Counter(shard.shard for shard in shards)
    missing = [number for number in range(numbers[0]) if number not in found]
    twice = [number for number, times in sorted(found.items()) if times > 1]
    if missing or twice:
        wrong = [f"no profiles of {_listed(missing)}"] * bool(missing) + [f"several of {_listed(twice)}"] * bool(twice)
        raise SpecError(
            f"Dataset {name!r} has {numbers[0]} shards, but there are {' and '.join(wrong)}. Map ProfileOperator over "
            f"shard=list(range({numbers[0]})), and pass the output of all mapped tasks to MonitorOperator."
        )
    # The profiles are always merged in the same order, so that the result is the same.
    return merge(shard.profile for shard in sorted(shards, key=lambda shard: shard.shard))


def _listed(numbers: Sequence[int]) -> str:
    return f"shard{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _key(name: str, digest: str) -> str:
    return f"datasets/{name}/profiles/{digest}.json.gz"
