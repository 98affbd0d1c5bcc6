"""Profiles of datasets: a few kilobytes per column, made in one streaming pass and stored as JSON.

Merging the profiles of parts gives the same profile as one pass over all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.profiles.calibration import Calibration
from airflow_mlops.profiles.columns.base import Counter
from airflow_mlops.profiles.columns.categorical import CategoricalColumn, CategoricalCounter, category_kind
from airflow_mlops.profiles.columns.embeddings import EmbeddingColumn, EmbeddingCounter, is_embedding
from airflow_mlops.profiles.columns.numeric import NumericColumn, NumericCounter, is_numeric
from airflow_mlops.profiles.columns.text import TextColumn, TextCounter
from airflow_mlops.profiles.columns.timestamps import TimestampColumn, TimestampCounter, timestamp_kind
from airflow_mlops.profiles.multivariate import Reconstruction
from airflow_mlops.profiles.segments import SegmentLosses

if TYPE_CHECKING:
    import pyarrow as pa

ColumnProfile = Annotated[
    NumericColumn | CategoricalColumn | TextColumn | TimestampColumn | EmbeddingColumn, Field(discriminator="kind")
]
# Text with few distinct values is profiled as categories; both have the same counter.
_COUNTED_AS = {"text": "categorical"}


class Profile(Model):
    """Profiles of some columns of a dataset, by column name.

    :param rows: number of rows of the dataset
    """

    rows: int
    columns: dict[str, ColumnProfile]


class ModelProfile(Model):
    """The profile of a model, with which monitoring compares windows.

    It is stored with the model as ``mlops/profile.json``. For a model that this package did not train, evaluation makes
    it from the dataset on which it measures the model. Fields from ``calibration`` on are missing in profiles of early
    versions of this package.

    :param features: profile of the features of the training part
    :param scores: profile of the column ``score``, predicted for the held-out part
    :param watched: profile of columns of the training part that are not features: event time, text, timestamps,
        embeddings
    :param calibration: the relation between score and outcome; ``None`` if the held-out part does not determine it
    :param labels: profile of the column ``label`` of the held-out part
    :param multivariate: reconstruction of the features by principal components; ``None`` if fewer than two can be used
    :param segments: losses of the held-out part by segment
    :param importance: each feature's share of the total permutation importance on the held-out part, from 0 to 1; empty
        if unknown
    """

    features: Profile
    scores: Profile
    watched: Profile = Profile(rows=0, columns={})
    calibration: Calibration | None = None
    labels: Profile | None = None
    multivariate: Reconstruction | None = None
    segments: SegmentLosses | None = None
    importance: dict[str, float] = Field(default_factory=dict)


def profile(batches: Iterable[pa.RecordBatch], columns: Sequence[str] | None = None) -> Profile:
    """Profile ``columns`` in one pass. Memory does not grow with the number of rows.

    :param columns: names of columns; by default all columns of types that can be profiled
    :raises SchemaError: a column is missing, changes its kind, or has a type that cannot be profiled
    """
    rows = 0
    counters: dict[str, Counter] = {}
    for batch in batches:
        if not counters:
            counters = _counters(batch.schema, columns)
        rows += batch.num_rows
        for name, counter in counters.items():
            index = batch.schema.get_field_index(name)
            if index < 0:
                raise SchemaError(f"Column {name!r} is missing in later rows, but not in earlier ones.")
            counter.update(name, batch.column(index))
    return Profile(rows=rows, columns={name: counter.result() for name, counter in counters.items()})


def merge(profiles: Iterable[Profile]) -> Profile:
    """Merge the profiles of parts to the profile of all rows.

    :raises SchemaError: the profiles do not have the same columns, of the same kinds
    """
    rows = 0
    counters: dict[str, Counter] = {}
    for number, item in enumerate(profiles):
        rows += item.rows
        if number == 0:
            counters = {name: _empty(column) for name, column in item.columns.items()}
        if item.columns.keys() != counters.keys():
            raise SchemaError(
                f"Profiles cannot be merged: columns {sorted(item.columns.keys() ^ counters.keys())} are not in all."
            )
        for name, column in item.columns.items():
            counter = counters[name]
            if _family(counter.kind) != _family(column.kind):
                raise SchemaError(
                    f"Profiles cannot be merged: column {name!r} is {counter.kind} in one and {column.kind} in another."
                )
            counter.add(column)
    return Profile(rows=rows, columns={name: counter.result() for name, counter in counters.items()})


def counter_for(data_type: pa.DataType) -> Counter | None:
    """The counter for a column of ``data_type``; ``None`` if such columns cannot be profiled."""
    if is_numeric(data_type):
        return NumericCounter()
    if is_embedding(data_type):
        return EmbeddingCounter()
    if (time := timestamp_kind(data_type)) is not None:
        return TimestampCounter(time)
    kind = category_kind(data_type)
    if kind is None:
        return None
    return TextCounter() if kind == "categorical" else CategoricalCounter(kind)


def all_missing(like: ColumnProfile, rows: int) -> ColumnProfile:
    """The profile of ``rows`` missing values, of the same kind as ``like``."""
    counter = _empty(like)
    counter.rows = counter.missing = rows
    found: ColumnProfile = counter.result()
    return found


def _empty(column: ColumnProfile) -> Counter:
    """A new counter for columns of this kind."""
    if isinstance(column, NumericColumn):
        return NumericCounter()
    if isinstance(column, EmbeddingColumn):
        return EmbeddingCounter()
    if isinstance(column, TimestampColumn):
        return TimestampCounter(column.kind)
    return CategoricalCounter(column.kind) if column.kind == "boolean" else TextCounter()


def _family(kind: str) -> str:
    return _COUNTED_AS.get(kind, kind)


def _counters(schema: pa.Schema, columns: Sequence[str] | None) -> dict[str, Counter]:
    counters: dict[str, Counter] = {}
    for name in schema.names if columns is None else columns:
        index = schema.get_field_index(name)
        if index < 0:
            raise SchemaError(
                f"Column {name!r} cannot be profiled, because it does not exist: there are {', '.join(schema.names)}."
            )
        counter = counter_for(schema.field(index).type)
        if counter is None and columns is not None:
            raise SchemaError(
                f"Column {name!r} is {schema.field(index).type}: only numbers, text, booleans, timestamps, dates and "
                "embeddings can be profiled."
            )
        if counter is not None:
            counters[name] = counter
    return counters
