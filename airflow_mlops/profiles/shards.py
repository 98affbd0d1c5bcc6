"""Profiles of the shards of a dataset. Mapped tasks make them, and they merge to the profile of the whole dataset.

Each profile is stored as ``datasets/NAME/profiles/SHA256.json.gz``, named by the hash of its content.
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
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.profiles.profile import Profile, merge
from airflow_mlops.profiles.spec import ProfileRef


class Shard(Model):
    """The profile of one shard.

    :param datasets: ids of the datasets that are divided into shards, by time
    :param shard: index of this shard, from 0
    :param shards: number of shards
    """

    datasets: list[str]
    shard: int
    shards: int
    profile: Profile


def batches(datasets: Sequence[Dataset], columns: Sequence[str], shard: int, shards: int) -> Iterator[pa.RecordBatch]:
    """Read the rows of one shard, one row group at a time. Every row is in exactly one shard.

    The first batch is empty, so that a shard without rows still has the columns.
    """
    schema = datasets[0].schema
    yield pa.RecordBatch.from_pylist([], schema=pa.schema([schema.field(name) for name in columns]))
    places = [(dataset, place) for dataset in datasets for place in dataset.row_groups()]
    for dataset, place in places[shard::shards]:
        yield dataset.read_row_group(place, columns)


def write(store: ArtifactStore, name: str, shard: Shard) -> ProfileRef:
    """Store the profile of a shard of the dataset ``name``."""
    data = gzip.compress(shard.model_dump_json().encode(), mtime=0)
    digest = hashlib.sha256(data).hexdigest()
    store.write_bytes(_key(name, digest), data)
    return ProfileRef(name=name, id=digest, shard=shard.shard, shards=shard.shards, rows=shard.profile.rows)


def read(store: ArtifactStore, ref: ProfileRef) -> Shard:
    """Read a stored profile.

    :raises DatasetNotFoundError: the store does not hold it
    :raises DatasetCorruptError: it was changed, or was written by another version of this package
    """
    key = _key(ref.name, ref.id)
    try:
        data = store.read_bytes(key)
    except FileNotFoundError:
        raise DatasetNotFoundError(
            f"The profile of shard {ref.shard} of {ref.name} is not in the artifact store {store.url}: "
            "check that [mlops] artifacts names the same store everywhere."
        ) from None
    try:
        if hashlib.sha256(data).hexdigest() != ref.id:
            raise ValueError("the hash differs")
        return Shard.model_validate_json(gzip.decompress(data))
    except (ValueError, ValidationError, OSError):
        raise DatasetCorruptError(
            f"The profile of shard {ref.shard} of {ref.name} cannot be read: it was changed or written by another "
            f"version of airflow-mlops. Delete {store.url_of(key)} and clear the task that wrote it."
        ) from None


def whole(shards: Sequence[Shard], datasets: Sequence[Dataset]) -> Profile:
    """Merge the profiles of all shards, in any order, to the profile of all rows of ``datasets``.

    :raises SpecError: the profiles are not those of all shards of these datasets, each exactly once
    :raises SchemaError: the profiles do not have the same columns
    """
    name, wanted = datasets[0].manifest.name, [dataset.manifest.id for dataset in datasets]
    if any(shard.datasets != wanted for shard in shards):
        raise SpecError(
            f"The profiles are not of dataset {name} ({wanted[0][:12]}): profile the dataset that is monitored, and "
            "clear the profiling tasks if the dataset was written again since."
        )
    if len(numbers := sorted({shard.shards for shard in shards})) > 1:
        raise SpecError(
            f"The profiles of {name} were made with {' and '.join(map(str, numbers))} shards: pass the output of a single "
            "mapped ProfileOperator."
        )
    found = Counter(shard.shard for shard in shards)
    missing = [number for number in range(numbers[0]) if number not in found]
    twice = [number for number, times in sorted(found.items()) if times > 1]
    if missing or twice:
        wrong = [f"{_listed(missing)} missing" * bool(missing), f"{_listed(twice)} given more than once" * bool(twice)]
        raise SpecError(
            f"Of the {numbers[0]} shards of {name}, {' and '.join(filter(None, wrong))}: map ProfileOperator over "
            f"shard=list(range({numbers[0]}))."
        )
    # Always merged in the same order, so that the result is the same.
    return merge(shard.profile for shard in sorted(shards, key=lambda shard: shard.shard))


def _listed(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers))} {'are' if len(numbers) > 1 else 'is'}"


def _key(name: str, digest: str) -> str:
    return f"datasets/{name}/profiles/{digest}.json.gz"
