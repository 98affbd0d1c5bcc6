"""Spec and result of the stage ``join_labels``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetLike, DatasetRef
from airflow_mlops.data.columns import LabelColumn


def _as_label(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class JoinLabelsSpec(Spec):
    """Join labels to the predictions made before the labels were known.

    :param on: columns that identify a row in both datasets
    :param label: the column that contains the label, or a name and an expression
    :param labels_timestamp: column that orders several labels of one row; the last one is used. If it is a timestamp or a
        date, it is also recorded as the time at which the label became known
    :param name: name of the joined dataset
    :param hash_conn_id: connection whose password is the key of the hashes; required if scoring hashed columns in ``on``
    :param on_missing: ``fail`` if there are no predictions or no labels, or ``skip`` and return no dataset
    """

    predictions: DatasetLike
    labels: DatasetLike
    on: list[str] = Field(min_length=1)
    label: Annotated[LabelColumn, BeforeValidator(_as_label)]
    labels_timestamp: str | None = None
    name: Name
    hash_conn_id: str | None = None
    on_missing: Literal["fail", "skip"] = "fail"


class JoinLabelsResult(Result):
    """Result of joining labels.

    :param dataset: the predictions with the column ``label``; ``None`` if predictions or labels are missing and
        ``on_missing`` is ``skip``
    :param rows: number of predictions
    :param labelled: number of predictions with a label
    :param coverage: ``labelled`` divided by ``rows``; ``None`` without predictions
    """

    dataset: DatasetRef | None
    rows: int = 0
    labelled: int = 0
    coverage: float | None = None
