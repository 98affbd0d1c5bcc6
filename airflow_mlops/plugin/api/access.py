"""Who may see a model, and who may act on it.

The DAGs of a model are the DAGs that train, score or monitor it. A user may see a model if the user may read one of its
DAGs, and may act on a visible model if the user may edit one of its DAGs. A model without DAGs is visible only to users
who may read all DAGs. Acting on it requires permission to edit all DAGs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.configuration import conf
from fastapi import Depends, HTTPException, Request

from airflow_mlops.overview.facts import ModelDags, PendingApproval

_JSON = "application/json"


@dataclass(frozen=True)
class Access:
    """The rights of a user.

    :param user: name of the user
    :param account: the auth manager's object for the user
    :param readable: ids of the DAGs that the user may read
    :param editable: ids of the DAGs that the user may edit
    :param reads_all: whether the user may read all DAGs
    :param edits_all: whether the user may edit all DAGs
    """

    user: str
    account: Any
    readable: frozenset[str]
    editable: frozenset[str]
    reads_all: bool
    edits_all: bool

    def sees(self, dags: ModelDags) -> bool:
        """Return whether the user may see a model that these DAGs train, score or monitor."""
        return self.reads_all or bool(self.readable & dags.ids())

    def acts(self, dags: ModelDags) -> bool:
        """Return whether the user may act on a model that these DAGs train, score or monitor."""
        return self.sees(dags) and (self.edits_all or bool(self.editable & dags.ids()))

    def answers(self, approval: PendingApproval) -> bool:
        """Return whether Airflow's human-in-the-loop lets the user answer a request for approval."""
        from airflow.models.dag import DagModel

        manager = get_auth_manager()
        details = DagDetails(id=approval.dag_id, team_name=DagModel.get_team_name(approval.dag_id))
        may_answer: bool = manager.is_authorized_dag(
            method="PUT", access_entity=DagAccessEntity.HITL_DETAIL, details=details, user=self.account
        )
        listed = {*approval.assignees}
        return may_answer and (not listed or manager.is_authorized_hitl_task(assigned_users=listed, user=self.account))


def access(account: Annotated[Any, Depends(get_user)]) -> Access:
    """Return the rights of the user of a request. Without a login, the answer is 401."""
    manager = get_auth_manager()
    readable = frozenset(manager.get_authorized_dag_ids(user=account, method="GET"))
    editable = frozenset(manager.get_authorized_dag_ids(user=account, method="PUT"))
    known = _all_dags()

    def everywhere(method: Any, found: frozenset[str]) -> bool:
        # Without a DAG id, some auth managers check only the DAGs of the user's teams. Therefore the ids are compared
        # as well.
        return found >= known and manager.is_authorized_dag(method=method, user=account)

    return Access(
        user=account.get_name(),
        account=account,
        readable=readable,
        editable=editable,
        reads_all=everywhere("GET", readable),
        edits_all=everywhere("PUT", editable),
    )


def _all_dags() -> frozenset[str]:
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        return frozenset(session.scalars(select(DagModel.dag_id).where(DagModel.bundle_name.is_not(None))))


AccessDep = Annotated[Access, Depends(access)]


def require_assets(rights: AccessDep) -> None:
    """Refuse users who may not read assets with 403."""
    if not get_auth_manager().is_authorized_asset(method="GET", user=rights.account):
        raise HTTPException(403, "You may not read assets.")


def same_origin(request: Request) -> None:
    """Refuse requests that a page of another site has sent with the cookies of the user.

    The body must be JSON, and the browser must say that the request comes from a page of this server. A request with
    the user's token in its header needs no cookie, so another site cannot send it.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
        raise HTTPException(415, f"The body of the request must be JSON (Content-Type: {_JSON}).")
    bearer = request.headers.get("authorization", "").lower().startswith("bearer ")
    # If all users are admins, Airflow adds a token to every request, so the token does not prove where it comes from.
    added = conf.getboolean("core", "simple_auth_manager_all_admins", fallback=False)
    if bearer and not added:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is None and origin is None:
        trusted = bearer
    elif site is not None:
        trusted = site == "same-origin"
    else:
        trusted = origin in _own_origins(request)
    if not trusted:
        raise HTTPException(403, "The request does not come from a page of this server.")


def _own_origins(request: Request) -> set[str]:
    configured = urlsplit(conf.get("api", "base_url", fallback="") or "")
    own = {f"{request.url.scheme}://{request.headers.get('host', '')}"}
    return own | ({f"{configured.scheme}://{configured.netloc}"} if configured.netloc else set())
