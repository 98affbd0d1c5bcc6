"""Count the results of a join, and check the counts of all predictions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.predictions.privacy import Pseudonymizer
from airflow_mlops.stages.join_labels import near_misses
from airflow_mlops.stages.join_labels.lookup import Tally
from airflow_mlops.stages.join_labels.near_misses import NearMisses
from airflow_mlops.stages.join_labels.sources import Labels, Predictions
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class Counts(Model):
    """Counts of the joined predictions, which can be summed over shards.

    :param rows: number of predictions
    :param labelled: number of predictions whose label is neither null nor NaN
    :param infinite: number of predictions whose label is infinite
    :param matched: number of predictions that match a row of the labels
    :param repeated: number of predictions that match several rows of the labels
    :param contradicted: number of predictions with several different labels or weights
    :param contradiction: key of the first prediction with several different labels or weights, as text
    :param near_misses: predictions whose key differs from the key of a label only in its form, see
        :func:`near_misses.find`
    :param example: key of the first prediction, as text; empty if there are no predictions
    """

    rows: int = 0
    labelled: int = 0
    infinite: int = 0
    matched: int = 0
    repeated: int = 0
    contradicted: int = 0
    contradiction: str = ""
    near_misses: list[NearMisses | None] = Field(default_factory=list)
    example: str = ""


def count(
    connection: DuckDBPyConnection,
    predictions: Predictions,
    labels: Labels,
    tally: Tally,
    hashed: dict[str, Pseudonymizer],
) -> Counts:
    """Return the counts of a finished lookup.

    :raises SchemaError: key columns have incomparable types
    """
    for key in labels.keys:
        key.check()
    found: list[NearMisses | None] = []
    if tally.matched < tally.rows and labels.rows and not tally.contradicted and not tally.infinite:
        found = near_misses.find(
            connection, lambda: tally.unmatched(predictions.tables()), labels.tables, predictions.comparable, hashed
        )
    return Counts(
        rows=tally.rows,
        labelled=tally.labelled,
        infinite=tally.infinite,
        matched=tally.matched,
        repeated=tally.repeated,
        contradicted=tally.contradicted,
        contradiction="" if tally.first_contradicted is None else _key_of(predictions, tally.first_contradicted),
        near_misses=found,
        example=_text(predictions.first),
    )


def total(shards: Sequence[Counts]) -> Counts:
    """Return the counts of all shards together, except for ``near_misses``."""
    return Counts(
        rows=sum(shard.rows for shard in shards),
        labelled=sum(shard.labelled for shard in shards),
        infinite=sum(shard.infinite for shard in shards),
        matched=sum(shard.matched for shard in shards),
        repeated=sum(shard.repeated for shard in shards),
        contradicted=sum(shard.contradicted for shard in shards),
        contradiction=next((shard.contradiction for shard in shards if shard.contradicted), ""),
        example=next((shard.example for shard in shards if shard.rows), ""),
    )


def check(shards: Sequence[Counts], spec: JoinLabelsSpec, name: str) -> str:
    """Check the counts of all predictions.

    :param shards: the counts of each shard, or of a single pass
    :param name: name of the dataset of labels
    :return: a sentence that explains why predictions have no label; empty if no explanation was found
    :raises SchemaError: keys are written in different forms, a label is infinite, or a prediction has several labels or
        weights and no column says which of them is valid
    """
    found = total(shards)
    if found.contradicted:
        raise _ambiguous(found, spec, name)
    if found.infinite:
        raise SchemaError(
            f"Label {spec.label.name!r} of dataset {name} is infinite for {counted(found.infinite, 'prediction')}. Correct the label, or "
            "make it null."
        )
    missed = near_misses.most_frequent(shard.near_misses for shard in shards)
    if missed is not None and missed.rows > found.matched:
        raise SchemaError(missed.explain(found.rows, name))
    if missed is not None:
        return missed.note(name)
    if not found.rows or found.labelled:
        return ""
    if found.matched:
        return f"{name} has rows for {counted(found.matched, 'prediction')}, but the labels in these rows are null."
    return f"{name} has no row for any of their keys, such as {found.example}."


def _ambiguous(found: Counts, spec: JoinLabelsSpec, name: str) -> SchemaError:
    order = spec.labels_version or spec.labels_timestamp
    same = f" with the same {order!r}" if order else ""
    return SchemaError(
        f"Dataset {name!r} has more than one label{' or weight' if spec.sample_weight else ''}{same} for "
        f"{counted(found.contradicted, 'prediction')}, for example {found.contradiction}. Set `labels_version` to a column that grows "
        "with each correction of a label, or add key columns to `on`."
    )


def _key_of(predictions: Predictions, row: int) -> str:
    first, table = next(item for item in predictions.tables() if row < item[0] + item[1].num_rows)
    return _text(table.slice(row - first, 1).to_pylist()[0])


def _text(key: dict[str, Any]) -> str:
    """Return the values of a key, such as ``carrier='UA', flight=1``."""
    return ", ".join(f"{name}={value if isinstance(value, date) else repr(value)}" for name, value in key.items())
