"""Profiles of the shards of a dataset, made by as many tasks, that merge to the profile of the whole.

Each is stored once, named by its hash, as ``datasets/NAME/profiles/SHA256.json.gz``.
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

    :param datasets: ids of the datasets whose rows were dealt out, by time
    """

    datasets: list[str]
    shard: int
    shards: int
    profile: Profile


def batches(datasets: Sequence[Dataset], columns: Sequence[str], shard: int, shards: int) -> Iterator[pa.RecordBatch]:
    """The rows of one shard, a row group at a time: every row is in one shard, whatever their number.

    The first batch is empty: a shard without a row has the columns all the same.
    """
    schema = datasets[0].schema
    yield pa.RecordBatch.from_pylist([], schema=pa.schema([schema.field(name) for name in columns]))
    places = [(dataset, place) for dataset in datasets for place in dataset.row_groups()]
    for dataset, place in places[shard::shards]:
        yield dataset.read_row_group(place, columns)


def write(store: ArtifactStore, name: str, shard: Shard) -> ProfileRef:
    """Store ``shard`` of the dataset ``name``."""
    data = gzip.compress(shard.model_dump_json().encode(), mtime=0)
    digest = hashlib.sha256(data).hexdigest()
    store.write_bytes(_key(name, digest), data)
    return ProfileRef(name=name, id=digest, shard=shard.shard, shards=shard.shards, rows=shard.profile.rows)


def read(store: ArtifactStore, ref: ProfileRef) -> Shard:
    """What ``ref`` points at.

    :raises DatasetNotFoundError: it is not in this store
    :raises DatasetCorruptError: it was changed, or another version of this package made it
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
            raise ValueError("its hash is another")
        return Shard.model_validate_json(gzip.decompress(data))
    except (ValueError, ValidationError, OSError):
        raise DatasetCorruptError(
            f"The profile of shard {ref.shard} of {ref.name} cannot be used, it was changed or comes from another "
            f"version of airflow-mlops: delete {store.url_of(key)} and clear the task that made it."
        ) from None


def whole(shards: Sequence[Shard], datasets: Sequence[Dataset]) -> Profile:
    """The profile of all rows of ``datasets``, from those of their shards in any order.

    :raises SpecError: they are not all the shards of these datasets, each once
    :raises SchemaError: they do not have the same columns
    """
    name, wanted = datasets[0].manifest.name, [dataset.manifest.id for dataset in datasets]
    if any(shard.datasets != wanted for shard in shards):
        raise SpecError(
            f"Profiles of another dataset were given for {name} ({wanted[0][:12]}): profile the dataset that is "
            "monitored, and clear these tasks if it was written again since."
        )
    if len(numbers := sorted({shard.shards for shard in shards})) > 1:
        raise SpecError(
            f"The profiles of {name} are those of {' and of '.join(map(str, numbers))} shards: give the output of one "
            "mapped ProfileOperator."
        )
    found = Counter(shard.shard for shard in shards)
    missing = [number for number in range(numbers[0]) if number not in found]
    twice = [number for number, times in sorted(found.items()) if times > 1]
    if missing or twice:
        wrong = [f"{_listed(missing)} missing" * bool(missing), f"{_listed(twice)} given more than once" * bool(twice)]
        raise SpecError(
            f"Of {numbers[0]} shards of {name} {' and '.join(filter(None, wrong))}: map ProfileOperator over "
            f"shard=list(range({numbers[0]}))."
        )
    # In the same order every time, so that sums of floats are the same.
    return merge(shard.profile for shard in sorted(shards, key=lambda shard: shard.shard))


def _listed(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers))} {'are' if len(numbers) > 1 else 'is'}"


def _key(name: str, digest: str) -> str:
    return f"datasets/{name}/profiles/{digest}.json.gz"
