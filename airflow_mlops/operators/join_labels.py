"""Joining late labels to logged predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class JoinLabelsOperator(StepOperator):
    """Joins labels, as they come, to the predictions that were logged before anyone knew them.

    :param model: the registered model's name; it names the datasets where ``predictions`` and ``name`` are not given
    :param predictions: the predictions: the output of an upstream task, or ``{"name": ..., "window": ...}``
    :param labels: the rows that hold the labels, in the same two forms
    :param on: the columns that name a row, in both
    :param label: the labels' column, or ``{"name": "late", "expression": "arr_delay > 15"}``
    :param labels_timestamp: the column that tells which of several labels of a row is the latest and, if it is a time,
        when it came; without it more than one label for a row is an error
    :param name: the name of the joined dataset; ``MODEL_outcomes`` unless given
    :param hash_conn_id: the Airflow connection whose password is the key, where the predictions hold hashes of columns
        in ``on``: those of the labels are hashed in the same way
    :param on_missing: while there are no predictions or no labels, ``fail`` the task or ``skip`` it
    """

    step = "join_labels"
    spec = JoinLabelsSpec
    template_fields: Sequence[str] = (
        *StepOperator.template_fields, "model", "predictions", "labels", "on", "label_column", "labels_timestamp", "name",
        "hash_conn_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        predictions: Any,
        labels: Any,
        on: Sequence[str],
        label: str | dict[str, str],
        model: str | None = None,
        labels_timestamp: str | None = None,
        name: str | None = None,
        hash_conn_id: str | None = None,
        on_missing: Literal["fail", "skip"] = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if name is None and model is None:
            raise ValueError(f"Task {self.task_id!r}: give the joined dataset a name, or say which model it is about.")
        self.model = model
        self.predictions = predictions
        self.labels = labels
        self.on = on
        # Airflow's operators have a property `label` of their own: the text in the graph.
        self.label_column = label
        self.labels_timestamp = labels_timestamp
        self.name = name
        self.hash_conn_id = hash_conn_id
        self.on_missing = on_missing

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "predictions": self.predictions,
            "labels": self.labels,
            "on": list(self.on),
            "label": self.label_column,
            "labels_timestamp": self.labels_timestamp,
            "name": self.name or f"{self.model}_outcomes",
            "hash_conn_id": self.hash_conn_id,
            "on_missing": self.on_missing,
        }

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["dataset"] is None:
            raise AirflowSkipException(result["summary"])
        self.describe_outlets(context, {"dataset": result["dataset"], "coverage": result["coverage"]})
