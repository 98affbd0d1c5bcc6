"""Profiles of datasets: statistics of a few kilobytes per column, computed in one streaming pass and stored as JSON.

Merging the profiles of subsets of the rows gives the same profile as one pass over all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.metrics.intervals import Interval
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
# Text with few distinct values is profiled as categories. Both kinds of profiles come from the same counter.
_COUNTED_AS = {"text": "categorical"}


class Profile(Model):
    """Profiles of columns of a dataset.

    :param rows: number of rows of the dataset
    :param columns: profiles by column name
    """

    rows: int
    columns: dict[str, ColumnProfile]


class WeightedPerformance(Model):
    """The performance of a model on the held-out rows, with their weights.

    :param segments: losses of the rows by segment
    :param intervals: 95% confidence intervals of the metrics, by metric
    """

    segments: SegmentLosses
    intervals: dict[str, Interval]


class ModelProfile(Model):
    """The profile of a model. Monitoring compares windows with this profile.

    The profile is stored with the model as ``mlops/profile.json``. For a model that this package did not train,
    EvaluateOperator computes the profile from the evaluation dataset. Profiles that early versions of this package
    stored lack the field ``calibration`` and the fields after it.

    :param features: profile of the features in the split part `train`
    :param scores: profile of the column ``score``, predicted for the held-out split part `test`
    :param watched: profile of columns of the split part `train` that are not features: event time, text, timestamps and
        embeddings
    :param calibration: the relation between scores and labels; ``None`` if the relation cannot be learned from the
        held-out rows
    :param labels: profile of the column ``label`` of the held-out rows
    :param multivariate: reconstruction of the features by principal components; ``None`` if fewer than two features can
        be used
    :param segments: losses of the held-out rows by segment
    :param importance: each feature's share of the total permutation importance on the held-out rows, from 0 to 1; empty
        if unknown
    :param intervals: 95% confidence intervals on the held-out rows, by name: of each metric, of the mean error
        (``bias``) and of the share of positive predictions (``positive_rate``). Monitoring compares windows with these
        intervals. A metric that cannot be measured on logged predictions has no interval
    :param constant: how often each numeric feature is constant, by feature and calendar span (``hour``, ``day``,
        ``week``, ``month``, ``year``). A value is the share of such spans in the split part `train` in which the
        feature has a single value; empty if unknown
    :param weighted: ``segments`` and ``intervals`` with the weights of the held-out rows (``sample_weight``). Windows
        whose rows have weights are compared with these values; ``None`` if the held-out rows have no weights
    """

    features: Profile
    scores: Profile
    watched: Profile = Profile(rows=0, columns={})
    calibration: Calibration | None = None
    labels: Profile | None = None
    multivariate: Reconstruction | None = None
    segments: SegmentLosses | None = None
    importance: dict[str, float] = Field(default_factory=dict)
    intervals: dict[str, Interval] = Field(default_factory=dict)
    constant: dict[str, dict[str, float]] = Field(default_factory=dict)
    weighted: WeightedPerformance | None = None


def profile(batches: Iterable[pa.RecordBatch], columns: Sequence[str] | None = None) -> Profile:
    """Profile ``columns`` in one pass. Memory does not grow with the number of rows.

    :param batches: rows that have these columns
    :param columns: names of the columns; by default all columns of types that can be profiled
    :raises SchemaError: a column is absent, changes its kind between batches, or has a type that cannot be profiled
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
                raise SchemaError(
                    f"Column {name!r} is absent in some rows of the data, although the first rows have it. Write all files "
                    "with the same columns, or remove the column from columns=."
                )
            counter.update(name, batch.column(index))
    return Profile(rows=rows, columns={name: counter.result() for name, counter in counters.items()})


def merge(profiles: Iterable[Profile]) -> Profile:
    """Merge the profiles of subsets of the rows into the profile of all rows.

    :param profiles: the profiles of disjoint subsets
    :raises SchemaError: the profiles do not have the same columns with the same kinds
    """
    rows = 0
    counters: dict[str, Counter] = {}
    for number, item in enumerate(profiles):
        rows += item.rows
        if number == 0:
            counters = {name: _empty(column) for name, column in item.columns.items()}
        if item.columns.keys() != counters.keys():
            raise SchemaError(
                f"Profiles cannot be merged, because columns {sorted(item.columns.keys() ^ counters.keys())} are absent "
                "from some profiles. Set the same columns= for all profiles."
            )
        for name, column in item.columns.items():
            counter = counters[name]
            if _family(counter.kind) != _family(column.kind):
                raise SchemaError(
                    f"Profiles cannot be merged, because column {name!r} is {counter.kind} in one profile and {column.kind} "
                    "in another. Convert the column to one type."
                )
            counter.add(column)
    return Profile(rows=rows, columns={name: counter.result() for name, counter in counters.items()})


def counter_for(data_type: pa.DataType) -> Counter | None:
    """Create the counter for a column of ``data_type``. Return ``None`` if columns of this type cannot be profiled."""
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
    """Create the profile of a column with ``rows`` rows that are all null, of the same kind as ``like``."""
    counter = _empty(like)
    counter.rows = counter.missing = rows
    found: ColumnProfile = counter.result()
    return found


def _empty(column: ColumnProfile) -> Counter:
    """Create a counter for the kind of ``column``."""
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
                f"Column {name!r} cannot be profiled, because the dataset has only the columns "
                f"{', '.join(map(repr, schema.names))}. Correct columns=."
            )
        counter = counter_for(schema.field(index).type)
        if counter is None and columns is not None:
            raise SchemaError(
                f"Column {name!r} cannot be profiled, because its type is {schema.field(index).type}. Only numbers, text, "
                "booleans, timestamps, dates and embeddings can be profiled. Remove the column from columns=."
            )
        if counter is not None:
            counters[name] = counter
    return counters
