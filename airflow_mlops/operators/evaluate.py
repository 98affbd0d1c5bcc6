"""``EvaluateOperator``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import conf

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError
from airflow_mlops.gates.base import choices
from airflow_mlops.gates.rules import parse_gates
from airflow_mlops.links import MLflowRunLink
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.notifications import Event
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.evaluate.card_spec import Card
from airflow_mlops.stages.evaluate.spec import EvaluateSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class EvaluateOperator(StepOperator):
    """Measures candidates and the present champion on the same held-out data, and judges the candidates by gates.

    :param candidates: the output of one TrainOperator, of a mapped one, or a list of model versions, as in
        ``[{"model": "delays", "version": 7}]``
    :param model: the registered model; that of the candidates unless given
    :param dataset: the training set whose ``part`` was held out; the one the candidates were trained on unless given
    :param part: the part of it to measure on
    :param gates: what a candidate must pass: a list of dicts, or the name of a YAML file beside the DAG that holds
        such a list. Unless given: better than the baseline, and with 95% confidence better than the champion
    :param metric: the metric by which one of the passing candidates wins: ``roc_auc`` (binary), ``roc_auc_ovr``
        (multiclass) or ``rmse`` (regression) unless given
    :param allow_pyfunc: load versions that TrainOperator did not make by ``mlflow.pyfunc``, which runs code that comes
        with them; without it only those are loaded that can run none. No template, so that only the DAG's author says it
    :param card: what only people can say about the model, for its card: a dict with ``purpose``, ``limits`` (one text
        or a list) and ``owner``, which is the task's ``owner`` if that was set
    :param mlflow_conn_id: the Airflow connection to MLflow
    """

    step = "evaluate"
    spec = EvaluateSpec
    template_fields: Sequence[str] = (
        *StepOperator.template_fields,
        "candidates",
        "model",
        "dataset",
        "part",
        "gates",
        "metric",
        "card",
        "mlflow_conn_id",
    )
    template_ext: Sequence[str] = (".yaml", ".yml")
    operator_extra_links = (MLflowRunLink(),)

    def __init__(
        self,
        *,
        candidates: Any,
        model: str | None = None,
        dataset: Any = None,
        part: str = "test",
        gates: list[dict[str, Any]] | str | None = None,
        metric: str | None = None,
        allow_pyfunc: bool = False,
        card: dict[str, Any] | None = None,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.candidates = candidates
        self.model = model
        self.dataset = dataset
        self.part = part
        self.gates = gates
        self.metric = metric
        self.allow_pyfunc = allow_pyfunc
        self.card = card or {}
        self.mlflow_conn_id = mlflow_conn_id
        if isinstance(gates, list) and not _is_template(gates):
            parse_gates(gates)
        if metric is not None and not _is_template(metric) and metric not in METRICS:
            raise SpecError(f"{metric!r} is not a metric: {choices(metric, METRICS)}.")
        if not _is_template(self.card):
            parse(Card, self.card, f"The card of task {self.task_id!r}")

    def prepare_template(self) -> None:
        # While it parses the DAG, Airflow replaces a file's name by its text, and goes on where there is no such file.
        if not isinstance(self.gates, str) or _is_template(self.gates):
            return
        if self.gates.endswith(tuple(self.template_ext)):
            raise SpecError(
                f"Task {self.task_id!r}: the gates {self.gates!r} are neither beside the DAG's file nor in its "
                "template_searchpath."
            )
        parse_gates(_from_yaml(self.gates))

    def build_spec(self, context: Context) -> dict[str, Any]:
        candidates = [self.candidates] if isinstance(self.candidates, dict) else list(self.candidates or ())
        return {
            "candidates": candidates,
            "model": self.model,
            "dataset": self.dataset,
            "part": self.part,
            "gates": _from_yaml(self.gates) if isinstance(self.gates, str) else self.gates,
            "metric": self.metric,
            "allow_pyfunc": self.allow_pyfunc,
            "card": {**self._owned(), **self.card},
            "mlflow": {"conn_id": self.mlflow_conn_id},
        }

    def _owned(self) -> dict[str, str]:
        # Airflow gives every task an owner; its default is nobody.
        return {} if self.owner == conf.get("operators", "default_owner") else {"owner": self.owner}

    def event(self, result: dict[str, Any], context: Context) -> Event:
        verdict = result["verdict"]
        version = (verdict["winner"] or {}).get("version")
        urls = self.urls(context, result["run_id"])
        return Event("evaluated", verdict["model"], result["summary"], version, verdict["reason"], urls)


def _is_template(value: Any) -> bool:
    """Whether the value can only be checked when the step runs."""
    return "{{" in str(value) or "{%" in str(value)


def _from_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"The gates are not YAML: {' '.join(str(error).split())}.") from None
