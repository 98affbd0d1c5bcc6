"""``MonitorOperator``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import AssetAlias

from airflow_mlops.links import ReportLink
from airflow_mlops.notifications import Event
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.parameters import is_template
from airflow_mlops.operators.retraining import emit_request

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.observability.samples import Sample


class MonitorOperator(StepOperator):
    """Compares a window of predictions with training or with earlier windows, and decides about retraining.

    The decision is ``healthy``, ``watch`` or ``retrain``. For ``retrain`` the task emits the asset
    ``mlops://MODEL/retrain``.

    :param model: name of the registered model
    :param dataset: predictions with labels: the output of JoinLabelsOperator, or ``{"name": ..., "window": ...}``. If
        that task was skipped (``trigger_rule="none_failed"``), only the registry is checked
    :param window: the window that the report is about, such as ``2013-04``; by default the window of the dataset
    :param reference: the reference of the drift of features and scores: ``"training"``, ``{"rolling": 3}`` for the three
        windows before, or ``{"season": "P1Y"}`` for the window a year earlier
    :param profiles: the output of a ProfileOperator for the same dataset, mapped over shards or not; the profiles are
        merged, and the features are not read again
    :param policy: when to retrain and when to watch: fields of :class:`~airflow_mlops.policy.spec.Policy`
    :param mlflow_conn_id: Airflow connection to MLflow
    :raises SpecError: the policy or the reference is invalid
    """

    step = "monitor"
    operator_extra_links = (ReportLink(),)

    def __init__(
        self,
        *,
        model: str,
        dataset: Any,
        window: str | None = None,
        reference: str | dict[str, Any] = "training",
        profiles: Any = None,
        policy: dict[str, Any] | None = None,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assign_parameters(locals())
        self._check(policy, reference)
        # An alias, because only one of the three decisions emits the event.
        self.retrain_alias = AssetAlias("mlops-retrain" if "{" in model else f"mlops-{model}-retrain")
        self.add_outlets([self.retrain_alias])

    def _check(self, policy: Any, reference: Any) -> None:
        from airflow_mlops.core.base import parse

        if policy and not is_template(policy):
            from airflow_mlops.policy.spec import Policy

            parse(Policy, policy, f"The policy of task {self.task_id!r}")
        if reference != "training" and not is_template(reference):
            from airflow_mlops.drift.reference import Reference

            parse(Reference, reference, f"The reference of task {self.task_id!r}")

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        if result["decision"] == "healthy":
            return None
        from airflow_mlops.links.artifacts import page_address

        champion = result["champion"] or {}
        urls = self.urls(context, report=page_address(result["report_url"]))
        return Event("drift", result["model"], result["summary"], champion.get("version"), result["reason"], urls)

    def samples(self, result: dict[str, Any]) -> list[Sample]:
        from airflow_mlops.observability.samples import monitored

        # Metrics show the newest window. The report on a later window has exported them already.
        return [] if result.get("superseded") else monitored(result)

    def finish(self, result: dict[str, Any], context: Context) -> None:
        extra = {key: result.get(key) for key in ("decision", "headline", "reason", "window", "metrics")}
        self.describe_outlets(context, extra)
        if result["decision"] == "retrain":
            emit_request(self.retrain_alias, context, result, extra)
