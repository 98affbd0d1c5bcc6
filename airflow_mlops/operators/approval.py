"""Approval of a promotion by users, with Airflow's human-in-the-loop feature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from urllib.parse import quote

from airflow.sdk import conf

from airflow_mlops.core.errors import ApprovalTimeoutError, RegistryError, SpecError
from airflow_mlops.core.numbers import rounded

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.execution_time.hitl import HITLUser

    from airflow_mlops.registry.records.approval import ApprovalRecord
    from airflow_mlops.registry.records.verdict import CandidateVerdict, Verdict

APPROVE, REJECT = "Approve", "Reject"
_DEFAULTS = {"approve": [APPROVE], "reject": [REJECT], "fail": None}
# Key in the task state store. The value contains the identifier of the request that was sent, and the answer to it.
_STATE = "mlops.approval"
# Characters with a meaning in Markdown. An underscore between two letters or digits has no meaning.
_MARKDOWN = re.compile(r"[\\`*\[\]<>#|~&]|(?<![^\W_])_|_(?![^\W_])")
# Characters of an address that are kept in a link. All other characters, such as parentheses, are percent-encoded.
_IN_ADDRESS = "/:?&=#%+,;@~!$*'[]"


@dataclass(frozen=True, kw_only=True)
class Approval:
    """The approval that a promotion needs: who can answer the request, and the result if nobody answers.

    The request for approval appears under *Required Actions* in Airflow. While the task waits, it occupies neither a
    worker nor the triggerer. Only a retry that waits for the answer to an earlier request occupies the triggerer.

    :param assignees: users who may answer, as user ids of the auth manager or Airflow's ``HITLUser``; by default every
        user who may answer human-in-the-loop requests of the DAG
    :param timeout: longest time to wait for an answer; by default unlimited
    :param on_timeout: what happens if nobody answers in time: the promotion is rejected (``reject``) or approved
        (``approve``), or the task fails (``fail``)
    :raises SpecError: a parameter is invalid
    """

    assignees: Sequence[str | HITLUser] = ()
    timeout: timedelta | None = None
    on_timeout: Literal["reject", "approve", "fail"] = "reject"

    def __post_init__(self) -> None:
        if self.on_timeout not in _DEFAULTS:
            raise SpecError(
                f"Approval(on_timeout={self.on_timeout!r}) is invalid: use {', '.join(map(repr, _DEFAULTS))}."
            )
        if self.timeout is not None and self.timeout <= timedelta(0):
            raise SpecError(f"Approval(timeout={self.timeout!r}) is invalid: set timeout= to a positive timedelta.")
        if isinstance(self.assignees, (str, Mapping)):
            raise SpecError(f"Approval(assignees={self.assignees!r}) is invalid: set assignees= to a list of users.")

    def ask(self, subject: str, body: str, context: Context) -> None:
        """Send the request for approval.

        :param subject: title of the request
        :param body: text of the request in Markdown
        :raises RegistryError: Airflow still shows an earlier request of this task with a different title, text or list
            of assignees
        """
        from airflow.sdk import Param
        from airflow.sdk.api.datamodels._generated import HITLUser as AssignedUser
        from airflow.sdk.execution_time.comms import CreateHITLDetailPayload
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

        note = Param(
            "",
            type=["string", "null"],
            format="multiline",
            title="Note",
            description="The note is recorded in the ledger.",
        )
        payload = CreateHITLDetailPayload(
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
        # Airflow 3.3's own upsert_hitl_detail does not return the server's response. The response is needed, because
        # the server keeps the text of the first request when a task is cleared.
        shown: Any = SUPERVISOR_COMMS.send(msg=payload)
        if (shown.subject, shown.body, shown.assigned_users) != (subject, body, payload.assigned_users):
            raise RegistryError(
                f"Airflow still shows an earlier request for approval of this task ({shown.subject!r}) and cannot change its "
                f"text: start a new DAG run for the request {subject!r}."
            )

    def wait(self, key: str) -> NoReturn:
        """Suspend the task until a user answers or the timeout ends, by raising ``TaskAwaitingInput``.

        The task continues in its method ``execute_complete(context, event, about)``. If an answer exists already, it
        continues immediately.

        :param key: identifier of the request, which is passed to ``execute_complete`` as ``about``
        """
        from airflow.sdk.exceptions import TaskAwaitingInput

        raise TaskAwaitingInput(method_name="execute_complete", kwargs={"about": key}, timeout=self.timeout)

    def wait_again(self, context: Context, key: str) -> NoReturn:
        """Suspend a retry until a user answers the request that an earlier try sent, or the timeout ends.

        The timeout begins again with this call.

        Unlike :meth:`wait`, this method waits in the triggerer, because only the triggerer can read an answer that exists
        already. :meth:`wait` would resume the task before Airflow's scheduler (3.3) notices that the worker ended. The
        scheduler would then treat the task as killed and use up its retries.

        :param key: identifier of the request, which is passed to ``execute_complete`` as ``about``
        """
        from airflow.sdk.exceptions import TaskDeferred

        from airflow_mlops.triggers.answer import AnswerTrigger

        until = datetime.now(timezone.utc) + self.timeout if self.timeout is not None else None
        raise TaskDeferred(
            trigger=AnswerTrigger(
                ti_id=context["ti"].id,
                options=[APPROVE, REJECT],
                defaults=_DEFAULTS[self.on_timeout],
                params={},
                timeout_datetime=until,
            ),
            method_name="execute_complete",
            kwargs={"about": key},
        )

    def read(self, event: dict[str, Any]) -> ApprovalRecord:
        """Return the answer to the request for approval, read from the event that resumes the task.

        :param event: payload of the event
        :raises ApprovalTimeoutError: nobody answered in time, and ``on_timeout`` is ``fail``
        """
        from airflow_mlops.registry.records.approval import ApprovalRecord

        if "error" in event:
            raise ApprovalTimeoutError(
                f"Nobody answered the request for approval within {self.timeout}, and Approval(on_timeout='fail') fails the "
                "task: clear the task to request approval again."
            )
        approved = event["chosen_options"] == [APPROVE]
        user, at = event.get("responded_by_user"), event.get("responded_at") or datetime.now(timezone.utc)
        if not user:
            note = (
                f"nobody answered within {self.timeout}, so the promotion is {'approved' if approved else 'rejected'}"
            )
            return ApprovalRecord(by="", at=at, decision="approved" if approved else "timed_out", note=note)
        by = user["name"] if user["name"] == user["id"] else f"{user['name']} ({user['id']})"
        note = str((event.get("params_input") or {}).get("note") or "")
        return ApprovalRecord(by=by, at=at, decision="approved" if approved else "rejected", note=note)


def save_answer(context: Context, key: str, answer: ApprovalRecord | None) -> None:
    """Store the request that was sent, and the answer to it, in the task state store for retries of this task.

    :param key: identifier of the request
    :param answer: the answer; ``None`` if the request is not answered yet
    """
    content = answer.model_dump(mode="json") if answer is not None else None
    context["task_state_store"].set(_STATE, {"about": key, "answer": content})


def load_answer(context: Context, key: str) -> tuple[bool, ApprovalRecord | None]:
    """Return what the task state store contains about the request with the identifier ``key``.

    :return: two items: whether this task sent the request, and the answer (``None`` if the request is not answered yet)
    """
    from airflow_mlops.registry.records.approval import ApprovalRecord

    state = context["task_state_store"].get(_STATE)
    if not isinstance(state, dict) or state["about"] != key:
        return False, None
    return True, ApprovalRecord.model_validate(state["answer"]) if state["answer"] else None


def answer_page(context: Context) -> str:
    """Return the address of the page in Airflow on which users answer the request of this task."""
    ti = context["ti"]
    base: str = conf.get("api", "base_url", fallback="") or ""
    page = f"{base.rstrip('/')}/dags/{ti.dag_id}/runs/{quote(ti.run_id, safe='')}/tasks/{ti.task_id}"
    mapped = f"/mapped/{ti.map_index}" if ti.map_index is not None and ti.map_index >= 0 else ""
    return f"{page}{mapped}/required_actions"


def request_text(verdict: Verdict, pages: Mapping[str, str]) -> tuple[str, str]:
    """Return subject and body (Markdown) of the request to promote the winner of an evaluation.

    Names and explanations are escaped, so that they cannot contain links or images.

    :param verdict: the verdict of the evaluation
    :param pages: addresses of MLflow runs, by link text
    """
    winner = verdict.winner
    assert winner is not None
    found = verdict.for_candidate(winner)
    links = " · ".join(f"[{_escaped(name)}]({quote(address, safe=_IN_ADDRESS)})" for name, address in pages.items())
    data = f"split part {verdict.part} of dataset {verdict.dataset_name} ({verdict.dataset_id[:12]})"
    parts = [
        _escaped(f"{verdict.reason} Measured on {data}."),
        f"{links} (plots: *Artifacts*, `evaluation`)" if links else "",
        "### Gates",
        _table(
            ("gate", "measured", "required", "", "explanation"),
            [
                (
                    _escaped(gate.gate),
                    _number(gate.measured),
                    _number(gate.asked),
                    "passed" if gate.passed else "**failed**",
                    _escaped(gate.explanation),
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
    columns |= {"baseline": verdict.baseline_metrics, **verdict.statistical_metrics}
    columns = {name: metrics for name, metrics in columns.items() if metrics}
    rows = [(_escaped(name), *(_number(metrics.get(name)) for metrics in columns.values())) for name in found.metrics]
    return _table(("metric", *map(_escaped, columns)), rows)


def _number(value: float | None) -> str:
    return "" if value is None else rounded(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Return ``text`` on one line, with the special characters of Markdown escaped."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))
