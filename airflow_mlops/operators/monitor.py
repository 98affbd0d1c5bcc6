"""``MonitorOperator``, which checks predictions for drift and decides about retraining."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import AssetAlias

from airflow_mlops.links import ReportLink
from airflow_mlops.notifications import Event
from airflow_mlops.operators.base import StepOperator, show_decision
from airflow_mlops.operators.calendar import calendar
from airflow_mlops.operators.rendering import is_known_text, is_template
from airflow_mlops.operators.retraining import send_request

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.observability.samples import Sample


class MonitorOperator(StepOperator):
    """Compares the predictions of a window with training or with earlier windows, and decides about retraining.

    The decision is ``healthy``, ``watch`` or ``retrain``. For ``retrain`` the task sends an event of the asset
    ``mlops://MODEL/retrain``. The partition key of the event is the window, or the partition key of the run if no DAG
    uses the asset yet. The result says whether the event was sent, and with which key.

    :param model: name of the registered model
    :param dataset: labelled predictions: the output of JoinLabelsOperator, or ``{"name": ..., "window": ...}``. If the
        upstream task was skipped and ``trigger_rule="none_failed"`` is set, only the model registry is checked
    :param window: the window of the report, such as ``2013-04``; by default the window of the dataset
    :param reference: the data with which features and scores are compared: ``"training"``, ``{"rolling": 3}`` for the
        three windows before, or ``{"season": "P1Y"}`` for the window one year earlier
    :param profiles: the output of a ProfileOperator for the same dataset, which may be mapped over shards. The profiles
        are merged, and the features are not read again
    :param policy: conditions and limits for retraining, as fields of :class:`~airflow_mlops.policy.spec.Policy`
    :param trainer: the trainer of the challengers that are compared with the champion; by default the trainers of the
        champion and of the other candidates in the last decision. A FunctionTrainer, and a trainer with functions or
        classes of your own, must be named here, because monitoring does not run code that only an MLflow run names
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    :raises SpecError: the policy, the reference or the trainer is invalid
    """

    step = "monitor"
    safeguards = StepOperator.safeguards | {"policy"}
    structured = frozenset({"policy", "reference", "trainer"})
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
        trainer: Any = None,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assign_parameters(locals())
        self._check(policy, reference)
        if isinstance(trainer, dict) and not is_template(trainer):
            from airflow_mlops.models.trainers.spec import check_trainer

            check_trainer(trainer, f"The trainer of task {self.task_id!r}")
        # The outlet is an alias, because only the decision ``retrain`` emits an event.
        self.retrain_alias = AssetAlias(f"mlops-{model}-retrain" if is_known_text(model) else "mlops-retrain")
        self.add_outlets([self.retrain_alias])

    def _check(self, policy: Any, reference: Any) -> None:
        from airflow_mlops.core.base import parse

        if policy and not is_template(policy):
            from airflow_mlops.policy.spec import Policy

            parse(Policy, policy, f"The policy of task {self.task_id!r}")
        if reference != "training" and not is_template(reference):
            from airflow_mlops.drift.reference import Reference

            parse(Reference, reference, f"The reference of task {self.task_id!r}")

    def decision(self, result: dict[str, Any]) -> str:
        return f"{result['decision']}: {result['headline']}" if result.get("headline") else str(result["decision"])

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        if result["decision"] == "healthy":
            return None
        from airflow_mlops.links.artifacts import page_address

        champion = result["champion"] or {}
        urls = self.urls(context, report=page_address(result["report_url"]))
        return Event("drift", result["model"], result["summary"], champion.get("version"), result["reason"], urls)

    def samples(self, result: dict[str, Any]) -> list[Sample]:
        from airflow_mlops.observability.samples import monitored

        # The exported metrics describe the newest window. Nothing is exported if a later window was already checked.
        return [] if result.get("superseded") else monitored(result)

    def finish(self, result: dict[str, Any], context: Context) -> None:
        extra = {key: result.get(key) for key in ("decision", "headline", "reason", "window", "metrics")}
        self.describe_outlets(context, extra)
        if result["request"] is None:
            return
        times = calendar(context, self.period)
        delivery = send_request(self, self.retrain_alias, context, result, extra, times)
        # The result that is returned as XCom also says whether the request was sent.
        result.update(delivery.fields())
        if not delivery.sent or delivery.note:
            doubt = "request might not start a training" if delivery.sent else "request was sent before"
            show_decision(f"{self.decision(result)} ({doubt})", context)
