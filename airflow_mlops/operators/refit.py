"""``RefitOperator``, which fits the winner of an evaluation again on all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.links import MLflowRunLink
from airflow_mlops.notifications import Event
from airflow_mlops.operators.base import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class RefitOperator(StepOperator):
    """Fits the winner of an evaluation again on all rows of its training set, including the held-out rows.

    The new version is compared with the judged version, which is the version that won the evaluation. The signature
    must be the same, the predictions must be stable, and the new version must not be worse on the held-out rows. If the
    new version passes, it is registered and replaces the winner in the verdict that PromoteOperator receives. The
    verdict keeps the metrics of the judged version, because the new version has no held-out rows. If the new version
    fails, the judged version stays the winner. If the evaluation has no winner, nothing is fitted.

    :param verdict: the output of an EvaluateOperator, or of a CanaryOperator with ``promote=False``
    :param allow_code: whether user code that the winner's MLflow run names may run: functions, networks, datasets,
        preprocessing and custom metrics. By default, only estimators of well-known packages are fitted again. This
        parameter is not templated, so that only the author of the DAG can set it
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    """

    step = "refit"
    cacheable = True
    untemplated = StepOperator.untemplated | {"allow_code"}
    operator_extra_links = (MLflowRunLink(),)

    def __init__(
        self, *, verdict: Any, allow_code: bool = False, mlflow_conn_id: str = "mlflow_default", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.assign_parameters(locals())

    def decision(self, result: dict[str, Any]) -> str:
        refit = result["verdict"].get("refit")
        if refit is None:
            return "unchanged: no candidate won"
        judged = f"v{refit['judged']['version']}"
        return (
            f"v{refit['version']['version']} is {judged} on all rows"
            if refit["version"]
            else f"kept {judged}: {refit['reason']}"
        )

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        version = (result["verdict"].get("refit") or {}).get("version")
        # An earlier refit registered the version, or an identical one.
        if not version or version["run_id"] != result["run_id"] or result.get("cached") is not None:
            return None
        urls = self.urls(context, result["run_id"])
        return Event("registered", version["model"], result["summary"], version["version"], urls=urls)
