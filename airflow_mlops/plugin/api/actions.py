"""The routes that act: retraining, rollback, acknowledgement. Each writes a ledger entry with the name of the user."""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

from airflow.api_fastapi.app import get_auth_manager
from airflow.configuration import conf
from fastapi import APIRouter, Depends, HTTPException
from pydantic import Field, StringConstraints

from airflow_mlops import server
from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import MLOpsError, RegistryError
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import decisions, index, rollbacks
from airflow_mlops.overview.facts import DecisionFacts, ModelFacts, WindowFacts
from airflow_mlops.overview.rollbacks import RollbackPreview
from airflow_mlops.plugin.api.access import Access, AccessDep, same_origin
from airflow_mlops.plugin.api.common import SEEN, ModelDep, ModelName, StoreDep
from airflow_mlops.registry import requests
from airflow_mlops.registry.aliases import last_move, recorded_champion
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision, Entry

router = APIRouter()

Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
Note = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]


class RetrainBody(Model):
    """A request for retraining.

    :param reason: why retraining is requested
    """

    reason: Reason


class RollbackBody(Model):
    """A rollback.

    :param version: number of a former champion; by default the version that the champion replaced
    :param reason: why the champion is rolled back
    :param champion: the champion that the user has seen. If another version is champion now, the rollback is refused
    """

    version: int | None = Field(default=None, ge=1)
    reason: Reason
    champion: int | None = None


class WindowBody(Model):
    """Start and end of a window."""

    start: UtcDatetime
    end: UtcDatetime
    label: str | None = None


class AcknowledgeBody(Model):
    """The acknowledgement of the verdict ``watch`` on the last window.

    :param window: the last monitored window
    :param note: comment of the user
    """

    window: WindowBody
    note: Note = ""


class Done(Model):
    """The effect of an action.

    :param message: the effect in one sentence
    :param decision: the entry of the ledger; ``None`` if nothing changed
    """

    message: str
    decision: DecisionFacts | None = None


def acting(facts: ModelDep, rights: AccessDep) -> ModelFacts:
    """Return the facts about a model. If the user may not act on the model, the answer is 403."""
    if not rights.acts(facts.dags):
        raise HTTPException(403, "You may not edit a DAG of this model.")
    return facts


ActingDep = Annotated[ModelFacts, Depends(acting)]
_SAFE = [Depends(same_origin)]


@router.post("/models/{name}/retrain", dependencies=_SAFE)
def retrain(name: ModelName, body: RetrainBody, facts: ActingDep, rights: AccessDep, store: StoreDep) -> Done:
    """Request retraining. The asset event is the same as the event of MonitorOperator for the last window."""
    window = _last_window(facts)
    # Without a DAG that listens, the request would never be answered.
    server.require_listeners(name)
    ledger = Ledger(store, name)
    champion = last_move(ledger.entries())
    entry = requests.by_user(ledger, window, body.reason, rights.user, champion.champion if champion else None)
    index.update(store, name, "decisions")
    assert entry.requested is not None
    started = server.emit_request(entry.requested, _teams(rights))
    message = f"Retraining of {name} for {window.label} is requested, and starts {', '.join(started)}."
    return Done(message=message, decision=decisions.facts(entry))


def _last_window(facts: ModelFacts) -> Window:
    found: WindowFacts | None = facts.monitoring.window if facts.monitoring is not None else None
    if found is None and facts.scoring is not None:
        found = facts.scoring.window
    if found is None:
        raise MLOpsError(
            f"No window of {facts.name} was monitored or scored yet, so a request for retraining cannot name a window. Start its "
            "training DAG instead."
        )
    # The label has the time zone of the window.
    return Window.model_validate(found.label)


def _teams(rights: Access) -> set[str]:
    if not conf.getboolean("core", "multi_team", fallback=False):
        return set()
    return set(get_auth_manager().get_authorized_teams(user=rights.account))


@router.get("/models/{name}/rollback", dependencies=SEEN)
def preview_rollback(name: ModelName, store: StoreDep, version: int | None = None) -> RollbackPreview:
    """Return the changes that a rollback would make. Nothing is changed."""
    return rollbacks.preview(name, Ledger(store, name).entries(), version)


@router.post("/models/{name}/rollback", dependencies=_SAFE)
def rollback(name: ModelName, body: RollbackBody, facts: ActingDep, rights: AccessDep, store: StoreDep) -> Done:
    """Make a former champion the champion again."""
    now = facts.champion.version if facts.champion is not None else None
    if body.champion is not None and body.champion != now:
        raise RegistryError(
            f"{name} v{body.champion} is no longer the champion{f' (now v{now})' if now else ''}: check the decisions, and roll back "
            "again if you still want to."
        )
    from airflow_mlops.core.base import parse
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.rollback import step
    from airflow_mlops.stages.rollback.spec import RollbackSpec

    spec = parse(RollbackSpec, {"model": name, "to_version": body.version, "reason": body.reason}, "The rollback")
    try:
        key = step.interrupted(spec, store, server.connection, rights.user) or f"api/{uuid4().hex}"
        context = StepContext(
            store=store, key=key, connection=server.connection, provenance=Provenance(user=rights.user)
        )
        result = step.run(spec, context)
    except ImportError as error:
        raise RegistryError(
            f"Airflow's API server cannot use MLflow, because {error.name or 'a package'} is not installed there: use "
            f"RollbackOperator or `airflow mlops rollback {name}`."
        ) from None
    if not result.rolled_back:
        return Done(message=result.summary)
    server.emit_champion(result)
    entry = next(entry for entry in reversed(Ledger(store, name).entries()) if entry.id == key)
    return Done(message=result.summary, decision=decisions.facts(entry))


@router.post("/models/{name}/acknowledge", dependencies=_SAFE)
def acknowledge(name: ModelName, body: AcknowledgeBody, facts: ActingDep, rights: AccessDep, store: StoreDep) -> Done:
    """Record that the user has seen the verdict ``watch`` on the last window.

    If the last acknowledgement of the window has the same user and note, no new entry is written.
    """
    last = facts.monitoring
    if last is None or (last.window.start, last.window.end) != (body.window.start, body.window.end):
        raise MLOpsError(
            f"The last monitored window of {name} is another one now. Reload the page, and read its verdict."
        )
    if last.verdict != "watch":
        raise MLOpsError(f"The verdict on {last.window.label} is {last.verdict}, and only `watch` can be acknowledged.")
    window = Window.model_validate(last.window.label)
    entry = _acknowledged(store, name, window, body.note, rights.user)
    index.update(store, name, "decisions")
    return Done(message=f"{rights.user} has acknowledged {last.window.label}.", decision=decisions.facts(entry))


def _acknowledged(store: ArtifactStore, name: str, window: Window, note: str, user: str) -> Entry:
    reason, again = note or "Acknowledged.", []

    def decide(entries: list[Entry]) -> Decision | None:
        earlier = [entry for entry in entries if entry.decision == "acknowledged" and entry.window == window]
        if earlier and (earlier[-1].reason, earlier[-1].provenance.user) == (reason, user):
            again.append(earlier[-1])
            return None
        return Decision.keeping(
            recorded_champion(entries),
            "acknowledged",
            provenance=Provenance(user=user),
            reason=reason,
            window=window,
        )

    return Ledger(store, name).record(f"api/{uuid4().hex}", decide) or again[-1]
