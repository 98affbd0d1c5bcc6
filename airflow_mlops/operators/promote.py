"""``PromoteOperator``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.links import MLflowRunLink
from airflow_mlops.notifications import Event
from airflow_mlops.observability.samples import Sample, decided
from airflow_mlops.operators.approval import Approval, answer_page, recall, remember, request
from airflow_mlops.operators.base import StepOperator, no_retry_in_vain
from airflow_mlops.operators.champion import champion_alias, emit_champion, emit_if_lost
from airflow_mlops.registry.verdict import Verdict
from airflow_mlops.stages.promote.spec import PromoteSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class PromoteOperator(StepOperator):
    """Makes the winner of an evaluation the champion: moves the MLflow alias, writes the ledger, emits the asset event.

    Nothing is promoted where no candidate passed, or where another version became champion after the evaluation;
    the task succeeds, its result says why, and the ledger keeps it.

    :param verdict: the output of an EvaluateOperator
    :param model: the registered model; the verdict's unless given
    :param approval: who has to agree first; nobody is asked unless given
    :param mlflow_conn_id: the Airflow connection to MLflow
    """

    step = "promote"
    spec = PromoteSpec
    template_fields: Sequence[str] = (*StepOperator.template_fields, "verdict", "model", "mlflow_conn_id")
    operator_extra_links = (MLflowRunLink(),)

    def __init__(
        self,
        *,
        verdict: Any,
        model: str | None = None,
        approval: Approval | None = None,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.verdict = verdict
        self.model = model
        self.approval = approval
        self.mlflow_conn_id = mlflow_conn_id
        self.champion_alias = champion_alias(model)
        self.add_outlets([self.champion_alias])

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "model": self.model,
            "needs_approval": self.approval is not None,
            "mlflow": {"conn_id": self.mlflow_conn_id},
        }

    def before_step(self, spec: PromoteSpec, context: Context, *, resumed: bool) -> PromoteSpec:
        if self.approval is None:
            return spec
        about = self.call(spec, context).key
        asked, answer = recall(context, about)
        if answer is not None:
            return spec.model_copy(update={"approval": answer})
        if asked:
            # The worker died on the way to the answer. To ask again would take it back.
            self.approval.wait_again(context, about)
        if not resumed and self._is_open(spec):
            self._ask(self.approval, spec.verdict, about, context)
        return spec

    def execute_complete(self, context: Context, event: dict[str, Any], about: str) -> dict[str, Any]:
        """Where the task goes on that asked for approval; the name is HITLOperator's.

        :param about: what was asked
        """
        assert self.approval is not None
        with no_retry_in_vain():
            answer = self.approval.read(event)
        self.log.info("Asked whether to promote: %s.", answer)
        remember(context, about, answer)
        return self._run(context, None)

    def _is_open(self, spec: PromoteSpec) -> bool:
        """Whether there is something to decide for people: the step would promote a version."""
        verdict = spec.verdict
        if verdict.winner is None or verdict.winner == verdict.champion:
            return False
        try:
            now = MLflowHook(self.mlflow_conn_id).champion(verdict.model)
        except Exception as error:  # noqa: BLE001 - the step looks again
            self.log.warning("The champion of %s cannot be looked up here: %s", verdict.model, error)
            return True
        return now == (verdict.champion and verdict.champion.version)

    def _ask(self, approval: Approval, verdict: Verdict, about: str, context: Context) -> None:
        winner, champion = verdict.winner, verdict.champion
        assert winner is not None
        runs = {f"MLflow run of {ref}": self.urls(context, ref.run_id)["run"] for ref in (winner, champion) if ref}
        subject, body = request(verdict, {name: url for name, url in runs.items() if url})
        approval.ask(subject, body, context)
        remember(context, about, None)
        if self.notify is not None:
            urls = self.urls(context, winner.run_id, answer=answer_page(context))
            asked = Event("approval", verdict.model, subject, winner.version, verdict.reason, urls)
            self.notify.send(asked, context, self.log)
        approval.wait(about)

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        if result["ledger_url"] is None:
            return None
        name = "promoted" if result["promoted"] else "refused"
        about = result["winner"] or {}
        urls = self.urls(context, about.get("run_id"), ledger=result["ledger_url"])
        return Event(name, result["model"], result["summary"], about.get("version"), result["reason"], urls)

    def samples(self, result: dict[str, Any]) -> list[Sample]:
        return decided(result, "promoted")

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["promoted"]:
            emit_champion(self.champion_alias, context, result)
        else:
            emit_if_lost(self.champion_alias, context, result)
