"""``MonitorReportTrigger``, an Airflow trigger that fires for new monitoring reports."""

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
from airflow_mlops.core.moments import parse
from airflow_mlops.policy.findings import Decision
from airflow_mlops.settings import default_store

if TYPE_CHECKING:
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.policy.archive import ReportSummary

log = logging.getLogger(__name__)

# Airflow fetches the events of an Airflow trigger about once a second. An event counts as delivered after this number
# of seconds.
_DELIVERY = 5.0
# The assumed maximum time from the start of a check by MonitorOperator to its report.
_HORIZON = timedelta(days=7)
# Suffix of the recorded key of a report that could not be read when the Airflow trigger first started. The time of this
# first start is recorded as the time of such a report.
_UNREAD = "?"


class MonitorReportTrigger(BaseEventTrigger):
    """An Airflow trigger for an ``AssetWatcher`` that fires an event for each new monitoring report on a model.

    A report is new if its window had no report before, or if the window was checked again. Reports that exist when the
    Airflow trigger starts for the first time are not new. The reports for which an event was fired are recorded in the
    asset state store. A restarted triggerer therefore fires events for the reports that were written while it was
    stopped, and no second event for a report. An event is fired again only if the triggerer stops during the delivery
    of the event, which takes a few seconds.

    The payload of the event has the fields ``model``, ``window``, ``decision``, ``headline``, ``reason``, ``created``
    and ``report_url``.

    :param model: name of the registered model
    :param decisions: the decisions for which to fire an event, a subset of ``healthy``, ``watch`` and ``retrain``; by
        default all
    :param store: URL of the artifact store; by default ``[mlops] artifacts`` of the triggerer
    :param poke_interval: seconds between two checks
    :raises SpecError: ``decisions`` is empty or has an unknown decision
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
            raise SpecError(
                f"MonitorReportTrigger(decisions={decisions!r}) is invalid: set decisions= to a list of one or more of "
                f"{', '.join(map(repr, get_args(Decision)))}."
            )
        self.model = model
        # Sorted, because Airflow runs triggers with equal arguments only once.
        self.decisions = sorted({*decisions})
        self.store = store
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        arguments = ("model", "decisions", "store", "poke_interval")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in arguments}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        reports = _Reports(self.store or default_store(), self.model)
        fired = await self._load_fired()
        first, started, failed = fired is None, datetime.now(timezone.utc), False
        while True:
            try:
                found = await asyncio.to_thread(reports.changed)
            except (StoreError, OSError) as error:
                failed = True
                self.log.warning("The monitoring reports on model %r cannot be read: %s", self.model, error)
            else:
                if fired is None:
                    # Reports that were written after the start, while the store could not be read, are new.
                    fired = {
                        key: report.created.isoformat()
                        for key, report in found.items()
                        if not failed or report.created <= started
                    }
                    fired |= {key + _UNREAD: started.isoformat() for key in reports.unread}
                new = {key: found[key] for key in found if _is_new(key, found[key], fired)}
                for key, report in sorted(new.items(), key=lambda item: item[1].created):
                    if report.verdict.decision in self.decisions:
                        yield TriggerEvent(_payload(report, reports.page_url(key)))  # type: ignore[no-untyped-call]
                if new:
                    await asyncio.sleep(_DELIVERY)
                if new or first:
                    fired = _recent({**fired, **{key: report.created.isoformat() for key, report in found.items()}})
                    await self._save_fired(fired)
                    first = False
            await asyncio.sleep(self.poke_interval)

    @property
    def _state_key(self) -> str:
        # Different watchers of one asset must not share their state.
        return f"mlops.reports.{fingerprint([self.model, self.decisions, self.store])[:16]}"

    async def _load_fired(self) -> dict[str, str] | None:
        """Return the reports for which an event was fired.

        :return: creation time by report key; ``None`` when the trigger starts for the first time
        """
        if self.asset_state_store is not None:
            try:
                return await self.asset_state_store.aget(self._state_key)  # type: ignore[return-value]
            except ValueError:
                self.log.warning(
                    "Several assets share this AssetWatcher. Therefore reports that are written while no triggerer runs are "
                    "missed. Use a separate MonitorReportTrigger for each asset, for example with a different poke_interval."
                )
                self.asset_state_store = None
        return None

    async def _save_fired(self, fired: dict[str, str]) -> None:
        if self.asset_state_store is not None:
            await self.asset_state_store.aset(self._state_key, fired)  # type: ignore[arg-type]


class _Reports:
    """Reads the monitoring reports on a model. A report is read again only if the file of the report has changed.

    :ivar unread: keys of the reports that could not be read in the last call of :meth:`changed`
    """

    def __init__(self, store: str, model: str) -> None:
        self._url = store
        self._model = model
        self._read: dict[str, Any] = {}
        self.unread: list[str] = []

    @cached_property
    def _store(self) -> ArtifactStore:
        from airflow_mlops.data.store import ArtifactStore

        return ArtifactStore(self._url)

    def page_url(self, key: str) -> str:
        from airflow_mlops.policy import archive

        return self._store.url_of(archive.page(key))

    def changed(self) -> dict[str, ReportSummary]:
        """Return the reports that are new or have changed since the last call of this method, by key.

        The first call returns all reports.

        :raises StoreError: the store cannot be read
        """
        from airflow_mlops.policy import archive

        found = {}
        self.unread = []
        for key, info in archive.all_info(self._store, self._model).items():
            if info == self._read.get(key):
                continue
            try:
                report = archive.read(self._store, key)
            except StoreError as error:
                log.warning("%s", error)
                self.unread.append(key)
                continue
            if report is not None:
                found[key] = report
                self._read[key] = info
        return found


def _is_new(key: str, report: ReportSummary, fired: dict[str, str]) -> bool:
    # A report that is older than all recorded reports is not new: it was removed from the record.
    if (unread := fired.get(key + _UNREAD)) and report.created <= parse(unread):
        return False
    return fired.get(key) != report.created.isoformat() and report.created >= _oldest(fired)


def _recent(fired: dict[str, str]) -> dict[str, str]:
    """Return ``fired`` without the reports that are more than :data:`_HORIZON` older than the newest report.

    A new report cannot be that old.
    """
    return {key: created for key, created in fired.items() if parse(created) >= _oldest(fired)}


def _oldest(fired: dict[str, str]) -> datetime:
    newest = max(map(parse, fired.values()), default=None)
    # A wrong clock may give a report a time in the future. Other reports must not count as old because of it.
    return min(newest, datetime.now(timezone.utc)) - _HORIZON if newest else datetime.min.replace(tzinfo=timezone.utc)


def _payload(report: ReportSummary, url: str) -> dict[str, Any]:
    return {
        "model": report.model,
        "window": report.window.label,
        "decision": report.verdict.decision,
        "headline": report.verdict.headline,
        "reason": report.verdict.reason,
        "created": report.created.isoformat(),
        "report_url": url,
    }
