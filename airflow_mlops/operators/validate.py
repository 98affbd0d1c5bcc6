"""``ValidateOperator``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow_mlops.core.errors import SpecError
from airflow_mlops.links import DataDocsLink
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.parameters import is_template

if TYPE_CHECKING:
    from airflow.sdk import Context


class ValidateOperator(StepOperator):
    """Validates a dataset with a Great Expectations suite and publishes Data Docs.

    :param dataset: the dataset: the output of an upstream task
    :param suite: the path of a suite's JSON file where the step runs; the suite as a dict; or
        ``package.module:function``, a function that returns an ``ExpectationSuite``
    :param on_failure: ``fail`` the task; ``warn`` in the log and continue with the whole dataset; or ``quarantine``:
        rows that fail are written to ``NAME_quarantine`` with the expectations that they fail, and the other rows to
        ``NAME_valid``, which is the result's dataset. With ``quarantine``, the task fails if an expectation about the
        whole table fails, because no choice of rows can meet it
    :raises SpecError: ``on_failure`` has another value
    """

    step = "validate"
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
            raise SpecError(f"Task {self.task_id!r}: on_failure={on_failure!r} is not 'fail', 'warn' or 'quarantine'.")
        self.assign_parameters(locals())

    def finish(self, result: dict[str, Any], context: Context) -> None:
        self.describe_outlets(context, {"dataset": result["dataset"], "success": result["success"]})
