"""Validate a dataset with Great Expectations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from airflow_mlops.core.calls import Spec
from airflow_mlops.core.errors import SpecError
from airflow_mlops.links import DataDocsLink
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.validate.spec import OnFailure, ValidateSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class ValidateOperator(StepOperator):
    """Runs a Great Expectations suite on a dataset and publishes Data Docs.

    :param dataset: the dataset: the output of an upstream task (templated)
    :param suite: path of a suite's JSON file as Great Expectations writes it, as it is seen where the step runs; the same
        as a dict; or ``package.module:function``, a function that returns an ``ExpectationSuite`` (templated)
    :param on_failure: ``fail`` the task; ``warn`` in the log and go on with the dataset as it is; or ``quarantine``: rows
        that failed go to ``NAME_quarantine`` with the expectations they failed, the rest to ``NAME_valid``, which is the
        result's dataset. An expectation about the whole table cannot be met by leaving rows out, and fails the task
    """

    step: ClassVar[str] = "validate"
    spec: ClassVar[type[Spec]] = ValidateSpec

    template_fields: Sequence[str] = (*StepOperator.template_fields, "dataset", "suite", "on_failure")
    operator_extra_links = (DataDocsLink(),)
    ui_color = "#fff3d6"

    def __init__(
        self, *, dataset: Any, suite: str | dict[str, Any], on_failure: OnFailure = "fail", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if "{{" not in on_failure and on_failure not in get_args(OnFailure):
            raise SpecError(f"Task {self.task_id!r}: on_failure={on_failure!r} is not 'fail', 'warn' or 'quarantine'.")
        self.dataset = dataset
        self.suite = suite
        self.on_failure = on_failure

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {"dataset": self.dataset, "suite": self.suite, "on_failure": self.on_failure, "owner": self.owner}

    def finish(self, result: dict[str, Any], context: Context) -> None:
        self.describe_outlets(context, {"dataset": result["dataset"], "success": result["success"]})
