"""``JoinLabelsOperator``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.core.errors import SpecError
from airflow_mlops.operators.base import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class JoinLabelsOperator(StepOperator):
    """Joins labels to the predictions that were logged before the labels were known.

    :param model: name of the registered model; required if ``name`` is not given
    :param predictions: the predictions: the output of an upstream task, or ``{"name": ..., "window": ...}``
    :param labels: the rows with the labels, in the same forms
    :param on: the columns that identify a row, in both datasets
    :param label: the column of ``labels`` with the label, or ``{"name": "late", "expression": "arr_delay > 15"}``
    :param labels_timestamp: the column that decides which of several labels of a row is the latest; if it is a time, it
        also gives the label delay. Without it, several labels for one row are an error
    :param name: name of the joined dataset; by default ``MODEL_outcomes``
    :param hash_conn_id: Airflow connection whose password is the key of hashed columns; required if the predictions hold
        hashes of columns in ``on``. The columns of ``labels`` are hashed in the same way
    :param on_missing: ``fail`` or ``skip`` the task while there are no predictions or no labels
    :raises SpecError: neither ``name`` nor ``model`` is given
    """

    step = "join_labels"

    model: str | None
    name: str | None

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
            raise SpecError(f"Task {self.task_id!r}: give name=, the name of the joined dataset, or model=.")
        self.assign_parameters(locals())

    def build_spec(self, context: Context) -> dict[str, Any]:
        return super().build_spec(context) | {"name": self.name or f"{self.model}_outcomes"}

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["dataset"] is None:
            raise AirflowSkipException(result["summary"])
        self.describe_outlets(context, {"dataset": result["dataset"], "coverage": result["coverage"]})
