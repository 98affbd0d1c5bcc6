"""Watches for monitoring's reports, for assets whose events come from outside."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_mlops.core.errors import SpecError, StoreError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.policy.findings import Decision
from airflow_mlops.settings import default_store

if TYPE_CHECKING:
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.stages.monitor.archive import Judgement

log = logging.getLogger(__name__)

# Airflow fetches a trigger's events about once a second.
_DELIVERY = 5.0
# No check takes longer than this from its beginning to its report.
_HORIZON = timedelta(days=7)


class MonitorReportTrigger(BaseEventTrigger):
    """Fires for each new monitoring report on a model, for use in an ``AssetWatcher``.

    A report is new when its window had none, or was checked again. Those that are there when the watching begins are
    not. What was fired is kept in the asset's state, so a triggerer that starts again fires what came meanwhile, and
    nothing twice, unless it ended in the seconds in which an event is on its way.

    The event's payload has ``model``, ``window``, ``decision``, ``reason``, ``created`` and ``report_url``.

    :param model: the registered model's name
    :param decisions: the decisions to fire for, of ``healthy``, ``watch`` and ``retrain``; all unless given
    :param store: URL of the artifact store; ``[mlops] artifacts``, as the triggerer has it, unless given
    :param poke_interval: seconds between two looks
    :raises SpecError: ``decisions`` has none, or one that is not known
    """

    def __init__(
        self,
        model: str,
        decisions: Sequence[str] = get_args(Decision),
        store: str | None = None,
        poke_interval: float = 60,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if isinstance(decisions, str) or not decisions or not {*decisions} <= {*get_args(Decision)}:
            raise SpecError(f"decisions={decisions!r} must be a list of some of {', '.join(get_args(Decision))}.")
        self.model = model
        # In one order, because equal triggers are one in Airflow.
        self.decisions = sorted({*decisions})
        self.store = store
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        arguments = ("model", "decisions", "store", "poke_interval")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in arguments}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        files = _Files(self.store or default_store(), self.model)
        fired = await self._recall()
        while True:
            try:
                found = await asyncio.to_thread(files.changed)
            except (StoreError, OSError) as error:
                # It may answer later.
                self.log.warning("The reports on %s cannot be read: %s", self.model, error)
            else:
                new = {} if fired is None else {key: found[key] for key in found if _is_new(key, found[key], fired)}
                for key, report in sorted(new.items(), key=lambda item: item[1].created):
                    if report.verdict.decision in self.decisions:
                        yield TriggerEvent(_payload(report, files.page_url(key)))  # type: ignore[no-untyped-call]
                if new:
                    await asyncio.sleep(_DELIVERY)
                if new or fired is None:
                    fired = _recent(
                        {**(fired or {}), **{key: report.created.isoformat() for key, report in found.items()}}
                    )
                    await self._keep(fired)
            await asyncio.sleep(self.poke_interval)

    @property
    def _state_key(self) -> str:
        # Watchers of one asset that watch for different things must not share their memory.
        return f"mlops.reports.{fingerprint([self.model, self.decisions, self.store])[:16]}"

    async def _recall(self) -> dict[str, str] | None:
        """When the checks were made that were fired already, by report; ``None`` where the watching begins."""
        if self.asset_state_store is not None:
            try:
                return await self.asset_state_store.aget(self._state_key)  # type: ignore[return-value]
            except ValueError:
                self.log.warning(
                    "Several assets share a watcher: reports that come while no triggerer runs are missed."
                )
                self.asset_state_store = None
        return None

    async def _keep(self, fired: dict[str, str]) -> None:
        if self.asset_state_store is not None:
            await self.asset_state_store.aset(self._state_key, fired)  # type: ignore[arg-type]


class _Files:
    """The files of the reports on a model, read again only when they change."""

    def __init__(self, store: str, model: str) -> None:
        self._url = store
        self._model = model
        self._known: dict[str, Any] = {}

    @cached_property
    def _store(self) -> ArtifactStore:
        from airflow_mlops.data.store import ArtifactStore

        return ArtifactStore(self._url)

    def page_url(self, key: str) -> str:
        from airflow_mlops.stages.monitor import archive as reports

        return self._store.url_of(reports.page(key))

    def changed(self) -> dict[str, Judgement]:
        """The reports that came or changed since the last call, by key; all at first.

        :raises StoreError: the store cannot be read
        """
        from airflow_mlops.stages.monitor import archive as reports

        found = {}
        for key in reports.keys(self._store, self._model):
            info = self._store.info(key)
            if info == self._known.get(key):
                continue
            try:
                report = reports.read(self._store, key)
            except StoreError as error:
                log.warning("%s", error)
                continue
            if report is not None:
                found[key] = report
                self._known[key] = info
        return found


def _is_new(key: str, report: Judgement, fired: dict[str, str]) -> bool:
    # What is older than all that is remembered was forgotten.
    return fired.get(key) != report.created.isoformat() and report.created >= _oldest(fired)


def _recent(fired: dict[str, str]) -> dict[str, str]:
    """What has to be remembered: nothing comes late by more than the horizon."""
    return {key: created for key, created in fired.items() if datetime.fromisoformat(created) >= _oldest(fired)}


def _oldest(fired: dict[str, str]) -> datetime:
    newest = max(map(datetime.fromisoformat, fired.values()), default=None)
    return newest - _HORIZON if newest else datetime.min.replace(tzinfo=timezone.utc)


def _payload(report: Judgement, url: str) -> dict[str, Any]:
    return {
        "model": report.model,
        "window": report.window.label,
        "decision": report.verdict.decision,
        "reason": report.verdict.reason,
        "created": report.created.isoformat(),
        "report_url": url,
    }
