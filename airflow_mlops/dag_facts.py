"""Facts about the DAGs of models from Airflow's database: owners, tags and requests for approval."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from airflow_mlops.overview.facts import Overview, PendingApproval

# The subject of a request for approval, see airflow_mlops.operators.approval.
_SUBJECT = re.compile(r"Promote (.+) v\d+\?", re.DOTALL)


@dataclass(frozen=True)
class DagFacts:
    """Owners and tags of a DAG."""

    owners: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


def complete(found: Sequence[Overview], readable: Collection[str] | None = None) -> list[Overview]:
    """Add owners, tags and open requests for approval to overviews of models.

    Owners and tags come from the DAGs of the model.

    :param found: overviews of models
    :param readable: ids of the DAGs that the user may read; ``None`` for all. Facts about other DAGs are not added
    """
    ids = {dag_id for item in found for dag_id in item.dags.ids() if readable is None or dag_id in readable}
    known = _dags(ids)
    approvals = pending(readable)
    return [_completed(item, known, approvals.get(item.name)) for item in found]


def _completed(found: Overview, known: dict[str, DagFacts], approval: PendingApproval | None) -> Overview:
    dags = [known[dag_id] for dag_id in sorted(found.dags.ids()) if dag_id in known]
    owners = sorted({owner for dag in dags for owner in dag.owners})
    return found.model_copy(
        update={
            "owner": ", ".join(owners) or None,
            "tags": sorted({tag for dag in dags for tag in dag.tags}),
            "approval": approval,
        }
    )


def _dags(ids: Collection[str]) -> dict[str, DagFacts]:
    from airflow.models.dag import DagModel, DagTag
    from airflow.utils.session import create_session
    from sqlalchemy import select

    found: dict[str, DagFacts] = {}
    if not ids:
        return found
    with create_session() as session:
        for dag_id, owners in session.execute(select(DagModel.dag_id, DagModel.owners).where(DagModel.dag_id.in_(ids))):
            found[dag_id] = DagFacts([owner.strip() for owner in (owners or "").split(",") if owner.strip()])
        for dag_id, tag in session.execute(select(DagTag.dag_id, DagTag.name).where(DagTag.dag_id.in_(ids))):
            found[dag_id].tags.append(tag)
    return found


def pending(readable: Collection[str] | None = None) -> dict[str, PendingApproval]:
    """Return the newest unanswered request for approval of a promotion, by name of the model.

    :param readable: ids of the DAGs that the user may read; ``None`` for all. Requests of other DAGs are left out
    """
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    found = {}
    with create_session() as session:
        rows = session.execute(
            select(
                TaskInstance.dag_id,
                TaskInstance.run_id,
                TaskInstance.task_id,
                TaskInstance.map_index,
                HITLDetail.subject,
                HITLDetail.assignees,
            )
            .join(HITLDetail, HITLDetail.ti_id == TaskInstance.id)
            .where(HITLDetail.responded_at.is_(None), TaskInstance.state.in_(("awaiting_input", "deferred")))
            .order_by(HITLDetail.created_at)
        )
        for dag_id, run_id, task_id, map_index, subject, assignees in rows:
            match = _SUBJECT.fullmatch(subject or "")
            if match is not None and (readable is None or dag_id in readable):
                found[match.group(1)] = PendingApproval(
                    dag_id=dag_id,
                    run_id=run_id,
                    task_id=task_id,
                    map_index=map_index,
                    subject=subject,
                    assignees=[str(user["id"]) for user in assignees or ()],
                )
    return found
