"""``EvaluateOperator``, which tests candidate models against gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import conf

from airflow_mlops.core.errors import SpecError
from airflow_mlops.links import MLflowRunLink
from airflow_mlops.notifications import Event
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.rendering import is_template
from airflow_mlops.operators.sharded import ShardedOperator

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.mappedoperator import OperatorPartial


class EvaluateOperator(ShardedOperator):
    """Measures candidates and the champion on the same held-out data, and decides by gates which candidates pass.

    With ``evidence``, the candidates and the champion are measured by the predictions that they made in production, on
    the rows that all of them predicted.

    To evaluate on many rows in parallel, map the task over shards: ``EvaluateOperator.partial(...,
    shards=8).expand(shard=list(range(8)))``. Each shard predicts some of the rows with the candidates and the champion. The
    shard that finishes last measures the models on all rows and makes the verdict of a single task. Only this shard returns
    the verdict, calls notifiers and sends the events of the outlets. ``.output`` of the mapped task can be passed on like the
    output of a single task.

    All shards compare with the champion that the first shard finds, even if the champion changes in the meantime.

    :param candidates: the output of a TrainOperator, which may be mapped, or a list of model versions such as
        ``[{"model": "delays", "version": 7}]``. The candidates are in order of preference, the preferred one first
    :param model: name of the registered model; by default the model of the candidates
    :param dataset: the training set with the held-out data; by default the training set of the candidates
    :param evidence: datasets of labelled predictions of the candidates and of the champion, instead of ``dataset``. An
        item of the list is the output of a JoinLabelsOperator or ``{"name": ..., "window": ...}``
    :param part: split part of the training set that holds the held-out data; by default `test`
    :param gates: the gates that a candidate must pass: a list of dicts, or the name of a YAML file with such a list,
        next to the DAG file. By default, a candidate must be better than the baseline and better than the champion,
        each with 95% confidence. If no gate in the list compares with the champion, a gate is added: the candidate must
        not be worse than the champion. ``{"champion": "ignore"}`` in the list prevents the additional gate
    :param metric: name of the metric that ranks the passing candidates. The winner is the first candidate that is at
        most one standard error worse than the best one. By default ``roc_auc`` (binary), ``roc_auc_ovr`` (multiclass)
        or ``rmse`` (regression), or the metric by which the models are judged: the pinball loss of a quantile, NDCG of a
        ranking, ``mase`` of forecasts, or the deviance of an objective for counts or positive amounts. Other values are
        the name of another built-in metric; the import path of a custom metric, ``package.module:function``; an
        expected cost, ``{"metric": "expected_cost", "false_positive": 1, "false_negative": 20}``, where a cost can be
        the name of a column; a Tweedie deviance, ``{"metric": "tweedie_deviance", "power": 1.5}``; the pinball loss of
        a quantile, ``{"metric": "pinball", "alpha": 0.9}``; and the quality of a ranking, ``{"metric": "ndcg", "k": 10, "group":
        "query"}``
    :param greater_is_better: whether larger values of ``metric`` are better; required for a custom metric only
    :param groups: column of the dataset that names the cluster of each row, such as a customer. Rows of one cluster are
        not independent, and the confidence bounds of gates and of the model card allow for this. By default, rows are
        independent
    :param allow_pyfunc: whether ``mlflow.pyfunc`` may load versions that TrainOperator did not train. Loading then
        runs code that is stored in the model. By default, only models that cannot run code are loaded. This parameter
        is not templated, so that only the author of the DAG can set it
    :param allow_code: whether the gate ``reproducible`` may run code that the MLflow run of a candidate names:
        functions, networks, datasets, preprocessing and custom metrics. By default, it runs only estimators of
        well-known packages. This parameter is not templated, so that only the author of the DAG can set it
    :param card: texts for the model card: a dict with ``purpose``, ``limits`` (a text or a list of texts) and ``owner``
        (by default the ``owner`` of the task)
    :param shard: index of the shard of the held-out rows to predict, from 0; by default all rows are predicted. With
        ``evidence``, shards are not possible
    :param shards: number of shards into which the held-out rows are divided
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    :raises SpecError: the gates, the metric or the card are invalid, or ``shards`` is set for ``evidence``
    """

    step = "evaluate"
    cacheable = True
    safeguards = StepOperator.safeguards | {"gates"}
    structured = frozenset({"gates"})
    untemplated = StepOperator.untemplated | {"allow_pyfunc", "allow_code"}
    file_suffixes: ClassVar[Mapping[str, tuple[str, ...]]] = {"gates": (".yaml", ".yml")}
    operator_extra_links = (MLflowRunLink(),)

    candidates: Any
    evidence: Any
    gates: Any
    card: dict[str, Any] | None

    def __init__(
        self,
        *,
        candidates: Any,
        model: str | None = None,
        dataset: Any = None,
        evidence: Any = None,
        part: str = "test",
        gates: list[dict[str, Any]] | str | None = None,
        metric: str | Mapping[str, Any] | None = None,
        greater_is_better: bool | None = None,
        groups: str | None = None,
        allow_pyfunc: bool = False,
        allow_code: bool = False,
        card: dict[str, Any] | None = None,
        shard: int | str | None = None,
        shards: int | str | None = None,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assign_parameters(locals())
        self._live = evidence is not None
        _refuse_shards_of_evidence(self.task_id, evidence, shards)
        if isinstance(gates, list):
            _check_gates(gates)
        if not is_template(metric) and not is_template(greater_is_better):
            _check_metric(metric, greater_is_better)
        if card and not is_template(card):
            self._check_card(card)

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        # Airflow creates a mapped operator only when the task runs.
        _refuse_shards_of_evidence(kwargs.get("task_id"), kwargs.get("evidence"), kwargs.get("shards"))
        return super().partial(**kwargs)

    def _check_card(self, card: dict[str, Any]) -> None:
        from airflow_mlops.core.base import parse
        from airflow_mlops.stages.evaluate.card_spec import Card

        parse(Card, card, f"The card of task {self.task_id!r}")

    def prepare_template(self) -> None:
        # Airflow calls this method after the name of a file was replaced by the content of the file.
        if isinstance(self.gates, str) and not is_template(self.gates):
            _check_gates(_from_yaml(self.gates))

    def build_spec(self, context: Context) -> dict[str, Any]:
        fields = super().build_spec(context) | {"card": {**self._card_owner(), **(self.card or {})}}
        if isinstance(self.candidates, dict):
            fields["candidates"] = [self.candidates]
        given = self.evidence if isinstance(self.evidence, (list, tuple)) else [self.evidence]
        if self._live and not any(given):
            raise SpecError(
                f"Task {self.task_id!r} has evidence=, but no dataset is given, because every upstream task was skipped. Skip "
                "this task too, for example with its trigger_rule."
            )
        if isinstance(self.gates, str):
            fields["gates"] = _from_yaml(self.gates)
        return fields

    def _card_owner(self) -> dict[str, str]:
        # Airflow's default owner does not name a person.
        return {} if self.owner == conf.get("operators", "default_owner") else {"owner": self.owner}

    def decision(self, result: dict[str, Any]) -> str | None:
        if result["verdict"] is None:
            return None
        winner = result["verdict"]["winner"]
        return f"v{winner['version']} passed" if winner else f"refused: {result['verdict']['reason']}"

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        verdict = result["verdict"]
        if verdict is None:
            return None
        version = (verdict["winner"] or {}).get("version")
        urls = self.urls(context, result["run_id"])
        return Event("evaluated", verdict["model"], result["summary"], version, verdict["reason"], urls)

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["verdict"] is None:
            # Only the shard that makes the verdict sends events.
            self.outlets = []


def _refuse_shards_of_evidence(task_id: str | None, evidence: Any, shards: int | str | None) -> None:
    if evidence is not None and shards is not None:
        raise SpecError(
            f"Task {task_id!r} has shards=, but evidence= already contains the predictions. Remove shards=."
        )


def _check_gates(gates: Any) -> None:
    from airflow_mlops.gates.rules import parse_gates

    if not is_template(gates):
        parse_gates(gates)


def _check_metric(metric: str | Mapping[str, Any] | None, greater_is_better: bool | None) -> None:
    from airflow_mlops.metrics.catalog import check_chooses, check_metric
    from airflow_mlops.metrics.declarations import metric_name

    try:
        check_metric(metric_name(metric), greater_is_better)
        check_chooses(metric_name(metric))
    except ValueError as error:
        raise SpecError(f"{error}.") from None


def _from_yaml(text: str) -> Any:
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"The gates (gates=) are not valid YAML: {' '.join(str(error).split())}.") from None
    if isinstance(found, str):
        raise SpecError(
            f"gates={found!r} is text and not a list of gates. Write the name of a YAML file without a template, so that the "
            "file next to the DAG file is read, or write the list."
        )
    return found
