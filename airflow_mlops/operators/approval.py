"""Asking people before a model is promoted, with Airflow's human-in-the-loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from urllib.parse import quote

from airflow.sdk import conf

from airflow_mlops.core.errors import ApprovalTimeoutError, RegistryError, SpecError
from airflow_mlops.registry.approval import ApprovalRecord
from airflow_mlops.registry.verdict import CandidateVerdict, Verdict

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.execution_time.hitl import HITLUser

APPROVE, REJECT = "Approve", "Reject"
_DEFAULTS = {"approve": [APPROVE], "reject": [REJECT], "fail": None}
_STATE = "mlops.approval"


@dataclass(frozen=True, kw_only=True)
class Approval:
    """Who has to agree before a model is promoted.

    The task asks under *Required Actions* in Airflow, and waits without a worker and without the triggerer.

    :param assignees: who may answer: user ids as the auth manager knows them, or Airflow's ``HITLUser``; anybody who
        may answer such requests of the DAG, unless given
    :param timeout: how long to wait for an answer; for ever unless given
    :param on_timeout: what it means if nobody answers: ``reject``, ``approve``, or ``fail`` the task
    """

    assignees: Sequence[str | HITLUser] = ()
    timeout: timedelta | None = None
    on_timeout: Literal["reject", "approve", "fail"] = "reject"

    def __post_init__(self) -> None:
        if self.on_timeout not in _DEFAULTS:
            raise SpecError(f"Approval(on_timeout={self.on_timeout!r}) is none of {', '.join(_DEFAULTS)}.")
        if self.timeout is not None and self.timeout <= timedelta(0):
            raise SpecError(f"Approval(timeout={self.timeout!r}) leaves no time to answer.")
        if isinstance(self.assignees, (str, Mapping)):
            raise SpecError(f"Approval(assignees={self.assignees!r}) takes a list of users.")

    def ask(self, subject: str, body: str, context: Context) -> None:
        """Put the request where people see it.

        :raises RegistryError: Airflow keeps showing an earlier, different request of this task
        """
        from airflow.sdk import Param
        from airflow.sdk.api.datamodels._generated import HITLUser as AssignedUser
        from airflow.sdk.execution_time.comms import CreateHITLDetailPayload
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

        note = Param(
            "", type=["string", "null"], format="multiline", title="Note", description="It goes into the ledger."
        )
        asked = CreateHITLDetailPayload(
            ti_id=context["ti"].id,
            subject=subject,
            body=body,
            options=[APPROVE, REJECT],
            defaults=_DEFAULTS[self.on_timeout],
            params={"note": note.serialize()},
            assigned_users=[
                AssignedUser(id=user, name=user) if isinstance(user, str) else AssignedUser(**user)
                for user in self.assignees
            ],
        )
        # Airflow 3.3's own upsert_hitl_detail does not pass on what the server shows: for a task that was cleared, that
        # is the text of before.
        shown: Any = SUPERVISOR_COMMS.send(msg=asked)
        if (shown.subject, shown.body, shown.assigned_users) != (subject, body, asked.assigned_users):
            raise RegistryError(
                f"Airflow still shows an earlier request of this task ({shown.subject!r}), whose text it cannot change: "
                f"start a new run of the DAG to ask {subject!r}."
            )

    def wait(self, about: str) -> NoReturn:
        """Park the task until somebody answers or the time is over.

        It goes on in its method ``execute_complete(context, event, about)``, and at once if the answer is there.

        :param about: names what was asked, so that the answer is not taken for one to something else
        """
        from airflow.sdk.exceptions import TaskAwaitingInput

        raise TaskAwaitingInput(method_name="execute_complete", kwargs={"about": about}, timeout=self.timeout)

    def wait_again(self, context: Context, about: str) -> NoReturn:
        """Wait as :meth:`wait` does for the answer to what an earlier try asked, but in the triggerer.

        The answer may be there. Then Airflow 3.3 would resume the task before its scheduler knows that the worker is
        done, take it for killed, and so use up its retries.
        """
        from airflow.providers.standard.triggers.hitl import HITLTrigger
        from airflow.sdk.exceptions import TaskDeferred

        until = datetime.now(timezone.utc) + self.timeout if self.timeout is not None else None
        raise TaskDeferred(
            trigger=HITLTrigger(
                ti_id=context["ti"].id,
                options=[APPROVE, REJECT],
                defaults=_DEFAULTS[self.on_timeout],
                params={},
                timeout_datetime=until,
            ),
            method_name="execute_complete",
            kwargs={"about": about},
        )

    def read(self, event: dict[str, Any]) -> ApprovalRecord:
        """The answer, from what Airflow resumes the task with.

        :raises ApprovalTimeoutError: nobody answered, and the task is to fail then
        """
        if "error" in event:
            raise ApprovalTimeoutError(f"Nobody answered the request for approval within {self.timeout}.")
        approved = event["chosen_options"] == [APPROVE]
        user, at = event.get("responded_by_user"), event.get("responded_at") or datetime.now(timezone.utc)
        if not user:
            silence = f"nobody answered within {self.timeout}, which counts as {'a yes' if approved else 'a no'}"
            return ApprovalRecord(by="", at=at, decision="approved" if approved else "timed_out", note=silence)
        by = user["name"] if user["name"] == user["id"] else f"{user['name']} ({user['id']})"
        note = str((event.get("params_input") or {}).get("note") or "")
        return ApprovalRecord(by=by, at=at, decision="approved" if approved else "rejected", note=note)


def remember(context: Context, about: str, answer: ApprovalRecord | None) -> None:
    """Keep for the retries of this task that it asked, and the answer."""
    kept = answer.model_dump(mode="json") if answer is not None else None
    context["task_state_store"].set(_STATE, {"about": about, "answer": kept})


def recall(context: Context, about: str) -> tuple[bool, ApprovalRecord | None]:
    """Whether this task asked what ``about`` names, and the answer it has."""
    kept = context["task_state_store"].get(_STATE)
    if not isinstance(kept, dict) or kept["about"] != about:
        return False, None
    return True, ApprovalRecord.model_validate(kept["answer"]) if kept["answer"] else None


def answer_page(context: Context) -> str:
    """Where people answer."""
    ti = context["ti"]
    base: str = conf.get("api", "base_url", fallback="") or ""
    page = f"{base.rstrip('/')}/dags/{ti.dag_id}/runs/{quote(ti.run_id, safe='')}/tasks/{ti.task_id}"
    mapped = f"/mapped/{ti.map_index}" if (ti.map_index or -1) >= 0 else ""
    return f"{page}{mapped}/required_actions"


def request(verdict: Verdict, pages: Mapping[str, str]) -> tuple[str, str]:
    """Subject and body, in Markdown, of the request to promote the verdict's winner.

    :param pages: addresses of the MLflow runs, by their names
    """
    winner = verdict.winner
    assert winner is not None
    found = verdict.of(winner)
    links = " · ".join(f"[{_cell(name)}]({address})" for name, address in pages.items())
    parts = [
        f"{verdict.reason} Measured on part `{verdict.part}` of `{verdict.dataset_name}` (`{verdict.dataset_id[:12]}`).",
        f"{links} (plots: *Artifacts*, `evaluation`)" if links else "",
        "### Gates",
        _table(
            ("gate", "measured", "asked", "", "why"),
            [
                (
                    gate.gate,
                    _number(gate.measured),
                    _number(gate.asked),
                    "passed" if gate.passed else "**failed**",
                    gate.explanation,
                )
                for gate in found.gates
            ],
        ),
        "### Metrics",
        _metrics(verdict, found),
    ]
    return f"Promote {winner}?", "\n\n".join(part for part in parts if part)


def _metrics(verdict: Verdict, found: CandidateVerdict) -> str:
    columns = {str(found.candidate): found.metrics}
    if verdict.champion is not None:
        columns[f"{verdict.champion} (champion)"] = verdict.champion_metrics
    columns["baseline"] = verdict.baseline_metrics
    columns = {name: metrics for name, metrics in columns.items() if metrics}
    rows = [(name, *(_number(metrics.get(name)) for metrics in columns.values())) for name in found.metrics]
    return _table(("metric", *columns), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
