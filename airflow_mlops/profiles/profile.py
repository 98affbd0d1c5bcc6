"""What a dataset's columns looked like, in a few kilobytes each: one streaming pass, stored as JSON. Profiles of parts
merge to exactly what one pass over all rows gives."""

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
# Text that is few values is categories: both are counted in the same way.
_COUNTED_AS = {"text": "categorical"}


class Profile(Model):
    """Profiles of some columns of a dataset, by column name.

    :param rows: rows of the dataset
    """

    rows: int
    columns: dict[str, ColumnProfile]


class ModelProfile(Model):
    """What a model was made with, stored beside it as ``mlops/profile.json``; monitoring compares windows with it. For a
    model from elsewhere evaluation makes it, from the dataset that it measures on.

    :param features: a profile of the features in the training part
    :param scores: a profile of the column ``score`` predicted for the held-out part
    :param watched: a profile of columns of the training part that are no features: its event time, and text, timestamps and
        embeddings
    :param calibration: what such a score says about the outcome; ``None`` where the held-out part could not tell, and
        in profiles of earlier versions of this package, as what follows
    :param labels: a profile of the column ``label`` of the held-out part
    :param multivariate: what the features have to do with one another; ``None`` where fewer than two can be used
    :param segments: what the rows of the held-out part cost, by segment
    :param importance: each feature's share of the total permutation importance on the held-out part, from 0 to 1; empty
        where it could not be measured
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
    """Profile ``columns`` in one pass; memory does not grow with the rows.

    :param columns: names; ``None`` means every column of a type that has a profile
    :raises SchemaError: a column is missing, changes its kind, or is of a type that has no profile
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
                raise SchemaError(f"Column {name!r} is gone: it is in earlier rows, not in later ones.")
            counter.update(name, batch.column(index))
    return Profile(rows=rows, columns={name: counter.result() for name, counter in counters.items()})


def merge(profiles: Iterable[Profile]) -> Profile:
    """The profile of all rows together, from profiles of parts of them.

    :raises SchemaError: a column is not in all of them with the same kind
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
    """What counts a column of ``data_type``; ``None`` if such columns have no profile."""
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
    """The profile of ``rows`` missing values of the same kind as ``like``."""
    counter = _empty(like)
    counter.rows = counter.missing = rows
    found: ColumnProfile = counter.result()
    return found


def _empty(column: ColumnProfile) -> Counter:
    """What counts more of the same."""
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
            raise SchemaError(f"There is no column {name!r} to profile: there are {', '.join(schema.names)}.")
        counter = counter_for(schema.field(index).type)
        if counter is None and columns is not None:
            raise SchemaError(
                f"Column {name!r} is {schema.field(index).type}: only numbers, text, booleans, timestamps, dates and "
                "embeddings have a profile."
            )
        if counter is not None:
            counters[name] = counter
    return counters
