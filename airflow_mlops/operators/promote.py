"""``PromoteOperator``, which makes the winner of an evaluation the champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.notifications import Event
from airflow_mlops.operators.approval import Approval, answer_page, load_answer, request_text, save_answer
from airflow_mlops.operators.champion import ChampionOperator
from airflow_mlops.operators.failures import no_retry_of_final_errors

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.registry.records.verdict import Verdict
    from airflow_mlops.stages.promote.spec import PromoteSpec


class PromoteOperator(ChampionOperator):
    """Makes the winner of an evaluation the champion.

    The operator moves the MLflow alias ``champion``, writes an entry to the ledger and emits the asset event. Nothing
    is promoted if no candidate passed the gates, if the champion changed after the evaluation, or if the champion was
    chosen on a later window. The task then succeeds, and the result and the ledger contain the reason.

    :param verdict: the output of an EvaluateOperator, of a RefitOperator, or of a CanaryOperator with ``promote=False``
    :param model: name of the registered model; by default the model of the verdict
    :param approval: who must approve the promotion; by default no approval is needed
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    """

    step = "promote"
    untemplated = ChampionOperator.untemplated | {"approval"}
    changed = "promoted"

    approval: Approval | None

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
        self.assign_parameters(locals())
        self.add_champion_outlet(model)

    def build_spec(self, context: Context) -> dict[str, Any]:
        # The field ``approval`` of the spec is the answer to the request, which before_step adds.
        return super().build_spec(context) | {"approval": None, "needs_approval": self.approval is not None}

    def before_step(self, spec: PromoteSpec, context: Context, *, resumed: bool) -> PromoteSpec:
        if self.approval is None:
            return spec
        key = (self._begun or self.call(spec, context)).key
        requested, answer = load_answer(context, key)
        if answer is not None:
            return spec.model_copy(update={"approval": answer})
        if requested:
            # The worker failed after it sent the request. A second request would discard the answer to the first one.
            self.approval.wait_again(context, key)
        if not resumed and self._is_open(spec):
            self._ask(self.approval, spec.verdict, key, context)
        return spec

    def execute_complete(
        self, context: Context, event: dict[str, Any], about: str, begun: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Continue a task that waited for approval. Airflow's HITLOperator defines the name of this method.

        :param event: payload of the event with the answer
        :param about: identifier of the request that was answered
        :param begun: location of the stored step call with which the task began
        """
        assert self.approval is not None
        with no_retry_of_final_errors():
            answer = self.approval.read(event)
        self.log.info("The answer to the request for approval is: %s.", answer)
        save_answer(context, about, answer)
        return self._run(context, None, begun)

    def _is_open(self, spec: PromoteSpec) -> bool:
        """Return whether the step would promote the winner if a user approves the promotion."""
        from airflow_mlops.hooks.mlflow import MLflowHook

        verdict = spec.verdict
        if verdict.winner is None or verdict.winner == verdict.champion:
            return False
        try:
            present = MLflowHook(self.mlflow_conn_id).champion(verdict.model)
        except Exception as error:  # noqa: BLE001 - the step checks again
            self.log.warning(
                "Approval is requested without checking whether the champion of model %r has changed since the evaluation, "
                "because this worker cannot read the champion: %s",
                verdict.model,
                error,
            )
            return True
        return present == (verdict.champion and verdict.champion.version)

    def _ask(self, approval: Approval, verdict: Verdict, key: str, context: Context) -> None:
        winner, champion = verdict.winner, verdict.champion
        assert winner is not None
        runs = {f"MLflow run of {ref}": self.urls(context, ref.run_id)["run"] for ref in (winner, champion) if ref}
        subject, body = request_text(verdict, {name: url for name, url in runs.items() if url})
        approval.ask(subject, body, context)
        save_answer(context, key, None)
        if self.notify is not None:
            urls = self.urls(context, winner.run_id, answer=answer_page(context))
            event = Event("approval", verdict.model, subject, winner.version, verdict.reason, urls)
            self.notify.send(event, context, self.log)
        approval.wait(key)

    def decision(self, result: dict[str, Any]) -> str:
        if result["promoted"]:
            return f"promoted v{result['champion']['version']}"
        return f"{'refused' if result['ledger_url'] else 'unchanged'}: {result['reason']}"

    def event(self, result: dict[str, Any], context: Context) -> Event | None:
        if result["ledger_url"] is None:
            return None
        name = "promoted" if result["promoted"] else "refused"
        winner = result["winner"] or {}
        urls = self.urls(context, winner.get("run_id"), ledger=result["ledger_url"])
        return Event(name, result["model"], result["summary"], winner.get("version"), result["reason"], urls)
