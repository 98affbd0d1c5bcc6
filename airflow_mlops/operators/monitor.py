"""Monitoring a model, and asking for retraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import AssetAlias

from airflow_mlops.core.base import parse
from airflow_mlops.drift.reference import TRAINING, Reference
from airflow_mlops.links import ReportLink
from airflow_mlops.links.artifacts import page_address
from airflow_mlops.notifications import Event
from airflow_mlops.observability.samples import Sample, monitored
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.requests import emit_request
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.monitor.spec import MonitorSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class MonitorOperator(StepOperator):
    """Compares a window with what was known at training, or with earlier windows, decides ``healthy``, ``watch`` or ``retrain``, and for
    ``retrain`` emits the asset ``mlops://MODEL/retrain``.

    :param model: the registered model's name
    :param dataset: predictions with labels: the output of JoinLabelsOperator, or ``{"name": ..., "window": ...}``;
        where that was skipped (``trigger_rule="none_failed"``) the registry alone decides
    :param window: the window the report is about, as in ``2013-04``; that of the dataset unless given
    :param reference: what the drift of features and scores is measured against: ``"training"``, ``{"rolling": 3}`` for
        the last three windows before, or ``{"season": "P1Y"}`` for the window a year earlier
    :param profiles: what ProfileOperator made of the same dataset, mapped over its shards or not: then they are merged
        and the features are not read again
    :param policy: when to retrain and when to watch: fields of :class:`~airflow_mlops.policy.spec.Policy`
    :param mlflow_conn_id: the Airflow connection of type ``mlflow``
    """

    step = "monitor"
    spec = MonitorSpec
    template_fields: Sequence[str] = (
        *StepOperator.template_fields,
        "model",
        "dataset",
        "window",
        "reference",
        "profiles",
        "policy",
        "mlflow_conn_id",
    )
    operator_extra_links = (ReportLink(),)

    def __init__(
        self,
        *,
        model: str,
        dataset: Any,
        window: str | None = None,
        reference: str | dict[str, Any] = TRAINING,
        profiles: Any = None,
        policy: dict[str, Any] | None = None,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.dataset = dataset
        self.window = window
        self.reference = reference
        self.profiles = profiles
        self.policy = policy or {}
        self.mlflow_conn_id = mlflow_conn_id
        if "{{" not in str(self.policy):
            parse(Policy, self.policy, f"The policy of task {self.task_id!r}")
        if "{{" not in str(reference):
            parse(Reference, reference, f"The reference of task {self.task_id!r}")
        # An alias, because the event is emitted only for one of three decisions.
        self.retrain_alias = AssetAlias("mlops-retrain" if "{" in model else f"mlops-{model}-retrain")
        self.add_outlets([self.retrain_alias])

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "model": self.model,
            "dataset": self.dataset,
            "window": self.window,
            "reference": self.reference,
            "profiles": self.profiles,
            "policy": self.policy,
            "mlflow": {"conn_id": self.mlflow_conn_id},
        }

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        if result["decision"] == "healthy":
            return None
        champion = result["champion"] or {}
        urls = self.urls(context, report=page_address(result["report_url"]))
        return Event("drift", result["model"], result["summary"], champion.get("version"), result["reason"], urls)

    def samples(self, result: dict[str, Any]) -> list[Sample]:
        # All say what is newest: a later window's stand where it knows as much.
        return [] if result.get("superseded") else monitored(result)

    def finish(self, result: dict[str, Any], context: Context) -> None:
        told = {key: result[key] for key in ("decision", "reason", "window", "metrics")}
        self.describe_outlets(context, told)
        if result["decision"] == "retrain":
            emit_request(self.retrain_alias, context, result, told)
