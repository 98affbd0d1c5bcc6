"""Late labels joined to logged predictions: what is asked and what comes back."""

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
    """Give each prediction its label, where there is one.

    :param on: the columns that name a row, in both datasets
    :param labels_timestamp: the column that tells which of several labels of a row is the latest, and, if it is a time,
        when it came
    :param hash_conn_id: the connection whose password is the key, where the predictions hold hashes of columns in ``on``
    :param on_missing: what to do while predictions or labels are not there: ``fail``, or ``skip`` and return no dataset
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
    """What the join found.

    :param dataset: the predictions with the column ``label``; ``None`` if something was missing and was skipped
    :param rows: predictions
    :param labelled: predictions that have a label
    :param coverage: ``labelled`` as a share of ``rows``
    """

    dataset: DatasetRef | None
    rows: int = 0
    labelled: int = 0
    coverage: float | None = None
