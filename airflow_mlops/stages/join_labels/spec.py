"""Spec and result of the stage ``join_labels``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result
from airflow_mlops.core.references import DatasetLike, DatasetRef, MLflowTarget
from airflow_mlops.core.shards import ShardedSpec
from airflow_mlops.data.columns import LabelColumn, is_reserved


def _as_label(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class JoinLabelsSpec(ShardedSpec):
    """Parameters of joining labels to predictions that were made before the labels were known.

    :param predictions: dataset of predictions, written by ScoreOperator
    :param labels: dataset with the label column, or with the columns from which the label is computed
    :param on: key columns, which exist in both datasets and together identify a prediction
    :param label: name of the label column, or the label's name and an expression that computes the label
    :param labels_timestamp: name of a column of ``labels`` with numbers, timestamps, dates or ISO 8601 text. If a
        prediction has several labels, the label with the greatest value in this column is joined, unless
        ``labels_version`` is set. Times are also written to the column ``label_at``, as the time at which the label
        became known
    :param labels_version: name of a column of ``labels`` with numbers, timestamps, dates or ISO 8601 text, which grows
        with each correction of a label. If a prediction has several labels, the label with the greatest value in this
        column is joined
    :param sample_weight: name of a column of ``labels`` with the weight of each row; by default no column. The weight
        in the row of the joined label is copied to the predictions under this name. It replaces a column of the
        predictions with this name
    :param name: name of the joined dataset
    :param hash_conn_id: id of the Airflow connection with the secret key for hashes as password; required if scoring
        hashed a column of ``on``
    :param on_missing: what happens if there is no dataset of predictions or no dataset of labels. ``fail`` fails the
        task; ``skip`` writes no dataset
    :param model: name of the registered model. With ``skip``, the artifact store must have the ledger of this model if
        the model has a champion, so that a store that is not mounted is not taken for an empty one
    :param mlflow: the MLflow server of ``model``; ``None`` to check nothing
    """

    predictions: DatasetLike
    labels: DatasetLike
    on: list[str] = Field(min_length=1)
    label: Annotated[LabelColumn, BeforeValidator(_as_label)]
    labels_timestamp: str | None = None
    labels_version: str | None = None
    sample_weight: str | None = Field(default=None, min_length=1)
    name: Name
    hash_conn_id: str | None = None
    on_missing: Literal["fail", "skip"] = "fail"
    model: Name | None = None
    mlflow: MLflowTarget | None = None

    @model_validator(mode="after")
    def _own_column(self) -> JoinLabelsSpec:
        name = self.sample_weight
        if name is not None and (is_reserved(name) or name in self.on):
            what = "is in `on`" if name in self.on else "is the name of another column of predictions"
            raise ValueError(f"`sample_weight` {name!r} {what}. Rename the column where the labels are ingested")
        return self


class JoinLabelsResult(Result):
    """Result of joining labels.

    The numbers are those of ``dataset``. If another shard writes the dataset, they are those of the shard.

    :param dataset: predictions with the column ``label``; ``None`` if another shard writes the dataset, or if a dataset
        is missing and ``on_missing`` is ``skip``
    :param rows: number of predictions
    :param labelled: number of predictions whose label is known
    :param coverage: share of labelled predictions (``labelled / rows``, 0 to 1); ``None`` if there are no rows
    :param repeated: number of predictions that match several rows of ``labels``
    :param shard: index of the shard; ``None`` without shards, or if a dataset is missing
    """

    dataset: DatasetRef | None
    rows: int = 0
    labelled: int = 0
    coverage: float | None = None
    repeated: int = 0
    shard: int | None = None
