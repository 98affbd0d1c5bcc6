"""``ValidateOperator``, which validates a dataset with Great Expectations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError
from airflow_mlops.links import DataDocsLink
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.rendering import is_template

if TYPE_CHECKING:
    from airflow.sdk import Context


class ValidateOperator(StepOperator):
    """Validates a dataset with a Great Expectations suite and publishes Data Docs.

    :param dataset: the dataset to validate: the output of an upstream task, or ``{"name": ..., "window": ...}``.
        Several datasets with the same name are validated as one table
    :param suite: the suite as a dict, the path of its JSON file on the machine on which the step runs, or the import
        path ``package.module:function`` of a function that returns an ``ExpectationSuite``
    :param on_failure: what happens if an expectation is not met. ``fail`` fails the task. ``warn`` logs a warning, and
        the result is the whole dataset. ``quarantine`` writes the rows that do not meet an expectation to the dataset
        ``NAME_quarantine``, together with the names of these expectations. The other rows are written to the dataset
        ``NAME_valid``, and the result refers to this dataset. With ``quarantine``, an unmet expectation about the whole
        table still fails the task, because removing rows cannot meet the expectation
    :raises SpecError: ``on_failure`` is unknown
    """

    step = "validate"
    cacheable = True
    operator_extra_links = (DataDocsLink(),)
    ui_color = "#fff3d6"

    def __init__(
        self,
        *,
        dataset: Any,
        suite: str | dict[str, Any],
        on_failure: Literal["fail", "warn", "quarantine"] = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not is_template(on_failure) and on_failure not in ("fail", "warn", "quarantine"):
            raise SpecError(
                f"Task {self.task_id!r}: on_failure={on_failure!r} is unknown: use 'fail', 'warn' or 'quarantine'."
            )
        self.assign_parameters(locals())

    def decision(self, result: dict[str, Any]) -> str | None:
        if result["success"]:
            return None
        rows = (result["quarantined"] or {}).get("rows")
        return f"quarantined {counted(rows, 'row')}" if rows else "warning: expectations failed"

    def finish(self, result: dict[str, Any], context: Context) -> None:
        self.describe_outlets(context, {"dataset": result["dataset"], "success": result["success"]})
