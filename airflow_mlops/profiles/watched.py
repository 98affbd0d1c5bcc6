"""Watched columns: columns of a training set that are monitored although they are not features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import ADDED_COLUMNS, LABEL, LABEL_AT
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.profiles.columns.categorical import category_kind
from airflow_mlops.profiles.columns.embeddings import is_embedding
from airflow_mlops.profiles.columns.text import TextColumn
from airflow_mlops.profiles.columns.timestamps import timestamp_kind
from airflow_mlops.profiles.profile import ColumnProfile, ModelProfile, Profile, profile

if TYPE_CHECKING:
    import pyarrow as pa


def with_watched_columns(
    known: ModelProfile, contract: ModelContract, dataset: Dataset, part: str | None
) -> tuple[ModelProfile, ModelContract]:
    """Add the profiles of watched columns to a model's profile, and the names of these columns to the model's contract.

    Watched columns are the event time and further timestamps, dates, embeddings and free text that are neither features
    nor label nor keys. Keys are excluded because keys identify rows, so new values are expected.

    :param known: the model's profile
    :param contract: model contract (features, label, ML task)
    :param dataset: the training set
    :param part: the split part whose rows are the reference, such as `train`; ``None`` for all rows
    """
    time = contract.timestamp
    keys = set(dataset.manifest.details.get("keys") or ()) - {time}
    # Names of the columns that ScoreOperator and JoinLabelsOperator add.
    ours = {*ADDED_COLUMNS, LABEL, LABEL_AT}
    others = {*(feature.name for feature in contract.features), contract.label, *keys, *ours}
    maybe = [field.name for field in dataset.schema if field.name not in others and _is_watchable(field.type)]
    if not maybe:
        return known, contract
    found = profile(dataset.batches(part, maybe), maybe)
    watched = {name: column for name, column in found.columns.items() if _is_informative(column)}
    return (
        known.model_copy(update={"watched": Profile(rows=found.rows, columns=watched)}),
        contract.model_copy(update={"watched": list(watched)}),
    )


def _is_watchable(data_type: pa.DataType) -> bool:
    return timestamp_kind(data_type) is not None or is_embedding(data_type) or category_kind(data_type) == "categorical"


def _is_informative(column: ColumnProfile) -> bool:
    """Return whether a column is informative enough to be watched. Columns without a value are not watched.

    Text must be free text in which most values consist of words. Codes and categories are not watched.
    """
    if isinstance(column, TextColumn):
        return column.free and 2 * column.words.rows > column.valid
    return column.kind != "categorical" and column.valid > 0
