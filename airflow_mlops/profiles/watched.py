"""Columns of a training set that are no features, and are monitored beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL, LABEL_AT, PREDICTION_COLUMNS
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.profiles.columns.categorical import category_kind
from airflow_mlops.profiles.columns.embeddings import is_embedding
from airflow_mlops.profiles.columns.text import TextColumn
from airflow_mlops.profiles.columns.timestamps import timestamp_kind
from airflow_mlops.profiles.profile import ColumnProfile, ModelProfile, Profile, profile

if TYPE_CHECKING:
    import pyarrow as pa


def with_watched_columns(
    known: ModelProfile, contract: ModelContract, dataset: Dataset, part: str
) -> tuple[ModelProfile, ModelContract]:
    """``known`` with a profile of the watched columns, and ``contract`` with their names.

    Watched are the event time, and other timestamps, dates, embeddings and free text that are neither features, label nor
    keys. Keys name rows: new ones are no drift.

    :param dataset: the training set
    :param part: the part of it that is to be compared with
    """
    time = contract.timestamp
    keys = set(dataset.manifest.details.get("keys") or ()) - {time}
    # Scoring and the join of labels give columns of their own these names.
    ours = {*PREDICTION_COLUMNS, LABEL, LABEL_AT}
    others = {*(feature.name for feature in contract.features), contract.label, *keys, *ours}
    maybe = [field.name for field in dataset.schema if field.name not in others and _is_watchable(field.type)]
    if not maybe:
        return known, contract
    found = profile(dataset.batches(part, maybe), maybe)
    watched = {name: column for name, column in found.columns.items() if _says_something(column)}
    return (
        known.model_copy(update={"watched": Profile(rows=found.rows, columns=watched)}),
        contract.model_copy(update={"watched": list(watched)}),
    )


def _is_watchable(data_type: pa.DataType) -> bool:
    return timestamp_kind(data_type) is not None or is_embedding(data_type) or category_kind(data_type) == "categorical"


def _says_something(column: ColumnProfile) -> bool:
    """Whether it has a value, and if it is text, then free text with words in it: no codes, no names of categories."""
    if isinstance(column, TextColumn):
        return column.free and 2 * column.words.rows > column.valid
    return column.kind != "categorical" and column.valid > 0
